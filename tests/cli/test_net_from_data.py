"""What the net, the figures and the run's files take from the data, and whose classes a config may name."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure

from lightning_robust.cli.main import main
from lightning_robust.data import Arrays
from tests.helpers.command_line import refusal
from tests.helpers.launch import finish, launch, named, results

IMAGE = np.random.default_rng(0).integers(0, 200, (48, 8, 8, 3), dtype=np.uint8)
NAMES = ["sandal", "sneaker", "a boot with a very long name", "$4 bag"]
RECIPE: dict[str, Any] = {
    "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
    "model": {"class_path": "AT", "init_args": {"net": {"class_path": "SmallConvNet", "init_args": {"width": 4}}}},
    "data": {"class_path": "Arrays", "init_args": {"root": "data.npz", "class_names": NAMES}},
    "evaluation": {"attacks": {"pgd": {"class_path": "PGD", "init_args": {"steps": 1}}}, "check_samples": 0},
}

HELD_OUT = "The net's training held out other samples for the test (10 of 48: "
QUICKLY = ["--trainer.limit_train_batches=1", "--evaluation.figure_samples=0"]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe that says nothing of channels, classes and statistics, beside its data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIGHTNING_ROBUST_RUN", raising=False)
    np.savez("data.npz", images=IMAGE, labels=np.arange(48) % 4)
    Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


def settings_of_net(config: Path) -> Any:
    return yaml.safe_load(config.read_text())["model"]["init_args"]["net"]["init_args"]


@pytest.mark.slow
def test_channels_classes_and_statistics_reach_the_net_and_what_is_stored_of_it(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: told.extend(texts(self)))
    main(["fit", "--config", "recipe.yaml"])
    (run,) = recipe.glob("runs/Arrays/AT/*")
    net = settings_of_net(run / "config.yaml")
    assert (net["num_classes"], net["in_channels"], len(net["mean"])) == (4, 3, 3)
    (last,) = run.glob("checkpoints/last.ckpt")
    stored = torch.load(last, weights_only=True)["hyper_parameters"]["net"]["init_args"]
    assert stored == net
    main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", str(last)])
    shown = ["sandal", "sneaker", "a boot with a ver…", "$4 bag"]
    assert {*shown} <= {*told}
    assert not {*"0123"} & {*told}
    report = json.loads(next(recipe.glob("runs/*/*/test-*/robustness.json")).read_text())
    assert (report["n"], report["classes"]) == (10, NAMES)
    refused = refusal(capsys, "test", "--config", str(run / "config.yaml"), f"--ckpt_path={last}", "--data.test_size=9")
    assert HELD_OUT in refused


@pytest.mark.slow
def test_weights_know_what_was_held_out(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint, an export and its lone file, each given as the net: no test on images of the training."""
    main(["fit", "--config", "recipe.yaml"])
    (last,) = recipe.glob("runs/*/*/*/checkpoints/last.ckpt")
    main(["export", f"--ckpt_path={last}", "--folder=out"])
    Path("lone.safetensors").write_bytes(Path("out/model.safetensors").read_bytes())
    assert json.loads(Path("out/config.json").read_text())["held_out"]["Arrays"]["test"].startswith("10 of 48: ")
    evaluate = ["evaluate", "--data=Arrays", "--data.root=data.npz", "--threat=linf 0.1", "--attacks=pgd1"]
    for net in (str(last), "./out", "lone.safetensors"):
        assert HELD_OUT in refusal(capsys, *evaluate, f"--net={net}", "--data.test_size=9")
        test = ["test", "--config=recipe.yaml", f"--model.net={net}", "--data.test_size=9"]
        with pytest.warns(UserWarning, match="No --ckpt_path"):
            told = refusal(capsys, *test)
        assert HELD_OUT in told
    main([*evaluate, "--net=./out", "--check_samples=0"])
    with pytest.warns(UserWarning, match=f"A later test may be on images that .*{re.escape(HELD_OUT)}"):
        main(["fit", "--config=recipe.yaml", "--model.net=./out", "--data.split_seed=1", *QUICKLY])


def texts(figure: Figure) -> list[str]:
    """Titles and ticks of a figure's panels."""
    titles = [axes.get_title() for axes in figure.axes]
    return titles + [label.get_text() for axes in figure.axes for label in axes.get_xticklabels()]


@pytest.mark.parametrize("given", [{"mean": [0.0] * 3, "std": [1.0] * 3}, {"num_classes": 4, "in_channels": 3}])
def test_what_the_recipe_says_stays(recipe: Path, given: dict[str, Any]) -> None:
    options = [f"--model.net.{key}={value}" for key, value in given.items()]
    main(["fit", "--config", "recipe.yaml", *options, *QUICKLY])
    (config,) = recipe.glob("runs/*/*/*/config.yaml")
    net = settings_of_net(config)
    assert {key: net[key] for key in given} == given
    assert (net["num_classes"], net["in_channels"], len(net["std"])) == (4, 3, 3)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--model.net.num_classes=10", "The net gives 10 logits but the data has 4 classes: set the net's num_classes"),
        ("--model.net.in_channels=1", "images of 1 channels but those of the data have 3: set the net's in_channels"),
    ],
)
def test_a_contradiction_is_one_sentence(
    option: str, told: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refusal(capsys, "fit", "--config", "recipe.yaml", option)
    assert not (recipe / "runs").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            "{RandomRotatoin: {degrees: 10}}",
            "has no transform 'RandomRotatoin'; did you mean 'RandomRotation'?",
        ),
        ("{RandomRotation: {degree: 10}}", "The transform RandomRotation does not take {'degree': 10} (TypeError: "),
    ],
)
def test_a_transform_that_there_is_not_is_told(
    given: str, told: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refusal(capsys, "fit", "--config", "recipe.yaml", f"--data.augmentation={given}")


def test_missing_data_are_told_in_one_sentence(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refusal(capsys, "fit", "--config", "recipe.yaml", "--data.root=elsewhere.npz")
    assert "There is no elsewhere.npz: Arrays expects an .npz archive with x_train" in told


def test_a_printed_config_is_a_recipe_and_needs_no_data(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recipe / "data.npz").rename("later.npz")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", "--config", "recipe.yaml", "--print_config"])
    Path("printed.yaml").write_text(capsys.readouterr().out)
    (recipe / "later.npz").rename("data.npz")
    main(["fit", "--config", "printed.yaml", *QUICKLY])
    (config,) = recipe.glob("runs/*/*/*/config.yaml")
    assert settings_of_net(config)["num_classes"] == 4


def test_weights_keep_their_own_statistics() -> None:
    from jsonargparse import Namespace

    from lightning_robust.cli.net_from_data import fill_net
    from lightning_robust.data import Digits

    data = Digits()
    data.mean, data.std = [0.1], [0.2]
    data.image_size = (8, 8)
    sized = Namespace(class_path="TimmModel", init_args=Namespace(image_size=None))
    fill_net(sized, data)
    assert sized.init_args.image_size == 8
    open_ = {"num_classes": None, "in_channels": None, "mean": None, "std": None}
    for key, value in {"pretrained": True, "weights": "DEFAULT", "pretrained ": None}.items():
        net = Namespace(class_path="TimmModel", init_args=Namespace(**open_, **{key.strip(): value}))
        fill_net(net, data)
        expected = (10, 1, None, None) if value else (10, 1, [0.1], [0.2])
        assert tuple(net.init_args[key] for key in open_) == expected
    inner = Namespace(class_path="SmallConvNet", init_args=Namespace(**open_))
    fill_net(Namespace(class_path="Wrapped", init_args=Namespace(net=inner)), data)
    assert (inner.init_args.num_classes, inner.init_args.mean) == (10, [0.1])


@pytest.mark.slow
def test_classes_beside_the_recipe_can_be_named_and_hide_no_package(recipe: Path) -> None:
    """As by the console script, which has its own folder as the first of the search path, and not the working one."""
    (recipe / "my_module.py").write_text(
        "from lightning_robust.data import Arrays\n\nclass MyData(Arrays):\n    pass\n"
    )
    (recipe / "yaml.py").write_text("raise SystemExit('hidden')\n")
    script = recipe / "bin" / "script.py"
    script.parent.mkdir()
    script.write_text("from lightning_robust.cli.main import main\nmain()\n")
    paths = os.pathsep.join(str(Path(path).resolve()) for path in sys.path if path)
    command = [sys.executable, str(script), "fit", "--config", "recipe.yaml", "--data", "my_module.MyData"]
    done = subprocess.run(
        [*command, "--data.root=data.npz", "--trainer.fast_dev_run=true"],
        cwd=recipe,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_on_two_ranks_both_follow_the_data(recipe: Path) -> None:
    finish(launch(recipe, named("data"), ["fit", "--config", "recipe.yaml", "--trainer.devices=2", *QUICKLY]))
    (_, first, *_), (_, second, *_) = results(recipe, "fit")
    assert first["net.head.weight"].shape == (4, 16)
    assert all(torch.equal(first[name], second[name]) for name in first)
    (config,) = recipe.glob("runs/*/*/*/config.yaml")
    data = Arrays("data.npz")
    assert settings_of_net(config)["mean"] == data.mean
    train = data.train_data(augment=False)
    pixels = torch.stack([train[i][0] for i in range(len(train))])
    np.testing.assert_allclose(data.mean, pixels.mean((0, 2, 3)), atol=6e-5)


@pytest.mark.slow
def test_a_plan_follows_the_data_and_transforms_can_be_named(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"data": {"init_args": {"augmentation": {"RandomRotation": {"degrees": 10}}}}}
    Path("more.yaml").write_text(yaml.safe_dump(more))
    main(["plan", "--config", "recipe.yaml", "--config", "more.yaml"])
    assert "images a second" in capsys.readouterr().out
    assert not Path("runs").exists()
