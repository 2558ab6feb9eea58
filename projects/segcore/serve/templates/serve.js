
// The page of `segcore serve`: its parts above draw segments and answer the pointer.

const [picker, modelChoice, thresholdList, defaults, result, statusLine, picture, downloads, segmentTable] =
  ["file", "model", "thresholds", "defaults", "result", "status", "picture", "downloads", "segments"]
    .map((id) => document.getElementById(id));
const VIEW_HEIGHT = 62; // percent of the window
const DELAY = 150; // milliseconds after the last move of a threshold

let file; // of the photo that is shown
let shown; // answer about it
let changed = {}; // thresholds that differ from the model's
let due; // what to ask for next
let isBusy = false;
let running; // AbortController of the last request
let timer;

class Refusal extends Error {}

// Returns the server's answer, or undefined if it is not wanted any more.
async function request(address, options, sentence) {
  const controller = (running = new AbortController());
  statusLine.className = "";
  statusLine.textContent = sentence;
  const start = performance.now();
  try {
    const response = await fetch(address, { ...options, signal: controller.signal });
    const answer = await response.json().catch(() => ({ error: "the server failed, see its terminal" }));
    if (controller.signal.aborted) return undefined;
    if (!response.ok) throw Object.assign(new Refusal(answer.error), { status: response.status });
    return { ...answer, seconds: (performance.now() - start) / 1000 };
  } catch (error) {
    if (controller.signal.aborted) return undefined;
    throw error instanceof Refusal ? error : new Refusal("the server does not answer: has it ended?");
  }
}

function segment() {
  if (file.size > data.limits.megabytes * 2 ** 20) {
    throw new Refusal(`${file.name}: expected a file of at most ${data.limits.megabytes} MB`);
  }
  const query = new URLSearchParams({ ...changed, model: modelChoice.value, name: file.name });
  return request(`/photos?${query}`, { method: "POST", body: file }, `Segmenting ${file.name} …`);
}

async function merge() {
  try {
    const answer = await request(`/photos/${shown.id}?${new URLSearchParams(changed)}`, {}, "Merging …");
    return answer && { ...shown, ...answer };
  } catch (error) {
    if (error.status !== 404) throw error;
    due = segment; // the server has forgotten the photo
    return undefined;
  }
}

// Ask for what is due, `segment` or `merge`, one request at a time. Another photo cancels the request
// that runs; other moves of thresholds wait for it, and are one request then.
async function update(step) {
  if (!file) return;
  if (step === segment) running?.abort();
  if (due !== segment) due = step;
  if (isBusy) return;
  setBusy(true);
  try {
    while (due) {
      const next = due;
      due = undefined;
      const answer = await next();
      if (answer) show(answer);
    }
  } catch (error) {
    due = undefined;
    if (!(error instanceof Refusal)) throw error;
    statusLine.className = "problem error";
    statusLine.textContent = error.message;
  } finally {
    setBusy(false);
  }
}

function setBusy(value) {
  isBusy = value;
  result.setAttribute("aria-busy", value);
}

function show(answer) {
  shown = answer;
  data.categories = answer.categories;
  const map = { ...answer.map, segments: answer.segments };
  const [width, height] = answer.pixels;
  statusLine.textContent = `${answer.segments.length} segments in ${width} x ${height} pixels, ${answer.seconds.toFixed(1)} s`;
  const view = segmentView(answer, answer.file, map);
  view.style.maxWidth = `min(100%, ${(VIEW_HEIGHT * width) / height}vh)`;
  picture.replaceChildren(view);
  listSegments(map, view.querySelector("canvas"), width * height);
  listThresholds(answer.thresholds);
  for (const link of downloads.querySelectorAll("a")) {
    link.href = `/photos/${answer.id}/${link.dataset.kind}?${new URLSearchParams(changed)}`;
  }
  downloads.hidden = false;
}

function listSegments(map, canvas, pixels) {
  const colors = segmentColors(map.segments);
  const cell = (text, value) => {
    const node = element("td", { textContent: text, className: value === undefined ? "" : "number" });
    if (value !== undefined) node.dataset.value = value;
    return node;
  };
  const rows = map.segments.map((found, index) => {
    const { name, thing } = categoryOf(found);
    const swatch = element("i", { className: "swatch" });
    swatch.style.background = `rgb(${colors[index].join(" ")})`;
    const share = (100 * found.area) / pixels;
    const row = element("tr", {}, element("td", {}, swatch, name), cell(thing ? "thing" : "stuff"),
      cell(found.score?.toFixed(2) ?? "-", found.score ?? ""), cell(found.area.toLocaleString("en"), found.area),
      cell(share.toFixed(1), share));
    const point = (pointed) => () => canvas.dataset.drawn && paintSegments(canvas, map, pointed);
    row.addEventListener("pointerenter", point(index));
    row.addEventListener("pointerleave", point(-1));
    return [found.area, row];
  });
  rows.sort(([one], [other]) => other - one);
  segmentTable.tBodies[0].replaceChildren(...rows.map(([, row]) => row));
  for (const heading of segmentTable.tHead.rows[0].cells) heading.removeAttribute("aria-sort");
  segmentTable.hidden = rows.length === 0;
}

function listThresholds(thresholds) {
  const names = thresholds.map(({ name }) => name).join();
  defaults.hidden = Object.keys(changed).length === 0;
  if (thresholdList.dataset.names === names) {
    for (const { name, value } of thresholds) setThreshold(name, changed[name] ?? value);
    return;
  }
  thresholdList.dataset.names = names;
  thresholdList.replaceChildren(...thresholds.map(({ name, label, value }) => {
    const slider = element("input", { type: "range", name, min: 0, max: 1, step: 0.01 });
    slider.addEventListener("input", () => {
      changed[name] = slider.value;
      setThreshold(name, slider.value);
      clearTimeout(timer);
      timer = setTimeout(() => update(merge), DELAY);
    });
    const node = element("label", { className: "field" },
      element("span", {}, label, element("output")), slider);
    return node;
  }));
  for (const { name, value } of thresholds) setThreshold(name, value);
}

function setThreshold(name, value) {
  const slider = thresholdList.querySelector(`[name="${name}"]`);
  slider.value = value;
  slider.parentNode.querySelector("output").textContent = Number(value).toFixed(2);
}

function setFile(files) {
  if (files.length === 0) return;
  [file] = files;
  update(segment);
}

picker.addEventListener("change", () => {
  setFile(picker.files);
  picker.value = ""; // so that the same file can be chosen again
});
modelChoice.addEventListener("change", () => {
  changed = {};
  update(segment);
});
defaults.addEventListener("click", () => {
  changed = {};
  update(merge);
});
for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragged", type === "dragenter" || type === "dragover");
    if (type === "drop") setFile(event.dataTransfer.files);
  });
}
