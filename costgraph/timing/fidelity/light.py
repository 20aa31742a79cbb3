"""Which measured element-wise kernel stands for an operation."""

from __future__ import annotations

from sympy import Integer

from costgraph.hardware.machine import Machine
from costgraph.ir.graph import Node
from costgraph.ops.fused import Fused
from costgraph.timing.fidelity.table import CLASSES

#: Measured kernels by the kind of operation they stand for; the others take ``add``.
_LIKE = {
    kind: name
    for name, kinds in (
        ("softmax", "softmax softmax-over"),
        ("rope", "rope"),
        ("rmsnorm", "rms-norm"),
        ("layernorm", "layer-norm batch-norm group-norm local-response-norm"),
        ("silu", "activation soft-cap"),
        ("silu_mul", "gate rg-lru gated-delta wkv matrix-wkv selective-scan ssd-scan"),
        ("copy", "kv-append paged-kv-append copy cast embedding gather gather-elements scatter"),
        ("copy", "concat transpose reshape split slice select expand join rearrange"),
    )
    for kind in kinds.split()
}
#: The heaviest first: it stands for a kernel that merges several.
_HEAVY = ("softmax", "rope", "rmsnorm", "layernorm", "silu_mul", "silu", "add", "copy")
#: Kernels that are not measured on hosts, and what is taken for them.
_ON_HOST = {"layernorm": "rmsnorm", "silu_mul": "silu"}
#: Classes that stand for a kernel where its own was not measured.
_CLOSE = {"silu": ("activation",)}


def stand_ins(node: Node, machine: Machine) -> tuple[str, ...]:
    """Fitted variants that stand for an element-wise operation, the best first.

    On a host libraries run one kernel per operation and type; on other devices
    kernels are told apart by class (:data:`.table.CLASSES`).
    """
    if isinstance(node.op, Fused):
        names = [_LIKE.get(n.op.kind, "add") for n in node.op.body.nodes]
        name = next(x for x in _HEAVY if x in names)
    else:
        name = _LIKE.get(node.op.kind, "add")
    if machine.kind != "cpu":
        return tuple(dict.fromkeys((CLASSES.get(name, "map"), *_CLOSE.get(name, ()), "map", "any")))
    widths = (t.dtype.bits for t in node.outputs if t.dtype.bits.is_number)
    name = _ON_HOST.get(name, name)
    types = ("fp32", "bf16") if max(widths, default=Integer(0)) > 16 else ("bf16", "fp32")
    return (*(f"{t}-{name}" for t in types), "any")
