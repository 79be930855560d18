// The photograph with masks: run lengths to pixels, outlines, and what is lit.

/** Run lengths of COCO's compressed string, background first, down the columns. */
function decodeCounts(text) {
  const counts = [];
  for (let at = 0; at < text.length; ) {
    let value = 0, shift = 0, code;
    do {
      code = text.charCodeAt(at++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16 && shift < 32) value |= -1 << shift;
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  return counts;
}

/** Calls visit(x, first y, end y) for each vertical run of a mask. */
function forEachRun(counts, height, visit) {
  let at = 0;
  counts.forEach((length, index) => {
    if (index % 2) {
      for (let start = at, end = at + length; start < end; ) {
        const x = Math.floor(start / height), stop = Math.min(end, (x + 1) * height);
        visit(x, start - x * height, stop - x * height);
        start = stop;
      }
    }
    at += length;
  });
}

/** Outline along the edges of pixels as a Path2D in image coordinates. */
function traceMask(counts, height) {
  let x0 = Infinity, y0 = Infinity, x1 = 0, y1 = 0;
  forEachRun(counts, height, (x, top, end) => {
    x0 = Math.min(x0, x); x1 = Math.max(x1, x + 1); y0 = Math.min(y0, top); y1 = Math.max(y1, end);
  });
  const path = new Path2D();
  if (x1 === 0) return path;
  const w = x1 - x0, h = y1 - y0, inside = new Uint8Array((w + 2) * (h + 2));
  forEachRun(counts, height, (x, top, end) => {
    for (let y = top; y < end; y++) inside[(y - y0 + 1) * (w + 2) + x - x0 + 1] = 1;
  });
  // Bits of the edges that leave a corner: 1 east, 2 south, 4 west, 8 north; the mask lies to the right of them.
  const out = new Uint8Array((w + 1) * (h + 1)), corner = (x, y) => y * (w + 1) + x;
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      const at = (y + 1) * (w + 2) + x + 1;
      if (!inside[at]) continue;
      if (!inside[at - w - 2]) out[corner(x, y)] |= 1;
      if (!inside[at + 1]) out[corner(x + 1, y)] |= 2;
      if (!inside[at + w + 2]) out[corner(x + 1, y + 1)] |= 4;
      if (!inside[at - 1]) out[corner(x, y + 1)] |= 8;
    }
  }
  const dx = [1, 0, -1, 0], dy = [0, 1, 0, -1];
  for (let start = 0; start < out.length; start++) {
    while (out[start]) {
      let x = start % (w + 1), y = (start - x) / (w + 1), direction = -1;
      path.moveTo(x + x0, y + y0);
      for (let bits = out[start]; bits; bits = out[corner(x, y)]) {
        // At a corner that two parts share, turn right: the parts stay apart.
        let turn = direction < 0 ? 0 : (direction + 1) % 4;
        while (!(bits & (1 << turn))) turn = (turn + 3) % 4;
        out[corner(x, y)] &= ~(1 << turn);
        if (turn !== direction && direction >= 0) path.lineTo(x + x0, y + y0);
        direction = turn;
        x += dx[turn]; y += dy[turn];
        if (corner(x, y) === start && !out[start]) break;
      }
      path.closePath();
    }
  }
  return path;
}

class ImageView {
  constructor(stage, photo, light) {
    Object.assign(this, { stage, photo, light, image: null, layer: null, showMasks: true, showNames: true, lit: [] });
    new ResizeObserver(() => this.drawLight()).observe(stage);
  }

  /** Show an item; resolves when its image is decoded, to false if another one was asked for meanwhile. */
  async show(item, layer) {
    const image = new Image();
    this.image = null;
    this.wanted = image;
    image.src = item.image;
    await image.decode();
    if (this.wanted !== image) return false;
    [this.height, this.width] = item.size;
    this.image = image;
    this.stage.style.aspectRatio = `${this.width} / ${this.height}`;
    this.stage.style.width = `min(100%, calc(var(--image) * ${this.width / this.height}))`;
    // Small images are enlarged by a whole number, so that outlines are thin and masks keep their pixels.
    this.factor = Math.max(1, Math.round(900 / Math.max(this.width, this.height)));
    this.photo.width = this.factor * this.width;
    this.photo.height = this.factor * this.height;
    this.setLayer(layer);
    return true;
  }

  setLayer(layer) {
    this.layer = layer;
    if (!layer.labels) {
      layer.counts = layer.objects.map((o) => decodeCounts(o.mask));
      layer.traces = new Array(layer.objects.length);
      layer.labels = new Uint16Array(this.width * this.height);
      layer.order = layer.objects.map((_, i) => i).sort((a, b) => layer.objects[b].area - layer.objects[a].area);
      for (const index of layer.order) {
        forEachRun(layer.counts[index], this.height, (x, top, end) => {
          for (let y = top; y < end; y++) layer.labels[y * this.width + x] = index + 1;
        });
      }
    }
    this.lit = [];
    this.drawPhoto();
    this.drawLight();
  }

  drawPhoto() {
    if (!this.image) return;
    const context = this.photo.getContext("2d", { willReadFrequently: true }), { factor } = this;
    const width = this.photo.width, height = this.photo.height;
    context.drawImage(this.image, 0, 0, width, height);
    if (!this.showMasks) return;
    const pixels = context.getImageData(0, 0, width, height), { data } = pixels, { labels } = this.layer;
    const paints = this.layer.objects.map((o) => [...rgb(o.color), o.thing ? 0.45 : 0.25]);
    for (let y = 0, to = 0; y < this.height * factor; y++) {
      const row = Math.floor(y / factor) * this.width, up = y % factor === 0 && y > 0, down = y % factor === factor - 1 && y < height - 1;
      for (let x = 0; x < this.width * factor; x++, to += 4) {
        const at = row + Math.floor(x / factor), label = labels[at];
        if (!label) continue;
        // The outermost pixels of a mask are its outline.
        const edge = (up && labels[at - this.width] !== label) || (down && labels[at + this.width] !== label) ||
          (x > 0 && x % factor === 0 && labels[at - 1] !== label) ||
          (x < width - 1 && x % factor === factor - 1 && labels[at + 1] !== label);
        const [red, green, blue, opacity] = paints[label - 1], share = edge ? 1 : opacity;
        data[to] += share * (red - data[to]);
        data[to + 1] += share * (green - data[to + 1]);
        data[to + 2] += share * (blue - data[to + 2]);
      }
    }
    context.putImageData(pixels, 0, 0);
  }

  /** Light up objects, [[index, role], ...] with role "subject" or "object", and dim the rest. */
  setLit(lit) {
    this.lit = lit;
    this.drawLight();
  }

  trace(index) {
    return (this.layer.traces[index] ??= traceMask(this.layer.counts[index], this.height));
  }

  drawLight() {
    const ratio = window.devicePixelRatio || 1, box = this.stage.getBoundingClientRect();
    this.light.width = Math.round(box.width * ratio);
    this.light.height = Math.round(box.height * ratio);
    if (!this.image || !this.light.width) return;
    const context = this.light.getContext("2d"), scale = this.light.width / this.width;
    if (!this.lit.length) {
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      if (this.showMasks && this.showNames) this.drawNames(context, box);
      return;
    }
    context.fillStyle = "rgba(8, 10, 16, 0.66)";
    context.fillRect(0, 0, this.light.width, this.light.height);
    context.setTransform(scale, 0, 0, this.light.height / this.height, 0, 0);
    context.globalCompositeOperation = "destination-out";
    context.fillStyle = "#000";  // opaque, so that nothing of the dimming stays
    for (const [index] of this.lit) context.fill(this.trace(index), "evenodd");
    context.globalCompositeOperation = "source-over";
    const thickness = ratio / scale;
    for (const [index, role] of this.lit.slice().reverse()) {  // the subject's outline on top
      for (const [width, color] of [[5, "#10131a"], [3, OUTLINE[role]]]) {
        context.lineWidth = width * thickness;
        context.strokeStyle = color;
        context.setLineDash(role === "object" && width === 3 ? [9 * thickness, 5 * thickness] : []);
        context.stroke(this.trace(index));
      }
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.drawTags(context, box);
  }

  /** Sets the font of names and returns `tags` of the next smaller size that they were placed for, and its enlargement. */
  prepareTags(context, box, weight) {
    const side = Math.max(box.width, box.height), { tags } = this.layer;
    const { places, font, side: placed } = tags.findLast((set) => set.side <= side) ?? tags[0], scale = side / placed;
    context.font = `${weight} ${font * scale}px 'DejaVu Sans', Verdana, system-ui, sans-serif`;
    context.textBaseline = "middle";
    context.textAlign = "center";
    return { places, scale, height: 1.5 * font * scale };
  }

  /** Where the name of an object goes; null if it is not in the image, or has no room and no `always`. */
  tag(context, index, box, { places, scale, height }, always) {
    if (!places[index]) return null;
    const [x, y, left, top, width, high, ...end] = places[index].map((n) => n * scale), { name } = this.layer.objects[index];
    if (width !== undefined) {
      const text = shorten(context, name, 1.1 * (width - 4));  // a font that is a little wider is squeezed
      return { text, x: left, y: top, width, height: high, line: end.length ? [x, y, ...end] : null };
    }
    const text = shorten(context, name, box.width - 20), wide = context.measureText(text).width + 0.6 * height;
    if (!always || wide > box.width || height > box.height) return null;
    const above = y - height - 5, at = above < 2 ? y + 5 : above;
    return {
      text, x: clamp(x - wide / 2, 2, Math.max(2, box.width - wide - 2)),
      y: clamp(at, 2, Math.max(2, box.height - height - 2)), width: wide, height, line: null,
    };
  }

  drawTag(context, { text, x, y, width, height }, color, ink) {
    context.fillStyle = color;
    context.beginPath();
    context.roundRect(x, y, width, height, 0.2 * height);
    context.fill();
    context.fillStyle = ink;
    context.fillText(text, x + width / 2, y + height / 2 + 1, width - 4);
  }

  /** The line from an object to a label beside it. */
  drawLine(context, [x0, y0, x1, y1], color, height) {
    for (const [extra, shade] of [[2, "#fff"], [0, color]]) {
      context.strokeStyle = context.fillStyle = shade;
      context.lineWidth = height / 12 + extra;
      context.beginPath();
      context.moveTo(x0, y0);
      context.lineTo(x1, y1);
      context.stroke();
      context.beginPath();
      context.arc(x0, y0, height / 7 + extra / 2, 0, 2 * Math.PI);
      context.fill();
    }
  }

  /** Names of objects; one that found no room is left for the pointer. */
  drawNames(context, box) {
    const set = this.prepareTags(context, box, "");
    const named = this.layer.objects.map((object, index) => ({ ...object, tag: this.tag(context, index, box, set, false) }));
    for (const { tag, color } of named) if (tag?.line) this.drawLine(context, tag.line, color, tag.height);
    for (const { tag, color, ink } of named) if (tag) this.drawTag(context, tag, color, ink);
  }

  drawTags(context, box) {
    const placed = [], set = this.prepareTags(context, box, "600");
    for (const [index, role] of this.lit) {
      const tag = this.tag(context, index, box, set, true);
      if (!tag) continue;
      for (const other of placed) {
        if (!touches(tag, other)) continue;
        const below = other.y + tag.height + 3;
        tag.y = below + tag.height < box.height ? below : other.y - tag.height - 3;
      }
      placed.push(tag);
      if (tag.line) this.drawLine(context, tag.line, OUTLINE[role], tag.height);
      this.drawTag(context, tag, OUTLINE[role], "#0b0d12");
    }
  }

  /** Object under a point of the window, -1 for none. */
  pick(clientX, clientY) {
    if (!this.image) return -1;
    const box = this.stage.getBoundingClientRect();
    const x = Math.floor(((clientX - box.left) / box.width) * this.width);
    const y = Math.floor(((clientY - box.top) / box.height) * this.height);
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return -1;
    return this.layer.labels[y * this.width + x] - 1;
  }
}

const touches = (a, b) => a.x < b.x + b.width + 3 && b.x < a.x + a.width + 3 && Math.abs(a.y - b.y) < a.height + 2;
