"""The one place that changes how a net runs while examples are crafted on it, and that puts everything back.

Gradients inside `no_grad` and `inference_mode` loops, evaluation against training mode, batch-norm statistics and
frozen parameters are all handled here; nothing else in the package touches them.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_robust.batch_norms import scaling
from lightning_robust.types import Net

AttackBN: TypeAlias = Literal["eval", "batch", "train"]
"""How the net runs during an attack: "eval" = evaluation mode (running statistics, no dropout); "batch" = training mode
on the batch's own statistics, leaving the running ones untouched; "train" = training mode, updating them."""

_FP16_SCALE = 2.0**12


@contextmanager
def crafting(net: Net, bn: AttackBN = "eval") -> Iterator[None]:
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
        with scaling(modules), torch.inference_mode(False), torch.enable_grad():
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


def quiet_logits(net: Net, x: Tensor, bn: AttackBN = "eval") -> Tensor:
    """The net's logits in the mode `bn`, without a gradient."""
    with crafting(net, bn), torch.no_grad():
        return net(x)


def independent(net: Net, bn: AttackBN = "eval") -> bool:
    """Whether samples do not see each other: in evaluation mode, unless a batch norm keeps no statistics."""
    modules = net.modules() if isinstance(net, nn.Module) else ()
    return bn == "eval" and all(m.running_mean is not None for m in modules if isinstance(m, _BatchNorm))


@contextmanager
def untracked(net: nn.Module) -> Iterator[None]:
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


def ordinary(value: Tensor) -> Tensor:
    """The tensor detached, and copied if inference mode made it (such a tensor cannot join a gradient)."""
    return value.clone() if value.is_inference() else value.detach()


def awaiting_gradient(x: Tensor) -> Tensor:
    """A copy of x that a backward pass leaves its gradient on."""
    return x.detach().clone().requires_grad_()


def input_gradient(value: Callable[[Tensor], Tensor], x: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """The gradient of the summed per-sample `value(x)` [b] with respect to x, and the values.

    The sum, never the mean: a mean's gradient underflows in fp16. Under fp16 autocast the gradient is moreover computed
    at 2^12 times its size. Entries that are not finite are set to 0, unless a graph is created: an attack goes on along
    the others.
    """
    x = x.detach().requires_grad_()
    values = value(x)
    return _gradient(values, x, create_graph, create_graph), values.detach()


def input_gradients(values: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients [b m ...] of m per-sample `values(x)` [b m] from one forward pass, and the values."""
    x = x.detach().requires_grad_()
    columns = values(x)
    grads = [_gradient(column, x, keep_graph=True) for column in columns.unbind(1)]
    return torch.stack(grads, 1), columns.detach()


def _gradient(values: Tensor, x: Tensor, keep_graph: bool, create_graph: bool = False) -> Tensor:
    half = torch.is_autocast_enabled(x.device.type) and torch.get_autocast_dtype(x.device.type) == torch.float16
    total = values.sum() * (_FP16_SCALE if half else 1.0)
    (grad,) = torch.autograd.grad(total, x, retain_graph=keep_graph, create_graph=create_graph)
    if half:
        grad = grad / _FP16_SCALE
    return grad if create_graph else torch.nan_to_num_(grad, nan=0.0, posinf=0.0, neginf=0.0)


class Steady(nn.Module):
    """A net that sees at least 8 images at a time: smaller batches are filled up with copies of their first one.

    For a few rows matrix products take other routines, which round otherwise; with more, a sample's logits and
    gradients were found to be the same to the bit whatever its batch (CPU, torch 2.15, convolutional nets and MLPs).
    An iterated attack magnifies a last bit into another verdict.
    """

    LEAST = 8

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """The net's logits."""
        b = len(x)
        if not 0 < b < self.LEAST:
            return self.net(x)
        return self.net(torch.cat([x, x[:1].detach().expand(self.LEAST - b, *x.shape[1:])]))[:b]


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Inside, autocast is off on the device of x."""
    return torch.autocast(x.device.type, enabled=False)


def half_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Inside, nets run under autocast in bf16 on the device of x."""
    return torch.autocast(x.device.type, torch.bfloat16)


def disable_inference_mode(trainer: Any) -> None:
    """Make a Lightning trainer's evaluation loops run under `no_grad` instead of `inference_mode`.

    Tensors made in inference mode can never join a gradient, so a net that caches one at its first forward could not be
    attacked afterwards. Call it in `setup`, before the loop starts.
    """
    for loop in (trainer.validate_loop, trainer.test_loop, trainer.predict_loop):
        loop.inference_mode = False
