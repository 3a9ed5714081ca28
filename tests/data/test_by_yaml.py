"""The configurations of docs/data.md, none of them longer than twelve lines, in a folder that holds the data alone."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image

from lightning_robust.cli.main import main
from tests.helpers.files import save_jpeg, write_mnist
from tests.test_docs import ROOT, blocks

RNG = np.random.default_rng(0)
BY_NAME = {
    block.code.partition(".yaml")[0].removeprefix("# "): block.code
    for block in blocks((ROOT / "docs/data.md").read_text(), "yaml")
}


def shoes(folder: Path) -> np.ndarray:
    return write_mnist(folder / "debian", n_train=200, n_test=16, packed=True, where=".")["train"][0][..., None]


def photos(folder: Path) -> np.ndarray:
    image = RNG.integers(0, 256, (60, 64, 64, 3), dtype=np.uint8)
    for i, pixels in enumerate(image):
        split, name = "train" if i < 50 else "test", "sandal" if i % 2 else "sneaker"
        save_jpeg(folder / "photos" / split / name / f"{i:02d}.jpg", pixels)
    files = sorted((folder / "photos/train").rglob("*.jpg"))
    return np.stack([np.asarray(Image.open(file)) for file in files])


def arrays(folder: Path) -> np.ndarray:
    image = RNG.integers(0, 256, (60, 3, 16, 16), dtype=np.uint8)
    parts = {"train": slice(50), "test": slice(50, 60)}
    split = {f"x_{part}": image[place] for part, place in parts.items()}
    np.savez(folder / "images.npz", **split, **{f"y_{part}": np.arange(60)[place] % 5 for part, place in parts.items()})
    return image[:50].transpose(0, 2, 3, 1)


def hub(folder: Path) -> np.ndarray:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    image = RNG.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    kinds = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["boot", "Sneaker", "bag"])})
    rows = {"img": [Image.fromarray(pixels) for pixels in image], "label": np.arange(60) % 3}
    table = datasets.Dataset.from_dict(rows, features=kinds)
    (folder / "local").mkdir()
    table.select(range(50)).to_parquet(folder / "local/train-00000-of-00001.parquet")
    table.select(range(50, 60)).to_parquet(folder / "local/test-00000-of-00001.parquet")
    return image[:50]


SMALL = ["--data.batch_size=8", "--data.eval_batch_size=8"]
CASES: dict[str, tuple[Callable[[Path], np.ndarray], list[str], int, str | None]] = {
    "shoes": (shoes, ["--data.root=debian"], 10, "Sneaker"),
    "photos": (photos, ["--data.val_size=8"], 2, "sneaker"),
    "arrays": (arrays, [], 5, None),
    "hub": (hub, ["--data.path=local", "--model.net.width=4"], 3, "Sneaker"),
}
QUICK = [
    *("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu"),
    *("--trainer.enable_progress_bar=false", "--evaluation.attacks.pgd50.init_args.steps=2"),
    *("--evaluation.check_samples=0", "--trainer.log_every_n_steps=1"),
]


def test_every_configuration_is_short_and_tried_here() -> None:
    assert BY_NAME.keys() == CASES.keys()
    assert max(len(code.splitlines()) for code in BY_NAME.values()) <= 12


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_configuration_fits_and_tests(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, options, classes, shown = CASES[name]
    pixels = write(tmp_path) / 255
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIGHTNING_ROBUST_RUN", raising=False)
    if name == "hub":
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    Path("recipe.yaml").write_text(BY_NAME[name])
    told: list[str] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: told.extend(titles(self)))
    main(["fit", "--config", "recipe.yaml", *options, *SMALL, *QUICK])
    (config,) = Path().glob("runs/*/*/*/config.yaml")
    net = yaml.safe_load(config.read_text())["model"]["init_args"]["net"]["init_args"]
    assert (net["num_classes"], net["in_channels"]) == (classes, pixels.shape[3])
    channels = pixels.reshape(-1, pixels.shape[3])
    np.testing.assert_allclose([net["mean"], net["std"]], [channels.mean(0), channels.std(0)], atol=6e-5)
    (last,) = config.parent.glob("checkpoints/last.ckpt")
    main(["test", "--config", str(config), "--ckpt_path", str(last)])
    (report,) = Path().glob("runs/*/*/test-*/robustness.json")
    found: Any = json.loads(report.read_text())
    assert found["n"] == (16 if name == "shoes" else 10)
    assert found["worst"]["correct"] <= found["clean"]["correct"]
    assert (shown in told) == (shown is not None)
    assert any(re.fullmatch(r"\d", title) for title in told) == (shown is None)


def titles(figure: Figure) -> list[str]:
    """Predicted classes above the images, and classes below the bars."""
    bars = [label.get_text() for axes in figure.axes for label in axes.get_xticklabels()]
    return [axes.get_title() for axes in figure.axes] + bars
