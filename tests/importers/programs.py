"""Small programs that write into their operands, call graphs, or share their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def made(forward: Callable[..., Any], *modules: nn.Module, **buffers: Tensor) -> nn.Module:
    """A module around a function of itself and the inputs."""

    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.m = nn.ModuleList(modules)
            for name, value in buffers.items():
                self.register_buffer(name, value)

        def forward(self, *inputs: Tensor) -> Any:
            return forward(self, *inputs)

    return Made().eval()


def chain(m, x):
    y = x * 2
    y.add_(1)
    y.mul_(x)
    return y.relu_()


def alias(m, x):
    y = x + 1
    y.view(-1).add_(1)
    return y * 2


def transposed(m, x):
    y = x + 1
    y.transpose(0, 1)[2].mul_(3)
    return y @ y.T


def permuted(m, x):
    y = x[None] + 1
    y.permute(2, 0, 1).mul_(x.T[:, None])
    return y + 1


def parts(m, x):
    y = x + 1
    a, b = y.chunk(2, dim=1)
    a.add_(b)
    return y, b


def unbound(m, x):
    y = x + 1
    y.unbind(0)[2].sub_(x[0])
    return y * x


def narrowed(m, x):
    y = x + 1
    y.narrow(1, 2, 3).mul_(2)
    return y * x


def seen_before(m, x):
    y = x + 1
    v = y[:, 1:3]
    y.add_(1)
    return v * 2


def same_format(m, x, y):
    return x.to(y.dtype).mul_(2) + x


def buffered(m, x):
    m.k.add_(x)
    return m.k * 2


def given(m, x):
    x.add_(1)
    return x * 2


def masked(m, x):
    y = x.clone()
    y.masked_fill_(x > 0, 0.0)
    return y


def without_gradients(m, x):
    with torch.no_grad():
        c, d = x.cos(), x.sin()
    return m.m[0](x) * c + d


def without_autocast(m, x):
    with torch.autocast("cpu", enabled=False):
        y = m.m[0](x).float()
    return y * 2


def tied(m, x):
    return m.m[0](x) + m.m[1](x)


def called_alike(m, x):
    return x.cos() + m.cos * m.add + m.x


def twice(m, x):
    for _ in range(2):
        with torch.no_grad():
            x = m.m[0](x).cos()
        x = x + 1
    return x


def _tied() -> nn.Module:
    a, b = nn.Linear(8, 8), nn.Linear(8, 8)
    b.weight = a.weight
    return made(tied, a, b)


X = torch.zeros(4, 8)
PROGRAMS: Mapping[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    **{
        f.__name__: (lambda f=f: made(f), (X,))
        for f in (
            chain, alias, transposed, permuted, parts, unbound, narrowed, seen_before, given,
            masked,
        )
    },
    "same_format": (lambda: made(same_format), (X, torch.ones(4, 8))),
    "buffered": (lambda: made(buffered, k=torch.zeros(4, 8)), (X,)),
    "without_gradients": (lambda: made(without_gradients, nn.Linear(8, 8)), (X,)),
    "without_autocast": (lambda: made(without_autocast, nn.Linear(8, 8)), (X,)),
    "twice": (lambda: made(twice, nn.Linear(8, 8)), (X,)),
    "called_alike": (
        lambda: made(
            called_alike, cos=torch.zeros(8), add=torch.zeros(4, 1), x=torch.zeros(4, 8)
        ),
        (X,),
    ),
    "tied": (_tied, (X,)),
}  # fmt: skip
