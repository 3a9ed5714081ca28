"""Contexts that set a net's mode, batch-norm statistics and frozen parameters for an attack, and restore them."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_robust.runtime.batch_norms import fast_bn_backward
from lightning_robust.runtime.gradients import eagerly
from lightning_robust.runtime.modules_of import modules_of, parts_of
from lightning_robust.runtime.outputs import logits_of
from lightning_robust.runtime.precision import explain_types, full_precision
from lightning_robust.runtime.recorded_graphs import refuse_recorded_training
from lightning_robust.types import Net
from lightning_robust.utils.private_apis import BatchNorm

AttackBN: TypeAlias = Literal["eval", "batch", "train"]
"""How the net runs during an attack: "eval" is evaluation mode (running statistics, no dropout); "batch" is training
mode with the batch's own statistics, which leaves the running ones unchanged; "train" is training mode, which updates
them."""


@contextmanager
def attack_mode(net: Net, bn: AttackBN = "eval") -> Iterator[None]:
    """Enable input gradients, put the net into the mode `bn`, and freeze its parameters.

    Gradients work inside the context even within `no_grad` or `inference_mode`. When the context ends, also by an
    exception, every module's mode, every batch norm's `track_running_stats` and every parameter's `requires_grad` are
    restored. Parameter gradients are never written.

    Args:
        net: an `nn.Module`, or any other callable, whose modules are found as `modules_of` finds them.
        bn: "eval", "batch" or "train", see `AttackBN`.

    Raises:
        ValueError: for an unknown `bn`, and for a graph that was recorded in training mode.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
        >>> with torch.no_grad(), attack_mode(net):
        ...     net.training, torch.is_grad_enabled(), net[0].weight.requires_grad
        (False, True, False)
        >>> net.training, net[0].weight.requires_grad
        (True, True)
    """
    if bn not in ("eval", "batch", "train"):
        raise ValueError(f"Unknown attack_bn {bn!r}: choose one of eval, batch, train.")
    parts = parts_of(net)
    modules = [part for part in parts if isinstance(part, nn.Module)]
    if bn == "eval":
        refuse_recorded_training(modules)
    modes = [(module, module.training) for module in modules if hasattr(module, "training")]  # not if frozen by jit
    # every batch norm, SyncBatchNorm included, derives from BatchNorm
    tracking = [(module, module.track_running_stats) for module in modules if isinstance(module, BatchNorm)]
    trainable = [p for module in modules for p in module.parameters(recurse=False) if p.requires_grad]
    trainable = [p for p in trainable if not p.is_inference()]  # whose flag cannot be set again
    try:
        for module, _ in modes:
            module.training = bn != "eval"
        for norm, tracks in tracking:
            norm.track_running_stats = tracks and bn != "batch"
        for parameter in trainable:
            parameter.requires_grad_(False)
        with fast_bn_backward(parts), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for norm, tracks in tracking:
            norm.track_running_stats = tracks
        for parameter in trainable:
            parameter.requires_grad_(True)


def for_inference(net: nn.Module) -> nn.Module:
    """Put the net into evaluation mode for good, and return it.

    Example:
        >>> for_inference(nn.Dropout()).training
        False
    """
    return net.eval()


def logits_no_grad(net: Net, x: Tensor, bn: AttackBN = "eval") -> Tensor:
    """Return the net's logits [b k] in the mode `bn`, without a gradient.

    Args:
        net: images to logits.
        x: images [b c h w] in [0, 1].
        bn: "eval", "batch" or "train", see `AttackBN`.

    Example:
        >>> logits_no_grad(nn.Flatten(), torch.ones(1, 1, 1, 2))
        tensor([[1., 1.]])
    """
    with attack_mode(net, bn), torch.no_grad():
        try:
            return logits_of(net(x))
        except RuntimeError as error:
            explain_types(net, x, error)
            raise


def samples_are_independent(net: Net, bn: AttackBN = "eval") -> bool:
    """Return whether a sample's logits do not depend on the other samples of the batch.

    This is so in evaluation mode, unless a batch norm has no running statistics.

    Args:
        net: images to logits.
        bn: the mode that the net is to run in, see `AttackBN`.

    Example:
        >>> samples_are_independent(nn.BatchNorm2d(3)), samples_are_independent(nn.BatchNorm2d(3), bn="batch")
        (True, False)
    """
    norms = [module for module in modules_of(net) if isinstance(module, BatchNorm)]
    return bn == "eval" and all(norm.running_mean is not None for norm in norms)


@contextmanager
def frozen_running_stats(net: nn.Module) -> Iterator[None]:
    """Let batch norms in training mode use the batch's statistics without updating their running ones.

    Args:
        net: the net; its mode and its gradients stay as they are.

    Example:
        >>> norm = nn.BatchNorm1d(2).train()
        >>> with frozen_running_stats(norm):
        ...     _ = norm(torch.rand(4, 2))
        >>> norm.running_mean
        tensor([0., 0.])
    """
    norms = [module for module in net.modules() if isinstance(module, BatchNorm) and module.track_running_stats]
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def twice_differentiable(net: nn.Module, x: Tensor, bn: AttackBN = "eval") -> Iterator[None]:
    """Put the net into the mode `bn`, and let the gradient of a gradient be computed.

    The net runs in fp32, because the squares of small gradients underflow in half precision. It runs eagerly and with
    plain attention, because compiled graphs and fused attention kernels have no second derivative.

    Args:
        net: the net; its parameters keep their gradients.
        x: images, whose device decides where autocast is switched off.
        bn: "eval", "batch" or "train", see `AttackBN`.

    Example:
        >>> net, x = nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
        >>> with twice_differentiable(net, x):
        ...     (gradient,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        >>> gradient.square().sum().backward()
        >>> torch.equal(net.weight.grad, 2 * net.weight)
        True
    """
    modes = [(module, module.training) for module in net.modules()]
    try:
        for module, _ in modes:
            module.training = bn != "eval"
        # fused attention has no second derivative: https://github.com/pytorch/pytorch/issues/116350
        unmoved = frozen_running_stats(net) if bn == "batch" else nullcontext()
        with unmoved, full_precision(x), eagerly(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for module, training in modes:
            module.training = training


def disable_inference_mode(trainer: Any) -> None:
    """Make a Lightning trainer's evaluation loops run under `no_grad` instead of `inference_mode`.

    Tensors made in inference mode can never take part in computing a gradient, so a net that caches one at its first
    forward pass could not be attacked afterwards. It must be called in `setup`, before the loop starts.

    Args:
        trainer: the Lightning trainer.
    """
    for loop in (trainer.validate_loop, trainer.test_loop, trainer.predict_loop):
        loop.inference_mode = False
