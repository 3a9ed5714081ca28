"""Every shipped YAML builds and trains a batch, and one in three tests one, on files in the form of the published ones.

`EXHAUSTIVE=1 pytest tests/test_configs.py` tests with all.
"""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lightning_robust.cli.main import main
from tests.helpers.files import checksums_of, write
from tests.helpers.spread import spread

ROOT = Path(__file__).parent.parent
QUICK = {"digits-at"}  # the rest only in the full suite
RECIPES = [path for path in sorted((ROOT / "configs").rglob("*.yaml")) if path.parent.name != "evaluation"]
TESTED = [path for (path,) in spread(RECIPES, one_in=3)] + [ROOT / "configs/digits/at.yaml"]
CONFIGS = [
    pytest.param(path, path in TESTED, id=name, marks=() if name in QUICK else pytest.mark.slow)
    for path in RECIPES
    for name in [f"{path.parent.name}-{path.stem}"]
]


def options(**settings: Any) -> list[str]:
    return [f"--model.init_args.net.init_args.options={json.dumps(settings)}"]


NARROW = {
    "WideResNet": [f"--model.init_args.net.init_args.{word}" for word in ("widen_factor=1", "depth=10")],
    "IAATWideResNet": ["--model.init_args.net.init_args.widen_factor=1"],
    "PreActResNet": ["--model.init_args.net.init_args.width=4"],
    "TorchvisionModel resnet18": ['--model.init_args.net={"class_path": "PreActResNet", "init_args": {"width": 4}}'],
    "resnet50": [*options(width_per_group=4), "--model.init_args.net.init_args.resize=64"],
    "TimmModel resnet50": [
        *options(base_width=16, act_layer="silu"),
        "--model.init_args.net.init_args.resize=64",
    ],
    "resnet152": [f"--model.init_args.net.init_args.{word}" for word in ("name=resnet18", "resize=64")],
    "convnext_tiny": options(dims=[8, 16, 16, 16], depths=[1, 1, 1, 1]),
    "convnext_base": options(dims=[8, 16, 16, 16], depths=[1, 1, 1, 1]),
    "swin_base_patch4_window7_224": options(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
    "vit_small_patch16_224": options(embed_dim=48, depth=1, num_heads=3),
    "xcit_small_12_p16_224": options(embed_dim=32, depth=1, num_heads=2),
}
"""Nets of a smaller width, or a shallower one."""


@functools.cache
def imagenet() -> tempfile.TemporaryDirectory[str]:
    """Holds 3,000 images of 1,000 classes, until the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="imagenet-")
    write("ImageNet", Path(folder.name), classes=1000, per_class=2, test_per_class=1)
    return folder


def prepare(config: Path, folder: Path) -> list[str]:
    """Write the files that the recipe reads where it looks for them; returns what is to be overridden."""
    recipe: dict[str, Any] = yaml.safe_load(config.read_text())
    net, data, where = recipe["model"]["init_args"]["net"], recipe["data"], "net"
    while "net" in net.get("init_args", {}):  # a net around another
        net, where = net["init_args"]["net"], f"{where}.init_args.net"
    kind, args = net["class_path"], []
    if config.parent.name != "digits":
        labelled = data["init_args"].get("labelled", data)["class_path"]
        if labelled == "ImageNet" and kind.endswith("Model"):
            (folder / "data").symlink_to(Path(imagenet().name, "data"))
        else:
            write(labelled, folder)
        args += ["--data.init_args.batch_size=4", f"--data.init_args.val_size={20 if labelled != 'CIFAR100' else 100}"]
        args += ["--data.init_args.num_workers=0"]  # more than the machine has cores would be warned of
        args += ["--data.init_args.eval_batch_size=4"]  # what a net of 34 layers takes
        name = net.get("init_args", {}).get("name", kind)
        narrow = NARROW.get(f"{kind} {name}", NARROW.get(name, []))
        args += [word.replace("init_args.net", f"init_args.{where}", 1) for word in narrow]
    if f"{config.parent.name}-{config.stem}" not in QUICK:
        args.append("--evaluation.check_samples=0")  # the checks of an evaluation have tests of their own
    if recipe["model"]["init_args"].get("teacher", {}).get("class_path") in ("Pretrained", "RobustBenchModel"):
        args.append('--model.init_args.teacher={"class_path": "SmallConvNet"}')
    if "images" in data.get("init_args", {}):
        image = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
        place = folder / data["init_args"]["images"]
        if place.suffix:
            np.savez(place, image=image, label=np.arange(8))
        else:
            place.mkdir(parents=True)
            np.save(place / "a_image.npy", image)
            np.savez(place / "b.npz", image=image, label=np.arange(8))
            np.save(place / "a_label.npy", np.arange(8))
    return args


QUICKLY = [
    *("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"),
    *("--trainer.limit_test_batches=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
    *("--data.init_args.eval_batch_size=16", "--trainer.enable_model_summary=false"),
    "--evaluation.figure_samples=2",
]


@pytest.mark.parametrize(("config", "tested"), CONFIGS)
def test_config(config: Path, tested: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["--config", str(config), *QUICKLY, *prepare(config, tmp_path)]
    with checksums_of(tmp_path / "data"):
        main(["fit", *command])
        (last,) = tmp_path.rglob("last.ckpt")
        if not tested:
            return
        main(["test", *command, "--ckpt_path", str(last)])
    (report,) = tmp_path.glob("runs/*/*/test-*/robustness.json")
    result = json.loads(report.read_text())
    assert result["n"] > 0
    assert 0 <= result["worst"]["correct"] <= min(a["correct"] for a in result["attacks"].values())


@pytest.mark.slow
@pytest.mark.parametrize("evaluation", sorted((ROOT / "configs" / "evaluation").glob("*.yaml")), ids=lambda p: p.stem)
def test_an_evaluation_after_a_recipe(evaluation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = ["--config", str(ROOT / "configs" / "digits" / "at.yaml")]
    main(["fit", *recipe, *QUICKLY, "--trainer.max_epochs=4", "--trainer.limit_train_batches=1.0"])
    (last,) = tmp_path.rglob("last.ckpt")
    unchecked = ["--evaluation.check_samples=0"]  # checks have tests of their own
    main(["test", *recipe, "--config", str(evaluation), *QUICKLY, *unchecked, "--ckpt_path", str(last)])
    (report,) = tmp_path.glob("runs/*/*/test-*/robustness.json")
    result = json.loads(report.read_text())
    assert result["clean"]["correct"] > 12
    attack = result["attacks"]["autoattack"]
    assert [stage["name"].split("/")[1] for stage in attack["stages"]] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert attack["correct"] == min(stage["correct"] for stage in attack["stages"]) == attack["stages"][-1]["correct"]
    assert (report.parent / "figures" / "test-radius.png").exists()
