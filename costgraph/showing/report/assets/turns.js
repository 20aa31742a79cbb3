// Work in turns: none holds the page up for long, so that a slider's next move is never behind all of
// it. Messages, since they come as soon as the page has drawn and answered; timers wait longer.
const TURN = 8; // milliseconds
const turns = new MessageChannel();
let work = null, called = false;

function call() {
  if (!work || called) return;
  called = true;
  turns.port2.postMessage(null);
}
turns.port1.onmessage = () => { called = false; proceed(performance.now() + TURN); call(); };

// Goes on with the work until a moment; one turn at least.
function proceed(until) {
  while (work) {
    if (work.next().done) { work = null; if (!rested) document.documentElement.dataset.drawn = "true"; }
    if (performance.now() >= until) return;
  }
}

// Begins a work, instead of what was not done of the one before.
function begun(next) {
  interrupt();
  work = next;
  call();
}

function interrupt() {
  work = null;
  delete document.documentElement.dataset.drawn;
}
