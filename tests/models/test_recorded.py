"""Nets against the authors' code: recorded logits of nets whose weights are a formula, and RobustBench where it is."""

import gc
import importlib.util
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.models import IAATWideResNet, PreActResNet, TorchvisionModel, WideResNet

IAAT_MEAN, IAAT_STD = (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)


def wave(shape: torch.Size, phase: float) -> Tensor:
    numbers = torch.arange(shape.numel(), dtype=torch.float64)
    return torch.sin(0.7 * numbers**1.1 + phase).view(shape)


def fill(net: nn.Module) -> nn.Module:
    """The net in float64 and evaluation mode, with weights and statistics that depend on no random generator."""
    net.double().eval()
    with torch.no_grad():
        for i, (name, value) in enumerate(net.state_dict().items()):
            if value.is_floating_point():
                size = (2 / value[0].numel()) ** 0.5 if value.dim() > 1 else 0.5
                positive = value.dim() == 1 and name.endswith(("weight", "var"))
                value.copy_(wave(value.shape, i) * size + positive)
    return net


NETS = {
    "preact_resnet18": lambda: PreActResNet(18, num_classes=5),
    "preact_resnet50": lambda: PreActResNet(50, num_classes=5),
    "wide_resnet": lambda: WideResNet(16, 2, num_classes=5),
    "wide_resnet_emr": lambda: WideResNet(16, 2, num_classes=5, activation="leaky_relu", shortcut="pool"),
    "wide_resnet_iaat": lambda: IAATWideResNet(14, 2, num_classes=5, mean=IAAT_MEAN, std=IAAT_STD),
    "resnet18": lambda: TorchvisionModel("resnet18", num_classes=5, small_images=True),
}
X = (wave(torch.Size((2, 3, 32, 32)), 0.3) + 1) / 2
RECORDED = {
    # locuslab/robust_overfitting@c47a25c
    "preact_resnet18": [
        [5.362047, -1.153510, -1.292777, 1.590728, 0.847524],
        [9.652734, 1.377907, -0.031804, -0.463931, -0.271303],
    ],
    "preact_resnet50": [
        [15.440744, 0.252196, 1.457839, 1.874517, -0.669767],
        [15.564538, 1.006239, 0.540657, 0.755449, -0.561488],
    ],
    # TRADES's net as robustbench 1.1.1 has it
    "wide_resnet": [
        [3.560491, 1.882444, 0.825025, 0.594772, 0.418371],
        [3.228052, 1.497952, 0.408472, 0.280341, 0.717967],
    ],
    # ziquanliu/Effective_Margin_Reg@c3e041c, madry_model_eval.py
    "wide_resnet_emr": [
        [4.177673, 0.112599, 1.153981, 1.334170, -0.126552],
        [3.818505, -0.379386, 0.749743, 2.097041, 1.023447],
    ],
    # yogeshbalaji/Instance_Adaptive_Adversarial_Training@49f5f14
    "wide_resnet_iaat": [
        [3.808356, -0.170983, -0.345223, -0.255786, -0.145515],
        [3.806370, -0.214593, -0.362674, -0.168901, -0.238660],
    ],
    # robustbench 1.1.1's ResNet18
    "resnet18": [
        [-0.675198, 0.027769, -0.695199, -0.806919, -1.548236],
        [-0.044860, 0.121896, -1.163816, -1.256787, 0.484495],
    ],
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "preact_resnet50" else name for name in NETS]
)
def test_logits_are_those_of_the_authors_nets(name: str) -> None:
    with torch.no_grad():
        logits = fill(NETS[name]())(X)
    torch.testing.assert_close(logits, torch.tensor(RECORDED[name], dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (lambda: PreActResNet(18), 11_172_170),  # these five as counted in robustbench 1.1.1
        (lambda: PreActResNet(34), 21_280_330),
        (lambda: PreActResNet(50), 23_513_162),
        (lambda: WideResNet(28, 10), 36_479_194),  # 36.5 M in table 4 of arXiv 1605.07146
        (lambda: WideResNet(34, 10), 46_160_474),
        (lambda: WideResNet(34, 20), 184_531_674),
        (lambda: WideResNet(70, 16), 266_796_506),
        (lambda: TorchvisionModel("resnet18", small_images=True), 11_173_962),
        (lambda: TorchvisionModel("resnet50", small_images=True), 23_520_842),
        (lambda: TorchvisionModel("resnet50", num_classes=1000), 25_557_032),  # torchvision's documentation
    ],
)
def test_parameters_are_as_many_as_published(build: Any, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in build().parameters()) == parameters


def architectures(file: str) -> Any:
    """A file of RobustBench's, without the rest of the package and what that imports."""
    package = importlib.util.find_spec("robustbench")
    if package is None or package.origin is None:
        pytest.skip("robustbench is not installed")
    path = Path(package.origin).parent / "model_zoo" / "architectures" / file
    spec = importlib.util.spec_from_file_location(f"robustbench_{path.stem}", path)
    assert isinstance(spec, ModuleSpec)
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Short names on the command line must not find RobustBench's classes in a later test."""
    yield
    gc.collect()


@pytest.mark.slow
@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("name", ["preact_resnet18", "wide_resnet", "resnet18"])
def test_logits_are_those_of_robustbench(name: str) -> None:
    """Weights map in the order in which both nets list them."""
    resnet, wide = architectures("resnet.py"), architectures("wide_resnet.py")
    build = {
        "preact_resnet18": lambda: resnet.PreActResNet(resnet.PreActBlockV2, [2, 2, 2, 2], 5, bn_before_fc=True),
        "wide_resnet": lambda: wide.WideResNet(16, 5, 2),
        "resnet18": lambda: resnet.ResNet(resnet.BasicBlock, [2, 2, 2, 2], 5),
    }
    theirs, ours = fill(build[name]()), NETS[name]().double().eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    with torch.no_grad():
        torch.testing.assert_close(ours(X), theirs(X))


@pytest.mark.parametrize(
    ("net", "std"),
    [(WideResNet(10, 2), (2 / (9 * 64)) ** 0.5), (IAATWideResNet(8, 2), (2 / (9 * 64)) ** 0.5)],
    ids=["wide_resnet", "iaat"],
)
def test_wide_resnets_start_as_the_authors_do(net: Any, std: float) -> None:
    """Convolutions normal with variance 2 / fan-out (here 64 channels go out)."""
    (weight,) = {block.conv2.weight for block in net.blocks if block.conv2.out_channels == 64}
    torch.testing.assert_close(weight.std().item(), std, rtol=0.03, atol=0)
    assert abs(weight.mean().item()) < std / 20
    assert not isinstance(net, WideResNet) or not net.head.bias.any()
