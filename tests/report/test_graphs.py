"""The picture of a graph in a browser: what is written at a box is to be read.

Needs the extra ``report-test`` and a Chromium; skipped otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from costgraph.showing.draw.render import can_render
from costgraph.showing.report import report
from tests.report.conftest import Opened

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_render("svg"), reason="nothing here draws SVG"),
    pytest.mark.usefixtures("unprinted", "unloaded"),
]

#: Pairs of a share and what touches it: another box, another share, what is written at a line.
TOUCHING = """() => {
  const touch = (a, b) =>
    a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  const all = (at, what) => [...at.querySelectorAll(what)], rect = (e) => e.getBoundingClientRect();
  const nodes = all(document, "#graph g.node"), texts = all(document, "#graph g.edge text");
  const name = (e) => e.textContent || e.closest("g.node").textContent;
  const shares = nodes.map((n) => [n, n.querySelector(".badge")]);
  const told = shares.filter(([, b]) => b && b.textContent);
  const found = [];
  for (const [own, share] of told) {
    const boxes = nodes.filter((n) => n !== own);
    for (const other of [...boxes.flatMap((n) => all(n, "path, polygon, ellipse, text")), ...texts])
      if (touch(rect(share), rect(other))) found.push([share.textContent, name(other)]);
  }
  return { shares: told.length, found };
}"""


# A dense step beside its caches; folded parts of a convolution network, which also say a time.
@pytest.mark.parametrize(("model", "passes"), [("mixtral-8x7b", ""), ("sd-1.5-unet", "fuse")])
def test_no_share_is_hidden(model: str, passes: str, opening: Callable[..., Opened]) -> None:
    page = opening(report(model, "h200", passes).html)
    seen = page.page.evaluate(TOUCHING)
    assert seen["shares"] > 15
    assert seen["found"] == []
    page.clean()
