// The page of one run: which network to take, the plots, the picture.

const run = data.runs[0];
const returned = new Map(run.results.map(each => [each.id, each]));
const archived = new Map(run.members.map(number => [run.archs[run.evaluations.arch[number]][0], number]));
const sliders = run.limits.map(addSlider);
const state = { taken: null, chosen: null };

function addSlider(limit) {
  const last = limit.steps.length - 1;
  const output = element("output");
  const input = element("input", { type: "range", id: "limit-" + limit.key, min: 0, max: last, step: 1, value: last });
  const name = element("label", { htmlFor: input.id }, limit.title);
  if (limit.note) name.append(" ", element("small", { textContent: limit.note }));
  output.htmlFor.add(input.id);
  byId("limits").append(element("div", { className: "limit" }, name, output, input));
  input.addEventListener("input", decide);
  return { ...limit, last, input, output };
}

const open = slider => Number(slider.input.value) === slider.last;
const bound = slider => slider.steps[Number(slider.input.value)];

/** How far a value is over a slider's limit, as a share of it; an unknown value meets no limit. */
function excess(slider, value) {
  if (open(slider)) return 0;
  if (value === undefined || value === null) return Infinity;
  const over = slider.direction === "min" ? value - bound(slider) : bound(slider) - value;
  return Math.max(0, over) / (Math.abs(bound(slider)) || 1);
}

const excessOf = value => sliders.reduce((sum, slider) => sum + excess(slider, value(slider.key)), 0);

/** The best of candidates {id, accuracy, value} within the limits: the most accurate, then fewer parameters, then MACs. */
function bestOf(candidates) {
  const kept = candidates.filter(each => excessOf(each.value) === 0);
  kept.sort((a, b) => b.accuracy - a.accuracy || a.value("params") - b.value("params") || a.value("macs") - b.value("macs"));
  return kept[0];
}

const fromReturned = () => run.results.map(each => ({ id: each.id, accuracy: each.values.val_accuracy, value: key => each.values[key] }));
const fromArchive = () => [...archived].filter(([id]) => !returned.has(id)).map(([id, number]) =>
  ({ id, accuracy: run.evaluations.found_accuracy[number], value: key => inSearch(key) ? inSearch(key)[number] : undefined }));
/** What the search measured; a network that was not exported has the latency that it had in the search. */
const inSearch = key => run.evaluations[key] || (key === "deployed_latency" ? run.evaluations.latency : undefined);

/** Name the network to take within the limits of the sliders. */
function decide() {
  for (const slider of sliders) {
    const sign = slider.direction === "min" ? "at most " : "at least ";
    slider.output.textContent = open(slider) ? "any" : sign + told(bound(slider), slider.unit);
    slider.input.setAttribute("aria-valuetext", slider.output.textContent);
  }
  const candidates = fromReturned(), others = fromArchive();
  const best = bestOf(candidates), other = best ? undefined : bestOf(others);
  const card = byId("taken");
  card.classList.toggle("none", !best);
  state.taken = (best || other || {}).id || null;
  card.dataset.id = state.taken || "";
  if (best) card.replaceChildren(...returnedCard(best, candidates));
  else if (other) card.replaceChildren(...archiveCard(other));
  else card.replaceChildren(...nearestCard(candidates.length ? candidates : others));
  if (state.taken) choose(state.taken, false);
  for (const button of byId("picks").children) button.setAttribute("aria-pressed", String(button.dataset.id === state.taken && presetIsSet(button.dataset.need)));
  mark();
}

function figures(pairs) {
  return element("dl", { className: "figures" }, ...pairs.map(([name, value]) =>
    element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }))));
}

const costsOf = value => run.limits.filter(limit => value(limit.key) !== undefined && value(limit.key) !== null)
  .map(limit => [limit.title.toLowerCase().replace("(macs)", "(MACs)"), told(value(limit.key), limit.unit)]);

function command(text) {
  const code = element("code", { id: "command" });
  text.split(" ").forEach((word, n) => code.append(n ? " " : "", element("span", { textContent: word })));
  const copy = element("button", { type: "button", className: "copy", textContent: "Copy" });
  copy.addEventListener("click", async () => {
    getSelection().selectAllChildren(code);
    try { await navigator.clipboard.writeText(text); copy.textContent = "Copied"; } catch { copy.textContent = "Selected"; }
  });
  return element("div", { className: "command" }, code, copy);
}

function returnedCard(best, candidates) {
  const values = returned.get(best.id).values;
  const kept = candidates.filter(each => excessOf(each.value) === 0).length;
  const why = kept === candidates.length ? `The most accurate of ${kept === 1 ? "one" : "all " + kept} on the validation images.`
    : kept === 1 ? "The only one of the returned networks that meets your limits." : `The most accurate of the ${kept} that meet your limits, on the validation images.`;
  return [
    element("p", {}, "Take"), element("p", { className: "which", textContent: best.id }), element("p", { textContent: why }),
    figures([["validation images", toldAccuracy(run, values.val_accuracy, "val")], ["test images", toldAccuracy(run, values.test_accuracy, "test")],
      ...(values.test_balanced_accuracy === undefined ? [] : [["test images, balanced", told(values.test_balanced_accuracy, "percent")]]), ...costsOf(best.value),
      ...(values.file_size ? [["model.onnx", told(values.file_size, "bytes")]] : [])]),
    ...(returned.get(best.id).guesses ? atChance(values.test_accuracy, "test") : []),
    element("p", {}, "Export it as files to ship:"), command(`nat2 export ${run.folder} ${best.id} --to deploy`),
  ];
}

/** A sentence about an accuracy that does not beat chance by its standard error. */
function atChance(percent, split) {
  if (beatsChance(run, percent, split)) return [];
  const images = { val: "validation", test: "test" }[split];
  return [element("p", { className: "chance", textContent: `No better than chance: always naming the largest class is right on ${told(run.chance[split], "percent")} of the ${images} images.` })];
}

function archiveCard(other) {
  const none = run.results.length ? "None of the fine-tuned networks meets these limits. The search measured one that does:" : "No network is fine-tuned yet. The best so far within your limits:";
  const parts = [element("p", { textContent: none }), element("p", { className: "which", textContent: other.id }),
    figures([["found, before fine-tuning", toldAccuracy(run, other.accuracy, "val")], ...costsOf(other.value)]), ...atChance(other.accuracy, "val")];
  if (run.finished) parts.push(element("p", {}, "Fine-tune, test and export it:"), command(`nat2 finetune ${run.folder} ${other.id}`));
  else parts.push(element("p", {}, "The run is not finished: it will decide which networks to fine-tune."));
  return parts;
}

/** No network meets the limits: the one that exceeds them least, and by how much. */
function nearestCard(candidates) {
  const nearest = [...candidates].sort((a, b) => excessOf(a.value) - excessOf(b.value) || b.accuracy - a.accuracy)[0];
  const over = sliders.filter(slider => excess(slider, nearest.value(slider.key)) > 0).map(slider =>
    `${slider.title}: ${told(nearest.value(slider.key), slider.unit)} instead of ${slider.direction === "min" ? "at most" : "at least"} ${told(bound(slider), slider.unit)}`);
  byId("taken").dataset.nearest = nearest.id;
  return [element("p", { className: "which", textContent: "No network meets all of these limits" }),
    element("p", {}, "Nearest is ", element("code", { textContent: nearest.id }), ". ", over.join("; ") + "."),
    element("p", {}, "Loosen a limit.")];
}

/** The limit that singles out the network of a pick. */
const presetOf = { "most accurate": null, "small and good": "params", "fewest parameters": "params", "fewest operations": "macs" };

function positionFor(slider, need) {
  if (slider.key !== presetOf[need]) return slider.last;
  return slider.steps.indexOf(returned.get(run.picks[need]).values[slider.key]);
}

const presetIsSet = need => sliders.every(slider => Number(slider.input.value) === positionFor(slider, need));

function addPicks() {
  for (const [need, id] of Object.entries(run.picks)) {
    const button = element("button", { type: "button", textContent: need });
    button.dataset.need = need;
    button.dataset.id = id;
    button.addEventListener("click", () => { for (const slider of sliders) slider.input.value = positionFor(slider, need); decide(); });
    byId("picks").append(button);
  }
}

function addNetworks() {
  const shown = (id, accuracy, params) => element("option", { value: id, textContent: `${id}: ${toldAccuracy(run, accuracy, "val")}, ${told(params, "")} parameters` });
  const fine = element("optgroup", { label: "returned, fine-tuned" }), found = element("optgroup", { label: "archive, as found" });
  fine.append(...run.results.map(each => shown(each.id, each.values.val_accuracy, each.values.params)));
  const others = fromArchive().sort((a, b) => a.value("params") - b.value("params"));
  found.append(...others.map(each => shown(each.id, each.accuracy, each.value("params"))));
  byId("network").append(...[fine, found].filter(group => group.children.length));
}

/** Show what a network gets wrong, if the run has kept that. */
function showMistakes(id) {
  const parts = [...document.querySelectorAll(".mistakes")];
  if (!parts.some(part => part.dataset.id === id)) return;
  for (const part of parts) part.hidden = part.dataset.id !== id;
  byId("mistaken").value = id;
}

/** Show the picture and the mistakes of a network. */
function choose(id, redraw = true) {
  state.chosen = id;
  const result = returned.get(id);
  const key = result ? result.arch : run.archs.find(([name]) => name === id)[1];
  const select = byId("network");
  if (![...select.options].some(option => option.value === id)) select.append(element("option", { value: id, textContent: id }));
  select.value = id;
  showMistakes(id);
  drawPicture(byId("picture"), key, result ? result.exits : [key.split("-").length - 2], run.macros);
  for (const button of document.querySelectorAll(".choose")) button.setAttribute("aria-current", String(button.dataset.id === id));
  if (redraw) mark();
}

/** Highlight the network to take and the one in the picture, in table and plot. */
function mark() {
  for (const row of document.querySelectorAll("tr[data-id]")) row.classList.toggle("is-taken", row.dataset.id === state.taken);
  drawPareto();
}

function drawPareto() {
  const x = axisOf(byId("x-axis").value), y = axisOf(byId("y-axis").value);
  const points = pointsOf(run, x, y, byId("every").checked);
  const several = each => each.of.exits.length > 1;
  const single = points.returned.filter(each => !several(each)), multi = points.returned.filter(several);
  const column = (list, name) => list.map(each => each[name]);
  const trace = (name, list, marker, hover, extra = {}) => ({ name, mode: "markers", x: column(list, "x"), y: column(list, "y"), customdata: column(list, "id"),
    text: list.map(hover), hovertemplate: "%{text}<extra></extra>", marker, visible: list.length > 0, ...extra });
  const ofResult = each => hoverOfResult(run, each.of), ofMeasured = each => hoverOfMeasured(run, each.number);
  const testing = [x.key, y.key].includes("test_accuracy");
  const front = testing ? [] : frontOf(points.returned, x, y);  // to take the best on test images is no honest choice
  const tested = y.key === "val_accuracy" ? points.returned.map(each => ({ ...each, y: each.of.values.test_accuracy })) : [];
  const bars = list => ({ ...errorBars(run, list, x, "x", colour("--accent")), ...errorBars(run, list, y, "y", colour("--accent")) });
  const ring = id => [...points.returned, ...points.archive].filter(each => each.id === id);
  const named = x.accuracy || y.accuracy ? " (found, before fine-tuning)" : "";
  Plotly.react("pareto", [
    trace("every evaluation" + named, points.rest, { color: colour("--dots"), size: 4, opacity: .3 }, ofMeasured),
    trace("archive" + named, points.archive, { color: colour("--dots"), size: 6, opacity: .75 }, ofMeasured),
    { mode: "lines", x: column(front, "x"), y: column(front, "y"), line: { color: colour("--accent"), width: 1.2, dash: "dot" }, hoverinfo: "skip", showlegend: false },
    trace("the same on test images", tested, { symbol: "line-ew", size: 11, line: { color: colour("--warm"), width: 2 } }, ofResult, { legendrank: 1001 }),
    trace("returned", single, { color: colour("--accent"), size: 10 }, ofResult, bars(single)),
    trace("several exits", multi, { color: colour("--accent"), size: 10, symbol: "diamond-open", line: { width: 2 } }, ofResult, bars(multi)),
    referenceTrace(x, y),
    trace("to take", ring(state.taken).slice(0, 1), { color: "rgba(0,0,0,0)", size: 21, line: { color: colour("--warm"), width: 3 } }, each => each.id, { hoverinfo: "skip", hovertemplate: null }),
    trace("in the picture", state.chosen === state.taken ? [] : ring(state.chosen).slice(0, 1), { color: "rgba(0,0,0,0)", size: 17, line: { color: colour("--ink"), width: 1.5 } }, each => each.id, { hoverinfo: "skip", hovertemplate: null }),
  ], layout({ xaxis: quantityAxis(x, allOf(points, "x", x)), yaxis: quantityAxis(y, allOf(points, "y", y)), uirevision: x.key + y.key }), plotConfig);
}

const allOf = (points, name, spec) => [...points.returned, ...points.archive, ...points.rest].map(each => each[name])
  .concat(data.references.map(each => spec.accuracy ? each.accuracy : each[spec.key]).filter(value => value !== undefined));

function drawAnytime() {
  const several = run.results.filter(each => each.anytime.length);
  byId("anytime-section").hidden = !several.length;
  if (!several.length) return;
  const symbols = ["circle", "square", "diamond", "triangle-up", "cross", "x"];
  const hover = (each, p) => `<b>${each.id}</b><br>${p.threshold > 1 ? "always the last exit" : "threshold " + told(p.threshold, "")}<br>${toldAccuracy(run, p.val, "val")} on validation images with ${told(p.val_macs, "")} MACs on average<br>${toldAccuracy(run, p.test, "test")} on test images with ${told(p.macs, "")}`;
  const curve = (each, n, x, y, extra) => ({ name: each.id, legendgroup: each.id, mode: "lines+markers", x: each.anytime.map(p => p[x]), y: each.anytime.map(p => p[y]),
    text: each.anytime.map(p => hover(each, p)), hovertemplate: "%{text}<extra></extra>", marker: { symbol: symbols[n % 6], size: 8 }, line: { color: series(n), width: 1.5 }, ...extra });
  Plotly.react("anytime", several.flatMap((each, n) => [
    curve(each, n, "val_macs", "val", {}),
    curve(each, n, "macs", "test", { name: each.id + " on test images", mode: "lines", showlegend: false, line: { color: series(n), width: 1, dash: "dot" } }),
  ]), layout({ showlegend: true, xaxis: axis("mean multiply-accumulates for an image", { tickformat: "~s" }), yaxis: axis("accuracy on validation images in %") }), plotConfig);
}

const series = n => (dark.matches ? ["#4fc79b", "#f0a35e", "#8ab4f8", "#e39ac4", "#d8cf6a", "#9fd3e6"] : ["#0b6e4f", "#a2490b", "#1f5fbf", "#97286b", "#6b6200", "#1b6f87"])[n % 6];

function drawSearch() {
  const shown = run.generations, numbers = shown.map(each => each.number), several = { dtick: Math.max(1, Math.ceil(numbers.length / 10)) };
  const of = (list, name) => list.map(each => each[name]);
  Plotly.react("hypervolume", [{ mode: "lines+markers", x: numbers, y: of(shown, "hypervolume"), line: { color: series(0) },
    hovertemplate: "generation %{x}<br>hypervolume %{y:.4f}<extra></extra>" }],
    layout({ xaxis: axis("generation", several), yaxis: axis("hypervolume") }), plotConfig);
  const judged = shown.filter(each => each.rmse !== null), at = of(judged, "number");
  const line = (name, key, n, symbol, extra = {}) => ({ name, mode: "lines+markers", x: at, y: of(judged, key), marker: { symbol, size: 8 }, line: { color: series(n), width: 1.5 },
    text: of(judged, "predictor"), hovertemplate: `generation %{x}, %{text}<br>${name} %{y:.3g}<extra></extra>`, ...extra });
  const rmse = line("error (RMSE)", "rmse", 2, "square", { yaxis: "y2" });
  rmse.y = rmse.y.map(value => 100 * value);
  rmse.line.dash = "dot";
  Plotly.react("predictor", [line("tau", "tau", 0, "circle"), line("rho", "rho", 1, "diamond"), rmse], layout({ showlegend: true,
    xaxis: axis("generation", several), yaxis: axis("rank correlation", { range: [Math.min(0, ...of(judged, "tau"), ...of(judged, "rho")) - .05, 1.05] }),
    yaxis2: axis("RMSE in % of accuracy", { overlaying: "y", side: "right", showgrid: false, rangemode: "tozero", tickmode: "auto", nticks: 6 }) }), plotConfig);
}

function drawAll() { drawPareto(); drawAnytime(); drawSearch(); if (state.chosen) choose(state.chosen, false); }

axisSelects(drawPareto);
addPicks();
addNetworks();
decide();
byId("network").addEventListener("change", event => choose(event.target.value));
if (byId("mistaken")) byId("mistaken").addEventListener("change", event => choose(event.target.value));
byId("every").addEventListener("change", drawPareto);
for (const button of document.querySelectorAll(".choose")) button.addEventListener("click", () => choose(button.dataset.id));
byId("pareto").on("plotly_click", event => { const id = event.points[0].customdata; if (id) choose(id); });
dark.addEventListener("change", drawAll);
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; choose(state.chosen, false); } });
drawAnytime();
drawSearch();
