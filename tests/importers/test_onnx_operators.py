"""Result shapes against the standard's own examples, one small model per case."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest

from costgraph.counting.count import exact_cost
from costgraph.errors import CostgraphError

pytest.importorskip("onnx")

from costgraph.models.onnx_graph import from_onnx
from costgraph.models.traced.onnx_layers import RULES


@pytest.mark.slow
def test_shapes_of_the_standards_examples(tmp_path):
    """Every example whose operators have rules: right shapes, or an error that says why not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from onnx.backend.test.case.node import collect_testcases

            cases = collect_testcases(None)
        except (ImportError, TypeError):
            pytest.skip("this version of onnx makes no examples")
    path = tmp_path / "case.onnx"
    found: Counter[str] = Counter()
    wrong = []
    for case in cases:
        nodes = () if case.model is None else case.model.graph.node
        if not nodes or any(n.domain or n.op_type not in RULES for n in nodes):
            continue
        path.write_bytes(case.model.SerializeToString())
        try:
            graph = from_onnx(path, recognise=False).graph
        except CostgraphError:
            found["refused"] += 1
            continue
        exact_cost(graph)
        found["read"] += 1
        if not case.data_sets or len(graph.outputs) != len(case.model.graph.output):
            continue
        for name, expected in zip(graph.outputs, case.data_sets[0][1], strict=True):
            mine = tuple(graph.tensors[name].shape)
            if hasattr(expected, "shape") and mine != tuple(expected.shape):
                wrong.append((case.name, mine, expected.shape))
    assert wrong == []
    assert found["read"] > 2 * found["refused"]
