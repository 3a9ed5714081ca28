"""`COMMAND --help`: its first screen says what the command does, and what it names works."""

import re
import shlex
from typing import Any

import pytest
import yaml

from lightning_robust.cli.evaluation import evaluation_parser
from lightning_robust.cli.main import main
from lightning_robust.cli.publishing import publishing_parser
from lightning_robust.cli.settings import SETTINGS, Setting
from lightning_robust.cli.usage import COMMANDS, EXAMPLES
from lightning_robust.publish.comparison_formats import FORMATS
from lightning_robust.utils.private_apis import arguments_of, type_of_argument

WHOLE = ("evaluate", "export", "push", "leaderboard")
"""The commands whose settings are all listed."""

SHOWS = {
    "fit": ("Train a recipe", "--model.net", "--data.batch_size", "--trainer.max_epochs", "threat.eps", "optimizer.lr"),
    "validate": ("Attack a checkpoint's net on the validation set", "--ckpt_path", "--evaluation.threat"),
    "test": ("Attack a checkpoint's net on the test set", "--ckpt_path", "evaluation/autoattack"),
    "predict": ("Run a checkpoint's net", "--ckpt_path", "--data.root"),
    "plan": ("Measure a few steps", "--steps", "--devices"),
    "recipes": ("List the recipes", "--show"),
    "evaluate": (
        "Attack any net",
        "--net timm:",
        "(required)",
        "--threat",
        "--attacks",
        "--strict",
        "--net.help Small",
    ),
    "report": ("Write one HTML page", "RUN", "--figures"),
    "compare": ("Put runs side by side", "RUN", "--out", ", ".join(FORMATS)),
    "export": ("Write a checkpoint's net as safetensors", "--ckpt_path", "--license"),
    "push": ("Upload an export", "--repo_id", "by default true"),
    "completion": ("Print a script that adds tab completion", "SHELL"),
    "leaderboard": ("Write a result in the form of RobustBench's", "--model_id", "--dataset"),
}
"""What stands on the first screen of each command's help; the first of them at its beginning."""


def helped(command: str, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([command, *(words or ["--help"])])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_first_screen_says_what_the_command_does(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = helped(command, capsys)
    lines = told.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 40 or command in ("evaluate", "leaderboard")  # whose settings are all listed
    screen = "\n".join(lines if command in WHOLE else lines[:40])
    assert lines[0].startswith(SHOWS[command][0])
    assert lines[0].endswith(".")
    assert lines[2:4] == ["example:", f"  lightning-robust {command} {EXAMPLES[command].splitlines()[0]}"]
    assert not [words for words in SHOWS[command] if words not in " ".join(screen.split())]
    if command in SETTINGS:
        assert all(f"  {each.option} {each.example}  " in screen for each in SETTINGS[command])
        assert f"lightning-robust {command} --help-all" in screen or command in WHOLE


def test_about_twenty_settings_lead() -> None:
    assert 18 <= len(SETTINGS["fit"]) <= 24


def flat(settings: Any, name: str = "") -> dict[str, Any]:
    """The values of nested settings by their names on the command line, where no `init_args` stands."""
    if not isinstance(settings, dict):
        return {name.removeprefix("."): settings}
    nested = {k: v for part, value in settings.items() for k, v in flat(value, f"{name}.{part}").items()}
    return {key.replace(".init_args", "").replace(".class_path", ""): value for key, value in nested.items()}


def printed(capsys: pytest.CaptureFixture[str], command: str, *words: str) -> dict[str, Any]:
    """The settings that a command would run with; those that it requires are its example's."""
    required = shlex.split(EXAMPLES[command].replace("\\\n", "")) if command in WHOLE else ["--config=digits/at"]
    return flat(yaml.safe_load(helped(command, capsys, *required, *words, "--print_config")))


def check_example(each: Setting, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Parse the example; its value, or that of the class that it names, must be what the command runs with."""
    words = [each.option, *shlex.split(each.example)]
    if each.option == "--data.root":
        words = ["--data=ImageFolder", *words]
    found = printed(capsys, command, *words)
    if each.option == "--config":
        assert found["evaluation.attacks.autoattack" if "autoattack" in each.example else "model"]
    elif each.example.endswith(":resnet18"):
        net, kind = each.option.removeprefix("--"), {"timm": "TimmModel", "torchvision": "TorchvisionModel"}
        assert (short(found[net]), found[f"{net}.name"]) == (kind[each.example.partition(":")[0]], "resnet18")
    else:
        given = yaml.safe_load(words[-1])
        for name, value in flat(given, each.option.removeprefix("--")).items():
            assert short(found[name]) == short(value)


def short(value: Any) -> Any:
    """A number as such, and the name of a class without its module: neither is always printed as it was given."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value) if "/" in str(value) else str(value).rpartition(".")[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "each"), [pytest.param(c, s, id=f"{c} {s.option}") for c, several in SETTINGS.items() for s in several]
)
def test_the_examples_of_the_settings_parse(command: str, each: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    check_example(each, command, capsys)


@pytest.mark.slow
def test_an_example_that_does_not_parse_or_does_nothing_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (Setting("--trainer.max_epoch", "60", ""), Setting("--trainer.max_epochs", "many", "")):
        with pytest.raises(AssertionError):
            check_example(wrong, "fit", capsys)


@pytest.mark.slow
@pytest.mark.parametrize("command", WHOLE)
def test_all_settings_are_shown_each_marked_if_it_is_required(command: str) -> None:
    parser = evaluation_parser() if command == "evaluate" else publishing_parser(command)
    known = {a.option_strings[0]: a for a in arguments_of(parser) if type_of_argument(a) and ".help" not in a.dest}
    assert {each.option for each in SETTINGS[command]} == set(known)
    for each in SETTINGS[command]:
        argument, default = known[each.option], known[each.option].default
        assert ("(required)" in each.meaning) == (argument.required or "(required)" in argument.help)
        assert default in (None, False) or re.search(rf"by default (in )?{str(default).lower()}\b", each.meaning)


@pytest.mark.slow
@pytest.mark.parametrize("command", WHOLE)
def test_the_examples_of_the_commands_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(EXAMPLES[command].replace("\\\n", ""))
    found = flat(yaml.safe_load(helped(command, capsys, *words, "--print_config")))
    assert all(word.removeprefix("--") in found for word in words if word.startswith("--"))


@pytest.mark.slow
def test_everything_is_shown_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    told = helped("fit", capsys, "--help-all")
    assert len(told.splitlines()) > 400
    assert {"--trainer.gradient_clip_val", "--checkpoint.save_top_k", "--help-all"} <= set(
        re.findall(r"--[\w.-]+", told)
    )
    assert "--net.help" in helped("evaluate", capsys, "--help-all")
    assert "--model.beta" in helped("fit", capsys, "--model.help=TRADES")
    assert "--net.width" in helped("evaluate", capsys, "--net.help=SmallConvNet")
