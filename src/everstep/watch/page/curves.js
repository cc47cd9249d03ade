"use strict";
// Curves: gain and benefit with what they may be off by, the loss below them; and the line of versions as a tree.

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function axes(label) {
  const ink = colour("--faint"), grid = {stroke: colour("--line"), width: 1};
  return [{stroke: ink, grid, label, labelSize: 18, size: 34}, {stroke: ink, grid, size: 52}];
}

function drawScores(place, scores, jump, by, choose) {
  const rows = scores.filter(row => row.gain);
  if (!rows.length) { place.append("Nothing was measured yet."); return null; }
  const x = rows.map(row => row[by]);
  const column = (key, at) => rows.map(row => row[key] ? row[key][at] : null);
  const line = (label, name) => ({label, stroke: colour(name), width: 2, points: {show: true, size: 6}});
  const edge = {stroke: "transparent", points: {show: false}, label: ""};
  const after = rows.find(row => row.version === jump.after);
  const marks = u => {
    if (!after) return;
    const at = u.valToPos(after[by], "x", true), pen = u.ctx;
    pen.save(); pen.strokeStyle = pen.fillStyle = colour("--jump"); pen.lineWidth = 1.5;
    pen.beginPath(); pen.moveTo(at, u.bbox.top); pen.lineTo(at, u.bbox.top + u.bbox.height); pen.stroke();
    pen.font = `${12 * devicePixelRatio}px system-ui`; pen.textAlign = "left"; pen.fillText("the jump", at + 5, u.bbox.top + 14 * devicePixelRatio); pen.restore();
  };
  const options = {
    width: place.clientWidth || 600, height: 260, scales: {x: {time: false}}, axes: axes(by === "step" ? "steps" : "images seen"),
    series: [{label: by === "step" ? "step" : "images"}, line("benefit", "--benefit"), edge, edge, line("control gain", "--gain"), edge, edge],
    bands: [{series: [3, 2], fill: colour("--benefit-band")}, {series: [6, 5], fill: colour("--gain-band")}],
    legend: {live: true}, hooks: {draw: [marks]},
  };
  const data = [x, column("benefit", 0), column("benefit", 1), column("benefit", 2), column("gain", 0), column("gain", 1), column("gain", 2)];
  const plot = new uPlot(options, data, place);
  plot.over.addEventListener("click", () => { if (plot.cursor.idx != null) choose(rows[plot.cursor.idx].version); });
  [2, 3, 5, 6].forEach(series => { const row = place.querySelectorAll(".u-series")[series]; if (row) row.style.display = "none"; });
  return plot;
}

function drawLoss(place, curve, by) {
  if (!curve.step.length) { place.append("No step was made yet."); return null; }
  const smooth = []; let mean = null;
  curve.loss.forEach(value => { mean = mean === null ? value : mean + 0.08 * (value - mean); smooth.push(mean); });
  const options = {
    width: place.clientWidth || 600, height: 170, scales: {x: {time: false}}, axes: axes(by === "step" ? "steps" : "images seen"),
    series: [{label: by === "step" ? "step" : "images"}, {label: "loss", stroke: colour("--line"), points: {show: false}},
      {label: "smoothed", stroke: colour("--loss"), width: 2, points: {show: false}}],
  };
  return new uPlot(options, [curve[by], curve.loss, smooth], place);
}

function spark(curve) {
  const ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", "0 0 100 24"); svg.setAttribute("class", "spark"); svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "training loss"); svg.setAttribute("preserveAspectRatio", "none");
  const {step, loss} = curve;
  if (step.length > 1) {
    const high = Math.max(...loss), low = Math.min(...loss), far = step[step.length - 1] - step[0] || 1;
    const points = step.map((at, i) => `${(100 * (at - step[0]) / far).toFixed(2)},${(22 - 20 * (loss[i] - low) / (high - low || 1)).toFixed(2)}`);
    const line = document.createElementNS(ns, "polyline");
    line.setAttribute("points", points.join(" ")); line.setAttribute("fill", "none"); line.setAttribute("stroke", colour("--loss"));
    line.setAttribute("vector-effect", "non-scaling-stroke"); svg.append(line);
  }
  return svg;
}

// A lane for each branch: a version goes on in its parent's lane where that has no other child yet.
function drawTree(run, chosen, choose, width) {
  const ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg"), at = new Map(), taken = new Set(), lanes = [];
  const far = Math.max(1, ...run.versions.map(row => row.step)), left = 12, right = width - 12;
  for (const row of run.versions) {
    const [name, number] = (row.parent || "").split("@"), parent = name === run.name ? at.get(Number(number)) : undefined;
    let lane = parent && !taken.has(parent.row.version) ? parent.lane : lanes.length;
    if (parent) taken.add(parent.row.version);
    lanes[lane] = true;
    at.set(row.version, {row, lane, parent, x: left + (right - left) * row.step / far});
  }
  const height = 22 * Math.max(1, lanes.length) + 22;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`); svg.setAttribute("class", "tree");
  svg.setAttribute("role", "group"); svg.setAttribute("aria-label", "versions, by step");
  const y = node => 16 + 22 * node.lane;
  const made = (tag, facts) => { const el = document.createElementNS(ns, tag); Object.entries(facts).forEach(([k, v]) => el.setAttribute(k, v)); return el; };
  for (const node of at.values()) if (node.parent) {
    svg.append(made("path", {d: `M${node.parent.x},${y(node.parent)} L${node.x},${y(node)}`, stroke: colour("--faint"), fill: "none"}));
  }
  const marked = {[run.jump.best]: "--benefit", [run.jump.after]: "--jump"};
  for (const node of at.values()) {
    const {row} = node, fill = marked[row.version] ? colour(marked[row.version]) : colour("--accent");
    const dot = made("circle", {cx: node.x, cy: y(node), r: row.version === chosen ? 8 : 5, fill: row.resumable ? fill : colour("--sheet"), stroke: row.pinned ? colour("--ink") : fill, "stroke-width": row.pinned ? 3 : 2, role: "button", "aria-label": `version ${row.version}`});
    const title = made("title", {});
    title.textContent = `version_${row.version}, step ${row.step.toLocaleString("en")}, ${row.reason}${row.labels.length ? ", " + row.labels.join(", ") : ""}${row.pinned ? ", pinned" : ""}${row.resumable ? "" : ", slim"}`;
    dot.append(title); dot.addEventListener("click", () => choose(row.version)); dot.style.cursor = "pointer";
    svg.append(dot);
  }
  return svg;
}
