"""No net takes images of another number of channels than its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_robust.models import (
    IAATWideResNet,
    Normalize,
    PreActResNet,
    SmallConvNet,
    TorchvisionModel,
    WideResNet,
    normalized,
)
from tests.helpers.command_line import refusal

STATISTICS: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.2] * 3}
NETS = {
    "layer": lambda given: Normalize(**STATISTICS),
    "wrapped": lambda given: normalized(nn.Flatten(), **STATISTICS),
    "small": lambda given: SmallConvNet(width=4, in_channels=3, **given),
    "preact": lambda given: PreActResNet(18, in_channels=3, **given),
    "wide": lambda given: WideResNet(10, 1, in_channels=3, **given),
    "iaat": lambda given: IAATWideResNet(in_channels=3, **given),
    "torchvision": lambda given: TorchvisionModel("resnet18", **given),
}


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("given", [STATISTICS, {}], ids=["normalised", "plain"])
@pytest.mark.parametrize("name", NETS)
@pytest.mark.slow
def test_other_channels_are_refused(name: str, given: dict[str, Any], channels: int) -> None:
    told = rf"The net takes images of 3 channels, got {channels} \(shape \(2, {channels}, 32, 32\)\): set its channels"
    with pytest.raises(ValueError, match=told):
        NETS[name](given)(torch.rand(2, channels, 32, 32))


def test_one_statistic_is_for_one_channel() -> None:
    with pytest.raises(ValueError, match="The net takes images of 1 channel, got 3"):
        Normalize([0.5], [0.2])(torch.rand(2, 3, 4, 4))
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(Normalize([0.1, 0.2, 0.3], [1.0, 2.0, 4.0])(x)[:, 1], (x[:, 1] - 0.2) / 2)


@pytest.mark.parametrize("more", [[], ["--model.net.mean=[0.5,0.5,0.5]", "--model.net.std=[0.5,0.5,0.5]"]])
@pytest.mark.slow
def test_the_command_line_tells_it_in_one_sentence(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told = refusal(capsys, "fit", "--config=digits/at", "--trainer.accelerator=cpu", "--model.net.in_channels=3", *more)
    assert told.startswith("error: The net takes images of 3 channels but those of the data have 1: ")
    assert not list(tmp_path.iterdir())
