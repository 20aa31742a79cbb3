// The whole graph in small beside a picture that is larger than its place: what is seen of it is framed,
// and moves with the pointer or the arrow keys.
const MAP = { wide: 150, tall: 0.6, least: 1.25 };
let mapped = null; // the picture, its small copy's frame, and a box for each node

function buildMap() {
  mapped = null;
  const place = $("minimap"), svg = $("graph").querySelector("svg");
  place.replaceChildren();
  place.hidden = true;
  if (!svg) return;
  const [x, y, width, height] = svg.getAttribute("viewBox").split(/\s+/).map(Number), inner = svg.querySelector("g");
  const boxes = new Map([...svg.querySelectorAll("g.node")].map((node) => {
    const box = node.getBBox();
    return [node, s("rect", { x: box.x, y: box.y, width: box.width, height: box.height })];
  }));
  const frame = s("rect", { class: "view", rx: 2 });
  const small = s("svg", { viewBox: `${x} ${y} ${width} ${height}`, "aria-hidden": "true" }, s("g", { transform: inner ? inner.getAttribute("transform") : null }, ...boxes.values()), frame);
  place.append(small);
  mapped = { svg, small, frame, boxes, x, y, width, height };
  frameMap();
}

// What is seen, in the picture's own units; the map is there only where that is not all of it.
function frameMap() {
  if (!mapped) return;
  const place = $("graph"), map = $("minimap"), { svg, small, frame, x, y, width, height } = mapped;
  const outer = place.getBoundingClientRect(), box = svg.getBoundingClientRect();
  if (!box.width || !outer.width) return;
  map.hidden = box.width <= outer.width * MAP.least && box.height <= outer.height * MAP.least;
  if (map.hidden) return;
  const scale = Math.min(Math.min(MAP.wide, outer.width / 4) / width, (MAP.tall * outer.height) / height);
  small.setAttribute("width", Math.max(width * scale, 12));
  small.setAttribute("height", height * scale);
  const unit = width / box.width, clamp = (v, least, most) => Math.min(Math.max(v, least), most);
  const left = clamp((outer.left - box.left) * unit, 0, width), top = clamp((outer.top - box.top) * unit, 0, height);
  const right = clamp((outer.left + place.clientWidth - box.left) * unit, 0, width), bottom = clamp((outer.top + place.clientHeight - box.top) * unit, 0, height);
  for (const [name, value] of [["x", x + left], ["y", y + top], ["width", right - left], ["height", bottom - top], ["stroke-width", 1.5 / scale]]) frame.setAttribute(name, value);
}

function paintMap() {
  if (!mapped) return;
  for (const [node, box] of mapped.boxes) {
    const name = node.getAttribute("class");
    if (box.getAttribute("class") !== name) box.setAttribute("class", name);
    box.style.opacity = node.style.opacity;
  }
}

// The middle of what is seen goes to a place of the map.
function moveTo(clientX, clientY) {
  const box = mapped.small.getBoundingClientRect(), whole = mapped.svg.getBoundingClientRect(), place = $("graph"), outer = place.getBoundingClientRect();
  const left = whole.left - outer.left + place.scrollLeft, top = whole.top - outer.top + place.scrollTop;
  place.scrollTo({
    left: left + ((clientX - box.left) / box.width) * whole.width - place.clientWidth / 2,
    top: top + ((clientY - box.top) / box.height) * whole.height - place.clientHeight / 2, behavior: "instant",
  });
}

function wireMap() {
  const map = $("minimap"), place = $("graph");
  let held = false;
  map.addEventListener("pointerdown", (e) => { if (e.button || !mapped) return; held = true; map.setPointerCapture(e.pointerId); moveTo(e.clientX, e.clientY); });
  map.addEventListener("pointermove", (e) => { if (held && mapped) moveTo(e.clientX, e.clientY); });
  for (const end of ["pointerup", "pointercancel"]) map.addEventListener(end, () => { held = false; });
  map.addEventListener("keydown", (e) => {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], PageUp: [0, -4], PageDown: [0, 4] }[e.key];
    if (by) place.scrollBy({ left: (by[0] * place.clientWidth) / 4, top: (by[1] * place.clientHeight) / 4, behavior: "instant" });
    else if (e.key === "Home" || e.key === "End") place.scrollTo({ left: 0, top: e.key === "Home" ? 0 : place.scrollHeight, behavior: "instant" });
    else if (e.key === "+" || e.key === "-") setZoom(e.key === "+" ? zoom * 1.25 : zoom / 1.25);
    else return;
    e.preventDefault();
  });
  place.addEventListener("scroll", frameMap, { passive: true });
  new ResizeObserver(frameMap).observe(place);
}
