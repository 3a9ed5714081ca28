"""Callbacks and a defense on other people's batches, against plain loops over the same data."""

import csv
from collections import UserDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import AdversarialInputs, CorruptionAccuracy, EffectiveMargins, RobustEvaluation
from lightning_robust.callbacks.any_module import AnyModule
from lightning_robust.defenses import AT
from lightning_robust.metrics.functional import effective_margin
from lightning_robust.threat import Threat
from lightning_robust.types import Batch
from lightning_robust.utils.batch_reader import BatchReader
from tests.helpers.ddp import quiet_trainer
from tests.helpers.foreign import ForeignModule, images, loader
from tests.utils.test_batch_reader import Meta

N = 11
ATTACK = PGD(Threat(eps=0.1), steps=2, start="none")


class Named(NamedTuple):
    label: Tensor
    image: Tensor


@dataclass
class Record:
    image: Tensor
    label: Tensor
    name: str = "batch"


class Features(UserDict[str, Any]):
    """As transformers' BatchFeature."""


# name -> (from images and labels to a batch, settings of the reader)
FORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dict": (lambda x, y: {"image": x, "label": y, "path": ["a"] * len(x)}, {}),
    "dict of other names": (lambda x, y: {"a": x, "b": y}, {"image_key": "a", "label_key": "b"}),
    "named tuple": (lambda x, y: Named(y, x), {}),
    "dataclass": (lambda x, y: Record(x, y), {}),
    "BatchFeature": (lambda x, y: Features(pixel_values=x, labels=y), {}),
    "tuple with more": (lambda x, y: (x, y, ["a"] * len(x), torch.zeros(len(x), dtype=torch.long)), {}),
    "tensor subclass": (lambda x, y: {"image": Meta(x, meta="m"), "label": Meta(y)}, {}),
    "function": (lambda x, y: {"a": x, "b": y}, {"image_key": "a", "read_batch": lambda b: Batch(b["a"], b["b"])}),
}
each_form = pytest.mark.parametrize(("make", "settings"), FORMS.values(), ids=FORMS)


class Theirs(ForeignModule):
    """Reads its own batches, and insists on their type."""

    def __init__(self, make: Any, settings: dict[str, Any]) -> None:
        super().__init__()
        self.kind = type(make(torch.zeros(1), torch.zeros(1)))
        self.read = BatchReader(
            settings.get("image_key"), settings.get("label_key", "b" if "read_batch" in settings else None)
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        assert type(batch) is self.kind
        return super().training_step(self.read(batch)[:2], batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        assert type(batch) is self.kind

    test_step = validation_step


def batches(make: Any, n: int = N) -> DataLoader[Any]:
    def together(samples: list[Any]) -> Any:
        return make(*(torch.stack(part) for part in zip(*samples, strict=True)))

    return DataLoader(images(n), 4, collate_fn=together)


def weights(module: LightningModule) -> list[Tensor]:
    return [value.clone() for value in module.state_dict().values()]


@each_form
# Lightning takes the number of paths for the batch size
@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`")
def test_evaluation_equals_a_plain_loop(make: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    evaluation = RobustEvaluation({"pgd": ATTACK}, check_samples=0, figure_samples=0, **settings)
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation, EffectiveMargins(**settings)])
    [logged] = trainer.test(Theirs(make, settings), batches(make), verbose=False)

    net, (x, y) = ForeignModule().eval(), images(N).tensors
    right = net(x).argmax(1) == y
    robust = right & (net(ATTACK(net, x, y)).argmax(1) == y)
    with (tmp_path / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["robust"] == "1" for row in rows] == robust.tolist()
    assert [int(row["label"]) for row in rows] == y.tolist()
    assert [int(row["index"]) for row in rows] == list(range(N))
    assert logged["test/clean_acc"] == pytest.approx(float(right.float().mean()))
    assert logged["test/effective_margin"] == pytest.approx(float(effective_margin(net, x, y).mean()), rel=1e-5)


@each_form
def test_adversarial_inputs_equal_a_plain_loop(make: Any, settings: dict[str, Any]) -> None:
    module, reference = Theirs(make, settings), ForeignModule()
    module.body[4].p = reference.body[4].p = 0.0
    quiet_trainer(max_epochs=2, callbacks=[AdversarialInputs(ATTACK, **settings)]).fit(module, batches(make))

    optimizer = reference.configure_optimizers()
    for _ in range(2):
        for x, y in loader(N):
            x_adv = ATTACK(reference, x, y)
            optimizer.zero_grad()
            nn.functional.cross_entropy(reference(x_adv), y).backward()
            optimizer.step()
    torch.testing.assert_close(weights(module), weights(reference), rtol=0, atol=0)


@each_form
@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`")
def test_a_defense_equals_a_plain_loop(make: Any, settings: dict[str, Any]) -> None:
    def sgd(params: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=0.1)

    def net() -> nn.Module:
        return nn.Sequential(ForeignModule().body[:4], ForeignModule().head)

    keys = {name: key for name, key in settings.items() if name != "image_key" or "read_batch" not in settings}
    defense = AT(net(), attack=ATTACK, optimizer=sgd, **keys)
    quiet_trainer(max_epochs=2).fit(defense, batches(make), batches(make))

    reference = net().train()
    optimizer = sgd(reference.parameters())
    for _ in range(2):
        for x, y in loader(N):
            x_adv = ATTACK(reference, x, y)
            optimizer.zero_grad()
            nn.functional.cross_entropy(reference(x_adv), y).backward()
            optimizer.step()
    torch.testing.assert_close(weights(defense.net), weights(reference), rtol=0, atol=0)


def test_of_several_loaders_one_is_chosen_or_all_are_refused() -> None:
    class Two(ForeignModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            assert set(batch) == {"labelled", "other"}
            assert torch.equal(batch["other"][0], batch["labelled"][0]) == (not attacked)
            return super().training_step(batch["labelled"], batch_idx)

    loaders = {"labelled": loader(8), "other": loader(8)}
    attacked = False
    with pytest.raises(TypeError, match=r"not found in a dict with the keys \['labelled', 'other'\]: say with"):
        quiet_trainer(max_epochs=1, callbacks=[AdversarialInputs(ATTACK)]).fit(Two(), loaders)
    attacked = True
    chosen = AdversarialInputs(ATTACK, image_key="labelled.0", label_key="labelled.1")
    quiet_trainer(max_epochs=1, callbacks=[chosen]).fit(Two(), loaders)


def test_a_function_alone_does_not_say_where_adversarial_images_are_written() -> None:
    """The function may take another tensor than the usual place holds: the step would train on clean images."""
    read: Any = lambda batch: Batch(batch["strong"], batch["label"])  # noqa: E731
    with pytest.raises(ValueError, match="AdversarialInputs with read_batch needs image_key"):
        AdversarialInputs(ATTACK, read_batch=read)
    x, strong, y = torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.long)
    callback = AdversarialInputs(ATTACK, read_batch=read, image_key="strong")
    batch = callback.replaced(ForeignModule(), {"image": x, "strong": strong, "label": y}, strong + 0.1)
    assert torch.equal(batch["strong"], strong + 0.1)
    assert batch["image"] is x


@pytest.mark.parametrize("kind", [RobustEvaluation, AdversarialInputs, EffectiveMargins, CorruptionAccuracy])
@pytest.mark.parametrize(
    ("y", "told"), [(torch.ones(2, 1, dtype=torch.long), r"y.flatten\(\)"), (torch.eye(2, dtype=torch.long), "argmax")]
)
def test_labels_of_another_shape_are_told_of_before_some_are_left_out(kind: Any, y: Tensor, told: str) -> None:
    callback = AnyModule.__new__(kind)
    AnyModule.__init__(callback, ignore_index=-1)
    with pytest.raises(TypeError, match=rf"Labels must be class numbers \[b\].*{told}"):
        callback.read(ForeignModule(), (torch.zeros(2, 1, 4, 4), y))


def test_an_evaluation_tells_of_labels_of_another_shape(tmp_path: Path) -> None:
    data = DataLoader([(x, y[None]) for x, y in images(4)], 2)
    evaluation = RobustEvaluation({"pgd": ATTACK}, check_samples=0, figure_samples=0, ignore_index=-1)
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation])
    with pytest.raises(TypeError, match=r"Labels must be class numbers \[b\] .* give y.flatten"):
        trainer.test(Theirs(lambda x, y: [x, y], {}), data, verbose=False)


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_images_of_another_type_than_the_weights_are_told_of(stage: str, tmp_path: Path) -> None:
    class Quiet(ForeignModule):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            pass

    data = DataLoader([(x.double(), y) for x, y in images(4)], 2)
    callbacks = [RobustEvaluation({"pgd": ATTACK}, check_samples=0), AdversarialInputs(ATTACK)]
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path, callbacks=callbacks)
    with pytest.raises(TypeError, match=r"weights are torch.float32 and the images torch.float64.*: convert one"):
        getattr(trainer, stage)(Quiet(), data)
