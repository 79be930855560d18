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

/** Where a label of a mask goes: {x, y} in the middle of its longest run near its middle column, and its top and bottom. */
function placeOf(counts, height) {
  let x0 = Infinity, x1 = 0, y0 = Infinity, y1 = 0, longest = 0, place = null;
  forEachRun(counts, height, (x, top, end) => {
    x0 = Math.min(x0, x); x1 = Math.max(x1, x + 1); y0 = Math.min(y0, top); y1 = Math.max(y1, end);
  });
  const middle = (x0 + x1) / 2;
  forEachRun(counts, height, (x, top, end) => {
    const size = end - top - Math.abs(x - middle) * 0.5;  // near the middle if the mask is thick there too
    if (!place || size > longest) { longest = size; place = { x: x + 0.5, y: (top + end) / 2, top: y0, bottom: y1 }; }
  });
  return place;
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

class Picture {
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
    this.stage.style.width = `min(100%, calc(var(--picture) * ${this.width / this.height}))`;
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

  place(index) {
    this.layer.places ??= [];
    return (this.layer.places[index] ??= placeOf(this.layer.counts[index], this.height));
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

  /** A tag of `height` on an object's mask, or `beside` it if it would hide it; null without pixels, or room in the picture. */
  tag(context, index, box, height, beside) {
    const place = this.place(index);
    if (!place) return null;
    const scale = box.width / this.width, text = shorten(context, this.layer.objects[index].name, box.width - 20);
    const width = context.measureText(text).width + 0.6 * height;
    if (width > box.width || height > box.height) return null;
    let y = place.y * scale - height / 2;
    if (beside && this.layer.objects[index].area * scale * scale < 6 * width * height) {
      y = place.top * scale - height - 5;
      if (y < 2) y = place.bottom * scale + 5;
    }
    const x = clamp(place.x * scale - width / 2, 2, Math.max(2, box.width - width - 2));
    return { text, x, y: clamp(y, 2, Math.max(2, box.height - height - 2)), width, height };
  }

  drawTag(context, { text, x, y, width, height }, color, ink) {
    context.fillStyle = color;
    context.beginPath();
    context.roundRect(x, y, width, height, 5);
    context.fill();
    context.fillStyle = ink;
    context.fillText(text, x + 0.3 * height, y + height / 2 + 1);
  }

  /** Names of objects, large ones first; one that finds no room is left for the pointer. */
  drawNames(context, box) {
    const placed = [];
    context.font = "12px system-ui, 'DejaVu Sans', sans-serif";
    context.textBaseline = "middle";
    for (const index of this.layer.order.slice(0, 400)) {
      const { color, ink } = this.layer.objects[index], tag = this.tag(context, index, box, 18, false);
      if (!tag || placed.some((other) => touches(tag, other))) continue;
      placed.push(tag);
      this.drawTag(context, tag, color, ink);
    }
    this.names = placed.map((tag) => tag.text);
  }

  drawTags(context, box) {
    const placed = [];
    context.font = "600 13px system-ui, 'DejaVu Sans', sans-serif";
    context.textBaseline = "middle";
    for (const [index, role] of this.lit) {
      const tag = this.tag(context, index, box, 22, true);
      if (!tag) continue;
      for (const other of placed) {
        if (!touches(tag, other)) continue;
        const below = other.y + tag.height + 3;
        tag.y = below + tag.height < box.height ? below : other.y - tag.height - 3;
      }
      placed.push(tag);
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
