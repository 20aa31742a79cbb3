"""Imported convolutional chains in bands: what torch computes is what the bands compute."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import costgraph as cg
from costgraph.ir.verify import verify
from costgraph.models import load_model
from costgraph.ops import Activation, Linear
from costgraph.ops.channels import BatchNorm
from costgraph.ops.conv import Conv
from costgraph.ops.pool import AdaptivePool, Pool
from costgraph.passes.spatial.bands import Order
from costgraph.passes.spatial.segments import Asker, read
from costgraph.passes.spatial.split import Way, split
from tests.passes.test_split_rows import HOP, WAYS, Machine

ACTIVATIONS = {"relu": torch.relu, "silu": F.silu, "sigmoid": torch.sigmoid}


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.b = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x):
        return torch.relu(x + self.b(torch.relu(self.a(x))))


class Joined(nn.Module):
    """Branches with windows of their own, side by side."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Conv2d(width, 4, 1), nn.Conv2d(width, 6, 5, padding=2)

    def forward(self, x):
        return torch.cat([self.a(x), torch.sigmoid(self.b(x))], 1)


def residual():
    return (
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 5, padding=2),
        nn.BatchNorm2d(8), nn.ReLU(), Residual(8), nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.ReLU(),
    )  # fmt: skip


def mobile():
    return (
        nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.SiLU(), nn.Conv2d(12, 12, 1),
        nn.AvgPool2d(2), nn.Conv2d(12, 12, 3, padding=2, dilation=2), nn.Sigmoid(),
    )  # fmt: skip


def joined():
    return (
        nn.Conv2d(3, 8, 7, stride=2, padding=3), nn.MaxPool2d(3, 2, 1), Joined(8), nn.ReLU(),
        nn.Conv2d(10, 12, 3), nn.ReLU(),
    )  # fmt: skip


NETS = {"residual": residual, "mobile": mobile, "joined": joined}


class Imported(Machine):
    """Runs imported graphs: biases, norms, and what needs the whole image."""

    def node(self, node, args):
        op = node.op
        if isinstance(op, Conv):
            stride, pad, dilation = (
                tuple(map(int, f)) for f in (op.stride, op.padding, op.dilation)
            )
            weight, bias = args[1], args[2] if len(args) > 2 else None

            def conv(x):
                return F.conv2d(x, weight, bias, stride, 0, dilation, int(op.groups))

            return [self.window(op, args[0], weight.shape[2], stride, pad, dilation, conv, 0.0)]
        if isinstance(op, Pool) and op.function == "average":
            kernel, stride = (tuple(map(int, f)) for f in (op.kernel, op.stride))
            return [self.window(op, args[0], kernel[0], stride, (0, 0), (1, 1), lambda x:
                    F.avg_pool2d(x, kernel, stride), 0.0)]  # fmt: skip
        if isinstance(op, Activation):
            value, first, rows = args[0]
            return [(ACTIVATIONS[op.function](value), first, rows)]
        if isinstance(op, BatchNorm):
            (value, first, rows), (weight, bias, mean, var) = args[0], args[1:]
            return [(F.batch_norm(value, mean, var, weight, bias), first, rows)]
        if isinstance(op, AdaptivePool):
            return [(args[0][0].mean((2, 3), keepdim=True), 0, 0)]
        if isinstance(op, Linear):
            return [(F.linear(args[0][0].flatten(1), *args[1:]), 0, 0)]
        return super().node(node, args)


@pytest.fixture(
    scope="module", params=[(n, s) for n in NETS for s in ("pt2", "onnx")], ids="-".join
)
def exported(request, tmp_path_factory):
    """A file, its weights by name, an image and what torch makes of it."""
    name, suffix = request.param
    torch.manual_seed(5)
    layers = NETS[name]()
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))
    net = net.eval()
    image = torch.randn(1, 3, 61, 24)
    path = tmp_path_factory.mktemp("nets") / f"{name}.{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if suffix == "pt2":
            torch.export.save(torch.export.export(net, (image,)), path)
            weights = dict(net.state_dict())
        else:
            onnx = pytest.importorskip("onnx")
            torch.onnx.export(net, (image,), str(path), dynamo=False, opset_version=17)
            weights = {
                t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy())
                for t in onnx.load(path).graph.initializer
            }
    # The file is in FP32; what it says is computed in twice that, on both sides.
    weights = {name: w.double() for name, w in weights.items()}
    image = image.double()
    return str(path), weights, image, net.double()(image)


@pytest.mark.parametrize("way", ["halp", "once"])
def test_bands_of_an_imported_model_compute_what_torch_does(exported, way):
    path, weights, image, expected = exported
    cuts, exchanging, hidden = WAYS[way]
    units = ("edge 1", "", "edge 2")
    asker = Asker(cuts, Order(), 1, exchanging)
    graph = load_model(path).graph
    made = split(read(graph), Way(asker, units, HOP, False, hidden, False, "test"))
    verify(made)
    (given,) = made.inputs
    ((found, *_),) = Imported(weights).run(made, {given.name: (image, 0, image.shape[2])})
    # ONNX has norms in the weights of convolutions, rounded to FP32.
    assert torch.allclose(found, expected, rtol=1e-4 if path.endswith("onnx") else 1e-9)


def test_an_imported_model_is_shared_out(exported):
    path, *_ = exported
    plain, made = (cg.compile(path, "3xa6000", p) for p in ("", "split-rows{scheme=modnn}"))
    # None of the work is lost, but rows that a pooling leaves over.
    ratio = made.flops.evaluate() / plain.flops.evaluate()
    assert 0.98 < ratio < 1.05
    assert made.parameters == plain.parameters
    # The mean and the classifier alone need the whole image.
    kinds = {n.name: n.op.kind for n in plain.program.graph.nodes}
    assert [kinds[m.node] for m in made.trace.misses] == ["adaptive-pool", "linear"]
