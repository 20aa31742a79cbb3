"""What tests of the explorer share: a server, a tab of a browser, and what Python says.

Numbers are compared with Python's; ``benchmarks/explorer.py`` does so for many more.
"""

from __future__ import annotations

import http.client
import math
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import costgraph as cg
from costgraph.errors import CostgraphError

MODEL = "llama-3.2-1b"
TOKEN = "token-of-the-tests"
METRICS = ("ttft", "tpot", "latency", "throughput", "memory", "energy", "cost_per_token")
HOSTILE = "</script><img src=x onerror=alert(1)>"
CONFIG = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 1000,
    "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
}  # fmt: skip
#: While a slider moves parts out of sight have no text; tests read all of them.
LAID_OUT = """for (const part of document.querySelectorAll('main section')) {
  part.style.contentVisibility = 'visible';
}"""


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
