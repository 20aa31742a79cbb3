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
  const touch = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  const nodes = [...document.querySelectorAll("#graph g.node")], rect = (e) => e.getBoundingClientRect();
  const shares = nodes.map((n) => [n, n.querySelector(".badge")]).filter(([, b]) => b && b.textContent);
  const texts = [...document.querySelectorAll("#graph g.edge text")];
  const found = [];
  for (const [own, share] of shares) {
    const others = nodes.filter((n) => n !== own).flatMap((n) => [...n.querySelectorAll("path, polygon, ellipse, text")]);
    for (const other of [...others, ...texts])
      if (touch(rect(share), rect(other))) found.push([share.textContent, other.textContent || other.closest("g.node").textContent]);
  }
  return { shares: shares.length, found };
}"""


# A dense step beside its caches; folded parts of a convolution network, which also say a time.
@pytest.mark.parametrize(("model", "passes"), [("mixtral-8x7b", ""), ("sd-1.5-unet", "fuse")])
def test_no_share_is_hidden(model: str, passes: str, opening: Callable[..., Opened]) -> None:
    page = opening(report(model, "h200", passes).html)
    seen = page.page.evaluate(TOUCHING)
    assert seen["shares"] > 15
    assert seen["found"] == []
    page.clean()
