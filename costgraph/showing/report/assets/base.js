// Elements and numbers as text. Text from the data only ever becomes text nodes.
const $ = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "width%") node.style.width = `${value}%`;
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((c) => c !== null && c !== undefined));
  return node;
}
const put = (node, ...children) => node.replaceChildren(...children.flat().filter((c) => c !== null && c !== undefined));
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// MathML and SVG made by costgraph, escaped there: a text of a bundle gives a copy of its own.
const own = (text) => text();

function options(select, items, chosen) {
  select.replaceChildren(...items.map(([value, text]) => h("option", { value }, text)));
  const known = items.some(([value]) => String(value) === String(chosen));
  select.value = known ? chosen : items.length ? items[0][0] : "";
  return select.value;
}

const PREFIXES = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
const SMALL = [[1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"], [1e-12, "p"]];

function digits(value, count = 4) {
  const text = value.toPrecision(count);
  return text.includes("e") ? String(Number(text)) : text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

function scaled(value, unit, table) {
  const size = Number(Math.abs(value).toPrecision(4));
  const [scale, prefix] = table.find(([least]) => size >= least) || table[table.length - 1];
  return `${digits(value / scale)} ${prefix}${unit}`.trim();
}

function shown(value, unit) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return `0 ${unit}`.trim();
  if (unit === "token/s") return `${digits(value)} token/s`;
  if (unit === "USD/token") return `${digits(value * 1e6)} USD`;
  if (["s", "J", "J/token"].includes(unit)) {
    if (unit === "s") return scaled(value, unit, SMALL);
    return scaled(value, unit, Math.abs(value) < 1 ? SMALL : PREFIXES);
  }
  return scaled(value, unit === "byte" ? "B" : unit, PREFIXES);
}

const percent = (share) => (Number.isFinite(share) ? `${(100 * share).toFixed(1)} %` : "–");
const letter = (index) => (index < 26 ? String.fromCharCode(65 + index) : `P${index + 1}`);

const TITLES = {
  ttft: "time to first token", tpot: "time per output token", latency: "latency of the request",
  throughput: "throughput", memory: "peak memory", flops: "work of the request",
  bytes: "traffic of the request", energy: "energy of the request",
  energy_per_token: "energy per token", cost_per_token: "price per million tokens",
};

const HEADS = {
  ttft: "TTFT", tpot: "TPOT", latency: "latency", throughput: "throughput", memory: "memory",
  energy_per_token: "energy/token", cost_per_token: "price/M tokens",
};

// A figure of the device with its unit.
const figureText = (name, value) => shown(value, name.startsWith("F_") ? "FLOP/s" : name.startsWith("alpha_") ? "s" : "B/s");

// What stands over a column of a table; and a table whose heads stand where the numbers below them do.
const over = (text, about) => h("th", { scope: "col", ...about }, breakable(text));
function tabled(table, heads, rows) {
  const whole = rows.find((row) => row.children.length === heads.length);
  heads.forEach((head, i) => head.classList.toggle("number", Boolean(whole) && whole.children[i].classList.contains("number")));
  table.replaceChildren(h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows));
}

// Text that may be broken behind its commas and strokes, and before the options of a pass.
const breakable = (text) => text.split(/(?<=[,/])|(?=\{)/).flatMap((part, i) => (i ? [h("wbr"), part] : [part]));

function figureUnit(name) {
  if (name === "BW") return [1e9, "GB/s", "memory bandwidth"];
  if (name === "M") return [1e9, "GB", "memory capacity"];
  const [head, ...link] = name.split("_");
  if (head === "BW" && link.at(-1) === "memory") return [1e9, "GB/s", `memory ${link.slice(0, -1).join(" ")}, bandwidth`];
  if (head === "BW" && link.length) return [1e9, "GB/s", `link ${link.join(" ")}, bandwidth`];
  if (head === "alpha" && link.length) return [1e-6, "µs", `link ${link.join(" ")}, latency of a message`];
  if (!name.startsWith("F_")) return [1, "", name];
  const what = name.slice(2).replace(/_/g, " ");
  return [1e12, "TFLOP/s", /^(vector|special) /.test(what) ? `peak, ${what}` : `peak, ${what} matrix`];
}
