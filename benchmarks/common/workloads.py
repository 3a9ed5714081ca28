"""The net and the batch that a benchmark of training runs on, as chosen on the command line."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

import torch
from jsonargparse import ArgumentParser
from torch import nn

from benchmarks.common.processes import prepare
from lightning_robust.models import SmallConvNet, TimmModel, TorchvisionModel, WideResNet
from lightning_robust.runtime.modes import logits_no_grad
from lightning_robust.types import Batch

NetName: TypeAlias = Literal["small", "resnet18", "wide_resnet28_10", "resnet50", "convnext_tiny"]
NETS: dict[NetName, tuple[int, int, Callable[[], nn.Module]]] = {
    "small": (8, 10, lambda: SmallConvNet(10, 3)),
    "resnet18": (32, 10, lambda: TorchvisionModel("resnet18", small_images=True)),
    "wide_resnet28_10": (32, 10, lambda: WideResNet(28, 10)),
    "resnet50": (224, 1000, lambda: TorchvisionModel("resnet50", 1000)),
    "convnext_tiny": (224, 1000, lambda: TimmModel("convnext_tiny", 1000, stem="conv")),
}
"""Pixels on each side, classes, and the net."""


@dataclass(frozen=True)
class Workload:
    """A net with random weights, and random images that it labels itself, so that no method leaves any of them out.

    Args:
        net: which net.
        batch_size: images a step.
        device: "cpu" (one thread) or "cuda".
    """

    net: NetName = "resnet18"
    batch_size: int = 16
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.net}, batch {self.batch_size}, {self.device}"

    def build(self) -> tuple[nn.Module, Batch]:
        """Make the net and its batch."""
        pixels, _, build = NETS[self.net]
        return with_batch(build().to(self.device), self.batch_size, pixels)


def with_batch(net: nn.Module, batch_size: int, pixels: int) -> tuple[nn.Module, Batch]:
    """Return a net that says the same however long it is trained on, and random images that it labels itself."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.0  # running statistics stay, too, and with them what the net says
    device = next(net.parameters()).device
    x = torch.rand(batch_size, 3, pixels, pixels, device=device)
    return net, Batch(x, logits_no_grad(net, x).argmax(1), torch.arange(batch_size, device=device))


def on_workload(main: Callable[..., None], skip: Collection[str] = (), **defaults: Any) -> None:
    """Run `main` with a workload and its own options, all read from the command line.

    Args:
        main: gets the `Workload` as its first argument, named `workload`; its other arguments become options.
        skip: fields of the workload that are not offered.
        defaults: of the options, where they differ from those of the workload.
    """
    parser = ArgumentParser(description=(main.__doc__ or "").partition("\n")[0])
    parser.add_class_arguments(Workload, as_group=False, skip=set(skip))
    parser.add_function_arguments(main, as_group=False, skip={"workload"})
    parser.set_defaults(defaults)
    given = parser.parse_args().as_dict()
    of_workload = {field.name: given.pop(field.name) for field in fields(Workload) if field.name not in skip}
    prepare()
    main(Workload(**of_workload), **given)
