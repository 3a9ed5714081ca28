"""Generated images in one file or many, of which none is held in memory, and their soft labels."""

import pickle
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np
import pytest
import torch

from lightning_robust.data import CIFAR10, BatchMixing, SemiSupervised
from lightning_robust.data.arrays import read_array
from lightning_robust.data.npz_mapping import map_stored
from lightning_robust.data.shard_files import image_sources
from lightning_robust.data.shards import Shards
from lightning_robust.defenses import AT
from lightning_robust.schedules import Linear
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, plain_net
from tests.helpers.files import checksums_of, write_cifar10
from tests.helpers.foreign import ForeignModule

IMAGE = np.random.default_rng(0).integers(0, 256, (10, 4, 4), dtype=np.uint8)
LABEL = np.arange(10) % 3
SOFT = np.random.default_rng(1).dirichlet(np.ones(3), 10).astype(np.float32)


def archives(folder: Path, save: Any = np.savez, label: Any = LABEL) -> None:
    save(folder / "a.npz", image=IMAGE[:3], label=label[:3])
    save(folder / "b.npz", image=IMAGE[3:], label=label[3:])


def plain_files(folder: Path, label: Any = LABEL) -> None:
    for name, part in {"a": slice(3), "b": slice(3, 10)}.items():
        np.save(folder / f"{name}_image.npy", IMAGE[part])
        np.save(folder / f"{name}_label.npy", label[part])


def semi(images: Any, **settings: Any) -> SemiSupervised:
    return SemiSupervised(Few(12), images, **{"batch_size": 4, "val_size": 4, "seed": 0, **settings})


FORMS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "a folder of archives": (archives, str),
    "compressed archives": (lambda folder: archives(folder, np.savez_compressed), str),
    "a pattern": (archives, lambda folder: f"{folder}/*.npz"),
    "a list": (archives, lambda folder: [f"{folder}/a.npz", f"{folder}/b.npz"]),
    "a folder of plain files": (plain_files, str),
    "a pattern of plain files": (plain_files, lambda folder: f"{folder}/?_image.npy"),
}


@pytest.mark.parametrize("form", FORMS)
def test_several_files_are_one_set(form: str, tmp_path: Path) -> None:
    write, given = FORMS[form]
    write(tmp_path)
    data = semi(given(tmp_path))
    data.setup("fit")
    assert len(data.train_set) == 22
    for i in range(10):
        x, y, index = data.train_set[12 + i]
        assert torch.equal(x[0], torch.from_numpy(IMAGE[i]) / 255)
        assert (y, index) == (LABEL[i], 12 + i)
    data.setup("predict")
    assert len(data.predict_set) == 10


def test_labels_may_be_elsewhere(tmp_path: Path) -> None:
    plain_files(tmp_path)
    np.savez(tmp_path / "mine.npz", label=2 - LABEL)
    data = semi(str(tmp_path), labels=str(tmp_path / "mine.npz"))
    data.setup("fit")
    assert [int(data.train_set[12 + i].y) for i in range(10)] == (2 - LABEL).tolist()


@pytest.mark.parametrize("order", ["C", "F"])
def test_what_is_mapped_is_what_numpy_reads(order: Any, tmp_path: Path) -> None:
    arrays = {"image": np.asarray(IMAGE, order=order), "label": LABEL, "none": IMAGE[:0], "soft": SOFT.astype(">f8")}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        for name, array in arrays.items():
            found = read_array(tmp_path / "a.npz", name)
            assert found.dtype == array.dtype
            assert np.array_equal(found, array)
            mapped = map_stored(tmp_path / "a.npz", name)
            assert (mapped is None) == (save is np.savez_compressed)
            assert isinstance(found, np.memmap) == (save is np.savez and name != "none")


def test_shards_travel_to_other_processes_as_names(tmp_path: Path) -> None:
    many = np.random.default_rng(2).integers(0, 256, (5000, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", image=many[:2000])
    np.savez(tmp_path / "b.npz", image=many[2000:])
    sent = pickle.dumps(Shards(image_sources(str(tmp_path))))
    assert len(sent) < 1000 < many.nbytes
    received = pickle.loads(sent)
    assert len(received) == 5000
    assert all(np.array_equal(received[i], many[i]) for i in (0, 1999, 2000, 4999))
    with pytest.raises(IndexError):
        received[5000]


def test_worker_processes_and_a_resumed_epoch_give_the_same_batches(tmp_path: Path) -> None:
    plain_files(tmp_path)

    def found(skipped: int = 0, **settings: Any) -> list[Any]:
        data = semi(str(tmp_path), fraction=0.75, epoch_size=90, **settings)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.load_state_dict({"epoch": 0, "batches": skipped})
        return [(batch.x, batch.y, batch.index) for batch in loader]

    whole = found()
    assert len(whole) == 23
    for got, expected in ((found(num_workers=2), whole), (found(skipped=15), whole[15:])):
        assert len(got) == len(expected)
        assert all(torch.equal(a, b) for x, y in zip(got, expected, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("archive", [False, True])
def test_images_stay_in_their_files(archive: bool, tmp_path: Path) -> None:
    """Two files of 307 MB each, of which a few pages are looked at."""
    write_cifar10(tmp_path)
    n, label = 100_000, np.arange(100_000) % 10
    for name in ("a", "b"):  # sparse: they take no room on the disk
        image = np.lib.format.open_memmap(tmp_path / f"{name}_image.npy", "w+", np.uint8, (n, 32, 32, 3))
        image[n // 2 :: n // 4] = 7
        image.flush()
        np.save(tmp_path / f"{name}_label.npy", label)
    given: Any = str(tmp_path / "*_image.npy")
    if archive:
        _as_archive(tmp_path / "all.npz", tmp_path / "a_image.npy", tmp_path / "a_label.npy")
        given = str(tmp_path / "all.npz")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        data = SemiSupervised(CIFAR10(str(tmp_path)), given, fraction=1.0, batch_size=16, val_size=20, seed=0)
        with checksums_of(tmp_path):
            data.setup("fit")
        x, _, index = next(iter(data.train_dataloader()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert x.shape == (16, 3, 32, 32)
    assert index.min() >= 60
    assert float(data.train_set[60 + n // 2].x.max()) == pytest.approx(7 / 255)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert peak < 50e6 < 307e6
    assert grown < 150e6


def _as_archive(path: Path, image: Path, label: Path) -> None:
    """An archive of two files, by hand: `numpy.savez` would write out what is sparse."""
    with ZipFile(path, "w", ZIP_STORED) as archive:
        archive.write(image, "image.npy")
        archive.write(label, "label.npy")


# ---------------------------------------------------------------------------------------------------------- soft labels


@pytest.mark.parametrize("write", [archives, plain_files])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8"])
def test_soft_labels_make_all_labels_soft(write: Any, kind: str, tmp_path: Path) -> None:
    write(tmp_path, label=SOFT.astype(kind))
    data, alone = semi(str(tmp_path)), Few(12)
    data.setup("fit"), alone.setup("fit")
    for i in range(12):
        assert torch.equal(data.train_set[i].y, torch.eye(3)[alone.train_set[i].y])
    for i in range(10):
        assert torch.equal(data.train_set[12 + i].y, torch.from_numpy(SOFT[i]))
    y = next(iter(data.train_dataloader())).y
    assert y.shape == (4, 3)
    assert y.dtype == torch.float32
    defense = AT(plain_net())
    quiet_trainer(max_epochs=1).fit(defense, semi(str(tmp_path)))
    assert not torch.equal(defense.net[0].weight, plain_net()[0].weight)


def test_two_ranks_train_on_what_one_process_trains_on(tmp_path: Path) -> None:
    plain_files(tmp_path, label=SOFT)

    class Watch(ForeignModule):
        seen: list[Any]

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.seen.append(batch)
            return super().training_step(batch[:2], batch_idx)

    def on(rank: int, ranks: int = 2) -> list[Any]:
        module, trainer = Watch(), ddp_trainer(max_epochs=2) if ranks > 1 else quiet_trainer(max_epochs=2)
        module.seen = []
        erasing = {"RandomErasing": {"p": 1.0, "value": "random"}}
        given = {"fraction": 0.75, "epoch_size": 40, "batch_size": 8 // ranks, "augmentation": erasing}
        trainer.fit(module, semi(str(tmp_path), **given))
        return module.seen

    alone = on(0, ranks=1)
    assert len(alone) == 10
    for parts, whole in zip(zip(*run_ddp(on), strict=True), alone, strict=True):
        together = [torch.cat(values) for values in zip(*parts, strict=True)]
        for a, b in zip(together, whole, strict=True):
            assert torch.equal(a[together[2].argsort(stable=True)], b[whole.index.argsort(stable=True)])


def broken(row: Any) -> np.ndarray:
    label = SOFT.copy()
    label[7] = row
    return label


@pytest.mark.parametrize(
    ("label", "told"),
    [
        (broken([0.5, 0.6, 0.5]), r"b.npz must be probabilities, but they go down to .* a row sums to 1.6"),
        (broken([-0.5, 1.0, 0.5]), r"go down to -0.5"),
        (broken([np.nan, 1.0, 0.5]), r"go down to nan"),
        (SOFT[:, :2], "a.npz are of 2 classes where there are 3"),
        (np.r_[LABEL[:9], 3], r"b.npz has 7 images and int64 labels \[7\] from 0 to 3: each image needs a class"),
    ],
)
def test_labels_that_cannot_be_are_told_with_their_file(label: Any, told: str, tmp_path: Path) -> None:
    archives(tmp_path, label=label)
    with pytest.raises(ValueError, match=told):
        semi(str(tmp_path)).setup("fit")


@pytest.mark.parametrize(
    ("files", "settings", "told"),
    [
        ({"a_image.npy": IMAGE, "b_image.npy": IMAGE[:, :3]}, {}, r"b_image.npy holds uint8 \[10, 3, 4\] where .*a_im"),
        ({"a_image.npy": IMAGE}, {}, "There is no file .*a_label.npy"),
        ({"a_image.npy": IMAGE, "a_label.npy": SOFT[:9]}, {}, "9 labels in .*a_label.npy for 10 images"),
        ({"a_image.npy": IMAGE[:5], "b_image.npy": IMAGE, "l.npy": LABEL}, {"labels": "l.npy"}, "for 15 images"),
        ({"x.npy": IMAGE}, {"images": "x.npy"}, "labels of .*x.npy are not known: call it x_image.npy with its labels"),
        ({"x.npy": IMAGE}, {}, "There are no files .*: they should be .npz archives or"),
        ({"x.npy": IMAGE}, {"images": "*_image.npy"}, "There are no files .*_image.npy'"),
        ({"x_image.npy": IMAGE / 255}, {}, "must be bytes"),
        (
            {"a_image.npy": IMAGE[:3], "b_image.npy": IMAGE[3:], "a_label.npy": LABEL[:7], "b_label.npy": LABEL[7:]},
            {},
            "a_label.npy holds 7 labels for the 3 images beside",
        ),
        (
            {"a_image.npy": IMAGE.repeat(2, axis=1).repeat(2, axis=2), "a_label.npy": LABEL},
            {"fraction": 1.0},
            r"pseudo-labelled images are \[1, 8, 8\], where the labelled ones are \[1, 4, 4\]",
        ),
    ],
)
def test_files_that_do_not_belong_together_are_told(
    files: Any, settings: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, array in files.items():
        np.save(name, array)
    with pytest.raises(ValueError, match=told):
        semi(**{"images": ".", **settings}).setup("fit")


@pytest.mark.parametrize("settings", [{"mixing": BatchMixing()}, {"resolution": Linear(4, 8, 2)}])
def test_batches_of_the_labelled_alone_are_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match=f"give {next(iter(settings))} to SemiSupervised itself"):
        SemiSupervised(Few(**settings))


def test_an_epoch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 sample, got epoch_size 0"):
        semi(None, epoch_size=0)
