"""The check of layers: whether a straight-through estimate breaks what a layer's own gradient does not."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_robust.evaluation.check import Check, judged
from lightning_robust.evaluation.masked_layers import MaskedLayer, first_tensor
from lightning_robust.evaluation.probe import Probe
from lightning_robust.evaluation.strength import MORE_STEPS, reference
from lightning_robust.runtime.bpda import with_gradient_of
from lightning_robust.runtime.forwards import replaced_forwards

ADVICE = "wrap such layers in lightning_robust.bpda(layer, backward=...) and evaluate again"


def layers(found: Sequence[MaskedLayer], withstood: Probe, n: int) -> Check:
    """Check whether samples fall once the layers that hide the gradient pass it on as it is.

    Args:
        found: these layers, see `masked_layers`.
        withstood: the samples that withstood the evaluation, and the attack of `reference` too.
        n: the number of all samples that were probed.
    """
    if not found:
        return Check("layers", "pass", "The gradient of each layer tells how its output changes.")
    estimated = [layer for layer in found if layer.keeps_shape]
    if not estimated:
        told, (one, other) = _told(found), found[0].shapes
        why = f"no straight-through estimate fits, because its input has the shape {one} and its output {other}"
        return Check("layers", "warn", f"{told}, and {why}: {ADVICE}.")
    before = _broken(withstood)  # by more steps, or by chance where the net is random
    with straight_through(estimated):
        broken = max(_broken(withstood) - before, 0)
    told = (
        f"{_told(estimated)}; with a straight-through estimate instead, a strong attack broke {broken} more of {n} "
        "samples"
    )
    # the bounds of a short black-box attack: one more attack breaks 1 of 64 by chance
    return judged("layers", broken / n, max(0.05, 1 / n), 0.1, f"{told}.", f"{told}: {ADVICE}.")


def straight_through(found: Sequence[MaskedLayer]) -> AbstractContextManager[None]:
    """Return a context in which these layers run as ever, and have the gradient of the identity."""
    return replaced_forwards({layer.module: partial(_estimated, layer.module.forward) for layer in found})


def _broken(withstood: Probe) -> int:
    return int((~withstood.standing(reference(withstood.threat, steps=MORE_STEPS))).sum())


def _estimated(forward: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    place = first_tensor(args)
    assert place is not None
    u = args[place]
    with torch.no_grad():
        value = forward(*args[:place], u.clone(), *args[place + 1 :], **kwargs)
    return with_gradient_of(value, u)


def _told(found: Sequence[MaskedLayer]) -> str:
    more = f" (and so of {len(found) - 1} other layers)" if len(found) > 1 else ""
    return f"{found[0].told[0].upper()}{found[0].told[1:]}{more}"
