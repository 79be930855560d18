// The scene graph as SVG: a small force layout, arrows, and labels only where there is room.

const SVG = "http://www.w3.org/2000/svg";
const NODE_HEIGHT = 26;

function svg(tag, attributes, parent) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (parent) parent.append(element);
  return element;
}

/** Give nodes ({w}) places x, y inside width x height; links are pairs of positions in nodes. */
function layout(nodes, links, width, height) {
  const count = nodes.length, ideal = 0.75 * Math.sqrt((width * height) / Math.max(count, 1));
  const order = walkOrder(count, links);
  order.forEach((node, place) => {
    const angle = Math.PI + (2 * Math.PI * place) / count;
    nodes[node].x = width / 2 + 0.36 * width * Math.cos(angle);
    nodes[node].y = height / 2 + 0.38 * height * Math.sin(angle);
  });
  const rounds = 220;
  for (let round = 0; round < rounds; round++) {
    const move = nodes.map(() => [0, 0]), step = 0.12 * Math.min(width, height) * (1 - round / rounds);
    for (let a = 0; a < count; a++) {
      for (let b = 0; b < a; b++) push(nodes, move, a, b, (d) => (ideal * ideal) / d);
    }
    for (const [a, b] of links) push(nodes, move, a, b, (d) => -(d * d) / ideal);
    nodes.forEach((node, i) => {
      move[i][0] += 0.04 * (width / 2 - node.x);
      move[i][1] += 0.04 * (height / 2 - node.y);
      const length = Math.hypot(...move[i]) || 1, take = Math.min(length, step) / length;
      node.x += move[i][0] * take;
      node.y += move[i][1] * take;
      keepInside(node, width, height);
    });
  }
  separate(nodes, width, height);
}

/** Nodes in the order of a walk along links, so that neighbours start near each other. */
function walkOrder(count, links) {
  const near = Array.from({ length: count }, () => []);
  for (const [a, b] of links) { near[a].push(b); near[b].push(a); }
  const seen = new Set(), order = [];
  for (let start = 0; start < count; start++) {
    const stack = [start];
    while (stack.length) {
      const node = stack.pop();
      if (seen.has(node)) continue;
      seen.add(node);
      order.push(node);
      stack.push(...near[node].slice().reverse());
    }
  }
  return order;
}

function push(nodes, move, a, b, force) {
  // Nodes are wider than high, so distances across count less.
  const dx = (nodes[a].x - nodes[b].x) * 0.7 || 0.01 * (a - b), dy = nodes[a].y - nodes[b].y || 0.01;
  const distance = Math.max(1, Math.hypot(dx, dy)), strength = force(distance) / distance;
  move[a][0] += dx * strength; move[a][1] += dy * strength;
  move[b][0] -= dx * strength; move[b][1] -= dy * strength;
}

function keepInside(node, width, height) {
  node.x = clamp(node.x, node.w / 2 + 4, width - node.w / 2 - 4);
  node.y = clamp(node.y, NODE_HEIGHT / 2 + 4, height - NODE_HEIGHT / 2 - 4);
}

/** Move nodes that cover each other apart along the shorter way. */
function separate(nodes, width, height) {
  for (let round = 0, moved = true; moved && round < 200; round++) {
    moved = false;
    for (let a = 0; a < nodes.length; a++) {
      for (let b = 0; b < a; b++) {
        const p = nodes[a], q = nodes[b], dx = p.x - q.x, dy = p.y - q.y;
        const overX = (p.w + q.w) / 2 + 12 - Math.abs(dx), overY = NODE_HEIGHT + 10 - Math.abs(dy);
        if (overX <= 0.01 || overY <= 0.01) continue;
        moved = true;
        const wide = p.w + q.w + 30 < width && overX < overY, sign = (wide ? dx : dy) < 0 ? -1 : 1;
        const axis = wide ? "x" : "y", by = (sign * (wide ? overX : overY)) / 2;
        p[axis] += by;
        q[axis] -= by;
        keepInside(p, width, height);
        keepInside(q, width, height);
      }
    }
  }
}

/** A curved arrow between two nodes, cut off at their borders. */
function arrow(from, to) {
  const bend = 0.13, a = [from.x, from.y], c = [to.x, to.y];
  const b = [(a[0] + c[0]) / 2 + bend * (c[1] - a[1]), (a[1] + c[1]) / 2 - bend * (c[0] - a[0])];
  // The polar form of the quadratic curve: at(t, t) is a point on it, at(s, t) the control point of the part s..t.
  const at = (s, t) =>
    [0, 1].map((i) => (1 - s) * (1 - t) * a[i] + ((1 - s) * t + s * (1 - t)) * b[i] + s * t * c[i]);
  const covers = (node, p) =>
    Math.abs(p[0] - node.x) < node.w / 2 + 3 && Math.abs(p[1] - node.y) < NODE_HEIGHT / 2 + 3;
  let first = 0, last = 1;
  while (first < 0.49 && covers(from, at(first, first))) first += 0.01;
  while (last > 0.51 && covers(to, at(last, last))) last -= 0.01;
  return { at, first, last };
}

class GraphView {
  constructor(root, events) {
    Object.assign(this, { root, events, nodes: new Map(), edges: new Map(), lit: [], width: 0 });
    for (const [type, hover] of [["pointerover", true], ["pointerout", false]]) {
      root.addEventListener(type, (event) => events.hover(hover ? targetOf(event) : null));
    }
    root.addEventListener("click", (event) => { const target = targetOf(event); if (target) events.select(target); });
    root.addEventListener("keydown", (event) => {
      if ((event.key === "Enter" || event.key === " ") && targetOf(event)) {
        event.preventDefault();
        events.select(targetOf(event));
      }
    });
    new ResizeObserver(() => {
      if (this.layer && Math.abs(root.clientWidth - this.width) > 4) this.show(this.layer, this.relations);
    }).observe(root);
  }

  /** Draw relations (positions in the layer's columns) between the objects that take part in them. */
  show(layer, relations) {
    Object.assign(this, { layer, relations, lit: [] });
    this.root.replaceChildren();
    this.root.classList.remove("active");
    this.nodes.clear();
    this.edges.clear();
    this.width = this.root.clientWidth || 340;
    const pairs = new Map();
    for (const r of relations) {
      const key = `${layer.subject[r]} ${layer.object[r]}`;
      if (!pairs.has(key)) pairs.set(key, []);
      pairs.get(key).push(r);
    }
    const used = [...new Set(relations.flatMap((r) => [layer.subject[r], layer.object[r]]))];
    const height = Math.round(clamp(140 + (used.length * 11000) / this.width, 220, 780));
    this.root.setAttribute("height", used.length ? height : 0);
    const nodes = used.map((index) => {
      const text = shorten(measure, layer.objects[index].name, Math.min(190, this.width * 0.45));
      return { index, text, w: measure.measureText(text).width + 20 };
    });
    const position = new Map(used.map((index, i) => [index, i]));
    const groups = [...pairs.values()];
    const ends = groups.map(([r]) => [position.get(layer.subject[r]), position.get(layer.object[r])]);
    layout(nodes, ends, this.width, height);
    const taken = nodes.map((n) => box(n.x, n.y, n.w, NODE_HEIGHT));
    groups.forEach((group, i) => this.drawEdge(group, nodes[ends[i][0]], nodes[ends[i][1]], taken, height));
    for (const node of nodes) this.drawNode(node);
  }

  drawNode(node) {
    const { color, ink, name } = this.layer.objects[node.index];
    const element = svg("g", { class: "node", tabindex: 0, role: "button", "data-object": node.index }, this.root);
    element.setAttribute("aria-label", name);
    const size = { x: node.x - node.w / 2, y: node.y - NODE_HEIGHT / 2, width: node.w, height: NODE_HEIGHT, rx: 7 };
    svg("rect", { ...size, fill: color }, element);
    svg("text", { x: node.x, y: node.y + 1, fill: ink }, element).textContent = node.text;
    svg("title", {}, element).textContent = name;
    this.nodes.set(node.index, { element, edges: [] });
  }

  drawEdge(group, from, to, taken, height) {
    const { at, first, last } = arrow(from, to), [start, control, end] = [at(first, first), at(first, last), at(last, last)];
    const element = svg("g", { class: "edge", "data-relation": group[0] }, this.root);
    const d = `M${start} Q${control} ${end}`;
    svg("path", { class: "hit", d }, element);
    svg("path", { class: "line", d }, element);
    const angle = (Math.atan2(end[1] - control[1], end[0] - control[0]) * 180) / Math.PI;
    const tip = { class: "tip", d: "M0 0 L-9 -4.5 L-9 4.5 Z", transform: `translate(${end}) rotate(${angle})` };
    svg("path", tip, element);
    const text = svg("text", {}, element);
    const label = (r) => {
      const name = shorten(measure, this.layer.predicates[this.layer.predicate[r]], this.width * 0.4);
      return group.length > 1 ? `${name} +${group.length - 1}` : name;
    };
    text.textContent = label(group[0]);
    const width = measure.measureText(text.textContent).width + 4;
    const places = [0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74].map((t) => first + t * (last - first));
    const inside = places.map((t) => {
      const [x, y] = at(t, t);
      return box(clamp(x, width / 2 + 2, this.width - width / 2 - 2), clamp(y, 10, height - 10), width, 16);
    });
    const free = inside.find((place) => !taken.some((other) => overlaps(place, other)));
    const place = free ?? inside[0];
    if (free) taken.push(free);
    else element.classList.add("crowded");
    text.setAttribute("x", place.x);
    text.setAttribute("y", place.y);
    const edge = { element, ends: [from.index, to.index], write: (r) => { text.textContent = label(r); } };
    for (const r of group) this.edges.set(r, edge);
  }

  /** Light up a relation or an object with its relations; null for nothing. */
  setLit(active) {
    for (const element of this.lit) element.classList.remove("lit", "subject", "object");
    this.lit = [];
    const add = (element, ...names) => { element.classList.add("lit", ...names); this.lit.push(element); };
    if (active?.kind === "relation" && this.edges.has(active.index)) {
      const edge = this.edges.get(active.index);
      edge.write(active.index);
      add(edge.element);
      edge.ends.forEach((node, i) => add(this.nodes.get(node).element, i ? "object" : "subject"));
    } else if (active?.kind === "object" && this.nodes.has(active.index)) {
      for (const edge of new Set(this.edges.values())) {
        if (!edge.ends.includes(active.index)) continue;
        add(edge.element);
        edge.ends.forEach((node) => add(this.nodes.get(node).element));
      }
      add(this.nodes.get(active.index).element, "subject");
    }
    this.root.classList.toggle("active", this.lit.length > 0);
  }
}

function targetOf(event) {
  const node = event.target.closest("[data-object]"), edge = event.target.closest("[data-relation]");
  if (node) return { kind: "object", index: Number(node.dataset.object) };
  return edge ? { kind: "relation", index: Number(edge.dataset.relation) } : null;
}

const box = (x, y, w, h) => ({ x, y, w, h });
const overlaps = (a, b) => Math.abs(a.x - b.x) < (a.w + b.w) / 2 + 3 && Math.abs(a.y - b.y) < (a.h + b.h) / 2 + 2;
