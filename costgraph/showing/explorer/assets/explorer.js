// What is chosen, and what follows from it.
const chosen = { model: "", on: [], passes: [], fidelity: "ideal" };
const FIDELITIES = [["ideal", "roofline: a lower bound"], ["calibrated", "calibrated"], ["low", "calibrated, low"], ["median", "calibrated, median"], ["high", "calibrated, high"]];

function fail(text) {
  $("failure").textContent = text;
  $("failure").hidden = !text;
}

// Whether there are numbers of what is chosen: their page with its head, or neither.
function offered(now) {
  $("workspace").hidden = $("title").parentElement.hidden = !now;
}

let turn = 0;
// Loads what is chosen and shows it, with the machine and the pipeline to look at; the latest choice
// wins. Until it is there, nothing of the one before is to be seen or copied.
async function follow(step, look = {}) {
  const mine = ++turn, focused = document.activeElement && document.activeElement.id;
  drawChoices();
  refocus(focused);
  if (step) keep(true);
  fail("");
  if (!chosen.model || !chosen.on.length) return;
  $("busy").textContent = `Deriving ${chosen.model} …`;
  document.body.setAttribute("aria-busy", "true");
  try {
    const bundles = await Promise.all(chosen.on.map((on) => Promise.all(chosen.passes.map((p) => loadVariant(chosen.model, on, p, chosen.fidelity)))));
    if (mine !== turn) return;
    const data = joinedBundle(chosen.on, chosen.passes, bundles);
    if (!data) {
      fail(bundles[0][0].error);
      offered(false);
    } else {
      offered(true);
      $("title").textContent = titleOf(chosen.model);
      document.title = `${chosen.model} – costgraph`;
      const kept = data.controls.map((c) => c.name);
      for (const name of Object.keys(state.given)) if (!kept.includes(name)) delete state.given[name];
      drawnGraph = null;
      Object.assign(state, look);
      present(data);
    }
  } catch (error) {
    if (mine === turn) { fail(error.message); offered(false); }
  } finally {
    if (mine === turn) { $("busy").textContent = ""; document.body.removeAttribute("aria-busy"); document.documentElement.dataset.ready = "true"; drawChoices(); keep(); refocus(focused); }
  }
}

// What was hidden for a while has lost the focus.
function refocus(id) {
  if (id && document.activeElement === document.body && $(id)) $(id).focus({ preventScroll: true });
}

usePlan = served ? (text) => setPipeline(chosen.passes.length, text) : null;

const titleOf = (name) => (CATALOG.models.find((m) => m.value === name) || { title: name }).title;

function drawChoices() {
  const model = CATALOG.models.find((m) => m.value === chosen.model);
  $("model-name").textContent = chosen.model;
  $("model-facts").textContent = model ? model.title : "from a file";
  const titles = new Map(DATA ? DATA.devices.map((d) => [d.name, d.title]) : []);
  $("machine-list").replaceChildren(...chosen.on.map((on, i) => h("li", {}, h("span", { class: "name" }, on), " ",
    h("span", { class: "hint" }, (CATALOG.machines.find((m) => m.value === on) || { title: titles.get(on) || "" }).title),
    h("button", { type: "button", "aria-label": `remove ${on}`, disabled: chosen.on.length === 1, onclick: () => { chosen.on.splice(i, 1); follow(true, { device: 0 }); $("machine").focus(); } }, "✕"))));
  $("pipeline-list").replaceChildren(...chosen.passes.map((text, i) => h("li", {}, h("span", { class: "name" }, `${letter(i)}: `, breakable(text || "unmodified")),
    served ? h("button", { type: "button", id: `change-${i}`, "aria-label": `change ${letter(i)}`, onclick: () => openPalette(text, (to) => setPipeline(i, to), true) }, "✎") : null,
    h("button", { type: "button", "aria-label": `remove ${letter(i)}`, disabled: chosen.passes.length === 1, onclick: () => { chosen.passes.splice(i, 1); follow(true, { pipeline: 0 }); $("pipeline-add").focus(); } }, "✕"))));
}

function addMachine(on) {
  if (!chosen.on.includes(on)) {
    if (chosen.on.length >= MOST) { fail(`at most ${MOST} machines at a time`); return; }
    chosen.on.push(on);
  }
  follow(true, { device: chosen.on.indexOf(on) });
}

function setPipeline(index, text) {
  const same = chosen.passes.indexOf(text);
  if (same >= 0) { follow(false, { pipeline: same }); return; }
  if (index >= MOST) { fail(`at most ${MOST} pipelines at a time`); return; }
  chosen.passes[index] = text;
  follow(true, { pipeline: index });
}

async function sendFiles(files) {
  const order = (f) => (f.name.toLowerCase().endsWith(".index.json") ? 1 : 0);
  $("file-error").textContent = "";
  let model = CATALOG.models.some((m) => m.value === chosen.model) ? "" : chosen.model;
  try {
    for (const file of [...files].sort((a, b) => order(a) - order(b)).slice(0, 8)) {
      $("busy").textContent = `Reading ${file.name} …`;
      const answer = await fetch(`files?${new URLSearchParams({ name: file.name, beside: model })}`, { method: "POST", body: file });
      const found = await answer.json();
      if (found.error) throw new Error(found.error);
      model = found.model;
    }
    chosen.model = model;
    follow(true);
  } catch (error) {
    $("busy").textContent = "";
    $("file-error").textContent = error.message;
  }
}

function wireChooser() {
  picker($("model-picker"), { id: "model", label: "search a model", items: () => CATALOG.models, choose: (v) => { chosen.model = v; follow(true); } });
  picker($("machine-picker"), { id: "machine", label: served ? "add a machine: h100, 8xh100 …" : "add a machine", items: () => CATALOG.machines, choose: addMachine, free: served ? "as written: 8xh100, 2x8xh200, rtx-4090+i9-13900k" : "" });
  $("chooser").addEventListener("submit", (e) => e.preventDefault());
  for (const item of document.querySelectorAll(".served")) item.hidden = !served;
  if (served) {
    options($("fidelity"), FIDELITIES, chosen.fidelity);
    $("fidelity").addEventListener("change", () => { chosen.fidelity = $("fidelity").value; follow(true); });
    $("pipeline-add").addEventListener("click", () => openPalette(chosen.passes[chosen.passes.length - 1] || "", (text) => setPipeline(chosen.passes.length, text)));
    $("file").addEventListener("change", () => { sendFiles($("file").files); $("file").value = ""; });
    document.addEventListener("dragover", (e) => { if (e.dataTransfer.types.includes("Files")) { e.preventDefault(); document.body.classList.add("dropping"); } });
    document.addEventListener("dragleave", (e) => { if (!e.relatedTarget) document.body.classList.remove("dropping"); });
    document.addEventListener("drop", (e) => { document.body.classList.remove("dropping"); if (e.dataTransfer.files.length) { e.preventDefault(); sendFiles(e.dataTransfer.files); } });
    wirePalette();
  } else {
    const add = h("select", { id: "pipeline-add", "aria-label": "add a pipeline" });
    options(add, [["-1", "add a pipeline …"], ...CATALOG.pipelines.map((p, i) => [i, p || "unmodified"])], "-1");
    add.addEventListener("change", () => { const i = Number(add.value); add.value = "-1"; if (i >= 0) setPipeline(chosen.passes.length, CATALOG.pipelines[i]); });
    $("pipeline-add").replaceWith(add);
  }
  options($("copy"), COPIES, "link");
  $("copy").addEventListener("change", () => { $("copied").textContent = ""; });
  $("copy-do").addEventListener("click", () => copyWanted().catch((error) => { $("copied").textContent = error.message; }));
  for (const done of ["input", "change", "click"]) document.addEventListener(done, () => keep());
}

// Takes the state from the address.
async function restore() {
  if (DATA) finish();
  const found = read(location.hash);
  const start = { ...CATALOG.start }, mine = turn;
  last = location.hash;
  chosen.model = found.model || start.model;
  chosen.on = found.on.length ? found.on : [...start.on];
  chosen.passes = new URLSearchParams(location.hash.slice(1)).has("passes") ? found.passes : [...start.passes];
  if (found.fidelity !== "ideal" && !(served && FIDELITIES.some(([f]) => f === found.fidelity))) found.unused.push(`fidelity=${found.fidelity}`);
  chosen.fidelity = served && FIDELITIES.some(([f]) => f === found.fidelity) ? found.fidelity : "ideal";
  if (served) $("fidelity").value = chosen.fidelity;
  if (!location.hash) found.values = start.values;
  state.given = { ...found.values };
  state.changed = structuredClone(found.figures);
  const place = (text) => Math.trunc(Math.max(Number(text) || 0, 0));
  state.phase = found.shown.phase || "";
  state.metric = found.shown.metric || "tpot";
  state.curve = { ...state.curve, metric: found.shown.curve || "tpot", symbol: found.shown.over || "B" };
  state.stack = found.shown.stack || "latency";
  givenLoad = readLoad(found);
  state.load = DATA && { ...DATA.load, ...givenLoad };
  state.plans = found.shown.plans === "1";
  state.plansBy = found.shown.by || "latency";
  await follow(false, { device: place(found.shown.machine), pipeline: place(found.shown.pipeline) });
  if (mine + 1 !== turn || !DATA || !$("failure").hidden) return;
  const unused = unusedOf(found).map((t) => (t.length > 80 ? `${t.slice(0, 79)}…` : t));
  if (unused.length) fail(`Not used of what was given: ${unused.slice(0, 12).join(", ")}${unused.length > 12 ? ` and ${unused.length - 12} more` : ""}`);
}

(async () => {
  if (location.search) history.replaceState(null, "", location.pathname + location.hash); // the token is a cookie now
  // What is derived may take a while: the page itself is there before.
  if (document.readyState !== "complete") await new Promise((done) => window.addEventListener("load", done, { once: true }));
  try {
    await loadCatalog();
    wire();
    wireChooser();
    window.addEventListener("popstate", restore);
    await restore();
  } catch (error) { fail(error.message); }
})();
