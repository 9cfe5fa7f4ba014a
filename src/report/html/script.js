// The parts of the page that need a program: the picture of the network, the list of all units, and one unit's
// detail. Everything shown comes from files of strangers, so it is only ever set as text.
"use strict";

const $ = (id) => document.getElementById(id);
const report = JSON.parse($("report").textContent);
const pictures = JSON.parse($("pictures").textContent);
const KINDS = ["deny", "warn", "allow", "excepted", "described", "unknown", "dead", "saturated"];

/** An element with attributes and children; a string child is text. */
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value != null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((it) => it != null && it !== false));
  return element;
}

const grouped = (n) => n.toLocaleString("en-GB");

function points(difference) {
  const text = Math.abs(100 * difference).toFixed(2);
  return Number(text) === 0 ? text : (difference < 0 ? "−" : "+") + text;
}

// Of ablation, the accuracy that zeroing a unit costs; else a share of the greatest.
const costs = !["weight-norm", "activation"].includes(report.importance);
const importance = (it) => (costs ? points(it) : it.toFixed(2));

// ---- The units, with everything that is known of each.

const zeroed = new Set(report.edit?.units ?? []);
const refused = new Map((report.edit?.refused ?? []).map((it) => [it.unit, it.reason]));
const units = report.units.map((unit, index) => ({
  index, layer: unit.layer, status: unit.status, readings: unit.readings, importance: unit.importance,
  evidence: Object.entries(unit.evidence ?? {}), name: `${unit.layer}:${unit.unit}`,
  description: unit.readings[0]?.text ?? "", confidence: unit.readings[0]?.confidence ?? null, matches: [],
}));
const byName = new Map(units.map((unit) => [unit.name, unit]));
for (const rule of report.rules) {
  for (const excepted of [false, true]) {
    for (const it of excepted ? rule.excepted : rule.units) {
      const match = { rule, words: it.matched, excepted, kind: excepted ? "excepted" : rule.level };
      byName.get(`${it.layer}:${it.unit}`)?.matches.push(match);
    }
  }
}
for (const unit of units) {
  const kinds = unit.matches.map((it) => it.kind);
  unit.kind = KINDS.find((kind) => kinds.includes(kind)) ?? unit.status;
  unit.rules = unit.matches.map((it) => it.rule.id).join(", ");
  // What the choice of a rule may ask for.
  unit.tags = [kinds.length > 0 ? "any" : "none", ...unit.matches.map((it) => `rule ${it.rule.id}`)];
  if (kinds.includes("excepted")) unit.tags.push("excepted");
  if (zeroed.has(unit.name)) unit.tags.push("zeroed");
  unit.text = [unit.name, unit.rules, ...unit.readings.map((it) => it.text)].join("\n").toLowerCase();
}

// ---- Which units are shown, in what order.

const state = { found: units, active: 0, sort: "index", down: false, first: -1, last: -1 };

function isFound(unit, words) {
  const [layer, status, rule] = ["layer", "status", "rule"].map((id) => $(id).value);
  return (layer === "" || layer === unit.layer) && (status === "" || status === unit.status) &&
    (rule === "" || unit.tags.includes(rule)) && words.every((word) => unit.text.includes(word));
}

/** Finds and sorts anew; units without a value come last in either direction. */
function refresh() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const sign = state.down ? -1 : 1;
  const key = (value) => (typeof value === "string" ? value.toLowerCase() || null : value);
  const keyed = units.filter((unit) => isFound(unit, words)).map((unit) => [key(unit[state.sort]), unit]);
  keyed.sort(([a, left], [b, right]) => {
    if (a === null || b === null) return (a === null) - (b === null) || left.index - right.index;
    return (a < b ? -sign : a > b ? sign : 0) || left.index - right.index;
  });
  state.found = keyed.map(([, unit]) => unit);
  state.places = new Map(state.found.map((unit, place) => [unit, place]));
  state.active = 0;
  $("grid").scrollTop = 0;
  $("grid").setAttribute("aria-rowcount", state.found.length + 1);
  $("count").textContent = state.found.length === units.length
    ? `${grouped(units.length)} units` : `${grouped(state.found.length)} of ${grouped(units.length)} units`;
  for (const button of document.querySelectorAll("[data-sort]")) {
    const order = button.dataset.sort !== state.sort ? "none" : state.down ? "descending" : "ascending";
    button.parentElement.setAttribute("aria-sort", order);
  }
  renderRows(true);
  layers.forEach(draw);
}

// ---- The list: only the rows in sight exist.

function row(unit, place) {
  const cell = (className, ...children) => el("div", { role: "gridcell", class: className }, ...children);
  const rules = unit.matches.map((it) =>
    el("span", { class: `chip ${it.kind}` }, it.rule.id + (it.excepted ? " (excepted)" : "")));
  if (zeroed.has(unit.name)) rules.push(el("span", { class: "chip zeroed" }, "zeroed"));
  const isActive = place === state.active ? "true" : "false", id = `row-${place}`;
  const element = el("div", { role: "row", id, class: `row ${unit.kind}`, "aria-rowindex": place + 2, "aria-selected": isActive },
    cell("name", unit.name), cell("status", el("i", { class: unit.status }), unit.status),
    cell("description", unit.description || "—"),
    cell("number", unit.confidence === null ? "" : unit.confidence.toFixed(2)),
    cell("number", unit.importance === null ? "" : importance(unit.importance)), cell("rules", rules));
  element.style.top = `${place * rowHeight()}px`;
  return element;
}

const rowHeight = () => parseFloat(getComputedStyle($("grid")).getPropertyValue("--row"));

function renderRows(anew) {
  const height = rowHeight(), grid = $("grid"), spare = 8;
  const first = Math.max(0, Math.floor(grid.scrollTop / height) - spare);
  const last = Math.min(state.found.length, Math.ceil((grid.scrollTop + grid.clientHeight) / height) + spare);
  if (!anew && first === state.first && last === state.last) return;
  Object.assign(state, { first, last });
  $("rows").style.height = `${state.found.length * height}px`;
  const rows = state.found.slice(first, last).map((unit, i) => row(unit, first + i));
  $("rows").replaceChildren(...(rows.length ? rows : [el("p", { class: "note" }, "No unit is like that.")]));
  grid.setAttribute("aria-activedescendant", rows.length ? `row-${state.active}` : "");
}

function moveTo(place) {
  const grid = $("grid"), height = rowHeight(), head = grid.querySelector(".head").offsetHeight;
  state.active = Math.max(0, Math.min(state.found.length - 1, place));
  const top = state.active * height;
  grid.scrollTop = Math.min(top, Math.max(top + height + head - grid.clientHeight, grid.scrollTop));
  renderRows(true);
}

// ---- The picture of the network.

let layers = [];
const colours = {};

function addLayers() {
  const groups = Map.groupBy(units, (unit) => unit.layer);
  layers = report.layers.map((layer) => {
    const mine = groups.get(layer.name) ?? [];
    const matching = mine.filter((unit) => unit.matches.some((it) => !it.excepted)).length;
    const counts = [[mine.length, "units"], [matching, "matching"], [layer.unknown, "unknown"], [layer.dead, "dead"]];
    if (layer.saturated) counts.push([layer.saturated, "saturated"]);
    const text = counts.filter(([n], i) => i === 0 || n > 0).map(([n, what]) => `${grouped(n)} ${what}`).join(" · ");
    const canvas = el("canvas", { role: "img", "aria-label": `${layer.name}: ${text}` });
    const name = el("button", { type: "button", title: "list the units of this layer" }, layer.name);
    name.addEventListener("click", () => {
      $("layer").value = layer.name;
      refresh();
      $("units").scrollIntoView();
      $("grid").focus({ preventScroll: true });
    });
    $("layers").append(el("div", { class: "layer" }, el("p", {}, name, el("span", { class: "note" }, text)), canvas));
    const it = { canvas, units: mine };
    canvas.addEventListener("mousemove", (event) => hover(it, event));
    canvas.addEventListener("mouseleave", () => hover(it, null));
    canvas.addEventListener("click", (event) => openDetail(it.units[cellAt(it, event)]));
    return it;
  });
}

/** Side of a cell with its gap: larger where there are few. */
const pitch = units.length < 600 ? 17 : units.length < 3000 ? 13 : 10;

/** Draws a layer. Kinds differ in shape as well as in colour. */
function draw(layer) {
  const width = $("layers").clientWidth;
  if (width === 0) return;
  layer.columns = Math.max(1, Math.floor(width / pitch));
  const ratio = devicePixelRatio || 1, height = Math.ceil(layer.units.length / layer.columns) * pitch;
  Object.assign(layer.canvas, { width: width * ratio, height: height * ratio });
  layer.canvas.style.height = `${height}px`;
  const pen = layer.canvas.getContext("2d"), side = pitch - 2;
  pen.scale(ratio, ratio);
  layer.units.forEach((unit, i) => {
    const x = (i % layer.columns) * pitch + 1, y = Math.floor(i / layer.columns) * pitch + 1;
    const isFaint = !state.places.has(unit);
    pen.fillStyle = pen.strokeStyle = colours[unit.kind];
    pen.globalAlpha = isFaint ? 0.13 : 1;
    if (unit.kind === "dead") pen.fillRect(x + side / 2 - 1, y + side / 2 - 1, 2, 2);
    else if (unit.kind === "saturated") pen.fillRect(x + 1, y + 1, side - 2, (side - 2) / 2);
    else if (unit.kind === "unknown") pen.strokeRect(x + 1, y + 1, side - 2, side - 2);
    else if (unit.kind === "excepted") {
      pen.fill(new Path2D(`M${x} ${y} h${side} l${-side} ${side} z`));
      pen.strokeRect(x + 0.5, y + 0.5, side - 1, side - 1);
    } else if (unit.kind === "described") {
      pen.globalAlpha *= 0.2 + 0.8 * unit.confidence;
      pen.fillRect(x + 1, y + 1, side - 2, side - 2);
    } else pen.fillRect(x, y, side, side);
    if (zeroed.has(unit.name)) {
      pen.strokeStyle = colours.zeroed;
      pen.lineWidth = 2;
      pen.stroke(new Path2D(`M${x + 1} ${y + side - 1} L${x + side - 1} ${y + 1}`));
      pen.lineWidth = 1;
    }
  });
}

function cellAt(layer, event) {
  const column = Math.floor(event.offsetX / pitch);
  return column < layer.columns ? Math.floor(event.offsetY / pitch) * layer.columns + column : -1;
}

function hover(layer, event) {
  const unit = event && layer.units[cellAt(layer, event)], tip = $("tip");
  layer.canvas.classList.toggle("over", Boolean(unit));
  tip.hidden = !unit;
  if (unit) {
    const known = unit.status === "described" ? "" : `, ${unit.status}`;
    const said = unit.description ? `${unit.description} (${unit.confidence.toFixed(2)}${known})` : unit.status;
    tip.replaceChildren(el("b", {}, unit.name), " ", said, unit.rules && el("em", {}, ` ${unit.rules}`));
    tip.style.left = `${Math.max(8, Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${event.clientY + 18}px`;
  }
}

function readColours() {
  for (const item of $("legend").children) colours[item.dataset.kind] = getComputedStyle(item.firstChild).color;
}

// ---- One unit.

/** A text with the words that a rule found in it marked, where they stand there as they are. */
function marked(text, words) {
  const at = words.map((word) => [text.toLowerCase().indexOf(word.toLowerCase()), word.length]).find(([i]) => i >= 0);
  if (!at || at[1] === 0) return [text];
  return [text.slice(0, at[0]), el("mark", {}, text.slice(at[0], at[0] + at[1])), text.slice(at[0] + at[1])];
}

function measured(title, pairs, words) {
  const rows = pairs.map(([text, value]) => el("tr", {}, el("td", {}, marked(text, words)),
    el("td", { class: "number" }, value.toFixed(2)),
    el("td", {}, el("meter", { min: 0, max: 1, value, "aria-hidden": "true" }))));
  return pairs.length > 0 && [el("h3", {}, title), el("table", { class: "bars" }, el("tbody", {}, rows))];
}

function matchText({ rule, words, excepted, kind }, unit) {
  const why = report.exceptions.find((it) => it.rule === rule.id && it.covered.includes(unit.name));
  return el("li", {}, el("span", { class: `chip ${kind}` }, rule.id), ` ${rule.title ?? ""} `,
    el("span", { class: "note" }, "by ", el("q", {}, words)),
    excepted && why && el("p", { class: "note" }, `Excepted until ${why.expires}: ${why.reason}` +
      (why.approved_by ? ` (approved by ${why.approved_by})` : "")));
}

function openDetail(unit) {
  if (!unit) return;
  const words = unit.matches.map((it) => it.words), picture = pictures[unit.name], place = state.places.get(unit);
  const known = { described: "described", unknown: "unknown: too little is known of it to count as clean",
    dead: "dead: it never changes, and does not count as clean",
    saturated: "saturated: its strongest pictures are equally strong, so nothing is said of it; it does not count as clean" };
  $("detail-body").replaceChildren(
    el("h2", { id: "detail-title" }, unit.name),
    el("p", { class: "said" }, unit.description ? marked(unit.description, words) : "Nothing is said of it."),
    el("p", { class: "note" }, el("i", { class: unit.status }), known[unit.status] ?? unit.status),
    ...[picture ? el("img", { src: `data:image/jpeg;base64,${picture}`, alt: `what ${unit.name} fires on most` })
      : el("p", { class: "note" }, Object.keys(pictures).length ? "There is no picture of it."
        : "Pictures were not embedded (--pictures)."),
    unit.matches.length > 0 && [el("h3", {}, "Rules matched"), el("ul", {}, unit.matches.map((it) => matchText(it, unit)))],
    measured("Readings", unit.readings.map((it) => [it.text, it.confidence]), words),
    measured("Evidence", unit.evidence, words),
    unit.importance !== null && [el("h3", {}, "Importance"),
      el("p", {}, costs ? `Zeroing it alone changes top-1 by ${points(-unit.importance)} points.`
        : `${importance(unit.importance)} by ${report.importance}, where the greatest of its layer has 1.`)],
    zeroed.has(unit.name) && el("p", {}, el("span", { class: "chip zeroed" }, "zeroed"), " The edit set it to zero."),
    refused.has(unit.name) && el("p", {}, `Left alone: ${refused.get(unit.name)}`)].flat().filter(Boolean));
  $("place").textContent = place === undefined ? "" : `${grouped(place + 1)} of ${grouped(state.found.length)}`;
  $("previous").disabled = !(place > 0);
  $("next").disabled = !(place < state.found.length - 1);
  if (place !== undefined) moveTo(place);
  $("detail").scrollTop = 0;
  if (!$("detail").open) {
    $("detail").showModal();
    $("detail").focus();
  }
  history.replaceState(null, "", `#unit=${encodeURIComponent(unit.name)}`);
}

const step = (by) => openDetail(state.found[state.active + by]);
const openFromAddress = () => openDetail(byName.get(new URLSearchParams(location.hash.slice(1)).get("unit")));

// ---- What the user does.

function onGridKey(event) {
  const page = Math.floor($("grid").clientHeight / rowHeight()) - 2;
  const by = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
  if (event.altKey || event.ctrlKey || event.metaKey || event.target !== $("grid")) return;
  if (by !== undefined) moveTo(state.active + by);
  else if (event.key === "Enter" || event.key === " ") openDetail(state.found[state.active]);
  else return;
  event.preventDefault();
}

function onPageKey(event) {
  const isTyping = event.target.matches("input, select, textarea");
  if (event.key === "/" && !isTyping && !$("detail").open) {
    event.preventDefault();
    $("search").focus();
  } else if (event.key === "ArrowDown" && event.target === $("search")) $("grid").focus();
  else if ($("detail").open && event.key === "ArrowLeft") $("previous").click();
  else if ($("detail").open && event.key === "ArrowRight") $("next").click();
}

function listen() {
  for (const id of ["search", "layer", "status", "rule"]) $(id).addEventListener("input", refresh);
  $("clear").addEventListener("click", () => {
    for (const id of ["search", "layer", "status", "rule"]) $(id).value = "";
    refresh();
  });
  for (const button of document.querySelectorAll("[data-sort]")) {
    button.addEventListener("click", () => {
      const isNumber = ["confidence", "importance"].includes(button.dataset.sort);
      state.down = state.sort === button.dataset.sort ? !state.down : isNumber;
      state.sort = button.dataset.sort;
      refresh();
    });
  }
  $("grid").addEventListener("scroll", () => requestAnimationFrame(() => renderRows(false)));
  $("grid").addEventListener("keydown", onGridKey);
  $("rows").addEventListener("click", (event) => {
    openDetail(state.found[event.target.closest(".row")?.id.slice("row-".length)]);
  });
  document.addEventListener("keydown", onPageKey);
  document.addEventListener("click", (event) => {
    const unit = byName.get(event.target.closest("a[data-unit]")?.dataset.unit);
    if (!unit) return;
    event.preventDefault();
    openDetail(unit);
  });
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => $("detail").close());
  $("detail").addEventListener("click", (event) => event.target === $("detail") && $("detail").close());
  $("detail").addEventListener("close", () => history.replaceState(null, "", "#"));
  addEventListener("hashchange", openFromAddress);
  new ResizeObserver(() => { layers.forEach(draw); renderRows(true); }).observe($("layers"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); layers.forEach(draw); });
}

function start() {
  for (const element of document.querySelectorAll(".screen")) element.hidden = false;
  for (const layer of report.layers) $("layer").append(el("option", { value: layer.name }, layer.name));
  const choices = [["any", "any rule"], ["none", "no rule"], ...report.rules.map((it) => [`rule ${it.id}`, it.id])];
  if (units.some((unit) => unit.tags.includes("excepted"))) choices.push(["excepted", "excepted"]);
  if (zeroed.size > 0) choices.push(["zeroed", "zeroed by the edit"]);
  for (const [value, text] of choices) $("rule").append(el("option", { value }, text));
  readColours();
  const present = new Set(units.map((unit) => unit.kind).concat(zeroed.size > 0 ? ["zeroed"] : []));
  for (const item of $("legend").children) item.hidden = !present.has(item.dataset.kind);
  addLayers();
  refresh();
  listen();
  openFromAddress();
}

start();
