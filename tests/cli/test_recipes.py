"""Recipes are found by name from any folder, and listed."""

import shutil
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from lightning_robust.cli import recipes as module
from lightning_robust.cli.main import main
from lightning_robust.cli.recipe_list import table
from lightning_robust.cli.recipes import Recipe, find_config, recipes, search
from tests.helpers.command_line import refusal

CONFIGS = Path(__file__).parents[2] / "configs"


def printed_config(capsys: pytest.CaptureFixture[str], *configs: str) -> dict[str, object]:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *(f"--config={config}" for config in configs), "--print_config"])
    assert stop.value.code == 0
    found: dict[str, object] = yaml.safe_load(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("name", ["digits/at", "digits/at.yaml", "configs/digits/at.yaml", "./configs/digits/at.yaml"])
def test_a_recipe_is_found_from_any_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path(find_config(name)).read_text() == (CONFIGS / "digits/at.yaml").read_text()


def test_the_command_line_takes_names_and_several_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = printed_config(capsys, "digits/at", "evaluation/autoattack")
    assert config["model"]["class_path"].endswith(".AT")  # type: ignore[index]
    assert list(config["evaluation"]["attacks"]) == ["autoattack", "fab"]  # type: ignore[index]


def test_a_file_in_the_working_directory_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    for mine in ("digits/at", "digits/at.yaml"):
        Path(mine).touch()
        assert find_config(mine) == mine


def test_text_and_urls_are_left_alone() -> None:
    for text in ("{seed_everything: 1}", "seed_everything: 1", "a\nb", "https://example.org/a.yaml"):
        assert find_config(text) == text


def test_an_unknown_recipe_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    told = "error: There is no config file or recipe"
    assert refusal(capsys, "fit", "--config", "digits/att") == f"{told} 'digits/att'; did you mean 'digits/at'?"
    lost = refusal(capsys, "fit", "--config=/nowhere/at/all.yaml")
    assert lost == f"{told} '/nowhere/at/all.yaml'; `lightning-robust recipes` lists them all."


def test_an_installed_package_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a wheel, where nothing lies beside the package."""
    shutil.copytree(CONFIGS / "digits", tmp_path / "lightning_robust/configs/digits")
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "lightning_robust")
    assert {name.split("/")[0] for name in recipes()} == {"digits"}
    assert find_config("digits/st") == str(tmp_path / "lightning_robust/configs/digits/st.yaml")


def test_the_list_has_every_recipe_on_a_line_of_its_own_at_80_columns() -> None:
    console = Console(width=80, file=StringIO())
    found = search()
    console.print(table(found))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(found) == len(list(CONFIGS.rglob("*.yaml")))
    assert [line.split()[0] for line in lines] == ["name", *(recipe.name for recipe in found)]
    assert "…" not in "".join(lines)


@pytest.mark.parametrize(
    ("name", "paper", "data", "net"),
    [
        ("digits/at", "Madry et al. 2018", "Digits", "SmallConvNet"),
        ("cifar10/emr_at", "Liu & Chan 2022", "CIFAR10", "WRN-34-10"),
        ("cifar10/rst", "Carmon et al. 2019", "CIFAR10 + more", "WRN-28-10"),
        ("cifar10/mart", "Wang et al. 2020", "CIFAR10", "resnet18"),
        ("cifar10/st_awp", "", "CIFAR10", "resnet18"),
        ("svhn/at", "Madry et al. 2018", "SVHN", "PreActResNet-18"),
        ("evaluation/autoattack", "Croce & Hein 2020", "", ""),
    ],
)
def test_paper_data_and_net_are_read_from_the_file(name: str, paper: str, data: str, net: str) -> None:
    assert Recipe.read(name, recipes()[name]) == (name, paper, data, net)


def test_words_choose(capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipes", "digits", "Balaji"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", "digits/emr_iaat", "digits/iaat"]
    assert refusal(capsys, "recipes", "digits/tradez") == (
        "error: There is no recipe 'digits/tradez'; did you mean 'digits/trades'?"
    )


def test_one_can_be_printed_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipes", "digits/at", "--show"])
    assert capsys.readouterr().out == (CONFIGS / "digits/at.yaml").read_text()
    assert "needs the name of a recipe" in refusal(capsys, "recipes", "--show")
