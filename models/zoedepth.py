"""ZoeDepth (Bhat et al., arXiv 2302.12288): distances as shares of bins that maps pull together."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Maker, Style
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.image import act, conv
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.models.depth import Depth
from costgraph.models.detecting import products
from costgraph.ops import Add, AsSequence
from costgraph.ops.arrays import Copy, Join
from costgraph.ops.maps import Cumulate, Map, Reduce, SoftmaxOver, TopK
from costgraph.ops.pattern import FULL
from costgraph.ops.pool import Resize
from costgraph.ops.views import Reshape, Slice
from costgraph.symbols import B

ONE = Integer(1)
#: Steps of the fusion, each of which pulls bins together.
STEPS = 4


@dataclass(frozen=True)
class Router:
    """A transformer over the coarsest map, whose first row says which set of bins is used.

    Attributes:
        at, feed, layers: of the transformer.
        sets: that are told apart.
    """

    at: Heads
    feed: FeedForward
    layers: int
    sets: Expr

    def add(self, m: Maker, image: str) -> str:
        """Adds the answer ``(B, sets)``."""
        d = self.at.d
        x = m.add("route_rows", AsSequence(), conv(m, "route_embed", image, d, 1))
        batch, count, _ = m.shape(x)
        x = m.add("route_led", Copy((batch, count + 1, d)), x)
        places = m.source(Tensor("route_places", (count + 1, d), m.style.acts))
        x = m.add("route_placed", Add(), x, places)
        for index in range(self.layers):
            name = f"route{index}_"
            query, key, value = (self.at.project(m, part, x, name) for part in "qkv")
            y = self.at.out(m, attended(m, query, key, value, FULL, prefix=name), name)
            x = m.norm(f"{name}norm", m.add(f"{name}add", Add(), y, x), d, LAYER_NORM)
            y = m.add(f"{name}mlp_add", Add(), self.feed.add(m, x, name), x)
            x = m.norm(f"{name}mlp_norm", y, d, LAYER_NORM)
        first = m.add("route_first", Slice(1, Integer(0), ONE), x)
        first = m.add("route_row", Reshape((batch, d)), first)
        y = products(m, "route", first, (d, self.sets), "relu")
        return m.add("route_shares", SoftmaxOver(1), y)


@dataclass(frozen=True)
class ZoeDepth(Depth):
    """DPT's features, and bins for each pixel.

    Attributes:
        bins: distances for each pixel.
        wide: channels by which they are told.
        narrow, seed: channels inside what makes those, and inside what makes the first bins.
        pulls: what each step has, that pulls bins together.
        shared: bins are shares of one length, not lengths of their own.
        pull: whether bins move by the ``mean`` or the ``sum`` of what pulls them.
        share: of the channels of the last block, which are divided by it.
        sets: of bins, of which one is used and all rest in memory.
        router: says which one, where there are several.
    """

    bins: Expr = Integer(64)
    wide: Expr = Integer(128)
    narrow: Expr = Integer(128)
    seed: Expr = Integer(256)
    pulls: tuple[int, ...] = (16, 8, 4, 1)
    shared: bool = False
    pull: str = "mean"
    share: int = 2
    sets: int = 1
    router: Router | None = None

    def graph(self, name: str, style: Style) -> Graph:
        m = Maker(name, style)
        maps, idle = self._maps(m)
        fused = self._fused(m, maps)
        last, relative = self._headed(m, fused[-1])
        low = conv(m, "bottleneck", maps[-1], self.fused, 1)
        routed = () if self.router is None else (self.router.add(m, low),)
        bend = "relu" if self.shared else "softplus"
        bins = act(m, "seed_act1", conv(m, "seed1", low, self.seed, 1), "relu")
        bins = act(m, "seed_act2", conv(m, "seed2", bins, self.bins, 1), bend)
        bins = self._spread(m, bins) if self.shared else bins
        told = self._told(m, "seed_told", low)
        for index, (x, pulls) in enumerate(zip(fused, self.pulls, strict=True)):
            part, size = f"pull{index}", m.shape(x)[2:]
            new = self._told(m, f"{part}_told", x)
            y = m.add(f"{part}_sum", Add(), new, self._fit(m, f"{part}_before", told, size))
            told = new
            y = act(m, f"{part}_act1", conv(m, f"{part}1", y, self.wide, 1), "relu")
            count = Integer(pulls) * (2 if self.shared else 1)
            y = act(m, f"{part}_act2", conv(m, f"{part}2", y, count, 1), bend)
            if self.shared:  # every other one is not read
                y = m.add(f"{part}_more", Map("add_constant"), y)
                y = m.add(f"{part}_read", Slice(1, length=Integer(pulls), step=Integer(2)), y)
            bins = self._pulled(m, part, y, self._fit(m, f"{part}_bins", bins, size))
            found = self._ordered(m, part, bins) if self.shared else bins
        beside = () if self.router is not None else (relative,)
        size = m.shape(last)[2:]
        wide = self._fit(m, "last_told", told, size)
        x = m.add("last_beside", Join(1), last, *beside, wide)
        inner = m.shape(x)[1] // self.share
        x = act(m, "share_act1", conv(m, "share1", x, inner, 1), "gelu")
        x = act(m, "share_act2", conv(m, "share2", x, Integer(4), 1), "softplus")
        shares = self._shares(m, x)
        parts = m.add("distances", Map("mul"), shares, self._fit(m, "last_bins", found, size))
        self._rest(m, int(inner), int(m.shape(wide)[1]) + int(m.shape(last)[1]))
        return m.build(m.add("depth", Reduce("sum", (1,), keep=True), parts), *routed, *idle)

    def _told(self, m: Maker, name: str, x: str) -> str:
        """Adds what tells of bins."""
        x = act(m, f"{name}_act", conv(m, f"{name}1", x, self.narrow, 1), "relu")
        return conv(m, f"{name}2", x, self.wide, 1)

    def _fit(self, m: Maker, name: str, x: str, size: tuple[Expr, ...]) -> str:
        """Adds an image in another size."""
        return m.add(name, Resize((*m.shape(x)[:2], *size), "linear"), x)

    def _spread(self, m: Maker, x: str) -> str:
        """Adds middles of bins that share one length, and where those are within it."""
        x = m.add("seed_more", Map("add_constant"), x)
        whole = m.add("seed_whole", Reduce("sum", (1,), keep=True), x)
        x = m.add("seed_length", Map("scale"), m.add("seed_share", Map("div"), x, whole))
        batch, count, *size = m.shape(x)
        x = m.add("seed_led", Copy((batch, count + 1, *size)), x)  # by the least distance
        edges = m.add("seed_edges", Cumulate(), x)
        low, high = (m.add(f"seed_edge{i}", Slice(1, Integer(i), count), edges) for i in (0, 1))
        x = m.add("seed_middle", Map("scale"), m.add("seed_both", Add(), low, high))
        return m.add("seed_within", Map("scale"), m.add("seed_from", Map("add_constant"), x))

    def _ordered(self, m: Maker, name: str, bins: str) -> str:
        """Adds the distances of bins within one length, sorted and held within it."""
        x = m.add(f"{name}_from", Map("add_constant"), m.add(f"{name}_length", Map("scale"), bins))
        x = m.add_many(f"{name}_sorted", TopK(self.bins, 1), x)[0]
        return m.add(f"{name}_held", Map("clip"), x)

    def _pulled(self, m: Maker, name: str, pulls: str, bins: str) -> str:
        """Adds bins ``(B, n, h, w)`` nearer to each of ``pulls (B, k, h, w)``."""
        (_, many, *size), count = m.shape(pulls), self.bins
        pulls = m.add(f"{name}_column", Reshape((B, many, ONE, *size)), pulls)
        row = m.add(f"{name}_row", Reshape((B, ONE, count, *size)), bins)
        way = m.add(f"{name}_way", Map("sub"), pulls, row)
        far = m.add(f"{name}_square", Map("mul"), way, way)
        far = m.add(
            f"{name}_far_more", Map("add_constant"), m.add(f"{name}_far", Map("scale"), far)
        )
        way = m.add(f"{name}_step", Map("div"), way, far)
        way = m.add(f"{name}_pull", Reduce(self.pull, (1,)), way)
        return m.add(f"{name}_moved", Add(), bins, way)

    def _shares(self, m: Maker, x: str) -> str:
        """Adds shares of all bins, from a chance and a temperature for each pixel."""
        x = m.add("share_more", Map("add_constant"), x)
        found = []
        for index, part in enumerate(("chance", "heat")):
            first, second = (
                m.add(f"{part}{i}", Slice(1, Integer(2 * index + i), ONE), x) for i in (0, 1)
            )
            whole = m.add(f"{part}_whole", Add(), first, second)
            found.append(m.add(part, Map("div"), first, whole))
        chance, heat = found
        heat = m.add("heat_scale", Map("scale"), m.add("heat_more", Map("add_constant"), heat))
        other = m.add("chance_other", Map("add_constant"), chance)
        logs = []
        for part, y in (("yes", chance), ("no", other)):
            numbers = m.source(Tensor(f"{part}_numbers", (ONE, self.bins, ONE, ONE), m.style.acts))
            log = m.add(f"{part}_log", Map("log"), m.add(f"{part}_clip", Map("clip"), y))
            logs.append(m.add(f"{part}_terms", Map("mul"), log, numbers))
        ways = m.source(Tensor("ways", (ONE, self.bins, ONE, ONE), m.style.acts))
        x = m.add("terms", Map("add"), m.add("both_terms", Add(), *logs), ways)
        return m.add("shares", SoftmaxOver(1), m.add("terms_heat", Map("div"), x, heat))

    def _rest(self, m: Maker, inner: int, entered: int) -> None:
        """The other sets of bins."""
        wide, seed, doubled = int(self.wide), int(self.seed), 2 if self.shared else 1
        fused, bins = int(self.fused), int(self.bins)
        one = (fused + 1) * seed + (seed + 1) * bins + (entered + 1) * inner + (inner + 1) * 4
        one += sum((wide + 1) * (wide + n * doubled) for n in self.pulls)
        if self.sets > 1:
            m.weight("other_sets.weight", Integer(self.sets - 1), Integer(one))
