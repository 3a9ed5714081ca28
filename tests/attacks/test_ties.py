"""Points at which two logits are equal: the lower class is the net's answer, and a search goes on from them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_robust.attacks import CW, FAB, DeepFool, MinimumNorm
from lightning_robust.attacks.functional import minimum_norms
from lightning_robust.runtime.precision import half_precision
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from tests.helpers.toys import linear_net
from tests.helpers.trained import EPS, held_out, trained_net

SEARCHES: dict[str, MinimumNorm] = {
    **{f"fab {norm}": FAB(Threat(norm, 0.5), steps=20) for norm in ("linf", "l2", "l1")},  # type: ignore[arg-type]
    **{f"fab-t {norm}": FAB(Threat(norm, 0.5), steps=20, targets=2) for norm in ("linf", "l2", "l1")},  # type: ignore[arg-type]
    **{f"deepfool {norm}": DeepFool(Threat(norm, 0.5)) for norm in ("linf", "l2")},  # type: ignore[arg-type]
    "cw l2": CW(Threat("l2", 0.5), steps=200),
}
each_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)


def tied(x: Tensor) -> Tensor:
    """Logits of which the first two are equal at the mean 0.5; the third is out of reach."""
    lead = (x.flatten(1) - 0.5).mean(1)
    return torch.stack([0 * lead, lead, 0 * lead - 5], 1)


@each_search
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 16, 16)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_on_the_boundary_is_as_near_as_can_be(
    search: MinimumNorm, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Right on the tie, class 0 is at no distance from class 1, and class 1 is misclassified already."""
    x = torch.full((2, *shape), 0.5, dtype=dtype)
    size = minimum_norms(search, tied, x, torch.tensor([0, 1]))
    assert size[1] == 0
    assert 0 < size[0] <= 1e-3


@each_search
def test_a_tie_on_the_way_does_not_stop_the_search(search: MinimumNorm) -> None:
    """Logits rounded to tenths are equal over a whole strip, at whose far side the other class begins."""
    w = torch.tensor([[0.0] * 16, [1.0] * 16]) / 16
    net = linear_net(w, torch.tensor([0.55, 0.0]))

    def rounded(x: Tensor) -> Tensor:
        z: Tensor = net(x)
        return z + ((10 * z).round() / 10 - z).detach()

    x = torch.full((1, 1, 4, 4), 0.5)  # logits .6 (from .55) and .5; equal from a mean of .55, other than .6 from .65
    assert rounded(x).argmax(1) == 0
    size = minimum_norms(search, rounded, x, torch.tensor([0]))
    least = 0.15 * {"linf": 1, "l2": 4, "l1": 16}[search.threat.norm]
    assert least * 0.99 <= float(size) <= least * 1.6


@pytest.mark.parametrize(
    "search",
    [
        *(FAB(Threat(norm, eps), steps=15) for norm, eps in EPS.items()),  # type: ignore[arg-type]
        FAB(Threat("linf", EPS["linf"]), steps=10, targets=5),
        DeepFool(Threat("l2", EPS["l2"])),
        CW(Threat("l2", EPS["l2"]), steps=30, search_steps=3, lr=0.05),
    ],
    ids=lambda a: f"{type(a).__name__} {a.threat.norm} {getattr(a, 'targets', '')}",
)
def test_autocast_does_not_weaken_a_search(search: MinimumNorm) -> None:
    """The search runs in full precision, so what it finds is the same to the bit."""
    net, (x, y) = trained_net(), held_out(40)
    found: list[Tensor] = []
    options: dict[str, Any] = {"rng": SampleRNG(0, torch.arange(40))}
    found.append(search(net, x, y, **options))
    with half_precision(x):
        found.append(search(net, x, y, rng=SampleRNG(0, torch.arange(40))))
    assert torch.equal(*found)
    # of the trained net's own errors there are more or fewer, as its processor rounds
    assert (net(found[0]).argmax(1) != y).sum() > (net(x).argmax(1) != y).sum()
