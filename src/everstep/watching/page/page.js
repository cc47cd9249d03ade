"use strict";
// What is seen: all runs, or one. Every text comes in as text, never as markup.

const main = document.getElementById("main"), where = document.getElementById("where"), link = document.getElementById("link");
const answerBox = document.getElementById("answer");

async function act(run, button, given) {
  show(h("p", {}, `${button} ...`));
  try {
    const answered = await fetch(`api/runs/${encodeURIComponent(run.name)}/do/${button}`, {
      method: "POST", headers: {"content-type": "application/json", "x-everstep": "1"}, body: JSON.stringify(given || {}),
    });
    const told = await answered.json();
    const good = answered.ok && !told.code;
    show(h("p", {}, told.command ? h("code", {}, told.command) : button, good ? "" : told.code ? ` ended with exit code ${told.code}` : " was refused"),
      h("pre", {}, told.said || told.error || "Done."));
  } catch (error) { show(h("p", {}, `${button}: the page's server does not answer (${error.message}).`)); }
  await refresh(true);
}

function show(...children) {
  answerBox.replaceChildren(...children, h("button", {onclick: () => { answerBox.hidden = true; }}, "Close"));
  answerBox.hidden = false;
}

// --- all runs --------------------------------------------------------------------------------------------------

function facts(pairs) {
  return h("dl", {}, pairs.filter(([, value]) => value !== "" && value != null).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function state(word) {
  return h("span", {class: `state ${word.replace("disk full", "full")}`}, word);
}

function standing(told) {
  const version = told.last_version ? `${told.last_version}, ${duration(told.last_version_age_s)} ago` : "none yet";
  const soon = told.next_version_in_s == null ? "" : `in about ${duration(told.next_version_in_s)}`;
  const next = told.next_version_step == null ? soon : `at step ${count(told.next_version_step)}${told.next_version_in_s == null ? "" : `, in ${duration(told.next_version_in_s)}`}`;
  const disk = `${size(told.version_bytes)} in versions, ${size(told.free_bytes)} free` + (told.disk_full_after_versions == null ? "" : `; full after ${told.disk_full_after_versions} more versions`);
  return [
    ["step", `${count(told.step)} of ${count(told.max_steps)}`], ["rate", told.images_per_second ? `${told.images_per_second.toFixed(1)} images/s` : ""],
    ["time left", duration(told.seconds_left)], ["at risk now", told.state === "running" ? `${count(told.steps_at_risk)} steps` : ""],
    ["last version", version], ["next version", next], ["disk", disk],
    ["last heard", told.told_age_s > 30 ? `${duration(told.told_age_s)} ago` : ""],
  ];
}

function card(run) {
  if (run.error) return h("li", {class: "card"}, h("h2", {}, run.name), h("p", {class: "said"}, run.error));
  return h("li", {class: "card"}, h("a", {href: `#${encodeURIComponent(run.name)}`},
    h("h2", {}, run.name, state(run.condition)),
    h("progress", {value: run.step, max: Math.max(1, run.max_steps), "aria-label": "steps"}),
    run.control && h("p", {class: "said"}, run.control), spark(run.curve), facts(standing(run))));
}

async function seeAll() {
  const told = await source.runs();
  where.textContent = told.folder;
  document.title = "Everstep";
  if (!told.runs.length) main.replaceChildren(h("section", {}, h("p", {}, `There is no run in ${told.folder} yet.`), h("pre", {}, "everstep train circles --run mine")));
  else main.replaceChildren(h("ul", {class: "cards"}, told.runs.map(card)));
}

// --- one run ---------------------------------------------------------------------------------------------------

let seen = null;  // the run that is shown, and what was chosen of it
const choice = {name: null, version: null, other: null, by: "step", wipe: 50, rows: 50, open: new Set()};
const captions = (run, number) => run.captions[run.sheets[number][0]];

// What was opened stays open when all is drawn anew.
function details(words, ontoggle, ...children) {
  return h("details", {open: choice.open.has(words), ontoggle: event => {
    choice.open[event.target.open ? "add" : "delete"](words);
    if (ontoggle && event.target.open) ontoggle();
  }}, h("summary", {}, words), ...children);
}

async function seeRun(name, isSame) {
  const run = await runNow(name);
  if (choice.name !== name) Object.assign(choice, {name, version: null, other: null, rows: 50, open: new Set(), tried: null});
  const drawn = Object.keys(run.sheets).map(Number);
  const newest = drawn.length ? drawn[drawn.length - 1] : run.versions.length ? run.versions[run.versions.length - 1].version : null;
  if (choice.version === null || !run.versions.some(row => row.version === choice.version)) choice.version = newest;
  const wasAt = isSame ? scrollY : 0;
  seen = {run, drawn};
  document.title = `${run.name} · Everstep`;
  where.textContent = run.name;
  const parts = {};
  for (const part of ["scores", "loss", "tree", "pictures", "detail", "table", "log"]) parts[part] = h("div", {});
  seen.parts = parts;
  main.replaceChildren(...[top_(run),
    h("section", {}, h("h2", {}, "Versions"), parts.tree, h("p", {class: "note"}, "Filled: whole, can be gone on from. Empty: slim. Green: the best. Orange: the jump. Dark edge: pinned. Small: removed. Cross: damaged. Ringed: chosen."),
      run.damaged.map(one => h("p", {class: "note"}, `Damaged: ${one.name}, ${one.why}`))),
    pictures(run, drawn, parts),
    h("div", {class: "two"},
      h("section", {}, h("div", {class: "head"}, h("h2", {}, "Does it obey, and does that help"), by(run)), parts.scores),
      h("section", {}, h("h2", {}, "Training loss"), parts.loss, h("p", {class: "note"}, "Says little: it falls no further once noise is all that is left of it."))),
    h("section", {}, h("h2", {}, "All versions"), h("div", {class: "scroll"}, parts.table)),
    parts.detail,
    report && report.compared && h("section", {}, h("h2", {}, "Side by side"), h("iframe", {srcdoc: report.compared, class: "compared", title: "versions side by side", sandbox: "allow-scripts"})),
    tryIt(run),
    h("section", {}, details("Log", () => seeLog(run, parts.log), parts.log)),
    h("section", {}, details("Settings", null, h("pre", {}, run.settings)))].filter(Boolean));
  if (seen.slider && drawn.includes(choice.version)) seePictures(run, choice.version).catch(() => {});  // first: they come while all else is drawn
  plots(run, parts);
  table(run, parts);
  await choose(choice.version, true);
  scrollTo(0, wasAt);
}

// One and the same as long as its run is shown: what is being drawn on or waited for stays when all else is made anew.
function tryIt(run) {
  if (!run.drawing || !run.versions.length) return null;
  if (!source.canAct) {
    const kept = h("div", {});
    seeKept(run, kept);
    return report.tried.length ? h("section", {}, h("h2", {}, "Tried"), kept) : null;
  }
  if (!choice.tried) choice.tried = h("section", {}, details("Try it", () => { if (!choice.pad.firstChild) choice.pad.append(trying(() => seen.run, () => choice.version)); }, choice.pad = h("div", {})));
  return choice.tried;
}

function top_(run) {
  const told = run.standing, isRunning = told.state === "running";
  const buttons = !source.canAct ? [] : [
    isRunning && h("button", {onclick: () => { const label = prompt("A name for this version, or nothing"); if (label !== null) act(run, "save", label ? {label} : {}); }}, "Save now"),
    isRunning && h("button", {onclick: () => confirm(`Let ${run.name} finish its step, save and end?`) && act(run, "stop")}, "Stop"),
    !isRunning && told.state !== "complete" && h("button", {onclick: () => act(run, "resume")}, "Resume"),
    h("button", {onclick: () => planPrune(run)}, "Prune ..."),
  ];
  return h("section", {}, h("div", {class: "head"}, h("h1", {}, run.name), state(told.condition), h("span", {class: "buttons"}, buttons)),
    h("progress", {value: told.step, max: Math.max(1, told.max_steps), "aria-label": "steps"}),
    told.control && h("p", {}, told.control), facts([...standing(told), ["folder", run.path]]));
}

async function planPrune(run) {
  await act(run, "plan-prune");
  answerBox.append(" ", h("button", {onclick: () => act(run, "prune")}, "Prune now"));
}

function by(run) {
  const button = (key, words) => h("button", {"aria-pressed": String(choice.by === key), onclick: () => { choice.by = key; seeRun(run.name, true); }}, words);
  return h("span", {class: "buttons", role: "group", "aria-label": "counted in"}, button("step", "steps"), button("images_seen", "images"));
}

function plots(run, parts) {
  const [wide, left, right] = [parts.tree, parts.scores, parts.loss].map(part => part.clientWidth);  // all asked for at once: one layout
  seen.tree = drawTree(run, choose, Math.max(200, wide));
  parts.tree.replaceChildren(seen.tree.svg);
  drawScores(parts.scores, left, run.scores, run.jump, choice.by, choose);
  drawLoss(parts.loss, right, run.curve, choice.by);
}

function pictures(run, drawn, parts) {
  if (!drawn.length) return h("section", {}, h("h2", {}, "Held-out pairs"), h("p", {class: "note"}, "No version has a contact sheet yet."));
  const slider = h("input", {type: "range", min: 0, max: drawn.length - 1, value: Math.max(0, drawn.indexOf(choice.version)), id: "versions",
    "aria-label": "version", oninput: event => choose(drawn[event.target.value])});
  const others = h("select", {"aria-label": "wipe against", onfocus: () => offer(), onchange: event => { choice.other = event.target.value === "" ? null : Number(event.target.value); choose(choice.version); }});
  const offer = numbers => others.replaceChildren(h("option", {value: ""}, "wipe against ..."), ...(numbers || drawn).map(number => h("option", {value: number, selected: number === choice.other}, `version_${number}`)));
  offer(drawn.length < 200 ? drawn : choice.other === null ? [] : [choice.other]);  // thousands are made when they are asked for
  const wipe = h("input", {type: "range", min: 0, max: 100, value: choice.wipe, "aria-label": "where the wipe is", id: "wipe",
    oninput: event => { choice.wipe = Number(event.target.value); parts.pictures.style.setProperty("--wipe", `${choice.wipe}%`); }});
  seen.slider = slider; seen.said = h("output", {for: "versions"}); seen.wipe = wipe;
  return h("section", {}, h("h2", {}, "Held-out pairs: condition, drawn, target"), h("div", {class: "sliders"}, h("div", {class: "slider"}, slider, seen.said), h("div", {class: "slider"}, others, wipe)), parts.pictures);
}

async function seePictures(run, number) {
  const place = seen.parts.pictures;
  if (!run.sheets[number]) return;
  const words = captions(run, number), wanted = `${run.sheets[number][0]}/${choice.other}`;
  if (place.dataset.made !== wanted) {  // made once; moving the slider only changes what the pictures are
    place.dataset.made = wanted;
    place.className = "pairs";
    place.style.setProperty("--wipe", `${choice.wipe}%`);
    place.replaceChildren(...words.map((caption, pair) => h("figure", {}, h("figcaption", {}, caption), h("div", {class: "trio"},
      h("img", {"data-row": "condition", alt: `condition of ${caption}`}),
      h("div", {class: "wiped"}, h("img", {"data-row": "sample", alt: `drawn for ${caption}`}), choice.other !== null && h("img", {"data-row": "other", alt: `drawn by version_${choice.other}`})),
      h("img", {"data-row": "target", alt: `target of ${caption}`})))));
  }
  const against = choice.other;
  const [own, other] = await Promise.all([source.pictures(run, number), against !== null && run.sheets[against] ? source.pictures(run, against) : null]);
  if (choice.version !== number || choice.other !== against || !place.isConnected) return;  // the slider is elsewhere by now
  place.querySelectorAll("figure").forEach((figure, pair) => figure.querySelectorAll("img").forEach(img => {
    const row = img.dataset.row, url = row === "other" ? other && other.sample[pair] : own[row][pair];
    if (url && img.getAttribute("src") !== url) img.src = url;
  }));
  place.dataset.shown = `${number}/${against}`;
}

function preload(run, drawn, number) {
  if (report) return;
  const at = drawn.indexOf(number);
  for (const near of [at - 1, at + 1, at + 2]) if (near in drawn) source.pictures(run, drawn[near]).catch(() => {});
}

async function choose(number) {
  if (number === null) return;
  const {run, drawn, parts} = seen;
  choice.version = number;
  const row = run.versions.find(one => one.version === number);
  if (!row) return;
  if (seen.slider && drawn.includes(number)) {
    seen.slider.value = drawn.indexOf(number);
    seen.slider.setAttribute("aria-valuetext", `version_${number}, step ${count(row.step)}`);
    const gain = row.scores.control_gain;
    seen.said.textContent = `version_${number} · step ${count(row.step)}${gain == null ? "" : ` · gain ${gain.toFixed(3)}`}${choice.other === null ? "" : ` · right: version_${choice.other}`}`;
    seen.wipe.hidden = choice.other === null;
  }
  seen.tree.mark(number);
  parts.table.querySelectorAll("tr.chosen").forEach(line => line.classList.remove("chosen"));
  const line = parts.table.querySelector(`tr[data-version="${number}"]`);
  if (line) line.classList.add("chosen");
  const isFirst = !parts.detail.firstChild, facts = () => detail(run, row).catch(() => {});
  clearTimeout(seen.later);
  if (isFirst) facts(); else seen.later = setTimeout(facts, 150);  // asked before the pictures, which are many
  if (seen.slider && drawn.includes(number)) { seePictures(run, number).catch(error => { link.textContent = error.message; }); if (!isFirst) preload(run, drawn, number); }
}

async function detail(run, row) {
  const before = run.versions.find(one => one.version === choice.other) || run.versions[run.versions.indexOf(row) - 1];
  if (!seen.parts.detail.firstChild) seeDetail(run, row, before, null, null);  // what is known already
  const [told, earlier] = await Promise.all([source.version(run.name, row.version), before && source.version(run.name, before.version).catch(() => null)]);
  if (choice.version === row.version) seeDetail(run, row, before, told, earlier);
}

function seeDetail(run, row, before, told, earlier) {
  const given = {version: row.version};
  const line = (key, words) => { const said = prompt(words); if (said) act(run, key, {...given, [key]: said}); };
  const programs = h("select", {"aria-label": "export for", onchange: event => event.target.value && act(run, "export", {...given, for: event.target.value})},
    h("option", {value: ""}, "Export for ..."), run.programs.map(name => h("option", {value: name}, name)));
  const buttons = !source.canAct ? [] : [
    h("button", {onclick: () => act(run, row.pinned ? "unpin" : "pin", given)}, row.pinned ? "Unpin" : "Pin"),
    h("button", {onclick: () => line("label", `A name for version_${row.version}`)}, "Label"),
    h("button", {onclick: () => line("note", `A sentence about version_${row.version}`)}, "Note"),
    row.resumable && h("button", {onclick: () => confirm(`Drop what only a resume needs from version_${row.version}?`) && act(run, "slim", given)}, "Make slim"),
    run.standing.state !== "running" && row.resumable && h("button", {onclick: () => confirm(`Go on from version_${row.version}? Later versions stay.`) && act(run, "resume", given)}, "Go on from here"),
    programs,
  ];
  const parent = told && told.manifest.parent, changes = Object.entries((parent && parent.changes) || {}).map(([key, [was, is]]) => `${key}: ${was} -> ${is}`);
  const differs = told && earlier && earlier.settings !== told.settings ? difference(earlier.settings, told.settings) : "";
  seen.parts.detail.replaceChildren(h("section", {},
    h("div", {class: "head"}, h("h2", {}, `version_${row.version}`), h("span", {class: "buttons"}, buttons)),
    facts([["step", `${count(row.step)}, ${count(row.images_seen)} images`], ["made", `${row.created_at}, ${row.reason}`], ["size", size(row.size_bytes)],
      ["state", row.resumable ? "whole: can be gone on from" : "slim: weights only"], ["labels", row.labels.join(", ")], ["pinned", row.pinned ? "yes" : ""], ["note", row.note],
      ["parent", row.parent || ""], ["changed on purpose", changes.join("; ")],
      ...Object.entries(row.scores).map(([name, value]) => [name.replaceAll("_", " "), value.toFixed(4)]), ["folder", `${run.path}/version_${row.version}`]]),
    told && [h("p", {class: "note"}, "Load it:"), h("pre", {}, told.load)],
    differs && [h("p", {class: "note"}, `Settings that differ from version_${before.version}:`), h("pre", {}, differs)],
    told && details("Manifest", null, h("pre", {}, JSON.stringify(told.manifest, null, 1)))));
}

function difference(was, is) {
  const old = new Set(was.split("\n")), now = new Set(is.split("\n"));
  return [...[...old].filter(line => !now.has(line)).map(line => `- ${line}`), ...[...now].filter(line => !old.has(line)).map(line => `+ ${line}`)].join("\n");
}

function table(run, parts) {
  const names = [...new Set(run.versions.flatMap(row => Object.keys(row.scores)))].sort();
  const head = h("tr", {}, h("th", {}, "version"), ["step", "images", ...names, "size"].map(name => h("th", {class: "right"}, name.replaceAll("_", " "))), h("th", {}, "reason"), h("th", {}, "labels"));
  const lines = [...run.versions].reverse().slice(0, choice.rows).map(row => h("tr", {"data-version": row.version, onclick: () => choose(row.version)},
    h("td", {}, h("button", {onclick: () => choose(row.version)}, `version_${row.version}`)),
    h("td", {class: "right"}, count(row.step)), h("td", {class: "right"}, count(row.images_seen)),
    names.map(name => h("td", {class: "right"}, row.scores[name] == null ? "" : row.scores[name].toFixed(4))), h("td", {class: "right"}, size(row.size_bytes)),
    h("td", {}, row.reason + (row.resumable ? "" : ", slim")), h("td", {}, [...row.labels, ...(row.pinned ? ["pinned"] : [])].join(", "))));
  parts.table.replaceChildren(h("table", {}, h("thead", {}, head), h("tbody", {}, lines)),
    run.versions.length > choice.rows ? h("button", {onclick: () => { choice.rows += 1000; table(run, parts); seen.tree.mark(choice.version); }}, `Older ones, of ${count(run.versions.length)}`) : "");
}

async function seeLog(run, place) {
  const lines = await source.log(run.name);
  place.replaceChildren(h("pre", {}, lines.reverse().map(line => Object.entries(line).filter(([, value]) => value != null).map(([key, value]) => `${key} ${value}`).join("  ")).join("\n")));
}

// --- going round -----------------------------------------------------------------------------------------------

async function refresh(isSame) {
  const name = shownRun();
  try {
    await (name ? seeRun(name, isSame) : seeAll());
    link.textContent = "";
  } catch (error) {
    if (isSame && seen) link.textContent = error.message;
    else main.replaceChildren(h("section", {}, h("p", {}, error.message), h("a", {href: "#"}, "All runs")));
  }
}

let due = null, isAll = false, missed = false, latest = null;
function changed({run, what, told}) {
  const shown = shownRun();
  if (shown && shown !== run) return;
  latest = told || latest;
  isAll = isAll || what === "all" || !shown;
  if (document.hidden) { missed = true; return; }
  if (!due) due = setTimeout(catchUp, isAll ? 100 : 900);
  else if (what === "all") { clearTimeout(due); due = setTimeout(catchUp, 100); }
}

async function catchUp() {
  due = null;
  if (document.activeElement && document.activeElement.matches("input:active, select:focus")) { due = setTimeout(catchUp, 500); return; }
  const wasAll = isAll; isAll = missed = false;
  if (wasAll || !seen) return refresh(true);
  const {run} = seen;
  try {
    const told = latest || await ask(`api/runs/${encodeURIComponent(run.name)}/now`);
    latest = null;
    if (seen.run !== run || told.name !== run.name) return;
    if (told.error) throw new Error(told.error);
    run.standing = told;
    const was = main.firstElementChild, is = top_(run);
    const at = [...was.querySelectorAll("button")].indexOf(document.activeElement);
    was.replaceWith(is);
    if (at >= 0 && is.querySelectorAll("button")[at]) is.querySelectorAll("button")[at].focus();
    if (choice.open.has("Log")) await seeLog(run, seen.parts.log);
    link.textContent = "";
  } catch (error) { link.textContent = error.message; }
}

addEventListener("hashchange", () => { if (!report) refresh(false).then(() => main.focus()); });
addEventListener("keydown", event => {
  if (!seen || !seen.slider || event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  const way = {ArrowLeft: -1, ArrowRight: 1}[event.key], at = seen.drawn.indexOf(choice.version) + way;
  if (way && at in seen.drawn) { event.preventDefault(); choose(seen.drawn[at]); }
});
if (!report) {
  const events = new EventSource("events");
  events.onmessage = event => changed(JSON.parse(event.data));
  events.onerror = () => { link.textContent = "the page's server does not answer"; };
  document.addEventListener("visibilitychange", () => { if (!document.hidden && missed) catchUp(); });
  setInterval(() => changed({run: shownRun(), what: "now"}), 5000);  // what only grows older
  events.onopen = () => { if (link.textContent) refresh(true); };
}
refresh(false);
