"""Feature denoising: the non-local mean against its formula, and what the wrapped net keeps of the net."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from lightning_robust.models import FeatureDenoising, SmallConvNet, TimmModel, TorchvisionModel
from lightning_robust.models.feature_denoising import DenoisingBlock
from lightning_robust.models.net_config import build_net
from lightning_robust.parts.regularizers import EffectiveWeightNorm
from lightning_robust.types import Batch, Views

Z = torch.randn(3, 6, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def block(spread: float = 1.0) -> DenoisingBlock:
    """In double precision, with weights that matter: no zero in the batch norm, embeddings of some size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = DenoisingBlock(6).double()
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=spread)
    return made


def test_the_non_local_mean_is_the_papers() -> None:
    """The softmax over all places j of theta_i . phi_j / sqrt(3), times the features themselves, by einsum."""
    made = block()
    theta, phi = (torch.einsum("oc,bchw->bohw", part.weight[:, :, 0, 0], Z) for part in (made.theta, made.phi))
    similar = torch.einsum("bohw,boxy->bhwxy", theta, phi) / 3**0.5
    weights = similar.flatten(3).softmax(3).view_as(similar)
    expected = torch.einsum("bhwxy,bcxy->bchw", weights, Z)
    torch.testing.assert_close(made.non_local_mean(Z), expected, rtol=1e-12, atol=1e-12)
    batch_norm = nn.functional.batch_norm(
        torch.einsum("oc,bchw->bohw", made.conv.weight[:, :, 0, 0], expected),
        None,
        None,
        made.norm.weight,
        made.norm.bias,
        training=True,
    )
    torch.testing.assert_close(made(Z), Z + batch_norm, rtol=1e-12, atol=1e-12)
    assert float((expected - Z.mean((2, 3), keepdim=True)).detach().abs().max()) > 0.1


def test_a_sample_and_the_order_of_places_do_not_matter_to_others() -> None:
    made = block().eval()
    torch.testing.assert_close(made(Z)[1:2], made(Z[1:2]))
    turned = made(Z.flip(3)).flip(3)
    torch.testing.assert_close(turned, made(Z))


def test_its_derivatives_are_finite_differences() -> None:
    """First and second, in every parameter too, with batch statistics."""
    made = block(0.5)

    def value(z: Tensor, *parameters: Tensor) -> Tensor:
        names = [name for name, _ in made.named_parameters()]
        return functional_call(made, dict(zip(names, parameters, strict=True)), (z,))

    given = [part.detach().requires_grad_() for part in (Z[:2, :, :2, :2], *made.parameters())]
    assert torch.autograd.gradcheck(value, given)
    assert torch.autograd.gradgradcheck(value, given)


NETS: dict[str, Any] = {
    "torchvision": lambda: TorchvisionModel("resnet18", num_classes=10, small_images=True),
    "timm": lambda: TimmModel("resnet10t", num_classes=10),
}


@pytest.mark.parametrize("name", ["torchvision", "timm"])
def test_at_first_the_net_is_the_plain_one(name: str) -> None:
    """To the bit, in evaluation and in training mode; the blocks' own weights get a gradient through the batch norm."""
    plain = NETS[name]().eval()
    wrapped = FeatureDenoising(copy.deepcopy(plain))
    x = torch.rand(4, 3, 32, 32)
    assert torch.equal(wrapped(x), plain(x))
    plain.train()
    wrapped.train()
    assert torch.equal(wrapped(x), plain(x))
    blocks = [module for module in wrapped.modules() if isinstance(module, DenoisingBlock)]
    assert len(blocks) == 4
    wrapped(x).square().sum().backward()
    assert all(part.norm.weight.grad.abs().max() > 0 for part in blocks)
    plain_parameters = sum(p.numel() for p in plain.parameters())
    channels = [part.conv.in_channels for part in blocks]
    assert sum(p.numel() for p in wrapped.parameters()) - plain_parameters == sum(2 * c * c + 2 * c for c in channels)


def woken(seed: int = 0) -> FeatureDenoising:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = FeatureDenoising(TorchvisionModel("resnet18", num_classes=10, small_images=True)).double()
        for module in net.modules():
            if isinstance(module, DenoisingBlock):
                nn.init.ones_(module.norm.weight)
    return net


def test_penalties_can_be_differentiated_and_repeat() -> None:
    """EMR differentiates an input gradient again, which fused attention has no derivative for."""
    x, y = torch.rand(2, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1])
    found = []
    for _ in range(2):
        net = woken()
        penalty = EffectiveWeightNorm(weight=1.0)(net, Batch(x, y), Views(x), 0).sum()
        found.append(torch.autograd.grad(penalty, list(net.parameters()), allow_unused=True))
    assert any(g is not None and g.abs().max() > 0 for g in found[0])
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


def test_gradients_of_samples_are_those_of_a_batch() -> None:
    net, x = woken().eval(), torch.rand(3, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    (joint,) = torch.autograd.grad(net(x)[:, 0].sum(), x)
    alone = [torch.autograd.grad(net(one[None])[0, 0], x)[0] for one in x]
    torch.testing.assert_close(joint, sum(alone), rtol=1e-9, atol=1e-12)
    parameters = {name: value.detach() for name, value in block().named_parameters()}
    made = block().eval()
    each = vmap(grad(lambda p, z: functional_call(made, p, (z[None],)).square().sum()), (None, 0))(parameters, Z)
    for name in parameters:
        total = torch.autograd.grad(made(Z).square().sum(), made.get_parameter(name))[0]
        torch.testing.assert_close(each[name].sum(0), total)


def test_its_description_builds_it_and_its_weights_load() -> None:
    inner = {"class_path": "TorchvisionModel", "init_args": {"name": "resnet18", "num_classes": 10}}
    described = {"class_path": "FeatureDenoising", "init_args": {"net": inner, "stages": ["layer3", "layer4"]}}
    one, other = build_net(described).eval(), build_net(described).eval()
    assert isinstance(one, FeatureDenoising)
    other.load_state_dict(one.state_dict())
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(one(x), other(x))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"stage 'layer1' stands 0 times in SmallConvNet: .*such as normalize, feat"):
        FeatureDenoising(SmallConvNet())
    with pytest.raises(ValueError, match="stage '0' stands 7 times in ResNet"):
        FeatureDenoising(TorchvisionModel("resnet18").net, ["0"])
    with pytest.raises(ValueError, match="stage 'head' of SmallConvNet holds no convolution"):
        FeatureDenoising(SmallConvNet(), ["head"])
    with pytest.raises(ValueError, match="takes two or more, got 1"):
        DenoisingBlock(1)
