"""The data module's splits, its loaders on ranks, and what it refuses."""

from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from lightning_robust.data import Digits, RobustDataModule
from lightning_robust.defenses import Standard
from lightning_robust.utils.batch_reader import as_batch
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, plain_net
from tests.helpers.foreign import images


def rows(dataset: Any) -> set[bytes]:
    """The images themselves, whatever their positions."""
    return {dataset[i][0].numpy().tobytes() for i in range(len(dataset))}


def test_digits_are_the_images_of_scikit_learn_split_once() -> None:
    from sklearn.datasets import load_digits

    data = Digits(val_size=150)
    data.setup()
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [1197, 150, 450]
    original = {(image / 16).astype("float32").tobytes(): int(y) for image, y in zip(*load_digits(return_X_y=True))}  # noqa: B905
    assert len(original) == 1797  # no image occurs twice, so the parts can be told apart by their images
    parts = [rows(part) for part in (data.train_set, data.val_set, data.test_set)]
    assert set.union(*parts) == set(original)
    assert sum(map(len, parts)) == 1797  # disjoint
    for part in (data.train_set, data.val_set, data.test_set):
        for x, y, _ in (part[i] for i in range(len(part))):
            assert x.shape == (1, 8, 8)
            assert original[x.numpy().tobytes()] == int(y)
    classes = Counter(int(data.test_set[i][1]) for i in range(450))
    assert set(classes) == set(range(10))
    assert max(classes.values()) - min(classes.values()) <= 3
    assert data.num_classes == 10


def test_the_validation_split_does_not_depend_on_the_seed() -> None:
    def split(seed: int, global_seed: int, **settings: Any) -> tuple[set[bytes], set[bytes]]:
        torch.manual_seed(global_seed)
        data = Few(40, val_size=15, seed=seed, **settings)
        data.setup("fit")
        return rows(data.train_set), rows(data.val_set)

    first = split(0, 0)
    assert split(7, 5) == first
    assert not first[0] & first[1]
    assert (len(first[0]), len(first[1])) == (40, 15)
    assert split(0, 0, split_seed=1) != first


def test_positions_are_those_within_the_set_and_name_the_same_sample_in_every_epoch() -> None:
    data = Few(12, batch_size=5)
    data.setup("fit")
    loader = data.train_dataloader()
    orders = []
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        order = []
        for batch in map(as_batch, loader):
            for x, y, i in zip(*batch, strict=True):
                assert torch.equal(x, data.train_set[int(i)][0])
                assert int(y) == int(data.train_set[int(i)][1])
                order.append(int(i))
        orders.append(order)
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(12))
    assert orders[0] != orders[1]


def test_the_training_order_follows_the_seed_alone() -> None:
    def order(seed: int | None, global_seed: int, **settings: Any) -> list[int]:
        torch.manual_seed(global_seed)
        data = Few(12, seed=seed, **settings)
        data.setup("fit")
        torch.rand(3)  # draws elsewhere do not matter
        return torch.cat([batch[2] for batch in data.train_dataloader()]).tolist()

    assert order(3, 0) == order(3, 1) == order(3, 0, batch_size=5)
    assert order(3, 0) != order(4, 0)
    assert order(None, 3) == order(3, 0)


class Reader(Standard):
    """Keeps the positions it is given."""

    def __init__(self) -> None:
        super().__init__(plain_net(), optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
        self.seen: dict[str, list[list[int]]] = {"train": [], "val": [], "test": [], "predict": []}

    def on_train_epoch_start(self) -> None:
        self.seen["train"].append([])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen["train"][-1] += as_batch(batch).index.tolist()
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.seen["val"].append(as_batch(batch).index.tolist())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.seen["test"].append(as_batch(batch).index.tolist())

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen["predict"].append(as_batch(batch).index.tolist())
        return 0


def test_two_ranks_and_a_prime_number_of_samples() -> None:
    def on(rank: int) -> Any:
        reader, data = Reader(), Few(n=17, val_size=7, test_size=13, batch_size=3)
        trainer = ddp_trainer(max_epochs=2, num_sanity_val_steps=0)
        trainer.fit(reader, data)
        trainer.test(reader, data, verbose=False)
        trainer.predict(reader, data, return_predictions=False)
        return reader.seen

    first, second = run_ddp(on)
    for stage, n in (("test", 13), ("predict", 13)):
        assert sorted(chain(*first[stage], *second[stage])) == list(range(n))
    assert sorted(chain(*first["val"], *second["val"])) == sorted(2 * list(range(7)))  # in each of two epochs
    for epoch in (0, 1):
        mine, theirs = first["train"][epoch], second["train"][epoch]
        assert len(mine) == len(theirs) == 8  # one of 17 sits out
        assert len({*mine, *theirs}) == 16
    assert first["train"][0] != first["train"][1]
    assert {*first["train"][0]} != {*first["train"][1]}  # dealt anew, not only reordered

    reader = Reader()
    quiet_trainer(max_epochs=1, num_sanity_val_steps=0).fit(reader, Few(n=17, val_size=7, batch_size=6))
    joined = [i for pair in zip(first["train"][0], second["train"][0], strict=True) for i in pair]
    assert reader.seen["train"][0][:16] == joined  # the same batches as on one process


class Empty(Few):
    def train_data(self, augment: bool) -> TensorDataset:
        return images(0)

    test_data = train_data  # type: ignore[assignment]


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_an_empty_training_set_is_told(stage: str) -> None:
    with pytest.raises(ValueError, match="The training set is empty: check the data module's root folder"):
        Empty().setup(stage)


def test_an_empty_test_set_is_told() -> None:
    class NoTest(Few):
        def test_data(self) -> TensorDataset:
            return images(0)

    with pytest.raises(ValueError, match="The test set is empty"):
        NoTest().setup("test")


@pytest.mark.parametrize("val_size", [-1, 16, 99])
def test_a_split_that_leaves_nothing_is_refused(val_size: int) -> None:
    class Sixteen(Few):
        def train_data(self, augment: bool) -> TensorDataset:
            return images(16)

    with pytest.raises(ValueError, match=rf"val_size must lie between 0 and 15, got {val_size} of 16 samples"):
        Sixteen(val_size=val_size).setup("fit")


@pytest.mark.parametrize("sizes", [(0, None), (4, 0), (-1, 4)])
def test_batch_sizes_below_one_are_refused(sizes: tuple[int, int | None]) -> None:
    with pytest.raises(ValueError, match=f"Batch sizes must be at least 1, got {sizes[0]} and {sizes[1]}"):
        Digits(batch_size=sizes[0], eval_batch_size=sizes[1])  # type: ignore[arg-type]


def test_augmentation_is_for_training_only() -> None:
    class Augmented(RobustDataModule):
        num_classes = 3

        def train_data(self, augment: bool) -> TensorDataset:
            x, y = images(10).tensors
            return TensorDataset(x + 10 * augment, y)

        def test_data(self) -> TensorDataset:
            return images(3)

    data = Augmented(val_size=4)
    data.setup()
    assert min(float(data.train_set[i][0].min()) for i in range(6)) >= 10
    assert max(float(data.val_set[i][0].max()) for i in range(4)) <= 1
    assert (data.batch_size, data.eval_batch_size) == (128, 128)


@pytest.mark.parametrize("settings", [{"split_seed": 1}, {"val_size": 5}, {"stratified": True}])
def test_a_checkpoint_that_held_out_other_samples_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    """Its validation would be on images that were trained on, and IAAT's radii those of others."""
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(Standard(plain_net()), Few(20, val_size=4))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    given: dict[str, Any] = {"ckpt_path": tmp_path / "a.ckpt", "weights_only": True}
    for run in (quiet_trainer(max_epochs=2).fit, quiet_trainer().validate):
        other = Few(20 - settings.get("val_size", 4) + 4, **{"val_size": 4, **settings})
        with pytest.raises(ValueError, match=r"held out other samples .*\(4 of 24: .*start from its weights"):
            run(Standard(plain_net()), datamodule=other, **given)
    quiet_trainer().test(Standard(plain_net()), datamodule=other, **given)  # the same for all
    quiet_trainer(max_epochs=2).fit(Standard(plain_net()), datamodule=Few(20, val_size=4), **given)


def test_a_last_batch_of_one_image_sits_out() -> None:
    data = Few(9, batch_size=4)
    data.setup("fit")
    assert [len(batch[1]) for batch in data.train_dataloader()] == [4, 4]


def test_the_size_that_digits_tells_is_that_of_its_images() -> None:
    image, _ = Digits().test_data()[0]
    assert image.shape[-2:] == Digits.image_size
