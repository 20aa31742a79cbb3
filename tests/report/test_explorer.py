"""The explorer: its server, its page in a browser, and the same page as files.

The numbers are compared with Python's; ``benchmarks/explorer.py`` does so for many more.
"""

from __future__ import annotations

import http.client
import json
import math
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

import costgraph as cg
from costgraph.cli import main
from costgraph.errors import CostgraphError, InputError
from costgraph.showing.explorer.catalog import Start
from costgraph.showing.explorer.parts import Asked, part
from tests.report.conftest import LAID_OUT

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
pytestmark = pytest.mark.slow

MODEL = "llama-3.2-1b"
TOKEN = "token-of-the-tests"
METRICS = ("ttft", "tpot", "latency", "throughput", "memory", "energy", "cost_per_token")
HOSTILE = "</script><img src=x onerror=alert(1)>"


@dataclass
class Server:
    """A server in a thread."""

    port: int
    token: str = TOKEN

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        given = {
            "Cookie": f"costgraph-{self.port}={self.token}",
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        connection.request(method, path, body, given)
        answer = connection.getresponse()
        found = answer.status, answer.read().decode()
        connection.close()
        return found


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    import socket

    from costgraph.showing.explorer.server import application

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # so that nobody is refused before the thread runs
    config = uvicorn.Config(application(TOKEN, Start(MODEL)), log_level="critical", lifespan="off")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    yield Server(listener.getsockname()[1])
    running.should_exit = True
    thread.join(10)
    listener.close()
    assert not thread.is_alive()


@dataclass
class Tab:
    """A page with what went wrong in it, and what it asked for."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def go(self, address: str) -> None:
        self.page.goto(address)
        self.page.evaluate(LAID_OUT)
        self.ready()

    def choose(self, **state: Any) -> None:
        """Another state by the address alone."""
        text = urlencode([(k, v) for k, given in state.items() for v in given])
        self.page.evaluate(
            "text => { delete document.documentElement.dataset.ready; location.hash = text; }",
            text.replace("set_", "set."),
        )
        self.ready()

    def ready(self) -> None:
        self.page.wait_for_selector("html[data-ready]")
        self.page.wait_for_function("() => !document.body.hasAttribute('aria-busy')")
        self.page.wait_for_selector("html[data-drawn]")

    def cards(self) -> dict[str, float]:
        found: dict[str, float] = self.page.eval_on_selector_all(
            "#cards [data-metric]",
            "all => Object.fromEntries(all.map(x => [x.dataset.metric, Number(x.dataset.value)]))",
        )
        return found

    def clean(self, start: str) -> None:
        assert self.errors == []
        assert [u for u in self.requests if not u.startswith((start, "blob:"))] == []


@pytest.fixture
def tabs(browser: Any) -> Iterator[Callable[..., Tab]]:
    context = browser.new_context(viewport={"width": 1400, "height": 900})

    def made() -> Tab:
        tab = Tab(context.new_page())
        tab.page.on("pageerror", lambda e: tab.errors.append(str(e)))
        tab.page.on(
            "console",
            lambda m: tab.errors.append(m.text) if m.type in ("error", "warning") else None,
        )
        tab.page.on("dialog", lambda d: (tab.errors.append("dialog"), d.dismiss()))
        tab.page.on("request", lambda r: tab.requests.append(r.url))
        return tab

    yield made
    context.close()


def expected(
    model: Any, on: str, passes: str, values: dict[str, int], **how: str
) -> dict[str, float]:
    compiled = cg.compile(model, on, passes, **how)
    found = {}
    for metric in METRICS:
        try:
            formula = getattr(compiled, metric)
        except CostgraphError:
            continue
        names = {s.name for s in formula.symbols}
        if names <= set(values):
            found[metric] = float(formula.evaluate(**{k: values[k] for k in names}))
    return found


def agree(shown: dict[str, float], wanted: dict[str, float]) -> None:
    assert wanted
    for metric, value in wanted.items():
        assert math.isclose(shown[metric], value, rel_tol=1e-9), metric


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


CONFIG = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 1000,
    "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
}  # fmt: skip


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
        arg=HOSTILE.rpartition("/")[2],
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


def test_an_exported_graph_is_dropped(server: Server) -> None:
    pytest.importorskip("onnx")
    data = (Path(__file__).parents[1] / "importers" / "data" / "tiny-encoder.onnx").read_bytes()
    origin = f"http://127.0.0.1:{server.port}"
    status, text = server.ask("/files?name=../../up.onnx", "POST", data, Origin=origin)
    assert (status, json.loads(text)) == (200, {"model": "up"})
    status, text = server.ask("/files?name=bad.onnx", "POST", b"x", Origin=origin)
    assert status == 400
    assert json.loads(text)["error"].startswith("'bad.onnx'")  # not what it was called for reading
    status, text = server.ask("/part.js?kind=numbers&model=up&on=h100&passes=&fidelity=ideal")
    assert status == 200
    assert '"error"' not in text
    assert '"latency"' in text


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


def test_how_far_plans_are_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from costgraph.showing.explorer.dropped import Dropped
    from costgraph.showing.explorer.server import Parts
    from costgraph.showing.report import plans

    parts, asked, seen = Parts(Dropped()), Asked("plans", "gpt2", "2xh100", "fuse"), []

    def compiling(*given: Any, **how: Any) -> None:
        seen.append(parts.far(asked))
        raise InputError("not now")

    monkeypatch.setattr(plans, "compile", compiling)
    assert '"not now"' in parts.get(asked)
    assert seen == [(i, 4) for i in range(4)]
    assert parts.far(asked) == (0, 0)


def test_other_sites_get_nothing(server: Server) -> None:
    own = f"http://127.0.0.1:{server.port}"
    good = server.ask("/catalog.js")
    assert good[0] == 200
    for path in ("/", "/catalog.js", "/part.js?kind=numbers&model=gpt2&on=h100", "/explorer.js"):
        assert server.ask(path, Host="evil.example")[0] == 421  # a name rebound to 127.0.0.1
        assert server.ask(path, Sec_Fetch_Site="cross-site")[0] == 403
        assert server.ask(path, Sec_Fetch_Site="same-site")[0] == 403  # another port
        assert server.ask(path, Cookie="")[0] == 403
        assert server.ask(path, Cookie=f"costgraph-{server.port}=wrong")[0] == 403
    post = ("/files?name=config.json", "POST", b"{}")
    assert server.ask(*post)[0] == 403
    assert server.ask(*post, Origin="http://evil.example")[0] == 403
    assert server.ask(*post, Origin="null")[0] == 403
    assert server.ask(*post, Origin=own)[0] == 400  # read, and no configuration
    large = server.ask("/files?name=config.json", "POST", b" " * (4 * 2**20 + 1), Origin=own)
    assert large[0] == 400
    assert "larger than 4 MiB" in large[1]
    assert server.ask("/pipeline?text=" + "x" * 20_000)[0] == 200
    assert server.ask("/part.js?kind=numbers&model=" + "x" * 20_000)[0] == 414
    for path in ("/../pyproject.toml", "/%2e%2e/pyproject.toml", "/assets/../server.py", "/x"):
        assert server.ask(path)[0] == 404
    assert server.ask("/?token=" + TOKEN, Cookie="")[0] == 200


@pytest.mark.parametrize(
    ("model", "on", "passes"),
    [
        ("{file}", "h100", ""),
        ("gpt2", "{file}", ""),
        ("gpt2", "8x{file}", ""),
        ("gpt2", "h100+{file}", ""),
        ("llama-3-8b", "h100", "speculative{{draft={file}}}"),
        ("gpt2", "h100", "fuse," * 5000),
        ("gpt2", "\0", HOSTILE),
    ],
)
def test_no_text_of_a_request_reaches_the_disk(
    model: str, on: str, passes: str, tmp_path: Path
) -> None:
    for name, text in (
        ("model.json", json.dumps(CONFIG)),
        ("device.toml", (Path(cg.hardware.__file__).parent / "devices" / "h100.toml").read_text()),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
    file = tmp_path / ("device.toml" if "{file}" in on else "model.json")
    given = [t.format(file=file) if "{file}" in t else t for t in (model, on, passes)]
    text = part(Asked("numbers", *given))
    value = json.loads(text[text.index(", {") + 2 : text.rindex(", [")])
    assert set(value) == {"error"}
    assert "\n" not in value["error"]
    assert "<" not in text.replace("\\u003c", "")


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


def test_a_site_holds_loads_and_plans(tmp_path: Path, tabs: Callable[..., Tab]) -> None:
    folder = tmp_path / "site"
    arguments = ["site", "-o", str(folder), "--models", "gpt2", "--on", "h100,2xh100"]
    arguments += ["--passes", "fuse", "--jobs", "1", "--plans"]
    assert main(arguments) == 0
    tab = tabs()
    tab.go((folder / "index.html").as_uri())
    tab.choose(model=["gpt2"], on=["h100", "2xh100"], machine=["1"], plans=["1"])
    tab.page.wait_for_selector("#loadtable [data-load=ttft]")
    tab.page.wait_for_selector("#plans [data-plan]")
    assert tab.page.locator("#plans tbody tr").count() == 4  # tp, dp, and stages in two ways
    tab.page.check("#on-0")
    tab.page.wait_for_function("() => document.getElementById('plans-part').hidden")
    tab.clean("file://")


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


def test_a_site_needs_no_server(tmp_path: Path, tabs: Callable[..., Tab], capsys: Any) -> None:
    folder = tmp_path / "a site"
    arguments = [
        "site",
        "-o",
        str(folder),
        "--models",
        "mixtral-8x7b,dit-xl-2",
        "--on",
        "a6000,8xh100",
    ]
    both = "fuse,parallel{tp=4,dp=2}"
    arguments += ["--passes", "", "--passes", both, "--jobs", "1"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "a6000 has 1 device" in said.err
    assert re.search(r"wrote .*: \d+ files", said.out)
    tab = tabs()
    tab.go((folder / "index.html").as_uri())
    values = {"B": 3, "S": 100, "N": 20, "T": 300}
    tab.choose(
        model=["mixtral-8x7b"], on=["8xh100", "a6000"], passes=["", both],
        pipeline=["1"], **{f"set_{k}": [v] for k, v in values.items()},
    )  # fmt: skip
    agree(tab.cards(), expected("mixtral-8x7b", "8xh100", both, values))
    assert "a6000 has 1 device" in tab.page.inner_text("#machines")
    assert "8xh100" in tab.page.inner_text("#notes")
    tab.page.wait_for_selector("#formula math")
    tab.page.wait_for_selector("#graph svg")
    tab.choose(model=["mixtral-8x7b"], on=["a6000"], passes=[""])
    assert "8xh100" not in tab.page.inner_text("#notes")  # which it said beside the other
    tab.clean("file://")
    with pytest.raises(SystemExit):
        main(arguments)
    assert "not an empty folder" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["a site"]


def test_the_command_serves_and_stops(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "costgraph", "serve", "gpt2", "--on", "h100", "--no-browser"]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]{43})", address)
        assert found is not None
        server = Server(int(found[1]), found[2])
        status, text = server.ask("/catalog.js")
        assert status == 200
        assert '"start":{"model":"gpt2"' in text
        # In the midst of a derivation, too.
        waiting = threading.Thread(
            target=lambda: server.ask(
                "/part.js?kind=formulas&model=gpt2&on=h100&fidelity=ideal&metric=latency"
            )
        )
        waiting.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)
        waiting.join(15)
    assert (process.returncode, err) == (0, "")
    assert out.endswith("stopped\n")
    assert list(tmp_path.iterdir()) == []
