// The palette: passes with their declared options as typed fields, and the pipeline that they make.
const palette = { items: [], use: null, built: null };

// A value as the pipeline's grammar writes it: bare where that reads back as the same.
function quotedValue(value) {
  if (/^[^\s,{}"'=\\]+$/u.test(value)) return value;
  const quote = value.includes('"') && !value.includes("'") ? "'" : '"';
  return quote + value.replace(/\\/g, "\\\\").replaceAll(quote, `\\${quote}`) + quote;
}

const pipelineText = (items) => items.map(([name, options]) =>
  name + (options.length ? `{${options.map(([k, v]) => `${k}=${quotedValue(v)}`).join(",")}}` : "")).join(",");

async function readPipeline(text) {
  const answer = await fetch(`pipeline?${new URLSearchParams({ text })}`);
  if (!answer.ok) throw new Error("no answer: is costgraph explore still running?");
  return answer.json();
}

const firstOption = () => $("palette-chosen").querySelector(".option :is(input, select)");

// Opened to change what is chosen, it begins at its options; else at what may be added.
async function openPalette(text, use, change = false) {
  palette.use = use;
  $("palette-text").value = text;
  $("palette-search").value = "";
  $("palette").showModal();
  drawKnown();
  $("palette-search").focus();
  await takeText();
  if (change && firstOption() && document.activeElement === $("palette-search")) firstOption().focus();
}

// Until the text is read, and the passes are built from it, nothing is to be added to them.
function takeText(build = true) {
  const read = readText(build);
  if (build) palette.built = read;
  return read;
}

let reading = 0;
async function readText(build) {
  const turn = ++reading;
  try {
    const found = await readPipeline($("palette-text").value);
    if (turn !== reading) return;
    $("palette-error").textContent = found.error;
    $("palette-use").disabled = Boolean(found.error);
    if (build) { palette.items = found.items; drawChosen(); }
  } catch (error) { $("palette-error").textContent = error.message; }
}

function changed(build = true) {
  $("palette-text").value = pipelineText(palette.items);
  if (build) drawChosen();
  takeText(false);
}

// Who adds a pass by the keyboard goes on with its options.
async function addPass(name, keyboard) {
  await palette.built;
  if (!$("palette").open) return;
  palette.items.push([name, []]);
  changed();
  const box = $("palette-chosen").lastElementChild;
  box.scrollIntoView({ block: "nearest" });
  if (keyboard) (box.querySelector(".option :is(input, select)") || box.querySelector("summary")).focus();
}

function drawKnown() {
  const words = $("palette-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = CATALOG.passes.filter((p) => { const text = `${p.name} ${p.title}`.toLowerCase(); return words.every((w) => text.includes(w)); });
  $("palette-known").replaceChildren(...found.map((p) => h("li", {},
    h("button", { type: "button", "data-pass": p.name, onclick: (e) => addPass(p.name, e.detail === 0) }, `+ ${p.name}`),
    h("span", { class: "hint" }, p.title))));
}

function drawChosen() {
  const last = document.activeElement && document.activeElement.id;
  $("palette-chosen").replaceChildren(...(palette.items.length ? palette.items.map(passBox) : [h("p", { class: "hint" }, "None: the model as it is.")]));
  if (last && $(last) && document.activeElement.id !== last) $(last).focus();
}

function passBox([name, given], index) {
  const known = CATALOG.passes.find((p) => p.name === name);
  const swap = (to) => { const item = palette.items.splice(index, 1)[0]; palette.items.splice(to, 0, item); changed(); };
  const tools = h("span", { class: "box-tools" },
    h("button", { type: "button", id: `up-${index}`, "aria-label": `${name}: earlier`, disabled: index === 0, onclick: () => swap(index - 1) }, "↑"),
    h("button", { type: "button", id: `down-${index}`, "aria-label": `${name}: later`, disabled: index === palette.items.length - 1, onclick: () => swap(index + 1) }, "↓"),
    h("button", { type: "button", "aria-label": `remove ${name}`, onclick: () => { palette.items.splice(index, 1); changed(); $("palette-search").focus(); } }, "✕"));
  if (!known) return h("div", { class: "box" }, h("div", { class: "box-head" }, h("h4", {}, name), tools));
  const about = [known.title, known.formula, ...known.assumptions.map((a) => `assumes: ${a}`)].filter(Boolean);
  return h("div", { class: "box" }, h("div", { class: "box-head" }, h("h4", {}, name), tools),
    h("details", {}, h("summary", {}, known.title), about.slice(1).map((t) => h("p", { class: "hint" }, t))),
    known.options.map((option) => optionField(option, given, index)));
}

// What an option takes, as a field of its kind; an empty one is the default.
function optionField(option, given, index) {
  const id = `option-${index}-${option.name}`, value = (given.find(([k]) => k === option.name) || [, ""])[1];
  const set = (to) => {
    const at = given.findIndex(([k]) => k === option.name);
    if (to === "") { if (at >= 0) given.splice(at, 1); }
    else if (at >= 0) given[at][1] = to;
    else given.push([option.name, to]);
    changed(false);
  };
  const usual = option.default === "" ? "none" : option.default;
  let field;
  if (option.kind === "flag") {
    field = h("select", { id, onchange: (e) => set(e.target.value) }, ["", "true", "false"].map((v) => h("option", { value: v, selected: v === value }, v || `default: ${usual}`)));
  } else if (option.choices.length && option.kind === "word") {
    field = h("select", { id, onchange: (e) => set(e.target.value) }, ["", ...option.choices].map((v) => h("option", { value: v, selected: v === value }, v || `default: ${usual}`)));
  } else {
    const what = option.kind === "probability" ? "0 … 1" : option.kind;
    field = h("input", { id, type: "text", inputmode: option.kind === "integer" && !option.symbolic ? "numeric" : false, value, placeholder: `${usual} (${what}${option.symbolic ? " or a symbol" : ""})`, spellcheck: "false",
      list: option.choices.length ? `${id}-list` : false, "aria-describedby": `${id}-help`, oninput: (e) => set(e.target.value.trim()) });
  }
  return h("div", { class: "option" }, h("label", { for: id }, option.name), field,
    option.choices.length && option.kind !== "word" ? h("datalist", { id: `${id}-list` }, option.choices.map((c) => h("option", { value: c }))) : null,
    h("span", { class: "hint", id: `${id}-help` }, option.help));
}

function wirePalette() {
  $("palette-search").addEventListener("input", drawKnown);
  $("palette-search").addEventListener("keydown", (e) => {
    const first = $("palette-known").querySelector("button");
    if (e.key !== "Enter" || !$("palette-search").value.trim() || !first) return;
    // Used as it is read: an Escape that follows at once closes the palette, not what was typed.
    $("palette-search").value = "";
    drawKnown();
    addPass(first.dataset.pass, true);
  });
  $("palette-text").addEventListener("input", () => takeText());
  const close = () => { reading++; $("palette").close(); };
  $("palette-close").addEventListener("click", close);
  $("palette-cancel").addEventListener("click", close);
  $("palette-use").addEventListener("click", () => { const text = $("palette-text").value.trim(); close(); palette.use(text); });
  $("palette-form").addEventListener("submit", (e) => e.preventDefault());
  // Enter in a field uses the pipeline, if it can be read.
  $("palette-form").addEventListener("keydown", async (e) => {
    if (e.key !== "Enter" || !e.target.matches("#palette-text, .option input")) return;
    e.preventDefault();
    await takeText(false);
    if ($("palette").open && !$("palette-use").disabled) $("palette-use").click();
  });
}
