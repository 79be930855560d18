// The search: words that names or relations must have, in every image of the page.

const searchWords = () => state.words.toLowerCase().split(/\s+/).filter(Boolean);
const texts = [];  // of each image that was searched: for each layer its words and scores
let searches = 0;

/** Whether an object's name, or a relation of at least the least score, has all words. */
function fitsSearch(at, words) {
  texts[at] ??= readItem(at).layers.map((layer) => {
    prepare(layer);
    return { relations: layer.texts, names: layer.names, score: layer.score };
  });
  if (Math.abs(at - state.at) > 2) items.delete(at);
  const fits = (text) => words.every((word) => text.includes(word));
  return texts[at].some(({ relations, names, score }) => names.some(fits) ||
    relations.some((text, r) => fits(text) && !(score && score[r] < state.least)));
}

/** Find the images that the search fits, in steps between which the page answers. */
async function searchImages() {
  const words = searchWords(), run = ++searches, found = [];
  let pause = performance.now() + 20;
  for (let at = 0; words.length && at < index.items.length; at++) {
    if (performance.now() > pause) {
      await new Promise((done) => { setTimeout(done); });
      if (run !== searches) return;
      pause = performance.now() + 20;
    }
    if (fitsSearch(at, words)) found.push(at);
  }
  state.found = words.length ? found : null;
  showFound();
}

/** Position among the images, and which of them the search leaves. */
function showFound() {
  const { at, found } = state, count = index.items.length, among = found ?? [...index.items.keys()];
  byId("position").textContent = `${at + 1} of ${count}`;
  byId("previous").disabled = !among.some((other) => other < at);
  byId("next").disabled = !among.some((other) => other > at);
  byId("found").hidden = !found || count < 2;
  byId("found").textContent = found ? `Found in ${found.length} of ${count} images` : "";
  const left = new Set(among);
  [...byId("strip").children].forEach((button, i) => { button.hidden = i !== at && !left.has(i); });
  document.body.dataset.found = found ? found.map((i) => i + 1).join(",") : "all";
}

/** The image `by` one after the shown one, of those that the search fits; from the last one round to the first if asked. */
function stepImage(by, round = false) {
  const among = state.found ?? [...index.items.keys()];
  const next = by > 0 ? among.find((at) => at > state.at) : among.findLast((at) => at < state.at);
  const at = next ?? (round ? among[0] : undefined);
  if (at !== undefined && at !== state.at) showImage(at);
}
