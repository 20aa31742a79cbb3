"""The explorer in a browser, served: its numbers against Python's, its controls, its access."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import costgraph as cg
from tests.report.exploring import CONFIG, HOSTILE, MODEL, Server, Tab, agree, expected

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
pytestmark = pytest.mark.slow


INT4 = "fuse,quantize{weights=int4}"
CASES = (
    (MODEL, "h100", INT4, {"B": 7, "S": 900, "N": 33, "T": 5000}),
    ("mixtral-8x7b", "8xh100", "fuse,parallel{tp=8}", {"B": 3, "S": 64, "N": 9, "T": 777}),
    ("dit-xl-2", "a100", "", {"B": 4, "K": 50}),
)


def test_numbers_follow_the_choice_and_equal_pythons(
    server: Server, tabs: Callable[..., Tab]
) -> None:
    tab = tabs()
    tab.go(server.address)
    assert "token" not in tab.page.url
    for model, on, passes, values in CASES:
        tab.choose(
            model=[model], on=[on], passes=[passes], **{f"set_{k}": [v] for k, v in values.items()}
        )
        agree(tab.cards(), expected(model, on, passes, values))
        assert tab.page.is_hidden("#failure")
    assert set(tab.cards()) == {"latency", "memory", "flops", "bytes", "energy"}  # no tokens
    assert "token" not in tab.page.inner_text("#cards")
    # A region folded into one vertex has the time and the share of its operations.
    tab.page.wait_for_selector("#graph svg")
    tab.page.select_option("#graph-level", "folded")
    badges = "#graph g.node.op .badge"
    tab.page.wait_for_function(
        f"() => [...document.querySelectorAll('{badges}')].some(x => /s 9\\d/.test(x.textContent))"
    )
    texts = tab.page.locator(badges).all_text_contents()
    shares = [float(found[1]) for t in texts if (found := re.search(r"([\d.]+)\s%", t))]
    assert math.isclose(sum(shares), 100, abs_tol=0.1 * len(texts))
    tab.clean(f"http://127.0.0.1:{server.port}/")


def test_machines_are_compared_and_what_does_not_fit_says_why(
    server: Server, tabs: Callable[..., Tab]
) -> None:
    tab, passes = tabs(), "fuse,parallel{tp=8}"
    tab.go(server.address)
    tab.choose(
        model=["mixtral-8x7b"], on=["8xh100", "h100", "nosuch"], passes=["", passes], pipeline=["1"]
    )
    rows = tab.page.locator("#machines tbody tr")
    assert "8 that the degrees multiply to" in rows.nth(1).inner_text()
    assert "nosuch" in rows.nth(2).inner_text()
    values = {"B": 1, "S": 1024, "N": 256, "T": 2048}
    agree(tab.cards(), expected("mixtral-8x7b", "8xh100", passes, values))
    tab.page.check("#on-1")
    tab.page.wait_for_function("() => document.querySelector('#show-0').checked")
    agree(tab.cards(), expected("mixtral-8x7b", "h100", "", values))
    tab.clean(f"http://127.0.0.1:{server.port}/")


def test_everything_by_keyboard_and_the_address_keeps_it(
    server: Server, tabs: Callable[..., Tab]
) -> None:
    tab = tabs()
    tab.go(server.address)
    page, keys = tab.page, tab.page.keyboard
    page.focus("#model")
    keys.type(MODEL)
    keys.press("Enter")
    tab.ready()
    page.focus("#machine")
    keys.type("2xh100")
    keys.press("Enter")
    tab.ready()
    page.focus("#pipeline-add")
    keys.press("Enter")
    page.wait_for_selector("#palette[open]")
    page.wait_for_selector("#palette-chosen h4")  # the present pipeline is read
    keys.type("narrower formats")
    keys.press("Tab")
    keys.press("Tab")
    assert page.evaluate("document.activeElement.dataset.pass") == "quantize"
    keys.press("Enter")
    # Who added it goes on with its options.
    assert page.evaluate("document.activeElement.id") == "option-1-preset"
    page.focus("#palette-search")
    keys.press("Control+A")
    keys.type("page-kv")
    keys.press("Enter")  # the first that is found
    assert page.inner_text("#palette-chosen > :last-child h4") == "page-kv"
    page.click("[aria-label='remove page-kv']")
    page.focus("#option-1-weights")
    keys.type("int4")
    page.focus("#palette-text")
    keys.press("End")
    keys.type(",fuze")
    page.wait_for_function(
        "() => document.getElementById('palette-error').textContent.includes('fuze')"
    )
    assert page.is_disabled("#palette-use")
    for _ in ",fuze":
        keys.press("Backspace")
    page.wait_for_selector("#palette-use:not([disabled])")
    page.focus("#palette-use")
    keys.press("Enter")
    tab.ready()
    page.wait_for_function("() => document.querySelectorAll('#pipelines tbody tr').length === 3")
    page.focus("#value-B")
    keys.press("Control+A")
    keys.type("5")
    page.wait_for_function("() => location.hash.includes('set.B=5')")
    assert "passes=fuse%2Cquantize%7Bweights%3Dint4%7D" in page.url
    before = tab.cards()
    values = {"B": 5, "S": 1024, "N": 256, "T": 2048}
    agree(before, expected(MODEL, "2xh100", "fuse,quantize{weights=int4}", values))
    page.reload()
    tab.ready()
    assert tab.cards() == before
    page.go_back()
    page.wait_for_function("() => document.querySelectorAll('#pipelines tbody tr').length === 2")
    tab.clean(f"http://127.0.0.1:{server.port}/")


def test_two_tabs_do_not_know_each_other(server: Server, tabs: Callable[..., Tab]) -> None:
    one, other = tabs(), tabs()
    one.go(server.address)
    other.go(f"http://127.0.0.1:{server.port}/#model=llama-3.2-1b&on=h100&passes=&set.B=2&set.N=9")
    one.page.fill("#value-B", "9")
    one.page.wait_for_function("() => location.hash.includes('set.B=9')")
    assert other.page.input_value("#value-B") == "2"
    agree(other.cards(), expected(MODEL, "h100", "", {"B": 2, "S": 1024, "N": 9, "T": 2048}))
    one.clean(f"http://127.0.0.1:{server.port}/")
    other.clean(f"http://127.0.0.1:{server.port}/")


def test_files_are_dropped_and_hostile_names_are_only_text(
    server: Server, tabs: Callable[..., Tab]
) -> None:
    tab = tabs()
    tab.go(server.address)

    def give(*given: tuple[str, bytes]) -> None:
        tab.page.set_input_files(
            "#file", [{"name": n, "mimeType": "text/plain", "buffer": data} for n, data in given]
        )

    for name, data, said in (
        ("config.json", b"{", "not readable as JSON"),
        ("config.json", b"[1]", "not a JSON object"),
        ("config.json", b'{"model_type": "nosuch"}', "nosuch"),
        ("x.onnx", b"\0\1\2", "ONNX"),
        ("model.safetensors.index.json", b"{}", "together with its config.json"),
        (f"{HOSTILE}.exe", b"", "what can be read"),
    ):
        give((name, data))
        tab.page.wait_for_function(
            "said => document.getElementById('file-error').textContent.includes(said)", arg=said
        )
    tab.errors.clear()  # that the browser lists refused requests is as it should be
    index = {"metadata": {"total_size": 12345}, "weight_map": {}}
    give(
        ("model.safetensors.index.json", json.dumps(index).encode()),
        (f"{HOSTILE}.json", json.dumps(CONFIG | {"_name_or_path": "/etc/passwd"}).encode()),
    )
    tab.page.wait_for_function(
        "name => document.getElementById('model-name').textContent === name && "
        "!document.body.hasAttribute('aria-busy')",
        arg=f"{HOSTILE.rpartition('/')[2]} with its index",
    )
    assert "12,345 bytes of tensors" in tab.page.text_content("#assumptions")
    values = {"B": 1, "S": 1024, "N": 256, "T": 2048}
    agree(tab.cards(), expected(dict(CONFIG), "h100", "", values))
    for model, on, passes in ((HOSTILE, "h100", ""), ("gpt2", HOSTILE, ""), ("gpt2", "h100", "{")):
        tab.choose(model=[model], on=[on], passes=[passes])
        assert tab.page.inner_text("#failure")
    # What an address holds in vain is said; what would mean nothing is not taken.
    bad = {
        "figure.h100.BW": "1e-300",
        "figure.__proto__.toString": "3",
        "set.B": "1.5",
        "set.Q": "4",
    }
    tab.choose(model=[MODEL], on=["h100"], passes=[""], **{k: [v] for k, v in bad.items()})
    said = tab.page.inner_text("#failure")
    assert all(f"{name}={text}" in said for name, text in bad.items())
    agree(tab.cards(), expected(MODEL, "h100", "", values))
    assert tab.page.locator("img").count() == 0
    tab.clean(f"http://127.0.0.1:{server.port}/")


#: Two moves of a slider, and what stands in the page right after the numbers of each are drawn.
#: Every look at the clock finds a turn over, so that turns are as short as they can be.
MOVES = """async () => {
  const slider = document.getElementById('value-S-slider'), now = performance.now, seen = [];
  const post = MessagePort.prototype.postMessage;
  let clock = 0, turns = 0;
  performance.now = () => (clock += 1000);
  MessagePort.prototype.postMessage = function (...given) { turns += 1; post.apply(this, given); };
  const of = (place) => Number(document.querySelector(place).dataset.value);
  const drawn = () => 'drawn' in document.documentElement.dataset;
  const look = () => [of('#cards [data-metric=ttft]'), of('#loadtable [data-load=ttft]'), drawn()];
  for (let i = 0; i < 2; i++) {
    slider.value = Number(slider.value) + 1;
    slider.dispatchEvent(new Event('input', { bubbles: true }));
    await new Promise((done) => requestAnimationFrame(done));
    seen.push(look());
  }
  while (!drawn()) await new Promise((done) => setTimeout(done));
  Object.assign(performance, { now });
  MessagePort.prototype.postMessage = post;
  return { seen, last: look(), turns };
}"""


def test_numbers_do_not_wait_for_what_takes_longer(
    server: Server, tabs: Callable[..., Tab]
) -> None:
    tab = tabs()
    tab.go(server.address)
    tab.choose(model=[MODEL], on=["h100"], passes=["", "fuse"], seqs=["1000"], rate=["1"])
    tab.page.wait_for_selector("#loadtable [data-load=ttft]")
    tab.page.wait_for_selector("#formula math")
    tab.page.wait_for_selector("#graph svg")
    tab.ready()
    first = float(tab.page.get_attribute("#loadtable [data-load=ttft]", "data-value"))
    found = tab.page.evaluate(MOVES)
    wanted = [cg.compile(MODEL, "h100").ttft.evaluate(B=1, S=S) for S in (1536, 2048)]
    for (ttft, load, drawn), value in zip(found["seen"], wanted, strict=True):
        assert math.isclose(ttft, value, rel_tol=1e-9)
        assert load == first  # it follows later
        assert not drawn
    assert found["last"][1] != first
    assert found["turns"] > 300  # samples of curves and loads each may be the last of a turn
    # What two moves left is what the address alone gives.
    tab.page.wait_for_function("() => location.hash.includes('set.S=2048')")
    tab.page.reload()
    tab.page.wait_for_selector("#loadtable [data-load=ttft]")
    tab.ready()
    again = float(tab.page.get_attribute("#loadtable [data-load=ttft]", "data-value"))
    assert again == found["last"][1]
    tab.clean(f"http://127.0.0.1:{server.port}/")


def test_a_server_under_load_and_plans_follow_the_choice(
    server: Server, tabs: Callable[..., Tab]
) -> None:
    from costgraph.asking.serving import ChunkedPrefill, Lengths, Queue, StepTimes

    tab = tabs()
    tab.go(server.address)
    page = tab.page
    tab.choose(
        model=["gpt2"], on=["2xh100"], passes=["fuse,parallel{tp=2}"], set_S=[300], set_N=[50],
        rate=["40"], seqs=["12"], chunk=["256"], policy=["nosuch"],
    )  # fmt: skip
    assert "policy=nosuch" in page.inner_text("#failure")
    page.wait_for_selector("#loadtable [data-load=ttft]")
    compiled = cg.compile("gpt2", "2xh100", "fuse,parallel{tp=2}")
    queue = Queue(StepTimes(compiled, 350), ChunkedPrefill(12, 256), Lengths(300), Lengths(50))
    steady = queue.at(40)
    for name, wanted in (("largest", queue.stable_rate), ("ttft", steady.ttft),
                         ("tpot", steady.tpot), ("latency", steady.latency)):  # fmt: skip
        shown = float(page.get_attribute(f"#loadtable [data-load={name}]", "data-value"))
        assert math.isclose(shown, wanted, rel_tol=1e-9), name
    # By keyboard, and the address keeps it.
    page.focus("#load-seqs")
    page.keyboard.press("Control+A")
    page.keyboard.type("20")
    page.focus("#load-policy")
    page.keyboard.press("ArrowDown")
    page.wait_for_function(
        "() => location.hash.includes('seqs=20') && location.hash.includes('policy=continuous')"
    )
    assert "rate=40" in page.url
    page.evaluate(
        """() => {
      const far = document.getElementById('plans-far');
      new MutationObserver(() => { if (!far.hidden) document.body.dataset.far = 'seen'; })
        .observe(far, { attributes: true });
    }"""
    )
    assert page.is_hidden("#plans-far")
    assert page.is_hidden("#plans-by")
    page.focus("#plans-get")
    page.keyboard.press("Enter")
    page.wait_for_selector("#plans [data-plan]", timeout=60_000)
    assert page.locator("body[data-far=seen]").count() == 1
    assert page.is_hidden("#plans-far")
    assert page.is_visible("#plans-by")
    page.wait_for_function("() => location.hash.includes('plans=1')")
    page.focus("#plans button:not([disabled])")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('#pipelines tbody tr').length === 2")
    page.wait_for_function(
        "() => document.querySelectorAll('#loadtable [data-load=largest]').length === 2"
    )
    page.select_option("#copy", "report")
    page.click("#copy-do")
    page.wait_for_selector("#copied[data-text]")
    copied = page.get_attribute("#copied", "data-text")
    assert "--rate 40 --limit 20 --chunk 256 --policy continuous" in copied
    page.reload()
    tab.ready()
    assert page.input_value("#load-seqs") == "20"
    assert page.input_value("#load-policy") == "continuous"
    tab.clean(f"http://127.0.0.1:{server.port}/")


# Numbers, charts and tables of numbers that are to be seen outside the part that is redrawn first.
SEEN = """() => [...document.querySelectorAll('main :is([data-value], svg, math, tbody td)')]
    .filter(x => !x.closest('#numbers, .dash') && x.checkVisibility({ visibilityProperty: true }))
    .map(x => x.closest('[id]').id)"""


def test_nothing_of_another_choice_is_shown_or_copied(
    server: Server, tabs: Callable[..., Tab]
) -> None:
    tab = tabs()
    tab.go(f"{server.address}#model=gpt2&on=h100&passes=fuse&passes=fuse,parallel{{tp=1}}")
    page = tab.page
    page.wait_for_selector("#loadtable [data-load=largest]")
    page.wait_for_selector("#load:not([aria-busy])")
    page.wait_for_selector("#graph svg")
    parts = {"load-cards", "load-why", "loadtable", "curve", "roofline", "ops", "graph", "tpotload"}
    assert parts <= set(page.evaluate(SEEN))

    # Another pipeline of the page: at once nothing but what is redrawn, even before a frame.
    seen = page.evaluate(
        f"() => {{ document.getElementById('show-1').click(); return ({SEEN})(); }}"
    )
    assert set(seen) <= {"formula"}  # of the new choice already
    page.wait_for_selector("#load:not([aria-busy])")
    page.wait_for_selector("#graph svg")
    assert parts <= set(page.evaluate(SEEN))

    # What a server derives: of another pipeline's load nothing is there until it comes.
    waiting: list[Any] = []
    page.route("**/part.js?kind=load*", lambda route: waiting.append(route))
    tab.choose(model=["gpt2"], on=["h100"], passes=["quantize{weights=int8}"])
    for place in ("load-cards", "load-why", "loadtable", "load-charts", "simulated"):
        assert not page.locator(f"#{place}").is_visible(), place
    assert page.input_value("#load-rate") == ""  # half of what another stood
    page.wait_for_timeout(50)
    (held,) = waiting
    held.continue_()
    page.wait_for_selector("#loadtable [data-load=largest]")
    page.wait_for_selector("#load:not([aria-busy])")

    # All of another model: neither seen nor copied, and gone where there is no answer.
    asked: list[Any] = []
    page.route("**/part.js?kind=numbers*", lambda route: asked.append(route))
    page.evaluate("() => { location.hash = 'model=opt-125m&on=h100&passes='; }")
    page.wait_for_function("() => document.body.hasAttribute('aria-busy')")
    for place in ("title", "facts", "cards", "pipelines", "formula", "curve"):
        assert not page.locator(f"#{place}").is_visible(), place
    page.select_option("#copy", "csv-pipelines")
    page.click("#copy-do")
    page.wait_for_function(
        "() => document.getElementById('copied').textContent.startsWith('not yet')"
    )
    (held,) = asked
    held.abort()
    page.wait_for_function("() => !document.body.hasAttribute('aria-busy')")
    assert "no answer" in page.text_content("#failure")
    assert not page.locator("#cards").is_visible()
    page.click("#copy-do")
    page.wait_for_function(
        "() => document.getElementById('copied').textContent === 'nothing to copy here'"
    )


AXE = "axe_playwright_python"


def test_layout_and_access(server: Server, tabs: Callable[..., Tab]) -> None:
    pytest.importorskip(AXE)
    axe = (files(AXE) / "axe.min.js").read_text(encoding="utf-8")
    tab = tabs()
    tab.go(server.address)
    tab.choose(
        model=[MODEL], on=["h100", "2xh100"], passes=["", "fuse,parallel{tp=2}"],
        machine=["1"], pipeline=["1"], plans=["1"],
    )  # fmt: skip
    page = tab.page
    page.wait_for_selector("#loadtable [data-load=ttft]")
    page.wait_for_selector("#plans [data-plan]", timeout=120_000)
    assert page.is_visible("#minimap")
    page.wait_for_selector("#graph svg")
    page.wait_for_selector("#formula math")
    page.evaluate(axe)

    def violations(place: str = "document") -> list[str]:
        found: list[str] = page.evaluate(
            f"axe.run({place}, {{resultTypes: ['violations']}}).then(r => "
            "r.violations.map(v => `${v.id}: ${v.nodes[0].html.slice(0, 200)}`))"
        )
        return found

    for width in (1400, 800, 390):
        page.set_viewport_size({"width": width, "height": 900})
        # Charts are drawn anew for their room, and pale until they are.
        page.evaluate("() => new Promise(r => requestAnimationFrame(() => setTimeout(r, 50)))")
        page.wait_for_selector("html[data-drawn]")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations() == []
    page.emulate_media(color_scheme="dark")
    assert violations() == []
    page.focus("#model")
    page.keyboard.type("llama")
    assert violations("'#chooser'") == []
    page.keyboard.press("Escape")
    page.click("#pipeline-add")
    page.wait_for_selector("#palette .option")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert violations("'#palette'") == []


def test_what_is_shown_is_copied(server: Server, tabs: Callable[..., Tab]) -> None:
    tab = tabs()
    tab.go(server.address)
    tab.choose(model=[MODEL], on=["h100"], passes=["fuse"], set_T=[77])
    page = tab.page

    def copied(what: str) -> str:
        page.evaluate("delete document.getElementById('copied').dataset.text")
        page.select_option("#copy", what)
        page.click("#copy-do")
        page.wait_for_selector("#copied[data-text]")
        return str(page.get_attribute("#copied", "data-text"))

    compiled = cg.compile(MODEL, "h100", "fuse")
    assert (
        copied("formula") == "costgraph formula llama-3.2-1b --on h100 --passes fuse --metric tpot"
    )
    call = copied("call")
    assert "tpot.evaluate(B=1, T=77)" in call
    assert "tpot" in copied("latex").lower() or "BW" in copied("latex")
    scope: dict[str, Any] = {}
    exec(copied("python"), scope)  # a function of our own making
    made = next(v for k, v in scope.items() if "tpot" in k.lower() and callable(v))
    stated = {s.name: float(v) for s, v in compiled.machine.bindings().items()}
    names = made.__code__.co_varnames[: made.__code__.co_argcount]
    values = {**stated, "B": 1, "T": 77}
    assert math.isclose(made(*(values[n] for n in names)), compiled.tpot.evaluate(B=1, T=77))
    rows = copied("csv-ops").strip().split("\r\n")
    assert rows[0].startswith("operation,kind,count")
    assert len(rows) == len(compiled.breakdown("decode", B=1, T=77)) + 1
    page.wait_for_selector("#graph svg")
    for kind, start in (
        ("svg-roofline", b"<svg"),
        ("png-curve", b"\x89PNG"),
        ("svg-graph", b"<svg"),
    ):
        page.select_option("#copy", kind)
        with page.expect_download() as download:
            page.click("#copy-do")
        assert Path(download.value.path()).read_bytes().startswith(start)
    tab.clean(f"http://127.0.0.1:{server.port}/")
