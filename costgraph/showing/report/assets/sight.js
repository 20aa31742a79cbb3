// Parts out of sight rest while a slider moves: they are drawn once it rests, or as soon as they come
// near what is seen. Until then they are busy, and nothing of them is to be seen.
const RESTING = ["graph", "roofline", "ops", "curves", "load"];
const near = new Set();
let rested = false; // whether something waits to be drawn
const sight = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) near.add(target.id); else near.delete(target.id);
  }
  if (rested && entries.some((e) => e.isIntersecting)) update();
}, { rootMargin: "25% 0px" });

const isMoving = () => "moving" in document.documentElement.dataset;

// Whether a part waits; it is busy while it does.
function rests(id) {
  const waits = isMoving() && !near.has(id);
  if (waits) rested = true;
  if (waits || !LATER.includes(id)) busy(id, waits);
  return waits;
}

function wireSight() {
  for (const id of RESTING) sight.observe($(id));
}
