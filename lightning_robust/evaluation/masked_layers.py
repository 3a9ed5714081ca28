"""Layers whose gradient does not tell how their output changes: quantisers, thresholds, detached branches."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_robust.evaluation.probed import evenly_spaced
from lightning_robust.runtime.bpda import BPDA
from lightning_robust.runtime.forwards import replaced_forwards
from lightning_robust.runtime.gradients import eagerly, leaf_copy
from lightning_robust.runtime.modes import attack_mode
from lightning_robust.runtime.modules_of import modules_of, names_of
from lightning_robust.runtime.outputs import logits_of
from lightning_robust.types import Net

IMAGES = 8
"""Between the inputs of how many images a layer is looked at."""

PARTS = 8
"""Into how many parts the way from one input of a layer to another is cut."""

FINER = 8
"""How many times as many parts a layer has to fail on as well: the error of sound layers falls with their number."""

ERROR = 0.2
"""The share of a layer's changes that its gradient may leave unexplained. In 64 parts ReLU and max-pooling leave less
than 0.1 and smooth layers less than 0.01; k-WTA and thresholds leave 0.5 to 1, quantisers 1."""


class MaskedLayer(NamedTuple):
    """A layer whose gradient does not tell how its output changes.

    Args:
        module: the layer.
        told: its name, its class and what is wrong, as a clause.
        shapes: of its input and output, without the batch's dimension.
    """

    module: nn.Module
    told: str
    shapes: tuple[list[int], list[int]]

    @property
    def keeps_shape(self) -> bool:
        """Whether input and output have one shape."""
        return self.shapes[0] == self.shapes[1]


def masked_layers(net: Net, x: Tensor) -> list[MaskedLayer]:
    """Find the layers of a net whose gradient is zero, not finite or wrong where their output changes.

    The input of each layer is moved from that of one image to that of another. What the output changes by in each part
    of the way, along a random direction, is compared with what the gradient in the middle of the part says. As the
    parts become shorter, the error vanishes where the layer is continuous, kinks included, and not where it jumps.

    A layer is a module whose first tensor and output are floating-point numbers, except those of torch.nn with weights
    or parts. A module with parts counts only if none of them is found and it keeps the shape of its input: it is then
    code of its own that hides the gradient. Layers that are random, scripted or wrapped by `bpda` are left out.

    Args:
        net: maps images to logits; left as it was.
        x: images [b ...], of which `IMAGES` are looked at; of a single one nothing can be said.

    Example:
        >>> class Quantise(nn.Module):
        ...     def forward(self, x):
        ...         return (8 * x).round() / 8
        >>> net = nn.Sequential(nn.Flatten(), Quantise(), nn.Linear(48, 3), nn.ReLU())
        >>> [layer.told for layer in masked_layers(net, torch.rand(4, 3, 4, 4))]
        ['the gradient of layer `1` (Quantise) is zero although its output changes']
    """
    some = x[evenly_spaced(len(x), IMAGES).to(x.device)]
    found: dict[nn.Module, tuple[str, Tensor, Tensor]] = {}
    seen: set[nn.Module] = set()
    busy = False

    def look(module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal busy
        place = first_tensor(args)
        if busy or module in seen or place is None or not args[place].is_floating_point():
            return forward(*args, **kwargs)
        seen.add(module)
        u = args[place].clone()  # the layer may change it in place
        out = forward(*args, **kwargs)
        parts = set(module.modules())
        if isinstance(out, Tensor) and not parts & set(found) and (len(parts) == 1 or out.shape == u.shape):
            busy = True
            try:
                fault = _fault(lambda z: forward(*args[:place], z, *args[place + 1 :], **kwargs), u)
            finally:
                busy = False
            if fault:
                found[module] = (fault, u, out)
        return out

    chosen = {part for module in modules_of(net) if isinstance(module, BPDA) for part in module.modules()}
    layers = [module for module in modules_of(net) if module not in chosen and _is_layer(module)]
    forwards = {layer: partial(look, layer, layer.forward) for layer in layers}
    with replaced_forwards(forwards), attack_mode(net), eagerly(), torch.no_grad():
        logits = logits_of(net(some))
    masked = []
    for name, module in zip(names_of(net, found), found, strict=True):
        fault, u, out = found[module]
        if (u.shape, out.shape) != (some.shape, logits.shape):  # what maps images to logits is the net itself
            told = f"the gradient of layer `{name}` ({type(module).__name__}) {fault}"
            masked.append(MaskedLayer(module, told, (list(u.shape[1:]), list(out.shape[1:]))))
    return masked


def first_tensor(args: tuple[Any, ...]) -> int | None:
    """Return the position of the first tensor among a layer's arguments.

    Example:
        >>> first_tensor((2, torch.ones(1))), first_tensor(())
        (1, None)
    """
    return next((place for place, value in enumerate(args) if isinstance(value, Tensor)), None)


def _is_layer(module: nn.Module) -> bool:
    whose = getattr(type(module).forward, "__module__", None) or ""
    holds = any(True for _ in (*module.children(), *module.parameters(), *module.buffers()))
    return not (whose.startswith("torch.nn.") and holds) and not isinstance(module, torch.jit.ScriptModule)


def _fault(layer: Callable[[Tensor], Any], u: Tensor) -> str | None:
    """Return what is wrong with a layer's gradient at its inputs u [b ...] and between them, or None."""
    out = layer(u.clone())
    random = not torch.equal(out, layer(u.clone()))
    if random or not (out.is_floating_point() and out.isfinite().all()):
        return None
    if not _gradient(layer, u, torch.ones_like(out)).isfinite().all():
        return "is not finite"
    error, zero = _unexplained(layer, u, PARTS)
    if zero:
        return "is zero although its output changes"
    if error > ERROR and _unexplained(layer, u, PARTS * FINER)[0] > ERROR:
        return "does not tell how its output changes"
    return None


def _unexplained(layer: Callable[[Tensor], Any], u: Tensor, parts: int) -> tuple[float, bool]:
    """Compare a layer's changes between its inputs with its gradient.

    Args:
        layer: a function of u.
        u: inputs [b ...]; each is moved to the one before it.
        parts: into how many parts the way is cut.

    Returns:
        The root of the share of the squared changes that the gradient leaves unexplained, and whether it is zero
        although there are changes; rounding errors are no changes.
    """
    step = (u.roll(1, 0) - u) / parts
    generator = torch.Generator().manual_seed(parts)
    before = layer(u.clone())
    rounding = parts * float((torch.finfo(before.dtype).eps * before).norm()) ** 2
    changed, missed, zero = 0.0, 0.0, True
    for k in range(parts):
        after = layer(u + (k + 1) * step)
        w = torch.randn(after.shape, generator=generator).to(after)
        gradient = _gradient(layer, u + (k + 0.5) * step, w)
        change, told = float(((after - before) * w).sum()), float((gradient * step).sum())
        changed, missed = changed + change**2, missed + (change - told) ** 2
        zero, before = zero and not bool(gradient.any()), after
    if not changed > 1e3 * rounding:
        return 0.0, False
    return (missed / changed) ** 0.5, zero


def _gradient(layer: Callable[[Tensor], Any], u: Tensor, w: Tensor) -> Tensor:
    """Return the gradient of the inner product of a layer's output with w; zero where there is none."""
    with torch.enable_grad():
        leaf = leaf_copy(u)
        total = (layer(leaf.clone()) * w).sum()  # a leaf may not be changed in place
        if not total.requires_grad:
            return torch.zeros_like(u)
        (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
    return torch.zeros_like(u) if gradient is None else gradient
