"use strict";
// No framework and no network. Texts reach the page through textContent alone.
const $ = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
// A place in a list, or in a grid of `columns`, after an arrow key; the same one at an edge.
const moved = (key, at, count, columns) => {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  if (key === "Home" || key === "End") return key === "Home" ? 0 : count - 1;
  if (step === undefined) return null;
  const sideways = Math.abs(step) === 1 && columns > 1;
  if (sideways && Math.floor(at / columns) !== Math.floor((at + step) / columns)) return at;
  return at + step < 0 || at + step >= count ? at : at + step;
};

// ---- the patch viewer ----
const data = JSON.parse($("#data")?.textContent || "null");
const viewer = $("#viewer");
const SVG = "http://www.w3.org/2000/svg";

function marks(base) {
  const [height, width] = base.grid;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "marks");
  svg.setAttribute("aria-hidden", "true");
  return svg;
}

// Draw the patch at a position, and the neighbours that its search looked at.
function mark(svg, base, position) {
  const [height, width] = base.grid;
  const row = Math.floor(position / width), column = position % width;
  const inside = ([r, c]) => r >= 0 && r < height && c >= 0 && c < width;
  const around = base.steps.map(([r, c]) => [row + r, column + c]).filter(inside);
  const rect = ([r, c], kind) => {
    const element = document.createElementNS(SVG, "rect");
    for (const [name, value] of Object.entries({ x: c, y: r, width: 1, height: 1, class: kind }))
      element.setAttribute(name, value);
    return element;
  };
  svg.replaceChildren(
    ...around.map((place) => rect(place, "halo")), rect([row, column], "halo"),
    ...around.map((place) => rect(place, "around")), rect([row, column], "patch"),
  );
  svg.dataset.patch = position;
  svg.dataset.around = around.map(([r, c]) => r * width + c).join(" ");
}

const number = (value) => String(Number(value.toPrecision(3)));
const percent = (value) => `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)}\u00a0%`;
let current = null; // the sample that is looked at
let stageMarks = null;

function showSample(index) {
  current = data.samples[index];
  const base = data.bases[current.base];
  const [height, width] = base.grid;
  const image = $(".stage img", viewer);
  image.src = current.picture;
  image.alt = `${current.label}: ${current.text}`;
  const cells = $(".patches", viewer);
  cells.style.gridTemplate = `repeat(${height}, 1fr) / repeat(${width}, 1fr)`;
  cells.replaceChildren();
  for (let row = 0; row < height; row++) {
    const line = make("div");
    line.setAttribute("role", "row");
    for (let column = 0; column < width; column++) {
      const position = row * width + column;
      const patch = current.patches[position];
      const cell = make("button", { type: "button", tabIndex: -1 });
      cell.setAttribute("role", "gridcell");
      cell.dataset.position = position;
      cell.setAttribute("aria-label", `Patch in row ${row + 1}, column ${column + 1}`
        + (patch ? "" : ", nothing retrieved"));
      if (patch && patch[0]) {
        cell.className = "agrees";
        cell.style.setProperty("--share", patch[1] ?? patch[0] / current.k);
      }
      line.append(cell);
    }
    cells.append(line);
  }
  stageMarks?.remove();
  stageMarks = marks(base);
  $(".stage .canvas", viewer).append(stageMarks);
  const first = Object.keys(current.patches).map(Number);
  showPatch(first[Math.floor(first.length / 2)] ?? 0);
}

function showPatch(position) {
  const base = data.bases[current.base];
  const width = base.grid[1];
  const cells = all(".patches button", viewer);
  for (const cell of cells) cell.tabIndex = -1;
  cells[position].tabIndex = 0;
  mark(stageMarks, base, position);
  const patch = current.patches[position];
  const place = `Row ${Math.floor(position / width) + 1}, column ${(position % width) + 1}`;
  $(".panel h3", viewer).textContent = `${place}: code ${current.codes[position]}`;
  $(".said", viewer).textContent = patch ? said(patch) : "Nothing was retrieved here: the "
    + "neighbourhood leaves the picture, and such patches are left to the model alone.";
  $(".neighbours", viewer).replaceChildren(
    ...(patch ? patch[2] : []).map((found, i, list) => (
      neighbour(found, i, list, base, current.codes[position]))),
  );
}

function said([agreeing, drawnWeight, nearest]) {
  const agree = `${agreeing} of the ${current.k} retrieved patches `
    + `${agreeing === 1 ? "has" : "have"} the code that was drawn.`;
  if (drawnWeight === null) {
    return `${agree} The adapter blends all ${current.k} into the model's hidden states, `
      + "where they have no weight of their own.";
  }
  const rest = 1 - nearest.reduce((sum, found) => sum + found[3], 0);
  return `${agree} They give it p_ret = ${percent(drawnWeight)}, of which λ = ${current.lam} puts `
    + `${percent(current.lam * drawnWeight)} into the mixture that was drawn from. `
    + `The ${nearest.length} nearest are shown`
    + (rest > 0.0005 ? `; the others share a weight of ${percent(rest)}.` : ".");
}

function neighbour([entry, code, distance, weight], i, list, base, drawn) {
  const size = base.grid[0] * base.grid[1];
  const image = Math.floor(entry / size), position = entry % size;
  const picture = make("img", { src: base.pictures[image], alt: "" });
  const svg = marks(base);
  mark(svg, base, position);
  const where = `row ${Math.floor(position / base.grid[1]) + 1}, column ${(position % base.grid[1]) + 1}`;
  const same = code === drawn;
  const item = make("li", {},
    make("div", { className: "canvas" }, picture, svg),
    make("b", { textContent: `${i + 1}. distance ${number(distance)}` }),
  );
  if (weight !== null) {
    // Of patches with one code the nearest speaks for all.
    const before = weight === 0 ? list.findIndex((other) => other[1] === code) : i;
    item.append(make("div", {
      textContent: before < i ? `counted with no. ${before + 1}` : `weight ${percent(weight)}`,
    }));
    const bar = make("div", { className: "bar" }, make("i"));
    bar.firstChild.style.width = `${100 * weight}%`;
    item.append(bar);
  }
  item.append(
    make("div", { className: same ? "same" : "", textContent: same ? "✓ the code drawn" : `code ${code}` }),
    make("small", { textContent: `${base.names[image]}, ${where}` }),
  );
  Object.assign(item.dataset, { image: base.names[image], position, distance, weight: weight ?? "", code });
  return item;
}

if (data && viewer) {
  const cells = $(".patches", viewer);
  const follow = (event) => {
    const position = event.target.dataset.position;
    if (position !== undefined) showPatch(Number(position));
  };
  cells.addEventListener("pointerover", follow);
  cells.addEventListener("focusin", follow);
  cells.addEventListener("click", follow);
  cells.addEventListener("keydown", (event) => {
    const every = all("button", cells);
    const to = moved(event.key, every.indexOf(event.target), every.length, data.bases[current.base].grid[1]);
    if (to === null) return;
    event.preventDefault();
    every[to].focus({ preventScroll: true });
  });
  for (const thumbnail of all(".picker img")) {
    thumbnail.src = data.samples[thumbnail.dataset.picture].picture;
  }
  for (const choice of all(".picker input")) {
    choice.addEventListener("change", () => showSample(Number(choice.value)));
  }
  $("#shade").addEventListener("change", (event) => viewer.classList.toggle("shaded", event.target.checked));
  const chosen = $(".picker input:checked") || $(".picker input");
  chosen.checked = true;
  showSample(Number(chosen.value));
}

// ---- the gallery ----
const filters = $("#filters");

function filter() {
  const words = $("#words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const tag = $("#tag")?.value || "";
  const verdict = $("#verdict")?.value || "";
  const methods = new Set(all("#methods input:checked").map((box) => box.value));
  let images = 0, prompts = 0;
  for (const card of all(".card")) {
    const text = $("q", card).textContent.toLowerCase();
    const fits = words.every((word) => text.includes(word)) && (!tag || card.dataset.tag === tag);
    let left = 0;
    for (const figure of all("figure", card)) {
      let here = 0;
      for (const tile of all(".tile", figure)) {
        tile.hidden = !(fits && methods.has(figure.dataset.method)
          && (!verdict || tile.classList.contains(verdict)));
        here += !tile.hidden;
      }
      figure.hidden = !here;
      left += here;
    }
    card.hidden = !left;
    images += left;
    prompts += !!left;
  }
  $("#count").textContent = images
    ? `${plural(images, "image")} of ${plural(prompts, "prompt")}`
    : "No image fits; take a filter away.";
  rove();
}

// One stop of the tab key for all images; arrow keys go from image to image.
function rove(to) {
  const tiles = all(".tile:not([hidden])");
  for (const tile of all('.tile[tabindex="0"]')) tile.tabIndex = -1;
  (to || tiles[0])?.setAttribute("tabindex", "0");
}

function open(tile) {
  const closer = $("#closer");
  const card = tile.closest(".card"), method = tile.closest("figure").dataset.method;
  $("h2", closer).textContent = $("q", card).textContent;
  $("img", closer).src = $("img", tile).src;
  $("img", closer).alt = tile.getAttribute("aria-label");
  $(".verdict", closer).textContent = tile.getAttribute("aria-label")
    + (tile.dataset.why ? `: ${tile.dataset.why}` : "");
  const at = data?.samples.findIndex((s) => s.method === method
    && s.prompt === Number(card.dataset.prompt) && s.sample === Number(tile.dataset.sample)) ?? -1;
  const button = $(".follow", closer);
  button.hidden = at < 0;
  button.onclick = () => {
    closer.close();
    const choice = $(`.picker input[value="${at}"]`);
    choice.checked = true;
    choice.closest("label").scrollIntoView({ block: "nearest", inline: "center" });
    showSample(at);
    $("#origins").scrollIntoView();
    $('.patches [tabindex="0"]').focus({ preventScroll: true });
  };
  closer.showModal();
}

if (filters) {
  filters.addEventListener("input", filter);
  filters.addEventListener("submit", (event) => event.preventDefault());
  const cards = $("#cards");
  cards.addEventListener("click", (event) => {
    const tile = event.target.closest(".tile");
    if (tile) { rove(tile); open(tile); }
  });
  cards.addEventListener("keydown", (event) => {
    const tiles = all(".tile:not([hidden])");
    const at = tiles.indexOf(event.target);
    let to = at < 0 ? null : moved(event.key, at, tiles.length, 1);
    if (to === null) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      // To the next or previous prompt, the image at the same place.
      const card = event.target.closest(".card");
      const rows = all(".card:not([hidden])");
      const next = rows[rows.indexOf(card) + (event.key === "ArrowDown" ? 1 : -1)];
      const place = all(".tile:not([hidden])", card).indexOf(event.target);
      const there = next ? all(".tile:not([hidden])", next) : [event.target];
      to = tiles.indexOf(there[Math.min(place, there.length - 1)]);
    }
    event.preventDefault();
    rove(tiles[to]);
    tiles[to].focus();
  });
  $("#closer .close").addEventListener("click", () => $("#closer").close());
  $("#closer").addEventListener("click", (event) => {
    if (event.target === $("#closer")) $("#closer").close(); // beside the dialog
  });
  filter();
}
