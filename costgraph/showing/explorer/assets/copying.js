// Copies: formulas as LaTeX and Python, what is shown as a command, tables as CSV, charts as SVG or PNG.
const shellQuoted = (text) => (/^[A-Za-z0-9_.,:+=/-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const OPTIONS = { B: "--batch", S: "--prompt", N: "--generate", T: "--context" };

function valueOptions(names) {
  return names.filter((n) => state.values[n] !== undefined && state.values[n] !== null && n !== "price").flatMap((n) => (OPTIONS[n] ? [OPTIONS[n], String(state.values[n])] : ["--set", `${n}=${state.values[n]}`]));
}

const LOAD_OPTIONS = { rate: "--rate", seqs: "--limit", chunk: "--chunk", policy: "--policy" };
const loadOptions = () => Object.entries(state.load).filter(([name, value]) => value !== DATA.load[name]).flatMap(([name, value]) => [LOAD_OPTIONS[name], String(value)]);

function commands() {
  const model = chosen.model, on = chosen.on[state.device], passes = chosen.passes[state.pipeline], fidelity = chosen.fidelity === "ideal" ? [] : ["--fidelity", chosen.fidelity];
  const line = (...words) => ["costgraph", ...words].map(shellQuoted).join(" ");
  const pipe = passes ? ["--passes", passes] : [];
  const sizes = Object.keys(state.values);
  return {
    formula: line("formula", model, "--on", on, ...pipe, "--metric", state.metric, ...fidelity),
    report: line("report", model, "--on", chosen.on.join(","), ...chosen.passes.flatMap((p) => ["--passes", p]), ...fidelity, ...valueOptions(sizes), ...loadOptions(), "-o", "report.html"),
  };
}

function pythonCall() {
  const text = (v) => JSON.stringify(v), values = [...new Set(variant().function.args)].filter((n) => n in state.values && state.values[n] !== null);
  const wanted = { tpot: ["B", "T"], ttft: ["B", "S"] }[state.metric];
  const given = values.filter((n) => !wanted || wanted.includes(n) || !["B", "S", "N", "T"].includes(n));
  const fidelity = chosen.fidelity === "ideal" ? "" : `, fidelity=${text(chosen.fidelity)}`;
  return `import costgraph as cg\n\ncompiled = cg.compile(${text(chosen.model)}, ${text(chosen.on[state.device])}, ${text(chosen.passes[state.pipeline])}${fidelity})\n`
    + `print(compiled.${state.metric}.evaluate(${given.map((n) => `${n}=${state.values[n]}`).join(", ")}))\n`;
}

// A table as it stands, with full numbers. A text that a spreadsheet would run is kept a text.
function csv(table) {
  const cell = (node) => {
    const text = node.dataset.value !== undefined && node.dataset.value !== "NaN" ? node.dataset.value : node.textContent.replace(/\s+/g, " ").trim();
    const safe = /^[=+@\t-]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return [...table.rows].map((row) => [...row.cells].map(cell).join(",")).join("\r\n") + "\r\n";
}

const LOOKS = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "paint-order", "font-family", "font-size", "font-weight", "text-anchor", "opacity"];

// A chart on its own: what the style sheet gives it becomes its own attributes.
function ownSvg(svg) {
  const copy = svg.cloneNode(true), from = [svg, ...svg.querySelectorAll("*")], to = [copy, ...copy.querySelectorAll("*")];
  from.forEach((node, i) => {
    const style = getComputedStyle(node);
    for (const name of LOOKS) to[i].setAttribute(name, style.getPropertyValue(name));
    for (const name of ["class", "style", "tabindex", "role", "id"]) to[i].removeAttribute(name);
  });
  const [x, y, width, height] = svg.getAttribute("viewBox").split(/\s+/).map(Number);
  const back = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of Object.entries({ x, y, width, height, fill: getComputedStyle(document.body).backgroundColor })) back.setAttribute(name, value);
  copy.prepend(back);
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  return { text: new XMLSerializer().serializeToString(copy), width, height };
}

function save(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function png({ text, width, height }) {
  const address = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" })), image = new Image(), scale = Math.min(3, 8000 / Math.max(width, height));
  return new Promise((resolve, reject) => {
    image.onload = () => {
      const canvas = h("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      URL.revokeObjectURL(address);
      canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no picture"))), "image/png");
    };
    image.onerror = () => reject(new Error("no picture"));
    image.src = address;
  });
}

const CHARTS = { bars: "stacked bars", tpotload: "time per token over the rate", ttftload: "time to first token over the rate", roofline: "roofline", curve: "curve", graph: "graph" };
const COPIES = [
  ["link", "the address of this view"], ["latex", "formula as LaTeX"], ["python", "formula as a Python function"], ["call", "Python call of this number"],
  ["formula", "command: formula"], ["report", "command: report of this view"],
  ["csv-pipelines", "pipelines as CSV"], ["csv-machines", "machines as CSV"], ["csv-ops", "operations as CSV"], ["csv-loadtable", "load as CSV"], ["csv-plans", "plans of the system as CSV"],
  ...Object.entries(CHARTS).flatMap(([id, name]) => [[`svg-${id}`, `${name} as SVG (a file)`], [`png-${id}`, `${name} as PNG (a file)`]]),
];

async function copyText(text) {
  try { await navigator.clipboard.writeText(text); return true; } catch { /* no permission: the old way */ }
  const field = h("textarea", { class: "unseen" }, text), focused = document.activeElement;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused.focus({ preventScroll: true });
  return done;
}

async function copyWanted() {
  const what = $("copy").value, [kind, id] = what.split("-"), one = variant(), say = (t) => { $("copied").textContent = t; };
  if (document.body.hasAttribute("aria-busy")) { say("not yet: it is being derived"); return; }
  if (!DATA || $("workspace").hidden || !works(state.pipeline)) { say("nothing to copy here"); return; }
  finish();
  if (kind === "svg" || kind === "png") {
    const svg = $(id).querySelector("svg");
    if (!svg) { say("there is no such picture here"); return; }
    const found = ownSvg(svg), name = `${chosen.model.replace(/[^\w.-]+/g, "-")}-${id}.${kind}`;
    save(kind === "svg" ? new Blob([found.text], { type: "image/svg+xml" }) : await png(found), name);
    say(`saved ${name}`);
    return;
  }
  if (kind === "latex" || kind === "python") say("writing it …");
  const text = await {
    link: () => location.href, latex: async () => (await one.written(state.metric)).latex, python: async () => (await one.written(state.metric)).python, call: pythonCall,
    formula: () => commands().formula, report: () => commands().report, csv: () => csv($(id)),
  }[kind]();
  say(!text ? "this metric has none" : (await copyText(text)) ? "copied" : "the browser did not let it copy");
  $("copied").dataset.text = text || "";
}
