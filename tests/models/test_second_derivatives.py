"""Penalties on input gradients against finite differences in float64: attention, where fused kernels have no second
derivative, and each residual net and activation."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from lightning_robust.models import IAATWideResNet, PreActResNet, TimmModel, TorchvisionModel, WideResNet
from lightning_robust.parts.regularizers import EffectiveWeightNorm, InputGradient, Regularizer
from lightning_robust.types import Batch, Views

TINY = {"img_size": 8, "patch_size": 4, "depth": 2, "embed_dim": 12, "num_heads": 3}
NETS: dict[str, Callable[[], nn.Module]] = {
    "timm_vit": lambda: TimmModel("vit_tiny_patch16_224", options=TINY),
    "torchvision_vit": lambda: VisionTransformer(
        8, 4, num_layers=2, num_heads=3, hidden_dim=12, mlp_dim=24, num_classes=10
    ),
    "preact_resnet": lambda: PreActResNet(activation="silu"),
    "wide_resnet_silu": lambda: WideResNet(10, 1, activation="silu"),
    "wide_resnet_softplus": lambda: WideResNet(10, 1, activation="softplus", checkpointing=True),
    "wide_resnet_relu": lambda: WideResNet(10, 1),
    "wide_resnet_emr": lambda: WideResNet(10, 1, activation="leaky_relu", shortcut="pool"),
    "iaat": lambda: IAATWideResNet(8, 1),
    "resnet18": lambda: TorchvisionModel("resnet18", small_images=True),
}
# an infinite temperature holds EMR's probabilities at 1/k, which finite differences would move otherwise
PENALTIES: dict[str, Regularizer] = {
    "emr": EffectiveWeightNorm(weight=1.0, temperature=1e12),
    "input_gradient": InputGradient(weight=1.0),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in ("preact_resnet", "resnet18") else n for n in NETS]
)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_gradient_of_a_penalty_is_that_of_finite_differences(name: str, penalty: str) -> None:
    net = NETS[name]().double()
    wake(net)
    x = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    batch = Batch(x, torch.tensor([0, 3, 7]))

    def value() -> Tensor:
        return PENALTIES[penalty](net, batch, Views(x), 0).sum()

    parameters = list(net.parameters())
    grads = torch.autograd.grad(value(), parameters, allow_unused=True)
    steps = [torch.randn_like(p) * p.std().nan_to_num(1).clamp(min=0.01) for p in parameters]
    slope = sum((g * s).sum() for g, s in zip(grads, steps, strict=True) if g is not None)
    eps = 1e-6
    difference = (moved(parameters, steps, eps, value) - moved(parameters, steps, -eps, value)) / (2 * eps)
    assert difference.abs() > 1e-6
    torch.testing.assert_close(slope, difference, rtol=1e-4, atol=0)
    assert net.training


def wake(net: nn.Module) -> None:
    """Torchvision starts the last layer of a vision transformer at zero, where no gradient gets through."""
    with torch.no_grad():
        for p in net.parameters():
            if not p.any():
                p.normal_(0, 0.1)


def moved(parameters: list[nn.Parameter], steps: list[Tensor], eps: float, value: Callable[[], Tensor]) -> Tensor:
    with torch.no_grad():
        for p, s in zip(parameters, steps, strict=True):
            p.add_(s, alpha=eps)
    result = value().detach()
    with torch.no_grad():
        for p, s in zip(parameters, steps, strict=True):
            p.sub_(s, alpha=eps)
    return result


def test_plain_attention_is_what_makes_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernels that PyTorch would choose, the same penalty has no gradient."""
    net: Any = TimmModel("vit_tiny_patch16_224", options=TINY)
    x = torch.rand(2, 3, 8, 8)
    monkeypatch.setattr("lightning_robust.runtime.modes.sdpa_kernel", lambda _: nullcontext())
    loss = PENALTIES["emr"](net, Batch(x, torch.arange(2)), Views(x), 0).sum()
    with pytest.raises(RuntimeError, match="derivative"):
        loss.backward()
