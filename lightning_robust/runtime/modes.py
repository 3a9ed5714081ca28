"""The one place that changes how a net runs while examples are crafted on it, and that puts everything back.

Gradients inside `no_grad` and `inference_mode` loops, evaluation against training mode, batch-norm statistics and
frozen parameters are all handled here; nothing else in the package touches them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_robust.runtime.batch_norms import fast_bn_backward
from lightning_robust.runtime.outputs import logits_of
from lightning_robust.runtime.precision import full_precision
from lightning_robust.types import Net

AttackBN: TypeAlias = Literal["eval", "batch", "train"]
"""How the net runs during an attack: "eval" = evaluation mode (running statistics, no dropout); "batch" = training mode
on the batch's own statistics, leaving the running ones untouched; "train" = training mode, updating them."""


@contextmanager
def attack_mode(net: Net, bn: AttackBN = "eval") -> Iterator[None]:
    """Allow input gradients whatever surrounds, put the net into the mode `bn`, and freeze its parameters.

    On leaving, also by an exception, each module's mode, each batch norm's tracking and each parameter's
    `requires_grad` are what they were. Parameter gradients are never written.

    Raises:
        ValueError: for an unknown `bn`.
    """
    if bn not in ("eval", "batch", "train"):
        raise ValueError(f"Unknown attack_bn {bn!r}: choose one of eval, batch, train.")
    modules = list(net.modules()) if isinstance(net, nn.Module) else []
    modes = [(module, module.training) for module in modules]
    # every batch norm, SyncBatchNorm included, derives from _BatchNorm
    tracking = [(module, module.track_running_stats) for module in modules if isinstance(module, _BatchNorm)]
    trainable = [p for module in modules for p in module.parameters(recurse=False) if p.requires_grad]
    try:
        for module in modules:
            module.training = bn != "eval"
        for norm, tracks in tracking:
            norm.track_running_stats = tracks and bn != "batch"
        for parameter in trainable:
            parameter.requires_grad_(False)
        with fast_bn_backward(modules), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for norm, tracks in tracking:
            norm.track_running_stats = tracks
        for parameter in trainable:
            parameter.requires_grad_(True)


def for_inference(net: nn.Module) -> nn.Module:
    """The net itself, from now on in evaluation mode."""
    return net.eval()


def logits_no_grad(net: Net, x: Tensor, bn: AttackBN = "eval") -> Tensor:
    """The net's logits in the mode `bn`, without a gradient."""
    with attack_mode(net, bn), torch.no_grad():
        return logits_of(net(x))


def samples_are_independent(net: Net, bn: AttackBN = "eval") -> bool:
    """Whether samples do not see each other: in evaluation mode, unless a batch norm keeps no statistics."""
    modules = net.modules() if isinstance(net, nn.Module) else ()
    return bn == "eval" and all(m.running_mean is not None for m in modules if isinstance(m, _BatchNorm))


@contextmanager
def frozen_running_stats(net: nn.Module) -> Iterator[None]:
    """Training mode on the batch's own statistics with ordinary gradients; running statistics stay untouched."""
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def twice_differentiable(net: nn.Module, x: Tensor) -> Iterator[None]:
    """Evaluation mode with ordinary gradients, prepared for a gradient of a gradient.

    fp32, because the squares of small gradients underflow; eager, because compiled graphs have no second derivative;
    plain attention, because the fused kernels have none either.
    """
    modes = [(module, module.training) for module in net.modules()]
    try:
        for module, _ in modes:
            module.training = False
        # fused attention: https://github.com/pytorch/pytorch/issues/116350
        with full_precision(x), torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for module, training in modes:
            module.training = training


def disable_inference_mode(trainer: Any) -> None:
    """Make a Lightning trainer's evaluation loops run under `no_grad` instead of `inference_mode`.

    Tensors made in inference mode can never join a gradient, so a net that caches one at its first forward could not be
    attacked afterwards. Call it in `setup`, before the loop starts.
    """
    for loop in (trainer.validate_loop, trainer.test_loop, trainer.predict_loop):
        loop.inference_mode = False
