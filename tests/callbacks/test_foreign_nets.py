"""Callbacks on modules that take normalised images or give logits in a way of their own, against plain loops."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import (
    AdversarialInputs,
    CorruptionAccuracy,
    EffectiveMargins,
    RobustEvaluation,
    evaluation_files,
)
from lightning_robust.callbacks.any_module import AnyModule
from lightning_robust.data import CorruptionSuite
from lightning_robust.metrics.functional import effective_margin, effective_weight_norm
from lightning_robust.threat import Threat
from lightning_robust.utils.batch_reader import as_batch
from tests.helpers.ddp import quiet_trainer
from tests.helpers.foreign import ForeignModule, images

N = 11
EPS = 0.02
ATTACK = PGD(Threat(eps=0.1), steps=3, start="none")
MEAN, STD = [0.4, 0.5, 0.3], [0.2, 0.25, 0.3]
CHANNELS = {"channels": 3}
NORMALISED: dict[str, Any] = {"mean": MEAN, "std": STD}


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


class Normalised(ForeignModule):
    """Takes normalised images, as its loaders give them."""

    def __init__(self) -> None:
        super().__init__(channels=3)
        self.body[4].p = 0.0
        self.seen: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append(batch[0])
        return super().training_step(batch, batch_idx)


class Otherwise(ForeignModule):
    """Gives features when it is called, and logits when it is asked."""

    def __init__(self) -> None:
        super().__init__(channels=3)
        self.body[4].p = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def classify(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": ForeignModule.forward(self, x)}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.classify(x)["logits"], y)


def module_and_settings(kind: str) -> tuple[ForeignModule, dict[str, Any], Any]:
    """A module, how the callbacks are told of it, and the net from pixels that it amounts to."""
    if kind == "normalised":
        module: ForeignModule = Normalised()
        return module, NORMALISED, lambda x: module(normalised(x))
    module = Otherwise()
    told = {"method": "classify", "function": lambda module, x: module.classify(x)["logits"]}[kind]
    return module, {"forward": told}, lambda x: module.classify(x)["logits"]


def data(kind: str, labels: Tensor | None = None) -> DataLoader[Any]:
    x, y = images(N, **CHANNELS).tensors
    given = normalised(x) if kind == "normalised" else x
    return DataLoader(TensorDataset(given, y if labels is None else labels), 4)


each_kind = pytest.mark.parametrize("kind", ["normalised", "method", "function"])


@each_kind
def test_evaluation_and_margins_equal_a_plain_loop_in_pixels(kind: str, tmp_path: Path) -> None:
    module, settings, net = module_and_settings(kind)
    module.eval()
    x = images(N, **CHANNELS).tensors[0]
    y = net(x).argmax(1)
    y[3] = (y[3] + 1) % 3
    attack = PGD(Threat(eps=EPS), steps=3, start="none")
    evaluation = RobustEvaluation({"pgd": attack}, check_samples=4, figure_samples=0, **settings)
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation, EffectiveMargins(**settings)])
    [logged] = trainer.test(module, data(kind, y), verbose=False)

    right = net(x).argmax(1) == y
    robust = right & (net(attack(net, x, y)).argmax(1) == y)
    assert 0 < int(robust.sum()) < int(right.sum())
    with (tmp_path / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["robust"] == "1" for row in rows] == robust.tolist()
    broken = [float(row["pgd/size"]) for row, correct in zip(rows, right, strict=True) if correct]
    assert broken == pytest.approx([EPS] * len(broken), rel=1e-4)  # in pixels
    assert logged["test/effective_margin"] == pytest.approx(float(effective_margin(net, x, y).mean()), rel=1e-4)
    norm = float(effective_weight_norm(net, x).mean())
    assert logged["test/effective_weight_norm"] == pytest.approx(norm, rel=1e-4)
    checks = {
        check["name"]: check["status"] for check in json.loads((tmp_path / "robustness.json").read_text())["checks"]
    }
    assert checks["inputs"] == checks["logits"] == checks["evaluation_mode"] == "pass"


@each_kind
def test_adversarial_inputs_equal_a_plain_loop_in_pixels(kind: str) -> None:
    module, settings, _ = module_and_settings(kind)
    quiet_trainer(max_epochs=2, callbacks=[AdversarialInputs(ATTACK, **settings)]).fit(module, data(kind))

    reference, _, net = module_and_settings(kind)
    optimizer = reference.configure_optimizers()
    x, y = images(N, **CHANNELS).tensors
    for _ in range(2):
        for some in torch.arange(N).split(4):
            x_adv = ATTACK(net, x[some], y[some])
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x_adv), y[some]).backward()
            optimizer.step()
    for mine, theirs in zip(module.state_dict().values(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    if isinstance(module, Normalised):
        first = module.seen[0] * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
        assert float((first - x[:4]).abs().max()) == pytest.approx(0.1, abs=1e-5)


@each_kind
def test_corruption_accuracy_is_that_of_a_plain_loop(kind: str, tmp_path: Path) -> None:
    module, settings, net = module_and_settings(kind)
    suite = CorruptionSuite({("fog", 1): data(kind).dataset, ("fog", 2): data(kind).dataset})
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[CorruptionAccuracy(**settings)])
    [logged] = trainer.test(module, DataLoader(suite, 4), verbose=False)
    x, y = images(N, **CHANNELS).tensors
    module.eval()
    assert logged["test/fog_acc"] == pytest.approx(float((net(x).argmax(1) == y).float().mean()))


def test_the_figure_shows_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    grid = evaluation_files.adversarial_grid
    monkeypatch.setattr(
        evaluation_files, "adversarial_grid", lambda x, title, names: shown.append(x) or grid(x, title, names)
    )
    evaluation = RobustEvaluation({"pgd": ATTACK}, check_samples=0, figure_samples=3, **NORMALISED)
    quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation]).test(
        Normalised(), data("normalised"), verbose=False
    )
    distance = (shown[0].x[:, None] - images(N, **CHANNELS).tensors[0]).abs().flatten(2).amax(2)
    assert distance.shape == (3, N)  # which of them are shown is another test's matter
    assert float(distance.amin(1).max()) < 1e-5
    assert len(set(distance.argmin(1).tolist())) == 3


@pytest.mark.parametrize("callback", [RobustEvaluation({"pgd": ATTACK}), EffectiveMargins()])
def test_normalised_images_are_refused_with_the_settings_for_them(callback: Any, tmp_path: Path) -> None:
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[callback])
    told = f"divide bytes by 255, or give {type(callback).__name__} the mean and std by which the data were normalised"
    with pytest.raises(ValueError, match=told):
        trainer.test(Normalised(), data("normalised"), verbose=False)


def test_adversarial_inputs_refuse_normalised_images_and_another_normalisation() -> None:
    for settings, told in (
        ({}, "or give AdversarialInputs the mean and std"),
        ({"mean": [0.5], "std": [1.0]}, r"lie in \[0, 1\] after undoing mean and std, but range over \[.*\]: give Adv"),
    ):
        with pytest.raises(ValueError, match=told):
            quiet_trainer(max_epochs=1, callbacks=[AdversarialInputs(ATTACK, **settings)]).fit(
                Normalised(), data("normalised")
            )


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"mean": MEAN}, "belong together"), ({"mean": MEAN, "std": [0.0, 1.0, 1.0]}, "std > 0")],
)
def test_settings_that_cannot_be_are_refused_at_once(settings: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        EffectiveMargins(**settings)


def test_a_method_that_is_not_there_is_named() -> None:
    with pytest.raises(TypeError, match="Otherwise has no method 'predict'"):
        quiet_trainer(callbacks=[EffectiveMargins(forward="predict")]).test(Otherwise(), data("method"), verbose=False)


@pytest.mark.parametrize("forward", ["no_such_package.logits", f"{__name__}.no_such_function"])
def test_a_function_that_cannot_be_imported_is_named_with_the_reason(forward: str) -> None:
    told = rf"forward='{forward}' is neither a method of Otherwise nor a function that can be imported \(\w+Error: "
    with pytest.raises(TypeError, match=told):
        AnyModule(forward=forward).net(Otherwise())


@pytest.mark.parametrize("told", ["classify", f"{__name__}.logits_of_otherwise"])
@pytest.mark.parametrize("kind", [RobustEvaluation, AdversarialInputs, EffectiveMargins, CorruptionAccuracy])
def test_a_config_says_how_the_module_is_called_and_is_written_as_it_was_read(told: str, kind: Any) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "callback")
    reader = "lightning_robust.utils.batch_reader.as_batch"
    given = [f"--callback.forward={told}", "--callback.mean=[0.5]", "--callback.std=[0.2]", "--callback.index_key=2"]
    given += ["--callback.attacks={}"] if kind is RobustEvaluation else []
    given += ["--callback.attack=lightning_robust.attacks.PGD"] if kind is AdversarialInputs else []
    config = parser.parse_args(given)
    again = parser.parse_string(parser.dump(config))
    assert again.callback.forward == told
    callback = parser.instantiate_classes(again).callback
    x = images(N, **CHANNELS).tensors[0]
    module = Otherwise().eval()
    expected = module.classify((x - 0.5) / 0.2)["logits"]
    torch.testing.assert_close(callback.net(module)(x), expected)
    assert (callback.reader.index_key, callback.mean, callback.std) == (2, [0.5], [0.2])
    place = ["--callback.image_key=0"] if kind is AdversarialInputs else []
    config = parser.parse_args([*given[:3], *given[4:], *place, f"--callback.read_batch={reader}"])
    again = parser.parse_string(parser.dump(config))
    assert parser.instantiate_classes(again).callback.reader.read is as_batch


def logits_of_otherwise(module: Otherwise, x: Tensor) -> Tensor:
    return module.classify(x)["logits"]
