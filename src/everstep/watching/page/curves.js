"use strict";
// Curves: gain and benefit with what they may be off by, the loss below them; and the line of versions as a tree.

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colours = names => Object.fromEntries(names.map(name => [name, colour(name)]));

function axes(label) {
  const ink = colour("--faint"), grid = {stroke: colour("--line"), width: 1};
  return [{stroke: ink, grid, label, labelSize: 18, size: 34}, {stroke: ink, grid, size: 52}];
}

function drawScores(place, width, scores, jump, by, choose) {
  const rows = scores.filter(row => row.gain);
  if (!rows.length) { place.append("Nothing was measured yet."); return null; }
  const x = rows.map(row => row[by]);
  const column = (key, at) => rows.map(row => row[key] ? row[key][at] : null);
  const line = (label, name) => ({label, stroke: colour(name), width: 2, points: {show: rows.length < 300, size: 6}});
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
    width: width || 600, height: 260, scales: {x: {time: false}}, axes: axes(by === "step" ? "steps" : "images seen"),
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

function drawLoss(place, width, curve, by) {
  if (!curve.step.length) { place.append("No step was made yet."); return null; }
  const smooth = []; let mean = null;
  curve.loss.forEach(value => { mean = mean === null ? value : mean + 0.08 * (value - mean); smooth.push(mean); });
  const options = {
    width: width || 600, height: 170, scales: {x: {time: false}}, axes: axes(by === "step" ? "steps" : "images seen"),
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

// A lane for each branch: a version goes on in its parent's lane where that has no other child yet. Of versions that
// lie closer than a dot is wide, those are drawn that say something. Returns the picture, and what rings a version.
const CLOSE = 5;

function lanesOf(run) {
  const at = new Map(), taken = new Set();
  let lanes = 0;
  for (const row of run.versions) {
    const [name, number] = (row.parent || "").split("@"), parent = name === run.name ? at.get(Number(number)) : undefined;
    const lane = parent && !taken.has(parent.row.version) ? parent.lane : lanes++;
    if (parent) taken.add(parent.row.version);
    at.set(row.version, {row, lane, parent});
  }
  return [at, Math.max(1, lanes)];
}

function drawTree(run, choose, width) {
  const inks = colours(["--faint", "--bad", "--benefit", "--jump", "--accent", "--sheet", "--ink"]);
  const ns = "http://www.w3.org/2000/svg", [at, lanes] = lanesOf(run), left = 12, right = width - 12;
  const made = (tag, facts, said) => {
    const el = document.createElementNS(ns, tag);
    Object.entries(facts).forEach(([key, value]) => el.setAttribute(key, value));
    if (said) { const title = document.createElementNS(ns, "title"); title.textContent = said; el.append(title); }
    return el;
  };
  const far = [...run.versions, ...run.scores].reduce((most, row) => Math.max(most, row.step), 1);
  const x = step => left + (right - left) * Math.min(1, step / far), y = lane => 16 + 22 * lane;
  const height = 22 * lanes + 22, svg = made("svg", {viewBox: `0 0 ${width} ${height}`, class: "tree", role: "group", "aria-label": "versions, by step"});
  let path = "";
  for (const {row, lane, parent} of at.values()) if (parent) path += `M${x(parent.row.step).toFixed(1)},${y(parent.lane)}L${x(row.step).toFixed(1)},${y(lane)}`;
  svg.append(made("path", {d: path, stroke: inks["--faint"], fill: "none"}));
  for (const row of run.scores) if (!at.has(row.version)) {
    svg.append(made("circle", {cx: x(row.step), cy: y(0), r: 2, fill: inks["--faint"]}, `version_${row.version}, step ${row.step.toLocaleString("en")}, removed`));
  }
  for (const {name, why} of run.damaged) {
    const number = Number(name.replace(/^version_(\d+).*$/, "$1")), before = [...at.keys()].filter(one => one < number).pop();
    const cx = before === undefined ? left : Math.min(right, x(at.get(before).row.step) + 2 * CLOSE), cy = y(before === undefined ? 0 : at.get(before).lane);
    svg.append(made("path", {d: `M${cx - 4},${cy - 4}l8,8m0,-8l-8,8`, stroke: inks["--bad"], "stroke-width": 2, class: "damaged"}, `${name}: ${why}`));
  }
  const marked = {[run.jump.best]: "--benefit", [run.jump.after]: "--jump"}, last = run.versions.length && run.versions[run.versions.length - 1].version, edges = [];
  const dot = ({row, lane}) => {
    const fill = inks[marked[row.version] || "--accent"];
    const drawn = made("circle", {cx: x(row.step), cy: y(lane), r: 5, fill: row.resumable ? fill : inks["--sheet"], stroke: row.pinned ? inks["--ink"] : fill, "stroke-width": row.pinned ? 3 : 2, role: "button", "aria-label": `version ${row.version}`},
      `version_${row.version}, step ${row.step.toLocaleString("en")}, ${row.reason}${row.labels.length ? ", " + row.labels.join(", ") : ""}${row.pinned ? ", pinned" : ""}${row.resumable ? "" : ", slim"}`);
    drawn.addEventListener("click", () => choose(row.version));
    drawn.style.cursor = "pointer";
    svg.append(drawn);
  };
  const says = ({row}) => row.pinned || row.labels.length || marked[row.version] || row.version === last;
  for (const node of at.values()) {
    if (says(node)) continue;
    const here = x(node.row.step);
    if (edges[node.lane] !== undefined && here - edges[node.lane] < CLOSE) continue;
    edges[node.lane] = here;
    dot(node);
  }
  for (const node of at.values()) if (says(node)) dot(node);
  const ring = made("circle", {r: 9, fill: "none", stroke: inks["--ink"], "stroke-width": 2, class: "ring"});
  svg.append(ring);
  const mark = number => {
    const node = at.get(number);
    ring.setAttribute("visibility", node ? "visible" : "hidden");
    if (node) { ring.setAttribute("cx", x(node.row.step)); ring.setAttribute("cy", y(node.lane)); }
  };
  return {svg, mark};
}
