"""A recipe's mean and std are of its own data: other data, or weights, on the command line replace them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import Namespace

from lightning_robust.cli.main import main
from lightning_robust.cli.recipe_statistics import replace_statistics
from lightning_robust.data import Arrays, Digits
from lightning_robust.data.data_module import RobustDataModule

IMAGE = np.random.default_rng(0).integers(0, 200, (40, 8, 8, 1), dtype=np.uint8)
NET = {"class_path": "SmallConvNet", "init_args": {"mean": [0.5], "std": [0.25]}}
RECIPE = {"model": {"class_path": "AT", "init_args": {"net": NET}}, "data": {"class_path": "CIFAR10"}}
OWN = {"class_path": "Arrays", "init_args": {"root": "a.npz"}}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.npz", "b.npz"):
        np.savez(name, images=IMAGE, labels=np.arange(40) % 4)


def after(data: RobustDataModule, *files: Any, net: Any = NET, root: str = "a.npz") -> Any:
    """The mean and std with which the net is built."""
    paths = [f"{i}.yaml" for i in range(len(files))]
    for path, content in zip(paths, files, strict=True):
        Path(path).write_text(yaml.safe_dump(content))
    given = as_config(net)
    config = Namespace(class_path=type(data).__name__, init_args=Namespace(root=root))
    replace_statistics(given, config, data, paths)
    normalises = given.init_args.get("net", given)
    return normalises.init_args["mean"], normalises.init_args["std"]


def as_config(net: Any) -> Namespace:
    """The config of a net, which may hold another."""
    settings = {key: as_config(value) if key == "net" else value for key, value in net["init_args"].items()}
    return Namespace(class_path=net["class_path"], init_args=Namespace(**settings))


def test_other_data_replace_them_and_the_same_do_not() -> None:
    data, kept = Arrays("a.npz"), ([0.5], [0.25])
    own = (data.mean, data.std)
    train = data.train_data(augment=False)
    pixels = torch.stack([train[i][0] for i in range(len(train))])
    np.testing.assert_allclose(own, [[pixels.mean()], [pixels.std(correction=0)]], atol=6e-5)
    assert after(data, RECIPE) == own
    assert after(data, RECIPE, {"data": OWN}) == own
    assert after(data, {**RECIPE, "data": OWN}) == kept
    assert after(data, {**RECIPE, "data": OWN}, root="b.npz") == own
    assert after(data, {"model": RECIPE["model"]}) == kept
    assert after(data, RECIPE, net={**NET, "init_args": {"mean": [0.4], "std": [0.25]}}) == ([0.4], [0.25])
    assert after(data, RECIPE, {"model": RECIPE["model"]}) == kept  # stated without data: by whom the data are given


def test_those_of_a_net_within_another_are_replaced_likewise() -> None:
    data, wrapped = Arrays("a.npz"), {"class_path": "Hypersphere", "init_args": {"net": NET, "scale": 10.0}}
    recipe = {"model": {"class_path": "AT", "init_args": {"net": wrapped}}, "data": {"class_path": "CIFAR10"}}
    assert after(data, recipe, net=wrapped) == (data.mean, data.std)
    assert after(data, {**recipe, "data": OWN}, net=wrapped) == ([0.5], [0.25])


def test_published_data_without_their_own_are_measured() -> None:
    digits = Digits()
    pixels = digits.train_data(augment=False).tensors[0]  # type: ignore[attr-defined]
    mean, std = after(digits, RECIPE)
    np.testing.assert_allclose([mean, std], [[pixels.mean()], [pixels.std()]], atol=0.01)
    assert after(digits, {**RECIPE, "data": {"class_path": "Digits"}}) == ([0.5], [0.25])


def test_weights_keep_their_own_unless_the_recipe_is_of_the_same_net() -> None:
    started = {"class_path": "TimmModel", "init_args": {**NET["init_args"], "pretrained": True}}  # type: ignore[dict-item]
    assert after(Digits(), RECIPE, net=started) == (None, None)
    same = {"model": {"init_args": {"net": started}}, "data": {"class_path": "Digits"}}
    assert after(Digits(), same, net=started) == ([0.5], [0.25])


@pytest.mark.slow
@pytest.mark.parametrize(("more", "follows"), [([], True), (["--model.net.mean=[0.5]"], False)])
def test_on_the_command_line(
    more: list[str], follows: bool, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    evaluation = {"attacks": {"pgd": {"class_path": "PGD"}}, "check_samples": 0}
    Path("recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "evaluation": evaluation}))
    quick = ["--trainer.fast_dev_run=true", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    main(["fit", "--config=recipe.yaml", "--data=Arrays", "--data.root=a.npz", *quick, *more])
    told = "The recipe's mean and std are those of CIFAR10: the net takes those of the training images"
    # where a test before has imported pytorch_lightning, its logger takes over, which does not write to this stderr
    assert (told in capsys.readouterr().err + caplog.text) == follows
