"use strict";
// What everything else needs: elements and words, and where a run comes from. Asks for what is opened at once, while
// the other scripts are still read.

const count = number => Number(number).toLocaleString("en");

function h(tag, facts, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(facts || {})) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.flat(Infinity).filter(child => child != null && child !== false));
  return made;
}

function duration(seconds) {
  if (seconds == null) return "";
  const s = Math.round(seconds), days = Math.floor(s / 86400), hours = Math.floor(s % 86400 / 3600), minutes = Math.floor(s % 3600 / 60);
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${s % 60} s` : `${s} s`;
}

function size(bytes) {
  const units = ["bytes", "kB", "MB", "GB", "TB"]; let at = 0;
  while (bytes >= 1000 && at < 4) { bytes /= 1000; at++; }
  return `${at ? bytes.toFixed(1) : bytes} ${units[at]}`;
}

// --- where it comes from: the server, or what lies in this very file -------------------------------------------

const inFile = document.getElementById("report");
const report = inFile ? JSON.parse(inFile.textContent) : null;

async function ask(path) {
  const answered = await fetch(path);
  const told = await answered.json();
  if (!answered.ok) throw new Error(told.error || answered.statusText);
  return told;
}

// Thousands of rows come as columns.
const rowsOf = columns => {
  const keys = Object.keys(columns);
  return keys.length ? columns[keys[0]].map((_, place) => { const row = {}; for (const key of keys) row[key] = columns[key][place]; return row; }) : [];
};
const unpacked = run => {
  const {scores, ...columns} = run.versions, versions = rowsOf(columns), names = Object.keys(scores || {});
  versions.forEach((row, place) => { row.scores = {}; for (const name of names) if (scores[name][place] !== null) row.scores[name] = scores[name][place]; });
  return {...run, versions, scores: rowsOf(run.scores)};
};

const source = report ? {
  runs: async () => ({folder: "", runs: []}),
  run: async () => unpacked(report.run),
  version: async (name, number) => report.versions[number],
  log: async () => report.log,
  pictures: async (run, number) => {
    const of = name => typeof report.pictures[name] === "string" && report.pictures[name].startsWith("=") ? report.pictures[report.pictures[name].slice(1)] : report.pictures[name];
    return Object.fromEntries(["condition", "sample", "target"].map(row => [row, captions(run, number).map((_, pair) => of(`${number}/${row}/${pair}`))]));
  },
  tried: async () => report.tried,
  triedPicture: (run, name, number) => report.tried_pictures[`${name}/${number === null ? "condition" : number}`],
  canAct: false,
} : {
  runs: () => ask("api/runs"),
  run: name => ask(`api/runs/${encodeURIComponent(name)}`).then(unpacked),
  version: (name, number) => ask(`api/runs/${encodeURIComponent(name)}/versions/${number}`),
  log: name => ask(`api/runs/${encodeURIComponent(name)}/log`),
  pictures: (run, number) => ask(`api/runs/${encodeURIComponent(run.name)}/pictures/${number}?drawn=${run.sheets[number][1]}`),
  tried: name => ask(`api/runs/${encodeURIComponent(name)}/tried`),
  triedPicture: (run, name, number) => `tried/${encodeURIComponent(run.name)}/${name}${number === null ? "" : `/${number}`}`,
  canAct: true,
};

const shownRun = () => report ? report.run.name : decodeURIComponent(location.hash.slice(1));
let early = report || !shownRun() ? null : {name: shownRun(), answer: source.run(shownRun())};
if (early) early.answer.catch(() => {});  // whoever takes it says so

function runNow(name) {
  const taken = early && early.name === name ? early.answer : source.run(name);
  early = null;
  return taken;
}
