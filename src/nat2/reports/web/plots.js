// What the plots of all pages share.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const touch = window.matchMedia("(pointer: coarse)");
const byId = name => document.getElementById(name);
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const narrow = () => touch.matches || innerWidth < 600;
const plotConfig = { displaylogo: false, responsive: true, displayModeBar: narrow() ? false : "hover", modeBarButtonsToRemove: ["select2d", "lasso2d"] };

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A value formatted for readers, as on the command line. */
function told(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "percent") return value.toFixed(1) + " %";
  if (unit === "share") return (100 * value).toFixed(1) + " %";
  if (unit === "ms") return Number(value.toPrecision(3)) + " ms";
  if (unit === "bytes") return (value < 1e6 ? value / 1e3 : value / 1e6).toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 }) + (value < 1e6 ? " kB" : " MB");
  return Math.abs(value) >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}

/** Standard error of an accuracy in percent; the rule of nat2.runs.accuracy. */
function standardError(percent, images) {
  const right = Math.round(percent * images / 100);
  const [share, count] = right > 0 && right < images ? [percent / 100, images] : [.5 / (images + 1), images + 1];
  return 100 * Math.sqrt(share * (1 - share) / count);
}

/** On which images an accuracy was measured. */
const splitOf = key => key.startsWith("test") ? "test" : "val";

function toldAccuracy(run, percent, split) {
  const error = standardError(percent, run.images[split]), digits = error < .05 ? 2 : 1;
  return `${percent.toFixed(digits)} ± ${error.toFixed(digits)} %`;
}

const beatsChance = (run, percent, split) => percent - standardError(percent, run.images[split]) > run.chance[split];

function layout(extra) {
  const margin = narrow() ? { l: 50, r: 14, t: 24, b: 48 } : { l: 64, r: 24, t: 30, b: 52 };
  return Object.assign({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin, hovermode: "closest",
    font: { color: colour("--ink"), family: "system-ui, sans-serif", size: 13 },
    hoverlabel: { align: "left", bgcolor: colour("--card"), bordercolor: colour("--edge"), font: { color: colour("--ink"), size: 12 } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--edge"), activecolor: colour("--accent") },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } },
    dragmode: narrow() ? false : "zoom",  // a finger scrolls the page
  }, extra);
}

function axis(title, extra) {
  return Object.assign({ title: { text: title, font: { size: 13, color: colour("--soft") } }, gridcolor: colour("--line"),
    zeroline: false, linecolor: colour("--line"), automargin: true }, extra);
}

/** The axis of a quantity: logarithmic for costs that are all above 0. */
function quantityAxis(spec, values) {
  const log = !spec.accuracy && values.length > 0 && values.every(value => value > 0) && Math.max(...values) > 3 * Math.min(...values);
  const title = spec.title + ({ percent: " in %", ms: " in ms", bytes: " in bytes" }[spec.unit] || "");
  const decades = Math.log10(Math.max(...values) / Math.min(...values));
  const digits = decades > 2.5 ? 1 : decades > .6 ? "D2" : "D1";  // which ticks have labels
  return axis(title, log ? { type: "log", tickformat: spec.unit === "ms" ? "" : "~s", dtick: digits, minor: { dtick: "D1", showgrid: true, gridcolor: colour("--line"), griddash: "dot" } }
    : { type: "linear", tickformat: spec.accuracy || spec.unit === "ms" ? "" : "~s" });
}

const axisOf = key => data.axes.find(each => each.key === key);

/** What is plotted for a measured network: an accuracy is the one that the search found. */
function measured(run, number, key) {
  const spec = axisOf(key);
  const column = run.evaluations[spec && spec.accuracy ? "found_accuracy" : key];
  return column ? column[number] : null;
}

const better = (direction, a, b) => direction === "min" ? a < b : a > b;

/** Of points {x, y}, those that no other beats in both; ordered along x. */
function frontOf(points, x, y) {
  const sorted = [...points].sort((a, b) => (x.direction === "min" ? a.x - b.x : b.x - a.x) || (y.direction === "min" ? a.y - b.y : b.y - a.y));
  const front = [];
  for (const point of sorted)
    if (!front.length || better(y.direction, point.y, front[front.length - 1].y)) front.push(point);
  return front;
}

const known = point => point.x !== null && point.x !== undefined && point.y !== null && point.y !== undefined;

/**
 * The points of a run at two axes: returned, archive, and every evaluation. What the search measured has an accuracy on
 * validation images only, so nothing of it stands beside accuracies on test images.
 */
function pointsOf(run, x, y, every) {
  const returned = run.results.map(each => ({ x: each.values[x.key], y: each.values[y.key], id: each.id, of: each })).filter(known);
  const drawn = number => ({ x: measured(run, number, x.key), y: measured(run, number, y.key), number, id: run.archs[run.evaluations.arch[number]][0] });
  const comparable = !(x.accuracy && y.accuracy) && ![x.key, y.key].includes("test_accuracy");
  const archive = comparable ? run.members.map(drawn).filter(known) : [];
  const rest = comparable && every ? run.evaluations.arch.map((_, number) => drawn(number)).filter(known) : [];
  return { returned, archive, rest };
}

const stagesOf = key => key.split("-").slice(2).map((stage, number) => `stage ${number + 1}: ${stage.replaceAll(".", " ")}`).join("<br>");
const pixelsOf = key => key.match(/^r(\d+)/)[1] + " pixels";

function hoverOfResult(run, each) {
  const costs = data.axes.filter(spec => !spec.accuracy && each.values[spec.key] !== undefined && spec.key !== "latency_spread")
    .map(spec => `${told(each.values[spec.key], spec.unit)} ${shortTitle(spec)}`);
  return `<b>${each.id}</b>${data.runs.length > 1 ? " of " + escaped(run.label) : ""}<br>${toldAccuracy(run, each.values.val_accuracy, "val")} on validation images<br>` +
    `${toldAccuracy(run, each.values.test_accuracy, "test")} on test images<br>${costs.join("<br>")}<br>${pixelsOf(each.arch)}<br>${stagesOf(each.arch)}`;
}

function hoverOfMeasured(run, number) {
  const [id, key] = run.archs[run.evaluations.arch[number]];
  const costs = data.axes.filter(spec => !spec.accuracy && run.evaluations[spec.key] && spec.key !== "latency_spread")
    .map(spec => `${told(run.evaluations[spec.key][number], spec.unit)} ${shortTitle(spec)}`);
  return `${id}${data.runs.length > 1 ? " of " + escaped(run.label) : ""}, generation ${run.evaluations.generation[number]}<br>` +
    `${toldAccuracy(run, run.evaluations.found_accuracy[number], "val")} found, before fine-tuning<br>${costs.join("<br>")}<br>${pixelsOf(key)}<br>${stagesOf(key)}`;
}

const shortTitle = spec => ({ params: "parameters", macs: "MACs", memory: "of memory", latency: "in the search", deployed_latency: "for an answer" }[spec.key] || escaped(spec.title));
const escaped = text => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

/** Bars of one standard error, where an axis is an accuracy. */
function errorBars(run, points, spec, name, tint) {
  if (!spec.accuracy) return {};
  const array = points.map(each => standardError(each[name], run.images[splitOf(spec.key)]));
  return { ["error_" + name]: { type: "data", array, color: tint, thickness: 1, width: 0 } };
}

function referenceTrace(x, y) {
  const points = data.references.map(each => ({ name: each.name, x: x.accuracy ? each.accuracy : each[x.key], y: y.accuracy ? each.accuracy : each[y.key] }))
    .filter(known).filter(() => x.accuracy !== y.accuracy);
  return { name: "references", mode: "markers+text", x: points.map(p => p.x), y: points.map(p => p.y), text: points.map(p => escaped(p.name)),
    textposition: "top center", textfont: { size: 11, color: colour("--ink") }, cliponaxis: false, visible: points.length > 0,
    marker: { symbol: "star", size: 12, color: colour("--ink") }, hovertemplate: `<b>%{text}</b><br>%{y:.4~g}<br>%{x:,}<extra></extra>` };
}

/** Fill the two axis selects and call back on change. */
function axisSelects(redraw) {
  const returned = data.runs.some(each => each.results.length);
  for (const [name, preferred] of [["x-axis", data.axes.find(each => !each.accuracy).key], ["y-axis", returned ? "val_accuracy" : "found_accuracy"]]) {
    const select = byId(name);
    for (const each of data.axes) select.append(element("option", { value: each.key, textContent: each.title, selected: each.key === preferred }));
    select.addEventListener("change", redraw);
  }
}
