"""ATen operators on signals and images beside convolutions: spectra, sampling, complex numbers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.models.traced.aten_arguments import argument, optional, stated, stated_shape
from costgraph.models.traced.lowering import Lowering, Rule
from costgraph.models.traced.record import Call
from costgraph.models.traced.value import Value
from costgraph.ops.arrays import Copy
from costgraph.ops.pool import Resize
from costgraph.ops.signal import EmbeddingBag, Fourier, GridSample
from costgraph.ops.views import Reinterpret

ONE = Integer(1)
#: Modes of resizing by a part of the operator's name.
_RESIZED = {"nearest": "nearest", "linear": "linear", "bicubic": "cubic"}


def _upsample(low: Lowering, call: Call) -> Value:
    mode = next(m for word, m in _RESIZED.items() if word in call.target)
    return low.emit(Resize(stated_shape(low, call), mode), low.value(call.args[0]))


def _grid_sample(low: Lowering, call: Call) -> Value:
    x, grid = low.value(call.args[0]), low.value(call.args[1])
    modes: dict[Any, str] = {0: "linear", 1: "nearest", 2: "cubic"}
    mode = modes.get(argument(call, 2, "interpolation_mode", 0))
    if mode is None:
        raise low.wrong("an unknown way to interpolate")
    return low.emit(GridSample(mode), x, grid)


def _affine_grid(low: Lowering, call: Call) -> Value:
    """Homogeneous coordinates of all points times one small matrix per sample."""
    shape = stated_shape(low, call)
    theta = low.value(call.args[0])
    points = low.emit(Copy((*shape[:-1], theta.shape[-1])), theta)
    lead = points.shape[:1]
    flat = low.reshape(points, (*lead, -ONE, theta.shape[-1]))
    made = low.matmul(flat, low.transpose(theta, (0, 2, 1)))
    return low.reshape(made, shape)


# --- spectra


def _fourier(low: Lowering, call: Call) -> Value:
    x, kind = low.value(call.args[0]), stated(call)
    if kind is None:
        raise low.wrong("the trace does not state its result")
    if call.target.startswith("_fft"):
        axes = call.args[1]
    elif call.target.endswith(("2", "n")):
        axes = argument(call, 2, "dim", None) or tuple(range(-2, 0))
    else:
        axes = argument(call, 2, "dim", -1)
    listed = axes if isinstance(axes, tuple) else (axes,)
    op = Fourier(tuple(low.axis(x, a) for a in listed), stated_shape(low, call), kind)
    return low.emit(op, x)


def _short_time(low: Lowering, call: Call) -> Value:
    """``stft``: frames, their windows, and a transform of each."""
    shape, kind = stated_shape(low, call), stated(call)
    x, size = low.value(call.args[0]), Integer(call.args[1])
    if kind is None:
        raise low.wrong("the trace does not state its result")
    window = optional(low, call, 4, "window")
    frames = low.emit(Copy((*x.shape[:-1], shape[-1], size)), x)
    if window is not None:
        frames = low.apply("mul", frames, window)
    rank = len(frames.shape)
    turned = (*shape[:-2], shape[-1], shape[-2])
    spectrum = low.emit(Fourier((rank - 1,), turned, kind), frames)
    return low.transpose(spectrum, (*range(rank - 2), rank - 1, rank - 2))


# --- complex numbers


def _reinterpreted(low: Lowering, call: Call) -> Value:
    """``view_as_complex``, ``view_as_real`` and views in another format: the same memory."""
    kind = stated(call)
    if kind is None:
        raise low.wrong("the trace does not state its result")
    return low.emit(Reinterpret(stated_shape(low, call), kind), low.value(call.args[0]))


def _half(low: Lowering, call: Call) -> Value:
    """``real`` and ``imag``: every other number."""
    x, kind = low.value(call.args[0]), stated(call)
    if kind is None:
        raise low.wrong("the trace does not state its result")
    if kind == x.dtype:
        return x
    pairs = low.emit(Reinterpret((*x.shape, Integer(2)), kind), x)
    return low.chosen(pairs, len(x.shape), 0 if call.target == "real" else 1)


# --- bags of embeddings


def _embedding_bag(low: Lowering, call: Call) -> tuple[Value | None, ...]:
    table, indices = low.value(call.args[0]), low.value(call.args[1])
    shape = stated_shape(low, call)
    mode = argument(call, 4, "mode", 0)
    if mode == 2 or argument(call, 6, "per_sample_weights", None) is not None:
        raise low.wrong("maxima and weights of bags are not supported")
    offsets = [v for v in [optional(low, call, 2, "offsets")] if v is not None]
    made = low.emit(EmbeddingBag(shape[0], mode == 1), indices, table, *offsets, name=low.module())
    return (made, None, None, None)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(
            ("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
             "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
             "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d",
             "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
             "_upsample_bicubic2d_aa"), _upsample),
        **dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), _grid_sample),
        "affine_grid_generator": _affine_grid,
        **dict.fromkeys(
            ("_fft_r2c", "_fft_c2r", "_fft_c2c", "fft_fft", "fft_ifft", "fft_rfft", "fft_irfft",
             "fft_fft2", "fft_ifft2", "fft_rfft2", "fft_irfft2", "fft_fftn", "fft_ifftn",
             "fft_rfftn", "fft_irfftn"), _fourier),
        "stft": _short_time,
        **dict.fromkeys(("view_as_complex", "view_as_real"), _reinterpreted),
        **dict.fromkeys(("real", "imag"), _half),
        **dict.fromkeys(("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only"),
                        _embedding_bag),
    }
)  # fmt: skip
