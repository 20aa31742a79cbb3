"""Rows of images on several devices: what each needs and sends, and that results stay the same."""

from __future__ import annotations

import random
import re
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sympy import Integer

import costgraph as cg
from costgraph.errors import HardwareError, PipelineError
from costgraph.hardware.links import Hop
from costgraph.ir.graph import Builder, Graph
from costgraph.ir.regions import Parallel, Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.models import load_model
from costgraph.ops import Activation, Add, Conv
from costgraph.ops.arrays import Join
from costgraph.ops.collectives import Send
from costgraph.ops.image import MeanPool
from costgraph.ops.pool import Pool
from costgraph.ops.views import Beside, Slice
from costgraph.passes.spatial.bands import Cuts, Order
from costgraph.passes.spatial.rows import Window
from costgraph.passes.spatial.segments import Asker, read
from costgraph.passes.spatial.split import Way, split
from costgraph.symbols import B
from costgraph.timing.roofline import held_weights

GTX = "edge-3x-gtx-1080-ti"
PAGE = Path(__file__).parents[2] / "docs" / "edges.md"
FP32 = {"weights": "fp32", "activations": "fp32"}
N = Integer
HOP = Hop("network", N(2))


@cache
def compiled(passes="", model="vgg-16", on=GTX, **more):
    return cg.compile(model, on, passes, **{**FP32, **more})


def sends(found, B=1):
    """Bytes of every send of a program, by its name."""
    (phase,) = found.program.phases
    rows = [r for r in found.rows[phase.name] if r.kind == "send"]
    sizes = {r.name: r.count * sum(m.wire for m in r.cost.links.values()) for r in rows}
    return {name: int(size.xreplace({cg.symbols.B: N(B)})) for name, size in sizes.items()}


# --- what is needed --------------------------------------------------------------------


def test_overlaps_and_the_receptive_field_of_vgg_are_those_of_the_literature():
    # One-shot halves: rows of the image that both need, after each convolution.
    graph = load_model("vgg-16").graph
    of = read(graph)
    asker = Asker(Cuts((N(1) / 2,)), Order(), 0, exchanging=False)
    found = []
    for at, node in enumerate(graph.nodes):
        if not isinstance(node.op, Conv):
            continue
        rows = of.rows[node.name]
        nodes = [n for n in graph.nodes[: at + 1] if n.name in of.rules]
        above, below = (
            asker.backward(of, nodes, {node.name: band})["image"] for band in asker.own(rows)
        )
        found.append(int(above[1] - below[0]))
    assert found == [2, 4, 8, 12, 20, 28, 36, 52, 68, 84, 116, 148, 180]
    middle = {"pool18": (N(3), N(4))}
    # Far from the borders a result sees 212 rows: the field, without the padding that ends it.
    field = Window()
    size, jump = N(1), N(1)
    for node in graph.nodes:
        for window in of.rules[node.name].windows.values() if node.name in of.rules else ():
            size, jump = size + (window.size - 1) * jump, jump * window.stride
    assert (size, jump) == (212, 32)
    rows = asker.backward(of, [n for n in graph.nodes if n.name in of.rules], middle)["image"]
    assert rows == (max(0, 3 * 32 - 90), min(224, 3 * 32 - 90 + 212))
    assert field.reach((N(2), N(5))) == (2, 5)


def test_a_row_of_each_convolution_and_what_is_exchanged_of_it_to_the_byte():
    graph = load_model("vgg-16", **FP32).graph
    row = [
        int(n.outputs[0].bytes.xreplace({B: N(1)}) / n.outputs[0].shape[2])
        for n in graph.nodes
        if isinstance(n.op, Conv)
    ]
    # One row of every convolution's result, as the literature adds them up.
    assert row == [57344] * 10 + [28672] * 3
    assert sum(row) == 659456
    # What a convolution reads over a border: behind pooling rows are half as wide, behind the
    # last convolution nothing is read, before the first the image is there.
    found = sends(compiled("split-rows"))
    read_there = [
        57344,
        28672,
        57344,
        28672,
        57344,
        57344,
        28672,
        57344,
        57344,
        28672,
        28672,
        28672,
    ]
    assert sum(read_there) == 516096
    for sender, to in (("edge1", "host"), ("host", "edge1"), ("host", "edge2"), ("edge2", "host")):
        way = [
            size
            for name, size in found.items()
            if name.split(" ")[0].split(".")[1] == sender
            and name.split(" ")[0].endswith(f"to_{to}")
        ]
        # To the host all rows of the last pooling go as well: its fully connected layers follow.
        gathered = 3 * 7 * 512 * 4
        assert way == read_there + ([gathered] if to == "host" else [])
    assert found["image.edge1 send"] == 97 * 224 * 3 * 4
    batch = sends(compiled("split-rows"), B=4)
    assert all(batch[name] == 4 * size for name, size in found.items())


def _needed(op, wanted, rows):
    """Rows of an operand by trying every tap: another way to say what a window needs."""
    kernel, stride, dilation, front = op
    taps = [r * stride - front + k * dilation for r in range(*wanted) for k in range(kernel)]
    return max(min(taps), 0), min(max(taps) + 1, rows)


def test_windows_need_the_rows_that_their_taps_fall_on():
    dice = random.Random(7)
    for _ in range(300):
        kernel, stride, dilation = dice.randint(1, 7), dice.randint(1, 3), dice.randint(1, 2)
        front, rows = dice.randint(0, kernel // 2), dice.randint(20, 60)
        results = (rows + 2 * front - dilation * (kernel - 1) - 1) // stride + 1
        first = dice.randrange(results)
        last = dice.randint(first + 1, results)
        window = Window(N(dilation * (kernel - 1) + 1), N(stride), N(front))
        found = Order().needs(window, (N(first), N(last)), N(rows))
        expected = _needed((kernel, stride, dilation, front), (first, last), rows)
        assert tuple(map(int, found)) == expected


# --- results stay the same -------------------------------------------------------------


class Machine:
    """Runs graphs with numbers; images know which rows they are."""

    def __init__(self, weights):
        self.weights = weights

    def run(self, graph, given):
        known = dict(given)
        for node in graph.nodes:
            args = [known.get(i, self.weights.get(i)) for i in node.inputs]
            results = self.node(node, args)
            known.update(zip((t.name for t in node.outputs), results, strict=True))
            for tensor, (value, *_) in zip(node.outputs, results, strict=True):
                assert tuple(value.shape[1:]) == tuple(map(int, tensor.shape[1:])), node.name
        return [known[o] for o in graph.outputs]

    def node(self, node, args):
        op = node.op
        if isinstance(op, Parallel):
            found = []
            for body in op.bodies:
                given = {
                    t.name: args[i] for t, i in zip(body.graph.inputs, body.takes, strict=True)
                }
                found += self.run(body.graph, given)
            return found
        if isinstance(op, Repeat):
            state = list(args)
            for _ in range(int(op.count)):
                given = dict(zip((t.name for t in op.body.inputs), state, strict=True))
                state = self.run(op.body, given)
            return state
        value, first, rows = args[0]
        if isinstance(op, Conv):
            stride, pad, dilation = (
                tuple(map(int, f)) for f in (op.stride, op.padding, op.dilation)
            )
            w = args[1]
            return [self.window(op, args[0], w.shape[2], stride, pad, dilation, lambda x: F.conv2d(
                x, w, None, stride, 0, dilation, int(op.groups)), 0.0)]  # fmt: skip
        if isinstance(op, Pool):
            kernel, stride = (tuple(map(int, f)) for f in (op.kernel, op.stride))
            pad = tuple(int(p) // 2 for p in op.padding)
            return [self.window(op, args[0], kernel[0], stride, pad, (1, 1), lambda x: F.max_pool2d(
                x, kernel, stride), -torch.inf)]  # fmt: skip
        if isinstance(op, Activation):
            return [(torch.relu(value), first, rows)]
        if isinstance(op, Add):
            assert first == args[1][1]
            return [(value + args[1][0], first, rows)]
        if isinstance(op, Join):
            return [(torch.cat([a[0] for a in args], int(op.axis)), first, rows)]
        if isinstance(op, Slice):
            start = int(op.start)
            return [(value.narrow(2, start, int(op.length)), first + start, rows)]
        if isinstance(op, Beside):
            at = first
            for part, place, _ in args:
                assert place == at  # rows stand in order, without gaps
                at += part.shape[2]
            return [(torch.cat([a[0] for a in args], 2), first, rows)]
        if isinstance(op, Send):
            return [args[0]]
        assert isinstance(op, MeanPool)
        return [(value.mean((2, 3)), 0, 0)]

    def window(self, op, x, kernel, stride, pad, dilation, f, empty):
        value, first, rows = x
        results = (rows + 2 * pad[0] - dilation[0] * (kernel - 1) - 1) // stride[0] + 1
        want = results if op.band is None else int(op.band)
        window = Window(N(dilation[0] * (kernel - 1) + 1), N(stride[0]), N(pad[0]))
        here = (first, first + value.shape[2])
        starts = [
            s
            for s in range(results - want + 1)
            if tuple(Order().needs(window, (N(s), N(s + want)), N(rows))) == here
            or (op.band is None and s == 0)
        ]
        assert len(starts) == 1
        low, high = window.reach((N(starts[0]), N(starts[0] + want)))
        ends = (pad[1], pad[1], max(0, int(here[0] - low)), max(0, int(high - here[1])))
        made = f(F.pad(value, ends, value=empty))
        return made[:, :, :want], starts[0], results


def network(dice, blocks):
    """A random chain of convolutions, pooling and residual branches."""
    m = Builder("net")
    x = m.source(Tensor("image", (B, N(3), N(57), N(20)), _fp32()))
    names: dict[str, tuple[int, ...]] = {}

    def conv(name, x, out, kernel, stride=1, dilation=1, groups=1):
        channels = int(m.shape(x)[1])
        shape = (out, channels // groups, kernel, kernel)
        names[f"{name}.w"] = shape
        w = m.source(Tensor(f"{name}.w", tuple(map(N, shape)), _fp32(), Role.WEIGHT))
        pad = dice.choice([0, dilation * (kernel // 2)]) if kernel < 3 else dilation * (kernel // 2)
        op = Conv((N(stride),) * 2, (N(pad),) * 2, (N(dilation),) * 2, N(groups))
        return m.add(name, op, x, w)

    for i in range(blocks):
        kind = dice.choice(["conv", "pool", "residual", "join"])
        width = int(m.shape(x)[1])
        if kind == "conv":
            kernel = dice.choice([1, 3, 5])
            x = conv(f"c{i}", x, dice.choice([4, 6]), kernel, dice.choice([1, 1, 2]),
                     dice.choice([1, 2]) if kernel == 3 else 1)  # fmt: skip
            x = m.add(f"a{i}", Activation("relu"), x)
        elif kind == "pool" and m.shape(x)[2] > 12:
            k, p = dice.choice([(2, 0), (3, 2)])
            two = (N(2),) * 2
            x = m.add(f"p{i}", Pool((N(k),) * 2, two, (N(p),) * 2, (N(1),) * 2), x)
        elif kind == "residual":
            y = m.add(f"r{i}a", Activation("relu"), conv(f"r{i}", x, width, 3))
            x = m.add(f"r{i}s", Add(), conv(f"r{i}b", y, width, 3), x)
        else:
            x = m.add(f"j{i}", Join(1), x, conv(f"k{i}", x, 4, 3))
    # Layers that repeat, with windows over what they are given.
    width, (rows, columns) = int(m.shape(x)[1]), m.shape(x)[2:]
    b = Builder("layer")
    h = b.source(Tensor("hidden", (B, N(width), rows, columns), _fp32()))
    names["l.w"] = (width, width, 3, 3)
    w = b.source(Tensor("l.w", tuple(map(N, names["l.w"])), _fp32(), Role.WEIGHT))
    y = b.add("l", Conv((N(1),) * 2, (N(1),) * 2, (N(1),) * 2), h, w)
    body = b.build(b.add("ladd", Add(), b.add("lact", Activation("relu"), y), h))
    x = m.add("layers", Repeat(body, N(3)), x)
    if dice.random() < 0.5:
        x = conv("last", x, 4, 3)
    return m.build(m.add("mean", MeanPool(), x)), names


def _fp32():
    from costgraph.ir.dtypes import FP32

    return FP32


WAYS = {
    "halp": (Cuts((N(3) / 8, N(5) / 8)), True, True),
    "halp, thin": (Cuts((N(15) / 32, N(17) / 32)), True, True),
    "modnn": (Cuts((N(1) / 3, N(2) / 3)), True, False),
    "once": (Cuts((N(1) / 3, N(2) / 3)), False, False),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(2))
def test_bands_make_what_the_whole_image_makes(seed, way):
    from costgraph.ir.verify import verify
    from costgraph.rewriting.unrolled import unrolled

    dice = random.Random(seed)
    torch.manual_seed(seed)
    graph, names = network(dice, 4)
    cuts, exchanging, hidden = WAYS[way]
    if not exchanging:
        graph = unrolled(graph)
        names |= {f"layers[{i}].l.w": names["l.w"] for i in range(3)}
    weights = {name: torch.randn(shape, dtype=torch.float64) for name, shape in names.items()}
    if not exchanging:
        weights |= {f"layers[{i}].l.w": weights["l.w"] for i in range(3)}
    image = (torch.randn(1, 3, 57, 20, dtype=torch.float64), 0, 57)
    asker = Asker(cuts, Order(), 1, exchanging)
    made = split(
        read(graph), Way(asker, ("edge 1", "", "edge 2"), HOP, False, hidden, False, "test")
    )
    verify(made)
    machine = Machine(weights)
    ((whole, *_),) = machine.run(graph, {"image": image})
    ((found, *_),) = machine.run(made, {"image": image})
    assert torch.allclose(whole, found, rtol=1e-10, atol=1e-10)


# --- counts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "again"), [("vgg-16", 0), ("resnet-50", 1e-4), ("convnext-tiny", 0)]
)
def test_work_is_shared_out_and_weights_are_held_once_on_each(model, again):
    plain, found = compiled("", model), compiled("split-rows", model)
    one, all_of_it = plain.flops.evaluate(B=2), found.flops.evaluate(B=2)
    # ResNets pool with windows that overlap inside a segment: a few rows are made twice.
    assert one <= all_of_it <= one * (1 + again)
    assert found.parameters == plain.parameters
    assert found.program.devices == 3
    # Each holds its own weights: the host all, a secondary those of the split layers.
    (phase,) = found.program.phases
    held = sorted(map(float, held_weights(phase)))
    whole = sum(float(t.bytes * n) for t, n in plain.program.weights())
    head = {"vgg-16": 123642856, "resnet-50": 2049000, "convnext-tiny": 770536}[model] * 4
    assert held == [whole - head, whole - head, whole]


def test_one_shot_makes_again_what_parts_need_in_common():
    found = compiled("split-rows{scheme=once}")
    # Only the image goes out, and results come back.
    names = sends(found)
    assert sum("image" in n for n in names) == 2
    assert len(names) == 4
    ratio = Fraction(int(found.flops.evaluate(B=1)), int(compiled().flops.evaluate(B=1)))
    assert 2 < ratio < Fraction(11, 5)


# --- times -----------------------------------------------------------------------------


def test_hidden_exchange_wins_where_links_are_slow_and_no_part_beats_its_share():
    hidden = compiled("fuse,split-rows{zone=1/3}", symbolic_hardware=True)
    after = compiled("fuse,split-rows{scheme=modnn}", symbolic_hardware=True)
    rates = {s: v for s, v in hidden.bound.bindings().items() if s.name != "BW_network"}
    slow, fast = (f.latency.substitute(rates).bind(B=1) for f in (after, hidden))
    for rate in (1e7, 1e8, 1e9, 1e10):
        assert fast.evaluate(BW_network=rate) < slow.evaluate(BW_network=rate)
    # With a link that takes no time nothing is left to hide, and kernels of borders read weights
    # once more.
    assert fast.evaluate(BW_network=1e30) > slow.evaluate(BW_network=1e30)
    plain = compiled("fuse").latency.evaluate(B=1)
    assert slow.evaluate(BW_network=1e30) > plain / 3


def test_shares_as_symbols_agree_with_numbers_where_rows_are_whole():
    found = compiled("split-rows{zone=z}", model="resnet-50")
    assert any("<= z" in x.text for x in found.program.limits)
    flops = found.flops.evaluate(B=1, z=0.25)
    assert flops == pytest.approx(compiled("", "resnet-50").flops.evaluate(B=1), rel=1e-3)
    with pytest.raises(cg.CostgraphError, match="neighbours need"):
        found.flops.evaluate(B=1, z=0.01)


#: Layers of VGG-16 that need the whole image.
HEAD = ("hidden", "classifier")
#: What stands for the devices of the page's table.
DEVICES = {
    "GTX 1080 Ti, 10 Gbit/s": ("gtx-1080-ti", GTX),
    "Jetson AGX Xavier, 1 Gbit/s": ("jetson-agx-xavier", "3xjetson-agx-xavier"),
    "Raspberry Pi 4, 1 Gbit/s": ("raspberry-pi-4", "3xraspberry-pi-4"),
}
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for line in PAGE.read_text(encoding="utf-8")
    .split("<!-- table: published -->")[1]
    .splitlines()[3:7]
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}, {row[1]}")
def test_the_table_of_published_accelerations(row):
    name, images, published, whole, convolutions = row
    device, on = DEVICES[name]
    tasks = {"B": int(images)}
    single = compiled("fuse", on=device)
    plain = single.latency.evaluate(**tasks)
    found = compiled("fuse,split-rows", on=on, symbolic_hardware=True)
    rates = {s.name: v for s, v in found.bound.bindings().items() if s in found.latency.symbols}
    (link,) = [name for name in rates if name.startswith("BW_")]
    shared = [found.latency.evaluate(**{**rates, **more}, **tasks) for more in ({}, {link: 1e30})]
    # What has no rows: the same kernels, on the host alone.
    steps = single.breakdown("forward", **tasks).rows
    head = sum(r.seconds * float(r.count) for r in steps if r.name.startswith(HEAD))
    ends = [plain / t for t in shared]
    alone = [(plain - head) / (t - head) for t in shared]
    assert " to ".join(f"{x:.2f}" for x in ends) == whole
    assert " to ".join(f"{x:.2f}" for x in alone) == convolutions
    # Of the convolutions, what is published lies between both ends; of the prototype below them.
    low, high = float(published.split()[0]), float(published.split()[-1])
    assert high < alone[1]
    assert (low > alone[0]) != name.startswith("Raspberry")
    assert ends[1] < 2 / (1 - 1 / 7)


# --- refusals --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "on", "passes", "said"),
    [
        ("llama-2-7b", "3xa100-80g", "split-rows", "pass over an image once"),
        ("vit-base-16", "3xa100-80g", "split-rows", "'prepend' needs all rows at once"),
        ("bert-base", "3xa100-80g", "split-rows", "takes no image"),
        ("vgg-16", "2xa100-80g", "split-rows", "rows are dealt out to 3"),
        ("vgg-16", "4xa100-80g", "split-rows{parts=4}", "parts says nothing"),
        ("vgg-16", "4xa100-80g", "split-rows{scheme=modnn,zone=0.2}", "zone says nothing"),
        ("vgg-16", "4xa100-80g", "split-rows{zone=0.5,top=0.7}", "take 6/5 of the rows"),
        ("vgg-16", "4xa100-80g", "split-rows{zone=z,top=t}", "one share may be a symbol"),
        ("vgg-16", "4xa100-80g", "parallel{dp=4},split-rows", "shared among devices already"),
        ("vgg-16", "4xa100-80g", "split-rows{zone=rate,pace=p}", "rates that are numbers"),
        ("vgg-16", "4xa100-80g", "split-rows{scheme=modnn,pace=p}", "rates that are numbers"),
    ],
)
def test_what_cannot_be_shared_is_refused_in_a_line(model, on, passes, said):
    with pytest.raises(PipelineError, match=said):
        cg.compile(model, on, passes)


def test_devices_of_another_pace_are_told_and_have_no_calibration():
    found = compiled("fuse,split-rows{pace=1/2}", on="3xh100")
    (said,) = [a for a in found.assumptions if "1/2 times as fast" in a]
    assert "the host is h100" in said
    seconds = {r.name: r.seconds for r in found.breakdown("forward", B=1).rows}
    edge, host = (
        seconds[f"conv5 bands.{a}, rows for {b}.conv5+act5"]
        for a, b in (("edge 1", "host"), ("host", "edge 1"))
    )
    assert edge == pytest.approx(2 * host, rel=1e-12)
    with pytest.raises(HardwareError, match="another pace than the host, is not calibrated"):
        _ = compiled("fuse,split-rows{pace=1/2}", on="3xh100", fidelity="calibrated").latency


def test_the_head_stays_on_the_host_and_is_named():
    found = compiled("split-rows")
    assert any(m.node == "hidden1" and "whole image" in m.reason for m in found.trace.misses)
    graph: Graph = found.program.graph
    assert not graph.node("hidden1").unit


# --- links that several use ------------------------------------------------------------

#: Names of sends: what, from whom, to whom.
WAY_OF = re.compile(r"\.(host|edge\d+)[^ ]*\.to_(host|edge\d+) send$")


def _limits(found, medium):
    """Seconds of a model whose kernels take none: sends alone, by adding up who is busy."""
    (phase,) = found.program.phases
    total = 0.0
    for node in phase.graph.nodes:
        if isinstance(node.op, Send):  # rows of the image, one part after the other
            total += float(node.outputs[0].bytes.xreplace({B: N(1)}))
        if not isinstance(node.op, Parallel):
            continue
        busy: dict[str, float] = {}
        for body in node.op.bodies:
            for inner in body.graph.nodes:
                if not isinstance(inner.op, Send):
                    continue
                size = float(inner.outputs[0].bytes.xreplace({B: N(1)}))
                sender, to = WAY_OF.search(inner.name).groups()
                for place in (f"from {sender}", f"to {to}", "medium" if medium else ""):
                    busy[place] = busy.get(place, 0.0) + size
        busy.pop("", None)
        total += max(busy.values(), default=0.0)
    return total


@pytest.mark.parametrize("medium", [False, True])
@pytest.mark.parametrize("scheme", ["modnn", "once", "modnn,parts=5"])
def test_what_several_send_at_once_shares_the_side_of_who_receives_it(scheme, medium):
    more = ",medium=shared" if medium else ""
    found = compiled(f"split-rows{{scheme={scheme}{more}}}", on="6xa6000", symbolic_hardware=True)
    names = [s.name for s in found.latency.symbols if s.name != "B"]
    (link,) = [n for n in names if n.startswith("BW_")]
    rates = {n: 0.0 if n.startswith("alpha") else 1e30 for n in names} | {link: 1.0}
    found_s = found.latency.evaluate(B=1, **{k: v or 1e-30 for k, v in rates.items()})
    assert found_s == pytest.approx(_limits(found, medium))


def test_a_shared_medium_costs_what_all_send_and_never_less_than_a_switch():
    for scheme in ("halp", "modnn", "once"):
        apart, shared = (
            compiled(f"split-rows{{scheme={scheme},medium={m}}}") for m in ("switch", "shared")
        )
        for b in (1, 8):
            assert shared.latency.evaluate(B=b) >= apart.latency.evaluate(B=b)
        assert sends(apart) == sends(shared)
    text = str(shared.explain("latency", B=1))
    assert "link network" in text


def test_the_best_zone_is_that_of_all_whole_rows_and_says_who_has_how_many():
    at = {"B": 4}
    times = {k: compiled(f"split-rows{{zone={k}/7}}").latency.evaluate(**at) for k in range(1, 6)}
    best = min(times, key=lambda k: times[k])
    found = compiled("split-rows{zone=best,at-batch=4}")
    assert found.passes[-1].spec() == f"split-rows{{zone={best}/7}}"
    assert found.latency.evaluate(**at) == times[best]
    (note,) = [a for a in found.assumptions if "decided at B=4" in a]
    outer = (7 - best + 1) // 2  # halves go to the first, as rows are rounded
    assert f"zone={best}/7 decided at B=4: {outer}, {best} and {7 - best - outer} of 7 rows" in note
    with pytest.raises(PipelineError, match="at-batch says nothing"):
        compiled("split-rows{at-batch=4}")
    with pytest.raises(PipelineError, match="several phases"):
        compiled("split-rows{zone=best}", "gpt2", "3xa6000")
    with pytest.raises(PipelineError, match="leaves no rows"):
        compiled("split-rows{zone=best,top=0.9}")
