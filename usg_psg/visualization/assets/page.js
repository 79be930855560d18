// What is shown and chosen, and the controls that change it.

const GRAPH_RELATIONS = 30;  // more arrows than that cannot be told apart
const FIRST_RELATIONS = 50;
const MARKS = { hit: "✓ hit", missed: "○ missed", wrong: "✕ wrong" };

const index = JSON.parse(byId("index").textContent);
const items = new Map();
const state = {
  at: -1, layerAt: 0, item: null, layer: null, shown: [], tab: "relations",
  words: "", least: index.least, count: null, predicates: new Set(), marks: new Set(),
  found: null,  // images that the search fits, null without one
  hover: null, selected: null,
};
const isWeak = (layer, r) => layer.score !== null && layer.score[r] < index.weak;

const hoverOf = (kind) => (value) => setHover(value === null ? null : { kind, index: value });
const selectOf = (kind) => (value) => setSelected({ kind, index: value });
const imageView = new ImageView(byId("stage"), byId("photo"), byId("light"));
const graph = new GraphView(byId("graph"), { hover: setHover, select: setSelected });
const lists = {
  relations: new VirtualList(byId("relations"), 52, fillRelation, {
    hover: hoverOf("relation"), select: selectOf("relation"),
  }),
  objects: new VirtualList(byId("objects"), 44, fillObject, {
    hover: hoverOf("object"), select: selectOf("object"),
  }),
};

function readItem(at) {
  if (!items.has(at)) items.set(at, JSON.parse(byId(index.items[at].id).textContent));
  return items.get(at);
}

/** Words that the search looks at, per relation and object; written once per layer. */
function prepare(layer) {
  if (layer.texts) return;
  const { objects, predicates } = layer;
  layer.texts = layer.subject.map((subject, r) =>
    `${objects[subject].name} ${predicates[layer.predicate[r]]} ${objects[layer.object[r]].name}`.toLowerCase());
  layer.names = objects.map((o) => o.name.toLowerCase());
  layer.degree = objects.map(() => 0);
  for (const end of [...layer.subject, ...layer.object]) layer.degree[end]++;
}

async function showImage(at, layerAt) {
  const item = readItem(at);
  document.body.dataset.ready = "false";
  // Decoded masks of other images would fill the memory of a phone.
  for (const other of items.keys()) if (Math.abs(other - at) > 2) items.delete(other);
  Object.assign(state, { at, item, hover: null, selected: null });
  byId("name").textContent = item.name;
  byId("note").textContent = index.items[at].note;
  showFound();
  writeTimeline(at);
  [...byId("strip").children].forEach((button, i) => {
    if (i === at) { button.setAttribute("aria-current", "true"); button.scrollIntoView({ block: "nearest", inline: "nearest" }); }
    else button.removeAttribute("aria-current");
  });
  byId("layers").replaceChildren(...item.layers.map((layer, i) => {
    const button = make("button", "", layer.title);
    button.type = "button";
    button.addEventListener("click", () => setLayer(i));
    return button;
  }));
  byId("layers").hidden = item.layers.length < 2;
  state.layerAt = clamp(layerAt ?? state.layerAt, 0, item.layers.length - 1);
  if (await imageView.show(item, item.layers[state.layerAt])) {
    setLayer(state.layerAt);
    document.body.dataset.ready = "true";
  }
}

function setLayer(at) {
  Object.assign(state, { layerAt: at, layer: state.item.layers[at], hover: null, selected: null });
  const { layer } = state;
  prepare(layer);
  imageView.setLayer(layer);
  [...byId("layers").children].forEach((button, i) => button.setAttribute("aria-pressed", i === at));
  const total = layer.subject.length;
  lists.objects.empty.textContent = layer.objects.length ? "No object fits the search." : "No objects.";
  byId("count").max = total;
  byId("count").disabled = total === 0;
  byId("score-row").hidden = !layer.score;
  writePredicates();
  writeMarks();
  filter();
}

/** Apply every filter; the only work that grows with the number of relations. */
function filter() {
  const { layer, least, selected } = state, words = searchWords();
  const wanted = layer.predicates.map((name) => state.predicates.has(name));
  const anyPredicate = !wanted.includes(true);
  const marks = layer.mark && [...state.marks].some((m) => layer.mark.includes(m)) ? state.marks : null;
  const chosen = selected?.kind === "object" ? selected.index : -1;
  const fits = [], whole = [];  // whole: those of every object, for the graph
  for (let r = 0; r < layer.subject.length; r++) {
    if (!anyPredicate && !wanted[layer.predicate[r]]) continue;
    if (layer.score && layer.score[r] < least) continue;
    if (marks && !marks.has(layer.mark[r])) continue;
    if (!words.every((word) => layer.texts[r].includes(word))) continue;
    whole.push(r);
    if (chosen < 0 || layer.subject[r] === chosen || layer.object[r] === chosen) fits.push(r);
  }
  const total = layer.subject.length, limit = Math.min(state.count ?? FIRST_RELATIONS, total);
  state.shown = fits.slice(0, limit);
  byId("count").value = limit;
  byId("count-value").textContent = `${limit} of ${total}`;
  byId("score").value = least;
  byId("score-value").textContent = String(Math.round(1000 * least) / 1000);
  const weak = total && layer.score && !layer.score.some((score) => score >= least);
  lists.relations.empty.textContent = weak ? "No relation reaches the least score." :
    total ? "No relation fits the filters." : "No relations.";
  byId("shown").textContent = `${state.shown.length} shown` +
    (fits.length > state.shown.length ? `, ${fits.length} fit` : "");
  byId("chosen").hidden = chosen < 0;
  byId("chosen-name").textContent = chosen < 0 ? "" : `Only relations of ${layer.objects[chosen].name}`;
  lists.relations.setValues(state.shown);
  lists.objects.setValues(layer.names.flatMap((name, i) => (words.every((word) => name.includes(word)) ? [i] : [])));
  drawGraph(whole.slice(0, limit), chosen);
  if (selected?.kind === "relation" && !state.shown.includes(selected.index)) state.selected = null;
  lightUp();
}

/** The graph keeps its nodes where they are while a chosen object is among them. */
function drawGraph(relations, chosen) {
  const { layer } = state, total = layer.subject.length;
  let drawn = relations.slice(0, GRAPH_RELATIONS), of = relations.length;
  if (chosen >= 0 && !drawn.some((r) => layer.subject[r] === chosen || layer.object[r] === chosen)) {
    drawn = state.shown.slice(0, GRAPH_RELATIONS);
    of = state.shown.length;
  }
  if (graph.layer !== layer || graph.relations.join() !== drawn.join()) graph.show(layer, drawn);
  let note = drawn.length ? "" : "No relations to draw.";
  if (drawn.length < of) note = `The graph draws the first ${drawn.length} of ${of} relations.`;
  if (layer.total > total) note += ` The page holds the first ${total} of the image's ${layer.total}.`;
  byId("graph-note").textContent = note;
}

/** Show what is hovered over or, failing that, chosen. No work here depends on the number of relations. */
function lightUp() {
  const active = state.hover ?? state.selected, { layer } = state;
  let lit = [];
  if (active?.kind === "relation") {
    lit = [[layer.subject[active.index], "subject"], [layer.object[active.index], "object"]];
  } else if (active) lit = [[active.index, "subject"]];
  imageView.setLit(lit);
  graph.setLit(active);
  for (const [name, kind] of [["relations", "relation"], ["objects", "object"]]) {
    const of = (x) => (x?.kind === kind ? x.index : null);
    lists[name].setMarks(of(state.selected), of(state.hover));
  }
  writeCaption(active);
  document.body.dataset.active = active ? `${active.kind}:${active.index}` : "";
  document.body.dataset.lit = lit.map(([i]) => i).join(",");
}

let frame = 0;
function setHover(target) {
  const old = state.hover;
  if (old === target || (old && target && old.kind === target.kind && old.index === target.index)) return;
  state.hover = target;
  frame ||= requestAnimationFrame(() => { frame = 0; lightUp(); });
}

/** Choose a relation or an object; the same once more takes it back. */
function setSelected(target) {
  const old = state.selected;
  const same = old && target && old.kind === target.kind && old.index === target.index;
  state.selected = same ? null : target;
  if (same) state.hover = null;
  // Relations are listed of a chosen object only.
  if (old?.kind === "object" || target?.kind === "object") filter();
  else lightUp();
  if (state.selected) lists[`${state.selected.kind}s`].scrollTo(state.selected.index);
}

function step(by) {
  if (!state.shown.length) return;
  showTab("relations");
  const at = state.selected?.kind === "relation" ? state.shown.indexOf(state.selected.index) : -1;
  const next = at < 0 ? (by > 0 ? 0 : state.shown.length - 1) : clamp(at + by, 0, state.shown.length - 1);
  state.hover = null;
  const wasObject = state.selected?.kind === "object", value = state.shown[next];
  state.selected = { kind: "relation", index: value };
  if (wasObject) filter();
  else lightUp();
  lists.relations.scrollTo(value);
}

function writeCaption(active) {
  const caption = byId("caption"), { layer } = state;
  caption.replaceChildren();
  if (!active) {
    caption.textContent = "Point at an object, a relation or a node; click to keep it.";
  } else if (active.kind === "object") {
    const object = layer.objects[active.index], count = layer.degree[active.index];
    make("span", "subject", object.name, caption);
    caption.append(` in ${count} relation${count === 1 ? "" : "s"}` + (object.score === null ? "" : `, score ${object.score.toFixed(2)}`));
  } else {
    const r = active.index;
    make("span", "subject", layer.objects[layer.subject[r]].name, caption);
    caption.append(` ${layer.predicates[layer.predicate[r]]} `);
    make("span", "object", layer.objects[layer.object[r]].name, caption);
    if (layer.score) caption.append(` (${layer.score[r].toFixed(2)})`);
    if (layer.mark) caption.append(` (${layer.mark[r]})`);
  }
}

/** A dot of the object's colour and its name, cut where a row of a narrow list would have no room for the rest. */
function addName(object, parent, narrow) {
  make("span", "dot", "●", parent).style.color = object.color;
  const name = narrow && object.name.length > 24 ? `${object.name.slice(0, 23)}…` : object.name;
  parent.append("\u00a0");  // no line break here
  make("bdi", "", name, parent);
}

function fillRelation(row, r) {
  row.classList.toggle("weak", isWeak(state.layer, r));
  const { layer } = state, narrow = row.parentElement.clientWidth < 420;
  make("span", "rank", r + 1, row);
  const words = make("span", "words", undefined, row);
  addName(layer.objects[layer.subject[r]], words, narrow);
  words.append(" ");
  make("b", "", layer.predicates[layer.predicate[r]], words);
  words.append(" ");
  addName(layer.objects[layer.object[r]], words, narrow);
  row.title = words.textContent.replaceAll("●\u00a0", "");
  const end = make("span", "end", layer.score ? layer.score[r].toFixed(2) : "", row);
  if (layer.mark) make("span", `${layer.mark[r]}-mark`, MARKS[layer.mark[r]], end);
}

function fillObject(row, i) {
  const object = state.layer.objects[i];
  make("span", "rank", i + 1, row);
  const words = make("span", "words", undefined, row);
  addName(object, words, false);
  row.title = object.name;
  make("span", "end", object.score === null ? (object.thing ? "thing" : "stuff") : object.score.toFixed(2), row);
}

function writePredicates() {
  const { layer } = state, counts = layer.predicates.map(() => 0);
  for (const p of layer.predicate) counts[p]++;
  const order = counts.map((_, p) => p).filter((p) => counts[p]).sort((a, b) => counts[b] - counts[a]).slice(0, 300);
  byId("predicate-list").replaceChildren(...order.map((p) => {
    const name = layer.predicates[p], label = make("label"), input = make("input", "", undefined, label);
    input.type = "checkbox";
    input.checked = state.predicates.has(name);
    input.addEventListener("change", () => {
      if (input.checked) state.predicates.add(name);
      else state.predicates.delete(name);
      summarise();
      filter();
    });
    make("span", "", name, label);
    make("span", "number", counts[p], label);
    return label;
  }));
  byId("predicates").hidden = !order.length;
  summarise();
}

function summarise() {
  const here = state.layer.predicates.filter((name) => state.predicates.has(name)).length;
  byId("predicates-summary").textContent = here ? `${here} of ${state.layer.predicates.length} predicates` : "All predicates";
}

function writeMarks() {
  const present = Object.keys(MARKS).filter((mark) => state.layer.mark?.includes(mark));
  byId("marks").replaceChildren(...present.map((mark) => {
    const count = state.layer.mark.filter((m) => m === mark).length, button = make("button", "", `${MARKS[mark]} ${count}`);
    button.type = "button";
    button.setAttribute("aria-pressed", state.marks.has(mark));
    button.addEventListener("click", () => {
      if (!state.marks.delete(mark)) state.marks.add(mark);
      button.setAttribute("aria-pressed", state.marks.has(mark));
      filter();
    });
    return button;
  }));
  byId("marks").hidden = !present.length;
}

function showTab(name) {
  state.tab = name;
  for (const other of ["relations", "objects"]) {
    byId(other).hidden = other !== name;
    byId(`tab-${other}`).setAttribute("aria-pressed", other === name);
  }
  lists[name].draw();
}

function clear() {
  Object.assign(state, { words: "", hover: null, selected: null });
  byId("search").value = "";
  document.activeElement?.blur();
  filter();
  searchImages();
}

function reset() {
  state.predicates.clear();
  state.marks.clear();
  Object.assign(state, { least: index.least, count: null });
  writePredicates();
  writeMarks();
  clear();
}

/** Masks and names in the image are there or not; names go with the masks. */
function toggle(what) {
  const key = what === "masks" ? "showMasks" : "showNames";
  imageView[key] = !imageView[key];
  byId(what).setAttribute("aria-pressed", imageView[key]);
  byId("names").disabled = !imageView.showMasks;
  if (what === "masks") imageView.drawPhoto();
  imageView.drawLight();
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").setAttribute("aria-pressed", theme === "dark");
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") { clear(); return; }
  if (event.key === "Enter" && event.target === byId("search")) { stepImage(1, true); return; }
  const inField = event.target.matches("input:not([type=checkbox])");
  if (inField) return;
  const actions = {
    ArrowDown: () => step(1), ArrowUp: () => step(-1), ArrowRight: () => step(1), ArrowLeft: () => step(-1),
    "/": () => byId("search").focus(), m: () => toggle("masks"), l: () => imageView.showMasks && toggle("names"),
    n: () => stepImage(1),
    p: () => stepImage(-1),
    g: () => setLayer((state.layerAt + 1) % state.item.layers.length),
  };
  if (!Object.hasOwn(actions, event.key)) return;
  event.preventDefault();
  actions[event.key]();
}

function connect() {
  const on = (id, type, handler) => byId(id).addEventListener(type, handler);
  on("search", "input", (event) => { state.words = event.target.value; filter(); searchImages(); });
  on("count", "input", (event) => { state.count = Number(event.target.value); filter(); });
  on("score", "input", (event) => { state.least = Number(event.target.value); filter(); searchImages(); });
  on("previous", "click", () => stepImage(-1));
  on("next", "click", () => stepImage(1));
  on("masks", "click", () => toggle("masks"));
  on("names", "click", () => toggle("names"));
  on("reset", "click", reset);
  on("chosen-clear", "click", () => setSelected(null));
  on("tab-relations", "click", () => showTab("relations"));
  on("tab-objects", "click", () => showTab("objects"));
  on("photo", "pointermove", (event) => hoverOf("object")(valueAt(event)));
  on("photo", "pointerleave", () => setHover(null));
  on("photo", "click", (event) => setSelected(valueAt(event) === null ? null : { kind: "object", index: valueAt(event) }));
  document.addEventListener("keydown", onKey);
  const system = matchMedia("(prefers-color-scheme: dark)");
  setTheme(system.matches ? "dark" : "light");
  system.addEventListener("change", () => setTheme(system.matches ? "dark" : "light"));
  on("theme", "click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
}

function valueAt(event) {
  const object = imageView.pick(event.clientX, event.clientY);
  return object < 0 ? null : object;
}

function writeStrip() {
  byId("strip").replaceChildren(...index.items.map((entry, at) => {
    const button = make("button");
    button.type = "button";
    button.title = entry.name;
    const image = make("img", "", undefined, button);
    image.src = entry.thumb;
    image.alt = "";
    image.loading = "lazy";
    make("span", "", entry.name.split("/").at(-1), button).dir = "auto";  // the end of a path tells images apart
    button.addEventListener("click", () => showImage(at));
    return button;
  }));
  byId("strip").hidden = byId("image-nav").hidden = index.items.length < 2;
}

/** #image=2&relation=5&layer=1 opens an image at a relation, all counted from 1. */
async function start() {
  connect();
  writeStrip();
  const wanted = new URLSearchParams(location.hash.slice(1)), number = (key) => Number(wanted.get(key) ?? 1) - 1 || 0;
  await showImage(clamp(number("image"), 0, index.items.length - 1), number("layer"));
  const relation = wanted.has("relation") ? number("relation") : -1, { layer } = state;
  if (relation in layer.subject) {
    // An address may point at a relation that the filters leave out at the start.
    if (layer.score) state.least = Math.min(state.least, layer.score[relation]);
    state.count = Math.max(FIRST_RELATIONS, relation + 1);
    filter();
    setSelected({ kind: "relation", index: relation });
  }
}

start();
