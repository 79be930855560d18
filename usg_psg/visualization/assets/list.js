// Small helpers, and a list that keeps only the rows on the screen in the document.

const OUTLINE = { subject: "#4db2ff", object: "#ffab4a" };
const measure = document.createElement("canvas").getContext("2d");
measure.font = "13px system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";

const byId = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

function make(tag, className, text, parent) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

/** The text, cut with an ellipsis to a width in pixels. */
function shorten(context, text, width) {
  if (text.length < 4 || context.measureText(text).width <= width) return text;
  let low = 1, high = text.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (context.measureText(text.slice(0, middle) + "…").width <= width) low = middle;
    else high = middle - 1;
  }
  return text.slice(0, low) + "…";
}

class VirtualList {
  /** fill(row, value) writes a row; events.hover and events.select get the value, or null. */
  constructor(root, rowHeight, fill, events) {
    Object.assign(this, { root, rowHeight, fill, values: [], rows: new Map(), place: new Map(), spare: [] });
    Object.assign(this, { selected: null, lit: null });
    this.empty = make("p", "empty", undefined, root);
    this.space = make("div", "space", undefined, root);
    const valueOf = (event) => this.values[event.target.closest(".row")?.dataset.at] ?? null;
    root.addEventListener("scroll", () => this.draw(), { passive: true });
    root.addEventListener("pointerover", (event) => events.hover(valueOf(event)));
    root.addEventListener("pointerleave", () => events.hover(null));
    root.addEventListener("click", (event) => { if (valueOf(event) !== null) events.select(valueOf(event)); });
    new ResizeObserver(() => this.draw()).observe(root);
  }

  setValues(values) {
    this.values = values;
    this.place = new Map(values.map((value, at) => [value, at]));
    for (const row of this.rows.values()) { row.hidden = true; this.spare.push(row); }
    this.rows.clear();
    this.space.style.height = `${values.length * this.rowHeight}px`;
    this.empty.hidden = values.length > 0;
    this.root.scrollTop = 0;
    this.draw();
  }

  draw() {
    const top = this.root.scrollTop, first = Math.max(0, Math.floor(top / this.rowHeight) - 3);
    const last = Math.min(this.values.length, Math.ceil((top + this.root.clientHeight) / this.rowHeight) + 3);
    for (const [at, row] of this.rows) {
      if (at < first || at >= last) { row.hidden = true; this.rows.delete(at); this.spare.push(row); }
    }
    let next = null;  // rows stand in the document in the order in which they are read
    for (let at = last - 1; at >= first; at--) {
      if (!this.rows.has(at)) this.rows.set(at, this.addRow(at, next));
      next = this.rows.get(at);
    }
  }

  addRow(at, next) {
    const row = this.spare.pop() ?? make("div", "row");
    this.space.insertBefore(row, next);
    row.hidden = false;
    row.id = `${this.root.id}-${at}`;
    row.dataset.at = at;
    row.style.height = `${this.rowHeight}px`;
    row.style.transform = `translateY(${at * this.rowHeight}px)`;
    for (const [name, value] of [["role", "option"], ["aria-posinset", at + 1], ["aria-setsize", this.values.length]]) {
      row.setAttribute(name, value);
    }
    row.replaceChildren();
    this.fill(row, this.values[at]);
    this.mark(row, this.values[at]);
    return row;
  }

  mark(row, value) {
    row.setAttribute("aria-selected", value === this.selected);
    row.classList.toggle("lit", value === this.lit);
  }

  rowOf(value) {
    return this.rows.get(this.place.get(value));
  }

  /** Mark the selected and the lit value (null for none); touches no other row. */
  setMarks(selected, lit) {
    const old = [this.selected, this.lit];
    Object.assign(this, { selected, lit });
    for (const value of new Set([...old, selected, lit])) {
      const row = this.rowOf(value);
      if (row) this.mark(row, value);
    }
    const at = this.place.get(selected);
    if (at === undefined) this.root.removeAttribute("aria-activedescendant");
    else this.root.setAttribute("aria-activedescendant", `${this.root.id}-${at}`);
  }

  scrollTo(value) {
    const at = this.place.get(value);
    if (at === undefined) return;
    const top = at * this.rowHeight, { scrollTop, clientHeight } = this.root;
    if (top < scrollTop) this.root.scrollTop = top;
    else if (top + this.rowHeight > scrollTop + clientHeight) this.root.scrollTop = top + this.rowHeight - clientHeight;
    this.draw();
  }
}
