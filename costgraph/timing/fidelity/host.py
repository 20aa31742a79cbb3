"""Host time of frameworks: what a server does between steps, on request only.

Seconds that every step takes besides its kernels, fitted to time per token of serving runs on
one node (``host`` in ``benchmarks/serving.py``, which prints what each half of the runs
gives and scores it on the other). It stands for launches that the graph does not have as
much as for the host. A framework whose halves disagree in sign has none.
"""

from __future__ import annotations

from collections.abc import Mapping

from costgraph.errors import InputError, clip, nearest

#: Seconds per step. vLLM: halves 0.70 and 0.46 ms.
HOST: Mapping[str, float] = {"vllm": 0.58e-3}
#: How it is asked for: ``calibrated@vllm+host``.
SUFFIX = "+host"


def host_time(framework: str) -> float:
    """Seconds per step.

    Raises:
        InputError: none was fitted.
    """
    if framework not in HOST:
        raise InputError(
            f"no host time was fitted for {clip(framework or 'no framework')}"
            f"{nearest(framework, HOST)}; known: {', '.join(f'@{f}{SUFFIX}' for f in HOST)} (runs "
            "of others give none that holds on both halves)"
        )
    return HOST[framework]
