// A picture of an architecture from its key and what the super-network fixes.

const reduced = (size, stride) => Math.floor((size - 1) / stride) + 1;

function parsedKey(key) {
  const [, resolution, width, rest] = key.match(/^r(\d+)-w([\d.]+)-(.+)$/);
  const stages = rest.split("-").map(stage => stage.split(".").map(text => {
    const match = text.match(/^(?:k(\d+)e(\d+))?(c?)(t?)$/);
    return { kernel: Number(match[1] || 0), expand: Number(match[2] || 0), beside: [match[3] && "1×1", match[4] && "T"].filter(Boolean) };
  }));
  return { resolution: Number(resolution), width, stages };
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const label = (x, y, text, extra = {}) => svg("text", Object.assign({ x, y }, extra), text);

/** Draw into `place`; `exits` are those that answer. */
function drawPicture(place, key, exits, macros) {
  const { resolution, width, stages } = parsedKey(key);
  const macro = macros[width] || macros[Number(width).toFixed(1)];
  const total = Math.max(280, place.clientWidth), narrow = total < 560;
  const left = narrow ? 78 : 150, right = narrow ? 50 : 110, slot = (total - left - right) / 4;
  const channelsOf = (stage, position, expand) => (position ? macro.stages[stage].channels : macro.stages[stage].in) * (expand || 1);
  const mids = stages.flatMap((layers, s) => layers.map((layer, p) => channelsOf(s, p, layer.expand)));
  const most = Math.max(...mids, macro.stem), first = reduced(resolution, macro.stride);
  const wide = channels => 42 + (slot - 52) * Math.sqrt(channels / most);
  const tall = size => 36 + 40 * size / first;
  const root = svg("svg", { width: total, role: "img" });
  let y = 8;
  const caption = (text, detail, height) => {
    root.append(label(0, y + height / 2 - 3, text), label(0, y + height / 2 + 13, detail, { class: "soft" }));
  };
  const box = (x, width, height, fill, extra = {}) =>
    root.append(svg("rect", Object.assign({ x, y, width, height, rx: 4, fill }, extra)));
  const down = () => { root.append(svg("path", { d: `M${left + 21} ${y} v12 m-4 -5 l4 5 l4 -5`, fill: "none", stroke: colour("--edge") })); y += 16; };
  caption("image", `${resolution}×${resolution} px`, 30);
  box(left, 42, 30, "none", { stroke: colour("--edge") });
  y += 34; down();
  let height = tall(first);
  caption("stem", narrow ? `${macro.stem} ch` : `${macro.stem} channels, ${first}×${first}`, height);
  box(left, wide(macro.stem), height, colour("--card"), { stroke: colour("--edge") });
  root.append(label(left + wide(macro.stem) / 2, y + height / 2 + 4, "3×3", { "text-anchor": "middle" }));
  y += height + 4;
  let size = first;
  stages.forEach((layers, s) => {
    const shape = macro.stages[s];
    size = reduced(size, shape.stride);
    down();
    height = tall(size);
    caption(`stage ${s + 1}`, narrow ? `${shape.channels} ch` : `${shape.channels} channels, ${size}×${size}`, height);
    const places = [];  // left out; drawn over the way to the exit
    for (let p = 0; p < 4; p++) {
      const x = left + p * slot, layer = layers[p];
      if (!layer) { places.push(svg("rect", { x, y, width: 42, height, rx: 4, fill: colour("--paper"), stroke: colour("--edge"), "stroke-dasharray": "1 4" })); continue; }
      if (p) root.append(svg("path", { d: `M${left + (p - 1) * slot + wide(channelsOf(s, p - 1, layers[p - 1].expand))} ${y + height / 2} H${x}`, stroke: colour("--edge") }));
      const across = wide(channelsOf(s, p, layer.expand)), dark = layer.kernel === 7;
      box(x, across, height, layer.kernel ? colour("--accent") : "none", { "fill-opacity": layer.kernel === 7 ? 1 : layer.kernel === 5 ? .38 : .12,
        stroke: colour("--accent"), "stroke-dasharray": layer.kernel ? "none" : "4 3" });
      const lines = layer.kernel ? [`${layer.kernel}×${layer.kernel}`, `×${layer.expand}`] : [];
      lines.push(...layer.beside.map(each => "+" + each));
      const step = lines.length > 2 ? 12 : 15;
      lines.forEach((text, n) => root.append(label(x + across / 2, y + height / 2 + 4 + step * (n - (lines.length - 1) / 2), text,
        { "text-anchor": "middle", class: dark ? "on" : "", style: lines.length > 2 ? "font-size:10.5px" : "" })));
    }
    if (exits.includes(s + 1)) {
      const x = total - right + 6, middle = y + height / 2;
      const end = left + (layers.length - 1) * slot + wide(channelsOf(s, layers.length - 1, layers[layers.length - 1].expand));
      root.append(svg("path", { d: `M${end} ${middle} H${x}`, stroke: colour("--warm"), "stroke-width": 1.5, "stroke-dasharray": "5 3" }));
      root.append(svg("rect", { x, y: middle - 13, width: right - 7, height: 26, rx: 13, fill: colour("--paper"), stroke: colour("--warm"), "stroke-width": 1.5 }));
      root.append(label(x + (right - 7) / 2, middle + 4, narrow ? `exit ${s + 1}` : `answers: exit ${s + 1}`, { "text-anchor": "middle", style: narrow ? "font-size:11px" : "" }));
    }
    root.append(...places);
    y += height + 4;
  });
  const words = stages.map((layers, s) => `stage ${s + 1}: ` + layers.map(layer =>
    [layer.kernel ? `kernel ${layer.kernel} expand ${layer.expand}` : "", ...layer.beside].filter(Boolean).join(" and ")).join(", "));
  root.setAttribute("aria-label", `${resolution} pixels; ${words.join("; ")}; answers at exit ${exits.join(" and ")}`);
  root.setAttribute("height", y + 4);
  root.dataset.key = key;
  place.replaceChildren(root);
  if (stages.flat().some(layer => layer.beside.length)) place.append(element("p", { textContent: "+1×1 and +T are blocks beside or instead of the bottleneck, their outputs summed: a 1×1 convolution, and a transformation that hands the input on in the shape of the output." }));
}
