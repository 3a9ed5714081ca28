"""Datasets in the forms that Hugging Face's library reads, from local files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightning_robust.data import HFDataset
from tests.helpers.pictures import same_images

datasets = pytest.importorskip("datasets")

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 9, 8, 3), dtype=np.uint8)
LABEL = np.arange(40) % 3
NAMES = ["cat", "dog", "eel"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def table(label: Any = None, names: tuple[str, str] = ("picture", "kind"), **more: Any) -> Any:
    columns = {"id": datasets.Value("int64"), names[0]: datasets.Image()}
    columns[names[1]] = more.pop("feature", datasets.ClassLabel(names=NAMES))
    rows = {
        "id": range(40),
        names[0]: [Image.fromarray(p) for p in PIXELS],
        names[1]: LABEL if label is None else label,
    }
    return datasets.Dataset.from_dict(rows, features=datasets.Features(columns))


def write(folder: Path, whole: Any) -> None:
    folder.mkdir()
    whole.select(range(30)).to_parquet(folder / "train-00000-of-00001.parquet")
    whole.select(range(30, 40)).to_parquet(folder / "test-00000-of-00001.parquet")


def test_a_folder_of_parquet_is_read_by_the_types_of_its_columns(tmp_path: Path) -> None:
    write(tmp_path / "data", table())
    data = HFDataset(str(tmp_path / "data"))
    data.setup()
    assert (data.splits, data.class_names, data.num_classes) == (("train", "test"), NAMES, 3)
    assert (data.in_channels, data.image_size) == (3, (9, 8))
    same_images(data.test_set, PIXELS[30:], LABEL[30:])
    for part, n in ((data.train_set, 27), (data.val_set, 3)):
        kept = part.dataset.indices
        assert len(kept) == n
        same_images(part, PIXELS[kept], LABEL[kept])
    pixels = (PIXELS[:30] / 255).reshape(-1, 3)
    np.testing.assert_allclose([data.mean, data.std], [pixels.mean(0), pixels.std(0)], atol=6e-5)


def test_one_file_is_split(tmp_path: Path) -> None:
    table().to_parquet(tmp_path / "all.parquet")
    data = HFDataset(str(tmp_path / "all.parquet"))
    data.setup()
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [29, 3, 8]


def test_a_folder_of_images_is_read(tmp_path: Path) -> None:
    for k, name in enumerate(NAMES):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in np.flatnonzero(k == LABEL):
            Image.fromarray(PIXELS[i]).save(tmp_path / "data" / name / f"{i:02d}.png")
    data = HFDataset(str(tmp_path / "data"), test_size=20)
    data.setup()
    assert data.class_names == NAMES
    order = np.argsort(LABEL, kind="stable")
    kept = data.test_set.dataset.indices
    same_images(data.test_set, PIXELS[order][kept], LABEL[order][kept])


@pytest.mark.parametrize("kind", ["int64", "string"])
def test_labels_without_a_type_have_a_usual_name_or_are_given(kind: str, tmp_path: Path) -> None:
    label = LABEL if kind == "int64" else [NAMES[k] for k in LABEL]
    for names, given in ((("image", "label"), {}), (("image", "sort"), {"label_column": "sort"})):
        folder = tmp_path / names[1]
        write(folder, table(label, names, feature=datasets.Value(kind)))
        data = HFDataset(str(folder), **given)
        data.setup("test")
        assert [data.test_set[i][1] for i in range(10)] == LABEL[30:].tolist()
        assert (data.class_names, data.num_classes) == (None if kind == "int64" else NAMES, 3)


def test_files_of_other_libraries_hold_bytes_alone(tmp_path: Path) -> None:
    import io

    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def png(pixels: np.ndarray) -> dict[str, Any]:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    parquet.write_table(pyarrow.table({"image": [png(p) for p in PIXELS], "label": LABEL}), tmp_path / "a.parquet")
    data = HFDataset(str(tmp_path / "a.parquet"))
    data.setup("test")
    kept = data.test_set.dataset.indices
    same_images(data.test_set, PIXELS[kept], LABEL[kept])


def test_colours_are_told_from_the_heads_of_files(tmp_path: Path) -> None:
    colours = [False, True] * 10
    for i, coloured in enumerate(colours):
        (tmp_path / f"images/{NAMES[i % 2]}").mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(PIXELS[i]).convert("RGB" if coloured else "L")
        image.save(tmp_path / f"images/{NAMES[i % 2]}/{i}.png")
    in_folders = HFDataset(str(tmp_path / "images")).stored("train")[0]
    in_folders.table.add_column("label", [0] * 20).to_parquet(tmp_path / "all.parquet")
    for images in (in_folders, HFDataset(str(tmp_path / "all.parquet")).stored("train")[0]):
        assert [images.is_grey(i) for i in range(20)] == [len(np.asarray(images[i]).shape) == 2 for i in range(20)]
        assert sum(images.is_grey(i) for i in range(20)) == 10


def test_what_cannot_be_read_or_found_is_told(tmp_path: Path) -> None:
    write(tmp_path / "data", table(names=("image", "sort"), feature=datasets.Value("int64")))
    place = str(tmp_path / "data")
    with pytest.raises(ValueError, match=r"Which column of .* is the label_column\? Set it: it has id, image, sort"):
        HFDataset(place).setup("fit")
    with pytest.raises(ValueError, match=r"has no column 'kind' \(label_column\): it has id, image, sort"):
        HFDataset(place, label_column="kind").setup("fit")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"`datasets` cannot read .*empty.* HFDataset expects a dataset of the Hub"):
        HFDataset(str(tmp_path / "empty")).setup("fit")
