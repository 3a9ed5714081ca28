"""Labelled and pseudo-labelled samples in every batch; pseudo-labels from files, and made by one command."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from lightning_robust.cli.main import main
from lightning_robust.data import Digits, MixedSampler, SemiSupervised
from tests.defenses.test_golden import FOLDER
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, plain_net
from tests.helpers.foreign import ForeignModule, images

FIRST, SECOND = 23, 7


def sampler(
    fraction: float = 0.5, batch_size: int = 6, world_size: int = 1, rank: int = 0, epoch: int = 0, seed: int = 0
) -> MixedSampler:
    made = MixedSampler(images(FIRST + SECOND), FIRST, fraction, batch_size, seed, world_size, rank)
    made.set_epoch(epoch)
    return made


def batches(size: int, *samplers: MixedSampler) -> list[list[int]]:
    """Positions of each global batch: rank after rank within a step."""
    keys = [list(s) for s in samplers]
    starts = range(0, len(keys[0]), size)
    return [[i for rank in keys for i, _ in rank[start : start + size]] for start in starts]


@pytest.mark.parametrize(("fraction", "share"), [(0.5, 3), (1 / 3, 2), (0.8, 5)])
def test_every_batch_holds_exactly_the_share(fraction: float, share: int) -> None:
    found = batches(6, sampler(fraction))
    assert len(found) == 4 == -(-FIRST // 6)  # as long as an epoch of the first part
    for batch in found:
        assert len(batch) == 6
        assert sum(i >= FIRST for i in batch) == share


def test_on_two_ranks_the_global_batches_are_the_same() -> None:
    joined = batches(3, *(sampler(batch_size=3, world_size=2, rank=rank, epoch=2) for rank in (0, 1)))
    assert [sorted(b) for b in joined] == [sorted(b) for b in batches(6, sampler(epoch=2))]
    seeds = [{k for rank in (0, 1) for k in sampler(batch_size=3, world_size=2, rank=rank)}, set(sampler())]
    assert seeds[0] == seeds[1]  # of the augmentation too


def test_the_first_part_does_not_repeat_within_an_epoch_and_the_second_may() -> None:
    positions = Counter(i for batch in batches(6, sampler()) for i in batch)
    first = {i: n for i, n in positions.items() if i < FIRST}
    second = {i: n for i, n in positions.items() if i >= FIRST}
    assert max(first.values()) == 1
    assert sum(second.values()) == 12 > SECOND >= len(second)
    assert max(second.values()) > 1


def test_over_the_epochs_every_sample_comes_and_places_within_the_batch_mix() -> None:
    epochs = [batches(6, sampler(epoch=epoch)) for epoch in range(30)]
    assert len({str(epoch) for epoch in epochs}) == 30
    assert str(batches(6, sampler(seed=1))) != str(epochs[0])
    assert {i for epoch in epochs for batch in epoch for i in batch} == set(range(FIRST + SECOND))
    share = np.mean([[i >= FIRST for i in batch] for epoch in epochs for batch in epoch], axis=0)
    assert abs(share - 0.5).max() < 0.2  # no place belongs to either part


@pytest.mark.parametrize(("fraction", "batch_size"), [(0.05, 6), (0.95, 6), (0.0, 6), (1.2, 6), (0.1, 12)])
def test_shares_that_cannot_be_held_are_refused(fraction: float, batch_size: int) -> None:
    # the last: two batches of 11 fit into 23, but not with the share rounded to one of twelve
    if (fraction, batch_size) == (0.1, 12):
        assert len(sampler(fraction, batch_size)) == 24
    else:
        with pytest.raises(ValueError, match="Batches of 6 cannot hold a share"):
            sampler(fraction, batch_size)


def with_epochs_of(epoch_size: int, fraction: float = 0.5, world_size: int = 1, rank: int = 0) -> MixedSampler:
    given = (FIRST, fraction, 6 // world_size, 0, world_size, rank, epoch_size)
    return MixedSampler(images(FIRST + SECOND), *given)


def test_an_epoch_may_have_any_size_and_goes_through_the_first_part_again_and_again() -> None:
    found = batches(6, with_epochs_of(100))
    assert len(found) == 17  # rounded up
    first = [[i for i in batch if i < FIRST] for batch in found]
    assert all(len(batch) == len({*batch}) == 3 for batch in first)
    for start in (0, 7):  # seven batches of three fit into a permutation of 23
        whole = [i for batch in first[start : start + 7] for i in batch]
        assert len({*whole}) == 21
    assert first[:7] != first[7:14]
    joined = batches(3, *(with_epochs_of(100, world_size=2, rank=rank) for rank in (0, 1)))
    assert [sorted(b) for b in joined] == [sorted(b) for b in found]
    assert batches(6, with_epochs_of(12)) != batches(6, sampler())[:2]
    assert len(batches(6, with_epochs_of(12))) == 2


def test_with_a_share_of_one_every_sample_is_of_the_second_part() -> None:
    found = [i for batch in batches(6, with_epochs_of(600, fraction=1.0)) for i in batch]
    assert len(found) == 600
    assert {*found} == {*range(FIRST, FIRST + SECOND)}


MIXING = torch.load(FOLDER / "modern.pt", weights_only=True)["wang_facts"]["mixing"]


@pytest.mark.parametrize("record", MIXING, ids=lambda record: f"{record['n_sup']} of {record['batch']}")
def test_batches_have_as_many_labelled_samples_as_the_authors(record: dict[str, Any]) -> None:
    n, size, count = record["n_sup"], record["batch"], record["num_batches"]
    if record["fraction"] == 0:
        pytest.skip("without generated samples the data module itself is used")
    made = MixedSampler(range(n + record["n_unsup"]), n, record["fraction"], size, 0, epoch_size=count * size)  # type: ignore[arg-type]
    found = torch.tensor([i for i, _ in made]).view(count, size)
    labelled = (found < n).sum(1).tolist()
    assert len(made) == count * size
    assert {*record["sizes"]} == {size}
    assert {*labelled} == {record["sup_batch_size"]}
    in_pass = n // record["sup_batch_size"]
    if count <= in_pass or n % record["sup_batch_size"] == 0:
        assert labelled[: len(record["sup_per_batch"])] == record["sup_per_batch"]
        assert sum(labelled) == record["total_sup"]
        assert len(found[found < n].unique()) == record["distinct_sup"]
    else:  # theirs fill up the last batch of each permutation with the others
        assert sorted({*record["sup_per_batch"]}) == sorted({record["sup_batch_size"], n % record["sup_batch_size"]})


# --------------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Bytes 4 x 4 as of the `Few`, every pixel the sample's number, and labels."""
    image = np.repeat(np.arange(10, dtype=np.uint8), 16).reshape(10, 4, 4)
    np.savez(tmp_path / "extra.npz", image=image, label=np.arange(10) % 3)
    return tmp_path / "extra.npz"


def semi(archive: Path | None, **settings: Any) -> SemiSupervised:
    given = {"batch_size": 4, "val_size": 4, "seed": 0, **settings}
    return SemiSupervised(Few(n=12), str(archive) if archive else None, **given)


def test_the_files_samples_follow_the_labelled_ones(archive: Path) -> None:
    data, alone = semi(archive), Few(n=12)
    for module in (data, alone):
        module.setup("fit")
    assert (len(data.train_set), len(alone.train_set), data.num_classes) == (22, 12, 3)
    for i in range(12):
        assert torch.equal(data.train_set[i][0], alone.train_set[i][0])
        assert data.train_set[i][1] == alone.train_set[i][1]
    for i in range(10):
        x, y, index = data.train_set[12 + i]
        assert x.shape == (1, 4, 4)
        torch.testing.assert_close(x, torch.full_like(x, i / 255))
        assert (y, index) == (i % 3, 12 + i)
    assert [len(data.val_set), len(alone.val_set)] == [4, 4]


def test_colour_images_and_labels_of_their_own_file(archive: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "colour.npz", image=image)
    np.savez(tmp_path / "labels.npz", label=[2, 1, 0, 1, 2])
    found = semi(tmp_path / "colour.npz", labels=str(tmp_path / "labels.npz")).pseudo_labelled(
        Few(n=12).train_data(True)
    )
    x, y = found[3]
    assert y == 1
    np.testing.assert_allclose(x.numpy(), image[3].transpose(2, 0, 1) / 255, rtol=1e-6)


def test_the_labelled_datasets_transform_is_applied(archive: Path) -> None:
    class Shifted(Few):
        def transform(self, augment: bool) -> Any:
            return lambda image: torch.full((1, 4, 4), float(image[0, 0]) / 255 + (0.5 if augment else 0.0))

    data = SemiSupervised(Shifted(n=12), str(archive), batch_size=4, val_size=4)
    data.setup()
    assert float(data.train_set[data.num_labelled + 2][0].mean()) == pytest.approx(2 / 255 + 0.5)
    data.setup("predict")
    assert float(data.predict_set[2][0].mean()) == pytest.approx(2 / 255)


def test_the_datasets_own_unlabelled_images() -> None:
    data = SemiSupervised(Digits(unlabelled=600), batch_size=64, val_size=150)
    data.setup("fit")
    assert len(data.train_set) == 1347 - 600 - 150 + 600
    held, own = Digits().train_data(False).tensors, Digits(unlabelled=600)
    kept, apart = own.train_data(False).tensors, own.unlabelled_data(own.train_data(False)).tensors
    assert torch.equal(torch.cat([apart[0], kept[0]]), held[0])  # the two are disjoint, and together all
    right = (apart[1] == held[1][:600]).float().mean()
    assert 0.9 < right < 1  # labels of a nearest neighbour, not the true ones
    assert len(load_digits().target) == 1797
    # a held-out sample has no say: with one labelled image, all get its label
    one = own.unlabelled_data(torch.utils.data.Subset(own.train_data(False), [5])).tensors[1]
    assert set(one.tolist()) == {int(kept[1][5])}
    with pytest.raises(ValueError, match="set Digits' `unlabelled` above 0"):
        SemiSupervised(Digits(), batch_size=64, val_size=150).setup("fit")


@pytest.mark.parametrize("ranks", [1, 2])
def test_training_sees_the_share_on_any_number_of_ranks(archive: Path, ranks: int) -> None:
    class Watch(ForeignModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.seen = [*getattr(self, "seen", []), batch[2]]
            return super().training_step(batch[:2], batch_idx)

    def on(rank: int) -> list[torch.Tensor]:
        module, trainer = Watch(), ddp_trainer(ranks, max_epochs=2) if ranks > 1 else quiet_trainer(max_epochs=2)
        trainer.fit(module, semi(archive, batch_size=4 // ranks))
        return module.seen

    steps = [torch.cat(step) for step in zip(*run_ddp(on, ranks), strict=True)]
    assert len(steps) == 2 * 3
    assert all(int((step >= 12).sum()) == 2 for step in steps)


def test_a_loader_goes_on_mid_epoch(archive: Path) -> None:
    def positions(loader: Any) -> list[list[int]]:
        return [batch[2].tolist() for batch in loader]

    data = semi(archive)
    data.setup("fit")
    whole = positions(data.train_dataloader())
    resumed = data.train_dataloader()
    resumed.load_state_dict({"epoch": 0, "batches": 2})
    assert positions(resumed) == whole[2:]
    assert len(whole) == 3


@pytest.mark.parametrize(
    ("arrays", "settings", "message"),
    [
        ({"label": [0]}, {}, "but no 'image'"),
        ({"image": np.zeros((2, 4, 4), np.uint8)}, {}, "but no 'label'"),
        ({"image": np.zeros((2, 4, 4), np.uint8), "label": [0]}, {}, "1 labels in .*bad.npz for 2 images"),
        ({"image": np.zeros((2, 4, 4), np.uint8)}, {"labels": "nowhere.npz"}, "There is no file 'nowhere.npz'"),
        ({"image": np.array([{}] * 2), "label": [0, 0]}, {}, "Object arrays cannot be loaded"),  # no pickles
    ],
)
def test_files_that_do_not_fit_are_refused(arrays: Any, settings: Any, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        semi(tmp_path / "bad.npz", **settings).setup("fit")


def test_without_file_and_without_own_images_it_says_so() -> None:
    with pytest.raises(ValueError, match="Few has no unlabelled images of its own: give SemiSupervised a file"):
        semi(None).setup("fit")
    data = semi(None)
    data.setup("predict")
    with pytest.raises(ValueError, match="no file of unlabelled images to predict"):
        data.predict_dataloader()


def test_test_samples_are_the_labelled_datasets(archive: Path) -> None:
    data = semi(archive)
    data.setup("test")
    assert isinstance(data.test_set.dataset, TensorDataset)
    assert len(data.test_set) == 11


@pytest.mark.slow
def test_the_documented_command_makes_labels_that_training_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIGHTNING_ROBUST_RUN", raising=False)
    root = Path(__file__).parents[2]
    digits = load_digits()
    np.savez("extra.npz", image=(digits.images[:100] * 15.9375).round().astype(np.uint8))
    config = yaml.safe_load((root / "configs/digits/rst.yaml").read_text())
    config["data"]["init_args"]["images"] = "extra.npz"
    Path("rst.yaml").write_text(yaml.safe_dump(config))
    quick = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    short = ["--trainer.max_epochs=6", *quick]
    main(["fit", "--config", str(root / "configs/digits/standard.yaml"), "--checkpoint.monitor=val/worst_acc", *short])
    (net,) = tmp_path.glob("runs/Digits/Standard/*/checkpoints/last.ckpt")
    # the checkpoint is of plain training, so the config's model must be, too
    labelling = ["predict", "--config", "rst.yaml", "--model", "Standard", "--model.net", "SmallConvNet"]
    written = ["--trainer.callbacks+=PseudoLabels", "--trainer.callbacks.path=labels.npz"]
    main([*labelling, "--ckpt_path", str(net), *written, *quick])
    with np.load("labels.npz") as labels:
        assert labels["label"].shape == (100,)
        assert (labels["label"] == digits.target[:100]).mean() > 0.8
    main(["fit", "--config", "rst.yaml", "--data.labels=labels.npz", "--trainer.max_epochs=1", *quick])


def test_a_defense_trains_on_it(archive: Path) -> None:
    from lightning_robust.defenses import TRADES

    defense = TRADES(plain_net())
    quiet_trainer(max_epochs=1).fit(defense, semi(archive))
    assert not torch.equal(defense.net[0].weight, plain_net()[0].weight)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.ones((2, 4, 4)), "label": [0, 1]}, r"must be bytes .* got float64 \(2, 4, 4\)"),
        ({"image": np.ones((2, 16), np.uint8), "label": [0, 1]}, r"must be bytes .* got uint8 \(2, 16\)"),
        ({"image": np.ones((2, 4, 4), np.uint8), "label": [0.0, 0.9]}, r"float64 labels \[2\] from 0.0 to 0.9"),
        (
            {"image": np.ones((2, 4, 4), np.uint8), "label": [0, 3]},
            "from 0 to 3: each image needs a class number below 3",
        ),
        ({"image": np.ones((2, 4, 4), np.uint8), "label": [-1, 0]}, "from -1 to 0"),
    ],
)
def test_arrays_of_another_form_are_refused(arrays: Any, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        semi(tmp_path / "bad.npz").setup("fit")


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 cut", b"\x80\x04\x95", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'}"]
)
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "cut.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"cut.npz cannot be read as an .npz archive with 'image'"):
        semi(tmp_path / "cut.npz").setup("fit")
