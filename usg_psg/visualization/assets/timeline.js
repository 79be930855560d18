// The relations of a video: a row each, with a bar over the frames in which it holds.

const isIn = (at, first, last) => first <= at && at <= last;

/** Rows of the video that image `at` is a frame of; they stay while the reader goes through its frames. */
function writeTimeline(at) {
  const box = byId("timeline"), video = index.timelines.find(({ first, last }) => isIn(at, first, last));
  box.hidden = !video;
  if (!video) return;
  const share = (frames) => `${100 * frames / (video.last - video.first + 1)}%`, rows = byId("timeline-rows");
  if (box.dataset.first !== String(video.first)) {
    box.dataset.first = video.first;
    rows.replaceChildren(...video.rows.map(([text, first, last, score]) => {
      const row = make("button");
      row.type = "button";
      row.title = `${text} (${score.toFixed(2)}), images ${first + 1} to ${last + 1}`;
      make("bdi", "", text, row);
      const track = make("span", "track", undefined, row), bar = make("span", "span", undefined, track);
      bar.style.left = share(first - video.first);
      bar.style.width = share(last - first + 1);
      make("span", "now", undefined, track);
      row.addEventListener("click", () => showImage(first));
      return row;
    }));
  }
  [...rows.children].forEach((row, n) => {
    row.classList.toggle("off", !isIn(at, video.rows[n][1], video.rows[n][2]));
    row.querySelector(".now").style.left = share(at - video.first + 0.5);
  });
}
