"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const CARDS_AT_ONCE = 12;
const ERROR_COLORS = { missed: [229, 72, 77], invented: [59, 130, 246], outline: [232, 168, 0], both: [168, 75, 209] };
const ERROR_NAMES = {
  missed: "missed", invented: "invented", both: "missed, and another found instead",
  outline: "outline of a match",
};
const UNKNOWN = { name: "class that is not evaluated", color: [150, 150, 150] };

function element(tag, attributes = {}, ...children) {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children);
  return node;
}

const categoryOf = (segment) => data.categories[segment.class] ?? UNKNOWN;
const number = (value) => value.toFixed(1);

// Tables

function sortBy(table, column) {
  const heading = table.tHead.rows[0].cells[column];
  const value = (row) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : parseFloat(cell.dataset.value);
  };
  const rows = [...table.tBodies[0].rows];
  const isText = rows.length > 0 && typeof value(rows[0]) === "string";
  const first = isText ? "ascending" : "descending";
  const second = isText ? "descending" : "ascending";
  const order = heading.ariaSort === first ? second : first;
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  rows.sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (typeof a === "string") return sign * a.localeCompare(b);
    return Number.isNaN(a) - Number.isNaN(b) || sign * (a - b);
  });
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = element("button", { type: "button", textContent: heading.textContent });
    button.addEventListener("click", () => sortBy(table, column));
    heading.replaceChildren(button);
  });
}

// Confusion

function drawConfusion(place) {
  const LARGEST = 40;
  const { confusion, classes } = data.panoptic;
  const none = classes.length;
  const lost = new Map();
  for (const [truth, predicted, count] of confusion) {
    for (const index of truth === predicted ? [] : [truth, predicted]) {
      lost.set(index, (lost.get(index) ?? 0) + count);
    }
  }
  const occurring = classes.flatMap((row, index) => (row.occurs ? [index] : []));
  const shown = new Set(
    occurring.length > LARGEST
      ? [...lost.keys()].filter((i) => i !== none).sort((a, b) => lost.get(b) - lost.get(a)).slice(0, LARGEST)
      : occurring
  );
  const indices = occurring.filter((index) => shown.has(index));
  if (indices.length < occurring.length) {
    place.before(element("p", { className: "muted", textContent:
      `The ${indices.length} classes of ${occurring.length} with the most errors.` }));
  }
  const counts = new Map(confusion.map(([truth, predicted, count]) => [`${truth},${predicted}`, count]));
  const totals = new Map();
  for (const [truth, , count] of confusion) totals.set(truth, (totals.get(truth) ?? 0) + count);
  const name = (index, other) => (index === none ? other : data.categories[index].name);
  const head = element("tr", {}, element("th"), ...[...indices, none].map((index) =>
    element("th", { scope: "col" }, element("span", { textContent: name(index, "not found") }))));
  const rows = [...indices, none].map((truth) =>
    element("tr", {}, element("th", { scope: "row", textContent: name(truth, "invented") }),
      ...[...indices, none].map((predicted) => {
        const count = counts.get(`${truth},${predicted}`) ?? 0;
        const cell = element("td", { textContent: count || "" });
        const share = count / (totals.get(truth) || 1);
        const hue = truth === predicted ? "47 158 119" : "229 72 77";
        cell.style.background = count ? `rgb(${hue} / ${0.12 + 0.7 * share})` : "var(--panel)";
        cell.title = `${name(truth, "nothing")} found as ${name(predicted, "nothing")}: ${count}`;
        return cell;
      })));
  place.append(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}

const matrix = document.getElementById("matrix");
if (matrix) drawConfusion(matrix);

// Segment maps: index i + 1 stands for segment i, 0 for none.

async function decode(map) {
  if (map.indices) return map.indices;
  const bytes = Uint8Array.from(atob(map.data), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  map.indices = map.bytes === 1 ? new Uint8Array(buffer) : new Uint16Array(buffer);
  return map.indices;
}

function paint(canvas, color) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let i = 0; i < canvas.width * canvas.height; i += 1) {
    const [red, green, blue, alpha] = color(i);
    image.data.set([red, green, blue, alpha], 4 * i);
  }
  context.putImageData(image, 0, 0);
}

function isEdge(indices, width, i) {
  return (i % width !== width - 1 && indices[i] !== indices[i + 1]) ||
    (i + width < indices.length && indices[i] !== indices[i + width]);
}

// Shades of a class's color, so that neighbors of one class can be told apart.
function segmentColors(segments) {
  const seen = new Map();
  return segments.map((segment) => {
    const { color, thing } = categoryOf(segment);
    const count = seen.get(segment.class) ?? 0;
    seen.set(segment.class, count + 1);
    const shift = thing ? [0, 45, -45, 80, -80][count % 5] : 0;
    return color.map((channel) => Math.min(255, Math.max(0, channel + shift)));
  });
}

const CLEAR = [0, 0, 0, 0];

function paintSegments(canvas, map, pointed) {
  const { indices, segments } = map;
  const colors = map.colors ?? (map.colors = segmentColors(segments));
  paint(canvas, (i) => {
    const index = indices[i];
    if (isEdge(indices, canvas.width, i)) return [255, 255, 255, 220];
    if (index === 0) return CLEAR;
    return [...colors[index - 1], index - 1 === pointed ? 235 : pointed < 0 ? 150 : 90];
  });
}

// What is wrong at a pixel, or undefined.
function errorAt(truth, prediction, i) {
  const expected = truth.segments[truth.indices[i] - 1];
  const found = prediction.segments[prediction.indices[i] - 1];
  const missed = expected?.state === "missed";
  const invented = found?.state === "invented";
  if (missed || invented) return missed && invented ? "both" : missed ? "missed" : "invented";
  if (expected?.state === "matched" && expected.partner !== prediction.indices[i] - 1) return "outline";
  // Void of the truth and crowds count for nobody.
  if (expected && expected.state !== "ignored" && found?.state === "matched" &&
      found.partner !== truth.indices[i] - 1) return "outline";
  return undefined;
}

function paintErrors(canvas, truth, prediction, pointed) {
  paint(canvas, (i) => {
    const error = errorAt(truth, prediction, i);
    if (pointed >= 0 && prediction.indices[i] - 1 === pointed && isEdge(prediction.indices, canvas.width, i)) {
      return [255, 255, 255, 255];
    }
    return error ? [...ERROR_COLORS[error], 225] : [40, 44, 52, 140];
  });
}

// Pointing at segments

const tooltip = document.getElementById("tooltip");

function describe(segment) {
  const words = [segment.text];
  if (segment.found !== undefined) words.push(`found as ${categoryOf({ class: segment.found }).name}`);
  if (segment.score !== undefined) words.push(`score ${segment.score.toFixed(2)}`);
  if (segment.iou !== undefined) words.push(`IoU ${segment.iou.toFixed(2)}`);
  if (segment.area !== undefined) words.push(`${segment.area.toLocaleString("en")} pixels`);
  return words.filter(Boolean).join(" · ");
}

function showTooltip(event, lines) {
  tooltip.replaceChildren(...lines);
  tooltip.hidden = lines.length === 0;
  const { width, height } = tooltip.getBoundingClientRect();
  const left = Math.min(event.clientX + 14, innerWidth - width - 8);
  const top = event.clientY + height + 24 > innerHeight ? event.clientY - height - 12 : event.clientY + 18;
  tooltip.style.left = `${Math.max(8, left)}px`;
  tooltip.style.top = `${Math.max(8, top)}px`;
}

function pixelAt(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * canvas.width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * canvas.height);
  const inside = x >= 0 && y >= 0 && x < canvas.width && y < canvas.height;
  return inside ? y * canvas.width + x : -1;
}

function heading(segment) {
  return element("b", { textContent: segment ? categoryOf(segment).name : "no segment" });
}

// A view of a photo: `repaint(pointed)` draws it, `lines(pixel)` describe it, `maps` are decoded.
function view(photo, title, size, maps, index, repaint, lines) {
  const canvas = element("canvas", { width: size[0], height: size[1] });
  canvas.setAttribute("aria-label", `${title} of ${photo.file}`);
  canvas.setAttribute("role", "img");
  const picture = element("img", { width: size[0], height: size[1], alt: "" });
  picture.src = photo.picture ?? "data:image/svg+xml," + encodeURIComponent(
    `<svg xmlns="http://www.w3.org/2000/svg" width="${size[0]}" height="${size[1]}"/>`);
  let pointed = -1;
  const redraw = (segment) => {
    if (segment === pointed) return;
    pointed = segment;
    repaint(canvas, pointed);
  };
  canvas.addEventListener("pointermove", (event) => {
    const pixel = pixelAt(canvas, event);
    if (!index.indices || pixel < 0) return;
    showTooltip(event, lines(pixel));
    redraw(index.indices[pixel] - 1);
  });
  canvas.addEventListener("pointerleave", () => {
    tooltip.hidden = true;
    redraw(-1);
  });
  Promise.all(maps.map(decode)).then(() => {
    repaint(canvas, -1);
    canvas.dataset.drawn = "true";
  });
  return element("figure", { className: "view" }, picture, canvas, element("figcaption", { textContent: title }));
}

function segmentView(photo, title, map) {
  return view(photo, title, map.size, [map], map,
    (canvas, pointed) => paintSegments(canvas, map, pointed),
    (pixel) => {
      const segment = map.segments[map.indices[pixel] - 1];
      return segment ? [heading(segment), describe(segment)] : [heading()];
    });
}

function errorView(photo, title, truth, prediction) {
  return view(photo, title, truth.size, [truth, prediction], prediction,
    (canvas, pointed) => paintErrors(canvas, truth, prediction, pointed),
    (pixel) => {
      const expected = truth.segments[truth.indices[pixel] - 1];
      const found = prediction.segments[prediction.indices[pixel] - 1];
      const error = errorAt(truth, prediction, pixel);
      return [
        element("b", { textContent: error ? ERROR_NAMES[error] : "right, or not counted" }),
        `truth: ${expected ? categoryOf(expected).name : "nothing"}`, element("br"),
        `prediction: ${found ? categoryOf(found).name : "nothing"}`,
      ];
    });
}

function photoView(photo, size) {
  const picture = element("img", { width: size[0], height: size[1], alt: `photo ${photo.file}`, src: photo.picture ?? "" });
  return element("figure", { className: "view" }, picture, element("figcaption", { textContent: "photo" }));
}

function segmentList(title, segments) {
  const rows = segments.map((segment) =>
    element("tr", {}, element("td", { textContent: categoryOf(segment).name }),
      element("td", { textContent: describe(segment) })));
  return element("div", { className: "scroll" }, element("table", {},
    element("caption", { textContent: title }), element("tbody", {}, ...rows)));
}

// Galleries: `views(photo)` make its figures, `lists(photo)` its segments as text.

const KINDS = {
  evaluation: {
    views: (photo) => [
      photoView(photo, photo.truth.size),
      segmentView(photo, "truth", photo.truth),
      segmentView(photo, "prediction", photo.prediction),
      errorView(photo, "errors", photo.truth, photo.prediction),
    ],
    lists: (photo) => [["truth", photo.truth.segments], ["prediction", photo.prediction.segments]],
    orders: {
      "worst first": (one, other) => one.quality - other.quality,
      "best first": (one, other) => other.quality - one.quality,
    },
    quality: (photo, label) => (label === null ? photo.quality : photo.by_class[label]),
    remark: (photo, label) => label === null ? `PQ ${number(photo.quality)}`
      : `PQ ${number(photo.by_class[label])} of this class, ${number(photo.quality)} of all`,
    has: (photo, label) => label in photo.by_class,
    legend: true,
  },
  data: {
    views: (photo) => [segmentView(photo, photo.split, photo.truth)],
    lists: () => [],
    orders: {},
    remark: () => "",
    has: (photo, label) => photo.truth.segments.some((segment) => segment.class === label),
    legend: false,
  },
  comparison: {
    views: (photo) => [
      segmentView(photo, "truth", photo.truth),
      segmentView(photo, data.runs[0], photo.a),
      segmentView(photo, data.runs[1], photo.b),
    ],
    lists: (photo) => [[data.runs[0], photo.a.segments], [data.runs[1], photo.b.segments]],
    orders: {
      "largest loss first": (one, other) => one.difference - other.difference,
      "largest gain first": (one, other) => other.difference - one.difference,
    },
    remark: (photo) => `PQ ${number(photo.quality_a)} → ${number(photo.quality_b)}`,
    has: (photo, label) => photo.truth.segments.some((segment) => segment.class === label),
    legend: false,
  },
};

function chooser(name, options, choose) {
  const select = element("select", {}, ...options.map(([value, text]) => element("option", { value, textContent: text })));
  select.addEventListener("change", choose);
  return [element("label", {}, `${name} `, select), select];
}

function gallery(section) {
  const kind = KINDS[data.kind];
  const cards = section.querySelector(".cards");
  const more = section.querySelector(".more");
  cards.classList.toggle("small", data.kind === "data");
  const classes = data.categories.flatMap((category, index) =>
    data.photos.some((photo) => kind.has(photo, index)) ? [[index, category.name]] : []);
  const [classLabel, classSelect] = chooser("class", [["", "all"], ...classes], () => start());
  const [orderLabel, orderSelect] = chooser("order", Object.keys(kind.orders).map((order) => [order, order]), () => start());
  section.querySelector(".controls").append(classLabel, ...(orderSelect.length ? [orderLabel] : []));
  if (kind.legend) {
    section.querySelector(".legend").append(...Object.entries(ERROR_NAMES).map(([error, name]) => {
      const swatch = element("i", { className: "swatch" });
      swatch.style.background = `rgb(${ERROR_COLORS[error].join(" ")})`;
      return element("span", {}, swatch, name);
    }));
  }
  let waiting = [];

  function card(photo, label) {
    const title = element("h3", {}, element("span", { textContent: photo.file }),
      element("span", { className: "muted", textContent: kind.remark(photo, label) }));
    const node = element("article", { className: "card" }, title,
      element("div", { className: "views" }, ...kind.views(photo)));
    const lists = kind.lists(photo);
    if (lists.length) {
      node.append(element("details", {}, element("summary", { textContent: "segments" }),
        ...lists.map(([name, segments]) => segmentList(name, segments))));
    }
    return node;
  }

  function append() {
    const label = classSelect.value === "" ? null : Number(classSelect.value);
    cards.append(...waiting.splice(0, CARDS_AT_ONCE).map((photo) => card(photo, label)));
    more.hidden = waiting.length === 0;
    more.textContent = `Show more (${waiting.length} left)`;
  }

  function start() {
    const label = classSelect.value === "" ? null : Number(classSelect.value);
    waiting = data.photos.filter((photo) => label === null || kind.has(photo, label));
    const order = kind.orders[orderSelect.value];
    if (order) {
      const key = (photo) => kind.quality ? { ...photo, quality: kind.quality(photo, label) } : photo;
      waiting = waiting.map((photo) => [key(photo), photo]).sort(([one], [other]) => order(one, other)).map(([, photo]) => photo);
    }
    cards.replaceChildren();
    append();
  }

  more.addEventListener("click", append);
  for (const link of document.querySelectorAll("a[data-class]")) {
    link.addEventListener("click", () => {
      classSelect.value = link.dataset.class;
      if (orderSelect.length) orderSelect.selectedIndex = 0;
      start();
    });
  }
  section.hidden = data.photos.length === 0;
  start();
}

for (const section of document.querySelectorAll(".gallery")) gallery(section);
