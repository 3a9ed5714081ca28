"""How many operations a step asks for, and how many the device could do."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from benchmarks.common.training import bare_step, defended
from benchmarks.steps import PASSES, Counted, S, W, primitives
from lightning_robust.types import Batch

_HOPPER = {"fp32": 67.0, "TF32": 494.7, "bf16": 989.4}
PEAKS: dict[str, dict[str, float]] = {"NVIDIA H100 80GB HBM3": _HOPPER, "NVIDIA H200": _HOPPER}
"""TFLOP/s without sparsity by the device's name. NVIDIA's data sheets of the H100 (SXM) and the H200 give fp32 as it
stands here, and TF32 and bf16 with sparsity, which is twice as much."""


def share_of_peak(tflops: float, device: str, precision: str) -> float | str:
    """The share of what the device could do, or that this is unknown."""
    peak = PEAKS.get(device, {}).get(precision)
    return tflops / peak if peak else "unknown"


def _convolution_backward(
    grad_shape: Any, x_shape: Any, w_shape: Any, _bias: Any, _stride: Any, _padding: Any, _dilation: Any,
    transposed: bool, _output_padding: Any, _groups: Any, wanted: Any, out_shape: Any,
) -> int:  # fmt: skip
    """As many as forward for each gradient that is wanted; torch's own count is wrong for grouped convolutions."""
    return int(sum(wanted[:2]) * conv_flop_count(x_shape, w_shape, grad_shape, transposed))


class _Unhooked:
    """A net whose modules never see the images themselves: the counter cannot watch leaves of a graph."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x.view_as(x))
        return logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self.net, name)


def flops_of_passes(net: nn.Module, pixels: int, images: int = 2) -> dict[str, float]:
    """Floating-point operations of each kind of pass, for one image: counted on a device that only knows shapes."""
    net = copy.deepcopy(net).to("meta")
    x = torch.empty(images, 3, pixels, pixels, device="meta")
    batch = Batch(x, torch.zeros(images, dtype=torch.int64, device="meta"))
    mapping = {torch.ops.aten.convolution_backward: _convolution_backward}
    found = {}
    unhooked: Any = _Unhooked(net)
    for kind, run in primitives(unhooked, batch).items():
        if kind == S:
            continue
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
            run()
        found[kind] = counter.get_total_flops() / images
    return found


def passes_of(method: str, given: nn.Module, batch: Batch) -> Mapping[str, float]:
    """The passes that a step of the method consists of; those of IAAT's default are counted in one."""
    if method in PASSES:
        return PASSES[method]
    defense = defended(method, given)
    defense.net = counted = Counted(defense.net)
    bare_step(defense, batch)()
    return {**{kind: n / len(batch.x) for kind, n in counted.images.items()}, W: 1}


def flops_of_step(passes: Mapping[str, float], flops: Mapping[str, float]) -> float:
    """Floating-point operations of a step, for one image."""
    return sum(n * flops[kind] for kind, n in passes.items() if kind != S)
