"use strict";
// Trying versions: a condition that is dropped, pasted, opened, drawn or taken from a held-out pair; what one to three
// versions draw for it; and what was kept of that.

const SIDE = 512;

function trying(now, chosen) {
  const pad = h("canvas", {width: SIDE, height: SIDE, class: "pad", tabindex: 0, role: "img", "aria-label": "the condition: draw on it, or drop or paste a picture"});
  const pen = pad.getContext("2d"), said = h("span", {role: "status"}), results = h("div", {class: "tried"}), kept = h("div", {});
  const field = (name, facts) => h("label", {}, `${name} `, h("input", {type: "number", name, ...facts}));
  const run = now(), start = run.drawing, running = {stop: null};
  const clear = paper => { pen.fillStyle = paper; pen.fillRect(0, 0, SIDE, SIDE); pad.dataset.paper = paper; };
  clear("#000");

  const put = image => {  // cropped to a square, as training does
    const side = Math.min(image.naturalWidth, image.naturalHeight);
    pen.drawImage(image, (image.naturalWidth - side) / 2, (image.naturalHeight - side) / 2, side, side, 0, 0, SIDE, SIDE);
  };
  const load = url => { const image = new Image(); image.onload = () => put(image); image.onerror = () => { said.textContent = "That is no picture a browser can read."; }; image.src = url; };
  const open = file => { if (!file) return; const reader = new FileReader(); reader.onload = () => load(reader.result); reader.readAsDataURL(file); };
  const pictureOf = transfer => [...transfer.files].find(file => file.type.startsWith("image/"));

  let last = null;
  const at = event => { const box = pad.getBoundingClientRect(); return [(event.clientX - box.left) * SIDE / box.width, (event.clientY - box.top) * SIDE / box.height]; };
  pad.addEventListener("pointerdown", event => { last = at(event); pad.setPointerCapture(event.pointerId); });
  pad.addEventListener("pointermove", event => {
    if (!last) return;
    const to = at(event);
    pen.strokeStyle = pad.dataset.paper === "#000" ? "#fff" : "#000"; pen.lineWidth = 8; pen.lineCap = "round";
    pen.beginPath(); pen.moveTo(...last); pen.lineTo(...to); pen.stroke();
    last = to;
  });
  for (const name of ["pointerup", "pointercancel"]) pad.addEventListener(name, () => { last = null; });
  pad.addEventListener("dragover", event => event.preventDefault());
  pad.addEventListener("drop", event => { event.preventDefault(); open(pictureOf(event.dataTransfer)); });
  pad.addEventListener("paste", event => open(pictureOf(event.clipboardData)));

  const take = async place => {
    prompt_.value = captions(now(), chosen())[place];
    load((await source.pictures(now(), chosen())).condition[place]);
  };
  const file = h("input", {type: "file", accept: "image/*", "aria-label": "open a picture", onchange: event => open(event.target.files[0])});
  const pair = h("select", {"aria-label": "a held-out pair's condition", onchange: event => event.target.value !== "" && take(Number(event.target.value))},
    h("option", {value: ""}, "Take a held-out pair's ..."));
  const fill = () => { if (now().sheets[chosen()]) pair.replaceChildren(pair.firstChild, ...captions(now(), chosen()).map((words, place) => h("option", {value: place}, words))); };
  pair.addEventListener("focus", fill); fill();

  const prompt_ = h("textarea", {rows: 2, "aria-label": "prompt", placeholder: "What to draw", maxlength: 2000});
  const versions = ["first", "second", "third"].map((place, number) => h("select", {"aria-label": `${place} version`}, number > 0 && h("option", {value: ""}, "and ...")));
  const offer = select => {  // newer ones come while this is open
    const was = select.value || (select === versions[0] ? String(chosen()) : "");
    const rows = [...now().versions].reverse().slice(0, 500);
    select.replaceChildren(...[...select.children].filter(one => one.value === ""), ...rows.map(row => h("option", {value: row.version}, `version_${row.version} \u00b7 step ${count(row.step)}`)));
    select.value = was;
  };
  versions.forEach(select => { offer(select); select.addEventListener("focus", () => offer(select)); });
  const numbers = {
    condition_scale: field("strength", {min: 0, max: 4, step: 0.05, value: start.condition_scale}),
    guidance_scale: field("guidance", {min: 0, max: 30, step: 0.5, value: start.guidance_scale}),
    steps: field("steps", {min: 1, max: 1000, step: 1, value: start.steps}),
    seed: field("seed", {min: 0, step: 1, value: start.seed}),
  };
  const made = h("input", {type: "checkbox"});
  const go = h("button", {onclick: () => running.stop ? running.stop.abort() : draw()}, "Draw");

  async function draw() {
    const wanted = [...new Set(versions.map(one => one.value).filter(value => value !== "").map(Number))];
    const sampling = Object.fromEntries(Object.entries(numbers).map(([key, label]) => [key, Number(label.lastChild.value)]));
    running.stop = new AbortController();
    go.textContent = "Stop"; said.textContent = "PyTorch and the base are read ..."; results.replaceChildren();
    try {
      const answered = await fetch(`api/runs/${encodeURIComponent(run.name)}/try`, {
        method: "POST", signal: running.stop.signal, headers: {"content-type": "application/json", "x-everstep": "1"},
        body: JSON.stringify({condition: pad.toDataURL("image/png"), prompt: prompt_.value, versions: wanted, made: made.checked, sampling}),
      });
      if (!answered.ok) throw new Error((await answered.json()).error);
      for await (const told of lines(answered.body)) hear(told);
    } catch (error) {
      said.textContent = error.name === "AbortError" ? "Stopped." : error.message;
    } finally { running.stop = null; go.textContent = "Draw"; }
  }

  function hear(told) {
    if (told.error) throw new Error(told.error);
    if (told.done) said.textContent = `version_${told.version}: step ${told.done} of ${told.total}`;
    if (told.png) results.append(h("figure", {}, h("figcaption", {}, `version_${told.version}`), h("img", {src: `data:image/png;base64,${told.png}`, alt: `drawn by version_${told.version}`})));
    if (told.name) {
      said.textContent = "";
      results.append(h("button", {onclick: async event => { event.target.disabled = true; await keep(told.name); }}, "Keep"));
    }
  }

  async function keep(name) {
    const answered = await fetch(`api/runs/${encodeURIComponent(run.name)}/keep`, {method: "POST", headers: {"content-type": "application/json", "x-everstep": "1"}, body: JSON.stringify({name})});
    const told = await answered.json();
    said.textContent = told.error || told.command;
    await seeKept(run, kept);
  }

  seeKept(run, kept);
  return h("div", {class: "trying"},
    h("div", {}, pad, h("div", {class: "buttons"}, h("button", {onclick: () => clear("#000")}, "Clear, black"), h("button", {onclick: () => clear("#fff")}, "Clear, white")), file, run.drawing.makes_conditions && h("label", {}, made, " it is a picture: make the condition of it")),
    h("div", {class: "asked"}, pair, prompt_, h("div", {class: "buttons"}, versions), h("div", {class: "buttons"}, Object.values(numbers)), h("div", {class: "buttons"}, go, said)),
    results, kept);
}

// What a server sends as lines of JSON, as they come.
async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

async function seeKept(run, place) {
  const found = await source.tried(run.name);
  place.replaceChildren(...found.map(one => h("div", {class: "tried"}, h("p", {class: "note"}, `${one.prompt || "no prompt"} \u00b7 strength ${one.sampler.condition_scale}, guidance ${one.sampler.guidance_scale}, ${one.sampler.steps} steps, seed ${one.sampler.seed} \u00b7 ${one.name}`),
    h("figure", {}, h("figcaption", {}, "condition"), h("img", {src: source.triedPicture(run, one.name, null), alt: "condition"})),
    one.versions.map(number => h("figure", {}, h("figcaption", {}, `version_${number}`), h("img", {src: source.triedPicture(run, one.name, number), alt: `drawn by version_${number}`}))))));
}
