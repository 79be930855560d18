// Places for the boxes of a graph: nodes, and the labels that sit on the arrows between them. A label is a box of its
// own half-way between subject and object, so boxes that are kept apart keep every label readable.

const STRETCH = 1.6;  // boxes are wide and low, so distances across count less
const SPACE = { box: 8, arrow: 18, across: 28, down: 22 };  // pixels between boxes, label and node, components

/** Give boxes ({w, h}) middles x, y inside `width`; links are [subject, label, object]. Returns the height needed. */
function layOut(boxes, links, width) {
  const parts = components(boxes.length, links).map((members) => {
    const place = new Map(members.map((box, at) => [box, at])), own = members.map((box) => boxes[box]);
    const size = layOutComponent(own, links.filter(([a]) => place.has(a)).map((link) => link.map((b) => place.get(b))), width);
    return { own, ...size };
  });
  return pack(parts, width);
}

/** Lists of boxes that links hold together, each in the order of a walk, so that neighbours start near each other. */
function components(count, links) {
  const near = neighbours(count, links), seen = new Set(), found = [];
  for (let start = 0; start < count; start++) {
    const members = [], stack = [start];
    while (stack.length) {
      const box = stack.pop();
      if (seen.has(box)) continue;
      seen.add(box);
      members.push(box);
      stack.push(...near[box].slice().reverse());
    }
    if (members.length) found.push(members);
  }
  return found;
}

function neighbours(count, links) {
  const near = Array.from({ length: count }, () => []);
  for (const [a, label, b] of links) {
    for (const [p, q] of [[a, label], [label, b]]) { near[p].push(q); near[q].push(p); }
  }
  return near;
}

function layOutComponent(boxes, links, width) {
  const wanted = distances(boxes, links);
  boxes.forEach((box, at) => {
    const angle = Math.PI + (2 * Math.PI * at) / boxes.length;
    box.x = boxes.length > 3 ? 90 * Math.cos(angle) : at;  // one arrow stays on the line on which it starts
    box.y = boxes.length > 3 ? 60 * Math.sin(angle) : 0;
  });
  relax(boxes, wanted);
  turn(boxes, width);
  separate(boxes, links, width);
  const left = Math.min(...boxes.map((b) => b.x - b.w / 2)), top = Math.min(...boxes.map((b) => b.y - b.h / 2));
  for (const box of boxes) { box.x -= left; box.y -= top; }
  return { w: Math.max(...boxes.map((b) => b.x + b.w / 2)), h: Math.max(...boxes.map((b) => b.y + b.h / 2)) };
}

/** Lengths of the shortest ways along links, by breadth first; each link is as long as boxes and arrow need. */
function distances(boxes, links) {
  const near = neighbours(boxes.length, links), reach = boxes.map((b) => (b.w / STRETCH + b.h) / 4 + SPACE.arrow * 0.6);
  return boxes.map((_, start) => {
    const far = new Array(boxes.length).fill(Infinity), queue = [start];
    far[start] = 0;
    for (const box of queue) {
      for (const next of near[box]) {
        if (far[next] !== Infinity) continue;
        far[next] = far[box] + reach[box] + reach[next];
        queue.push(next);
      }
    }
    return far;
  });
}

/** Stress by stochastic gradient descent (Zheng, Pawar, Goodman 2018): pairs move to their wanted distance in turn. */
function relax(boxes, wanted) {
  const pairs = [];
  for (let a = 0; a < boxes.length; a++) for (let b = 0; b < a; b++) pairs.push([a, b]);
  let seed = 1;
  const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
  const longest = Math.max(1, ...wanted.flat()), rounds = 40;
  for (let round = 0; round < rounds; round++) {
    const rate = longest ** 2 * (0.1 / longest ** 2) ** (round / (rounds - 1));
    for (let n = pairs.length - 1; n > 0; n--) {
      const m = Math.floor(random() * (n + 1));
      [pairs[n], pairs[m]] = [pairs[m], pairs[n]];
    }
    for (const [a, b] of pairs) {
      const p = boxes[a], q = boxes[b], want = wanted[a][b], dx = p.x - q.x || 0.01, dy = p.y - q.y;
      const length = Math.hypot(dx, dy), by = (Math.min(1, rate / want ** 2) * (want - length)) / 2 / length;
      p.x += by * dx; p.y += by * dy;
      q.x -= by * dx; q.y -= by * dy;
    }
  }
}

/** Lay the longest direction across, or down where the graph would be wider than the drawing; stretch and squeeze. */
function turn(boxes, width) {
  const mean = (of) => boxes.reduce((sum, box) => sum + of(box), 0) / boxes.length, x = mean((b) => b.x), y = mean((b) => b.y);
  const xx = mean((b) => (b.x - x) ** 2), yy = mean((b) => (b.y - y) ** 2), xy = mean((b) => (b.x - x) * (b.y - y));
  const angle = 0.5 * Math.atan2(2 * xy, xx - yy);
  const rotated = (by) => boxes.map((b) => [
    ((b.x - x) * Math.cos(by) + (b.y - y) * Math.sin(by)) * STRETCH, (b.y - y) * Math.cos(by) - (b.x - x) * Math.sin(by)]);
  const spread = (places, axis, side) => Math.max(...places.map((p, i) => p[axis] + boxes[i][side] / 2)) -
    Math.min(...places.map((p, i) => p[axis] - boxes[i][side] / 2));
  let places = rotated(angle);
  if (spread(places, 0, "w") > width) places = rotated(angle - Math.PI / 2);
  const squeeze = Math.min(1, width / spread(places, 0, "w"));
  boxes.forEach((box, i) => { box.x = places[i][0] * squeeze; box.y = places[i][1]; });
}

/** Move boxes apart until none covers another and none is further out than the width allows. */
function separate(boxes, links, width) {
  const pair = (a, b) => Math.max(a, b) * boxes.length + Math.min(a, b);
  const tied = new Set(links.flatMap(([a, label, b]) => [pair(a, label), pair(b, label)]));
  const middle = boxes.reduce((sum, box) => sum + box.x, 0) / boxes.length;
  const inside = (box) => { box.x = clamp(box.x, middle - (width - box.w) / 2, middle + (width - box.w) / 2); };
  boxes.forEach(inside);
  const missing = (a, b) => {
    const p = boxes[a], q = boxes[b], space = tied.has(pair(a, b)) ? SPACE.arrow : SPACE.box;
    return [(p.w + q.w) / 2 + space - Math.abs(p.x - q.x), (p.h + q.h) / 2 + space - Math.abs(p.y - q.y)];
  };
  for (let round = 0, moved = true; moved && round < 120; round++) {
    moved = false;
    for (let a = 0; a < boxes.length; a++) {
      for (let b = 0; b < a; b++) {
        const [overX, overY] = missing(a, b), p = boxes[a], q = boxes[b];
        if (overX <= 0.01 || overY <= 0.01) continue;
        moved = true;
        const across = overX < overY * STRETCH, axis = across ? "x" : "y", by = ((p[axis] < q[axis] ? -1 : 1) * (across ? overX : overY)) / 2;
        p[axis] += by;
        q[axis] -= by;
        if (round < 60) continue;  // boxes at the edge may have to go down instead
        inside(p);
        inside(q);
      }
    }
    boxes.forEach(inside);
  }
  // What is still too close, since the width is full, goes below what it covers.
  const order = boxes.map((_, i) => i).sort((a, b) => boxes[a].y - boxes[b].y);
  order.forEach((a, n) => {
    for (let again = true; again; ) {
      again = false;
      for (const b of order.slice(0, n)) {
        const [overX, overY] = missing(a, b);
        if (overX > 0.01 && overY > 0.01) { boxes[a].y += overY + Math.max(0, boxes[b].y - boxes[a].y) * 2; again = true; }
      }
    }
  });
}

/** Components on shelves, tallest first, each shelf in the middle; returns the height of all. */
function pack(parts, width) {
  const shelves = [];
  for (const part of parts.slice().sort((a, b) => b.h - a.h)) {
    let shelf = shelves.at(-1);
    if (!shelf || shelf.w + SPACE.across + part.w > width) shelves.push((shelf = { parts: [], w: -SPACE.across, h: part.h }));
    shelf.parts.push(part);
    shelf.w += SPACE.across + part.w;
  }
  let top = 0;
  for (const shelf of shelves) {
    let left = (width - shelf.w) / 2;
    for (const part of shelf.parts) {
      for (const box of part.own) { box.x += left; box.y += top + (shelf.h - part.h) / 2; }
      left += part.w + SPACE.across;
    }
    top += shelf.h + SPACE.down;
  }
  return Math.max(0, top - SPACE.down);
}
