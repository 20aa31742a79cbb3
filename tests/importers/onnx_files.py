"""ONNX files made for tests. Tests that take something from here are skipped without ONNX."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
np = pytest.importorskip("numpy")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

__all__ = ["NODE", "TensorProto", "graph", "helper", "numbers", "saved", "stored", "zeros"]

NODE = helper.make_node


def stored(name: str, values: Any, dtype: str = "f") -> TensorProto:
    """Values that the file holds."""
    return numpy_helper.from_array(np.array(values, dtype), name)


def zeros(name: str, *shape: int) -> TensorProto:
    """A weight."""
    return stored(name, np.zeros(shape))


def numbers(name: str, *values: int) -> TensorProto:
    """A row of whole numbers."""
    return stored(name, values, "i8")


def graph(
    nodes: Iterable[Any],
    inputs: Iterable[tuple[Any, ...]],
    outputs: Iterable[tuple[Any, ...]],
    held: Iterable[TensorProto] = (),
    name: str = "g",
) -> Any:
    """A graph; inputs and outputs are names with shapes, and with a type where it is not float."""

    def value(item: tuple[Any, ...]) -> Any:
        label, shape, *kind = item
        return helper.make_tensor_value_info(label, kind[0] if kind else TensorProto.FLOAT, shape)

    return helper.make_graph([*nodes], name, [*map(value, inputs)], [*map(value, outputs)], [*held])


def saved(path: Path, made: Any, opset: int = 18) -> Path:
    """The file of a graph."""
    whole = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)])
    path.write_bytes(whole.SerializeToString())
    return path
