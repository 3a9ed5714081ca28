"""The script by which a shell completes the command line, asked as the shells ask it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lightning_robust.cli.completion import script
from lightning_robust.cli.main import main
from lightning_robust.cli.recipes import recipes
from lightning_robust.cli.usage import COMMANDS

pytestmark = pytest.mark.slow  # the script takes seconds

BASH = """
source {script}
COMP_WORDS=({words} "{last}")
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_shtab_lightning_robust
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
# a terminal of zsh's own, in which the words are typed and the tab key is pressed twice
ZSH = """
zmodload zsh/zpty
zpty -b shell zsh -f -i
zpty -w shell 'PS1=; autoload -Uz compinit; compinit -u -D; source {script}'
zpty -w shell 'compdef _shtab_lightning_robust lightning-robust'
zpty -w shell 'setopt no_list_beep; zstyle ":completion:*" list-grouped false; LISTMAX=0; COLUMNS=200; echo READY'
sleep 4
zpty -n -w shell $'{line}\\t\\t'
sleep 4
while zpty -r -t shell piece; do print -rn -- "$piece"; done
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scripts")
    found = {shell: folder / f"completion.{shell}" for shell in ("bash", "zsh")}
    for shell, path in found.items():
        path.write_text(script(shell))
    return found


def completed(script: Path, words: str, last: str, folder: Path) -> set[str]:
    asked = BASH.format(script=script, words=words, last=last)
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True, cwd=folder)
    return {word.strip() for word in done.stdout.splitlines()}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_recipes_settings_and_values(scripts: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/mine.yaml").touch()

    def after(words: str, last: str) -> set[str]:
        return completed(scripts["bash"], words, last, tmp_path)

    assert set(COMMANDS) <= after("lightning-robust", "")
    assert after("lightning-robust", "ev") == {"evaluate"}
    digits = {name for name in recipes() if name.startswith("digits/")}
    assert len(digits) > 5
    assert after("lightning-robust fit --config", "digits/") == {*digits, "digits/mine.yaml"}
    assert after("lightning-robust fit --trainer.max_epochs 3 -c", "digits/tr") == {
        name for name in recipes() if name.startswith("digits/tr")
    }
    assert after("lightning-robust test --config digits/at --config", "evaluation/auto") == {
        name for name in recipes() if name.startswith("evaluation/auto")
    }
    nets = {"SmallConvNet", "WideResNet", "TimmModel", "TorchvisionModel", "Pretrained"}
    assert nets <= after("lightning-robust fit --config digits/at --model.net", "")
    assert after("lightning-robust fit --model", "T") == {"TRADES"}
    assert "--model.attack.threat.eps" in after("lightning-robust fit", "--model.attack.threat.")
    assert "--model.optimizer.lr" in after("lightning-robust fit", "--model.optimizer.l")
    assert after("lightning-robust fit --trainer.deterministic", "tr") == {"true"}
    assert after("lightning-robust plan", "--sec") == {"--seconds"}
    assert {"Digits", "CIFAR10"} <= after("lightning-robust evaluate --data", "")
    assert after("lightning-robust evaluate", "--str") == {"--strict"}
    assert after("lightning-robust export", "--lic") == {"--license"}
    assert after("lightning-robust report", "--fig") == {"--figures"}
    assert after("lightning-robust completion", "z") == {"zsh"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("lightning-robust fit --config digits/tra", "digits/trades"),
        ("lightning-robust comp", "completion"),
        ("lightning-robust fit --model.net WideR", "WideResNet"),
        ("lightning-robust evaluate --str", "--strict"),
    ],
)
def test_zsh_completes_too(line: str, shown: str, scripts: dict[str, Path], tmp_path: Path) -> None:
    asked = ZSH.format(script=scripts["zsh"], line=line)
    done = subprocess.run(["zsh", "-f", "-c", asked], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert shown in done.stdout.partition("READY")[2]


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "bash"])
    assert "complete -o bashdefault -F _shtab_lightning_robust lightning-robust" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["completion", "fish"])
    assert stop.value.code == 2
    assert "invalid choice: 'fish'" in capsys.readouterr().err
