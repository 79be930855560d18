// The scene graph as SVG: nodes, arrows through the boxes of their predicates, and what is lit.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = { node: 28, label: 20 };
const EDGE = 6;  // pixels between the drawing and its frame

function svg(tag, attributes, parent) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (parent) parent.append(element);
  return element;
}

/** Path and head of an arrow from a box through its label to another box, smooth at the label, cut off at both boxes. */
function arrow(from, label, to) {
  const loop = from === to;  // a relation of an object with itself leaves and enters side by side
  let along = loop ? [from.y - label.y, label.x - from.x] : [to.x - from.x, to.y - from.y];
  const reach = Math.min(Math.hypot(label.x - from.x, label.y - from.y), Math.hypot(label.x - to.x, label.y - to.y));
  const share = Math.min(loop ? 0.6 : 0.22, (0.55 * reach) / Math.max(1e-6, Math.hypot(...along)));
  along = along.map((step) => step * share);
  const halves = [
    [[from.x, from.y], [label.x - along[0], label.y - along[1]], [label.x, label.y]],
    [[label.x, label.y], [label.x + along[0], label.y + along[1]], [to.x, to.y]],
  ];
  // The polar form of the quadratic curve: at(t, t) is a point on it, at(s, t) the control point of the part s..t.
  const polar = ([a, b, c]) => (s, t) =>
    [0, 1].map((i) => (1 - s) * (1 - t) * a[i] + ((1 - s) * t + s * (1 - t)) * b[i] + s * t * c[i]);
  const covers = (box, p) => Math.abs(p[0] - box.x) < box.w / 2 + 2 && Math.abs(p[1] - box.y) < box.h / 2 + 2;
  const [before, after] = halves.map(polar);
  let first = 0, last = 1;
  while (first < 0.9 && covers(from, before(first, first))) first += 0.01;
  while (last > 0.1 && covers(to, after(last, last))) last -= 0.01;
  const tip = after(last, last), near = after(Math.max(0, last - 0.12), Math.max(0, last - 0.12));
  return {
    d: `M${before(first, first)} Q${before(first, 1)} ${before(1, 1)} Q${after(0, last)} ${tip}`,
    tip,
    angle: (Math.atan2(tip[1] - near[1], tip[0] - near[0]) * 180) / Math.PI,
  };
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
    const nodes = used.map((index) => ({ index, ...this.box(layer.objects[index].name, 20, HEIGHT.node) }));
    const labels = [...pairs.values()].map((group) => ({ group, ...this.box(this.textOf(group[0], group), 12, HEIGHT.label) }));
    const at = new Map(used.map((index, n) => [index, n]));
    const links = labels.map(({ group: [r] }, n) => [at.get(layer.subject[r]), nodes.length + n, at.get(layer.object[r])]);
    const height = layOut([...nodes, ...labels], links, this.width - 2 * EDGE);
    for (const box of [...nodes, ...labels]) { box.x += EDGE; box.y += EDGE; }
    this.root.setAttribute("height", used.length ? Math.ceil(height + 2 * EDGE) : 0);
    // Arrows first, so that no arrow lies over a label or a node.
    const lines = svg("g", {}, this.root), front = svg("g", {}, this.root);
    labels.forEach((label, n) => this.drawEdge(label, nodes[links[n][0]], nodes[links[n][2]], lines, front));
    for (const node of nodes) this.drawNode(node, front);
  }

  box(name, pad, h) {
    const text = shorten(measure, name, Math.min(190, this.width * 0.42));
    return { text, w: Math.ceil(measure.measureText(text).width) + pad, h };
  }

  /** What the label of a pair says of one of its relations. */
  textOf(r, group) {
    const name = this.layer.predicates[this.layer.predicate[r]];
    return group.length > 1 ? `${name} +${group.length - 1}` : name;
  }

  drawNode(node, parent) {
    const { color, ink, name } = this.layer.objects[node.index];
    const element = svg("g", { class: "node", tabindex: 0, role: "button", "data-object": node.index }, parent);
    element.setAttribute("aria-label", name);
    this.drawBox(node, element, { fill: color, rx: 7 }, { fill: ink });
    svg("title", {}, element).textContent = name;
    this.nodes.set(node.index, { elements: [element] });
  }

  drawBox(box, parent, look, ink) {
    svg("rect", { x: box.x - box.w / 2, y: box.y - box.h / 2, width: box.w, height: box.h, ...look }, parent);
    const text = svg("text", { x: box.x, y: box.y, ...ink }, parent);
    text.textContent = box.text;
    return text;
  }

  drawEdge(label, from, to, lines, front) {
    const { d, tip, angle } = arrow(from, label, to), { group } = label;
    const look = { class: group.every((r) => isWeak(this.layer, r)) ? "edge weak" : "edge", "data-relation": group[0] };
    const [line, box] = [lines, front].map((parent) => svg("g", look, parent));
    svg("path", { class: "hit", d }, line);
    svg("path", { class: "line", d }, line);
    svg("path", { class: "tip", d: "M1 0 L-9 -4.5 L-9 4.5 Z", transform: `translate(${tip}) rotate(${angle})` }, line);
    const text = this.drawBox(label, box, { rx: 5 }, {}), room = label.w - 8;
    const title = svg("title", {}, box);
    const write = (r) => {
      text.textContent = shorten(measure, this.textOf(r, group), room);
      title.textContent = group.map((one) => this.layer.predicates[this.layer.predicate[one]]).join(", ");
    };
    write(group[0]);
    const edge = { elements: [line, box], ends: [from.index, to.index], write };
    for (const r of group) this.edges.set(r, edge);
  }

  /** Light up a relation or an object with its relations; null for nothing. */
  setLit(active) {
    for (const element of this.lit) element.classList.remove("lit", "subject", "object");
    this.lit = [];
    const add = ({ elements }, ...names) => {
      for (const element of elements) element.classList.add("lit", ...names);
      this.lit.push(...elements);
    };
    if (active?.kind === "relation" && this.edges.has(active.index)) {
      const edge = this.edges.get(active.index);
      edge.write(active.index);
      add(edge);
      edge.ends.forEach((node, i) => add(this.nodes.get(node), i ? "object" : "subject"));
    } else if (active?.kind === "object" && this.nodes.has(active.index)) {
      for (const edge of new Set(this.edges.values())) {
        if (!edge.ends.includes(active.index)) continue;
        add(edge);
        edge.ends.forEach((node) => add(this.nodes.get(node)));
      }
      add(this.nodes.get(active.index), "subject");
    }
    this.root.classList.toggle("active", this.lit.length > 0);
  }
}

function targetOf(event) {
  const node = event.target.closest("[data-object]"), edge = event.target.closest("[data-relation]");
  if (node) return { kind: "object", index: Number(node.dataset.object) };
  return edge ? { kind: "relation", index: Number(edge.dataset.relation) } : null;
}
