// Several runs side by side.

const symbols = ["circle", "square", "diamond", "triangle-up", "cross", "star-triangle-down", "hexagon", "x"];
const colours = () => dark.matches ? ["#4fc79b", "#f0a35e", "#8ab4f8", "#e39ac4", "#d8cf6a", "#9fd3e6", "#c9b3ff", "#ff9d8f"]
  : ["#0b6e4f", "#a2490b", "#1f5fbf", "#97286b", "#6b6200", "#1b6f87", "#5b3fa8", "#b02a1f"];

function drawPareto() {
  const x = axisOf(byId("x-axis").value), y = axisOf(byId("y-axis").value), traces = [], every = [];
  data.runs.forEach((run, n) => {
    const tint = colours()[n % 8], symbol = symbols[n % 8];
    const points = pointsOf(run, x, y, byId("every").checked);
    const group = String(n), column = (list, name) => list.map(each => each[name]);
    const trace = (list, marker, hover, extra) => ({ mode: "markers", legendgroup: group, showlegend: false, x: column(list, "x"), y: column(list, "y"), text: list.map(hover),
      hovertemplate: "%{text}<extra></extra>", marker: { color: tint, symbol, ...marker }, ...extra });
    const behind = byId("archives").checked ? points.archive : [];
    traces.push(trace(points.rest, { size: 3, opacity: .2 }, each => hoverOfMeasured(run, each.number)));
    traces.push(trace(behind, { size: 5, opacity: .4 }, each => hoverOfMeasured(run, each.number), points.returned.length ? {} : { name: escaped(run.label) + " (archive)", showlegend: behind.length > 0 }));
    const front = [x.key, y.key].includes("test_accuracy") ? [] : frontOf(points.returned, x, y);
    traces.push({ mode: "lines", legendgroup: group, showlegend: false, x: column(front, "x"), y: column(front, "y"), line: { color: tint, width: 1.2, dash: "dot" }, hoverinfo: "skip" });
    traces.push(trace(points.returned, { size: 11 }, each => hoverOfResult(run, each.of), { name: escaped(run.label), showlegend: true, ...errorBars(run, points.returned, x, "x", tint), ...errorBars(run, points.returned, y, "y", tint) }));
    every.push(...points.returned, ...behind, ...points.rest);
  });
  traces.push(referenceTrace(x, y));
  const extent = (name, spec) => every.map(each => each[name]).concat(data.references.map(each => spec.accuracy ? each.accuracy : each[spec.key]).filter(value => value !== undefined));
  Plotly.react("pareto", traces, layout({ showlegend: true, xaxis: quantityAxis(x, extent("x", x)), yaxis: quantityAxis(y, extent("y", y)), uirevision: x.key + y.key }), plotConfig);
}

function drawSearch() {
  Plotly.react("hypervolume", data.common.curves.map((curve, n) => ({ name: escaped(data.runs[n].label), mode: "lines+markers", x: curve.map(each => each.evaluations),
    y: curve.map(each => each.hypervolume), marker: { symbol: symbols[n % 8], size: 8 }, line: { color: colours()[n % 8] },
    hovertemplate: "%{x:,} networks<br>hypervolume %{y:.4f}<extra>%{fullData.name}</extra>" })),
    layout({ showlegend: true, xaxis: axis("different networks evaluated"), yaxis: axis("hypervolume") }), plotConfig);
}

function drawAll() { drawPareto(); drawSearch(); }
axisSelects(drawPareto);
for (const name of ["every", "archives"]) byId(name).addEventListener("change", drawPareto);
dark.addEventListener("change", drawAll);
drawAll();
