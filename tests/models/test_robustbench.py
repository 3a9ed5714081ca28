"""RobustBench's zoo through a stand-in of its package: what is asked of it, and what is said where it cannot serve."""

import enum
import hashlib
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from lightning_robust.cli.main import main
from lightning_robust.models import RobustBenchModel

ROOT = Path(__file__).parents[2]


class BenchmarkDataset(enum.Enum):
    cifar_10 = "cifar10"
    cifar_100 = "cifar100"
    imagenet = "imagenet"


class ThreatModel(enum.Enum):
    Linf = "Linf"
    L2 = "L2"
    corruptions = "corruptions"


class ZooNet(nn.Module):
    """With its own normalisation, and in evaluation mode, as the zoo hands nets out."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.head = nn.Linear(channels * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x.flatten(1) - 0.5) / 0.25)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Puts the stand-in in place; gives what `load_model` was asked."""
    calls: list[dict[str, Any]] = []

    def load_model(model_name: str, **settings: Any) -> nn.Module:
        calls.append({"model_name": model_name, **settings})
        return ZooNet().eval()

    entry = {"model": ZooNet, "gdrive_id": "an address"}
    known = {"Wong2020Fast": entry, "Rice2020Overfitting": entry}
    modules = {name: types.ModuleType(name) for name in ("robustbench", "robustbench.utils", "robustbench.model_zoo")}
    modules["robustbench.model_zoo.enums"] = enums = types.ModuleType("robustbench.model_zoo.enums")
    enums.BenchmarkDataset, enums.ThreatModel = BenchmarkDataset, ThreatModel  # type: ignore[attr-defined]
    utils: Any = modules["robustbench.utils"]
    utils.load_model = load_model
    utils.all_models = {d: {ThreatModel.Linf: known} for d in BenchmarkDataset}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def test_the_zoo_is_asked_for_the_net_and_its_logits_are_passed_on(asked: list[dict[str, Any]]) -> None:
    model = RobustBenchModel("Rice2020Overfitting", "cifar100", "Linf", folder="zoo")
    wanted = {"model_name": "Rice2020Overfitting", "model_dir": "zoo", "dataset": "cifar100", "threat_model": "Linf"}
    assert asked == [wanted]
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(model(x), model.net(x))
    assert set(model.state_dict()) == {"net.head.weight", "net.head.bias"}


@pytest.mark.parametrize(
    ("name", "threat", "told"),
    [
        ("Wong2020fast", "Linf", "no model 'Wong2020fast' for cifar10 and Linf; did you mean 'Wong2020Fast'?"),
        ("Mine", "Linf", "no model 'Mine' for cifar10 and Linf; there are Rice2020Overfitting, Wong2020Fast."),
        ("Wong2020Fast", "L2", "no model 'Wong2020Fast' for cifar10 and L2; there are none."),
    ],
)
def test_a_name_that_is_not_there_is_told(asked: list[dict[str, Any]], name: str, threat: Any, told: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        RobustBenchModel(name, threat=threat)
    assert str(error.value) == f"RobustBench has {told}"
    assert not asked


def test_a_checkpoint_is_checked_before_it_is_read(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    file = tmp_path / "cifar10/Linf/Wong2020Fast.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    RobustBenchModel("Wong2020Fast", folder=str(tmp_path), sha256=right)
    assert len(asked) == 1
    file.write_bytes(b"weightz")
    with pytest.raises(ValueError, match=f"Wong2020Fast\\.pt has the SHA-256 .*, not {right}"):
        RobustBenchModel("Wong2020Fast", folder=str(tmp_path), sha256=right)
    assert len(asked) == 1


def test_a_downloaded_checkpoint_is_checked_too(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(name: str, model_dir: str, dataset: str, threat_model: str) -> nn.Module:
        file = Path(model_dir, dataset, threat_model, f"{name}.pt")
        file.parent.mkdir(parents=True)
        file.write_bytes(b"other")
        return ZooNet()

    with pytest.raises(ValueError, match=r"has no file .* to check"):
        RobustBenchModel("Wong2020Fast", folder=str(tmp_path), sha256="0" * 64)
    monkeypatch.setattr(sys.modules["robustbench.utils"], "load_model", download)
    with pytest.raises(ValueError, match="has the SHA-256"):
        RobustBenchModel("Wong2020Fast", folder=str(tmp_path), sha256="0" * 64)


@pytest.mark.parametrize("address", [None, "", ["one", "two"]])
def test_the_net_alone_is_built_without_a_download(asked: list[dict[str, Any]], address: Any) -> None:
    net: Any = RobustBenchModel("Wong2020Fast", pretrained=False)
    assert isinstance(net.net, ZooNet)
    zoo: Any = sys.modules["robustbench.utils"]
    zoo.all_models[BenchmarkDataset.cifar_10][ThreatModel.Linf]["Wong2020Fast"]["gdrive_id"] = address
    with pytest.raises(ValueError, match="builds Wong2020Fast with its weights only: leave pretrained at true"):
        RobustBenchModel("Wong2020Fast", pretrained=False)
    assert not asked


def test_with_a_setuptools_that_is_too_new_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "robustbench").mkdir()
    (tmp_path / "robustbench/__init__.py").write_text("import pkg_resources\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "pkg_resources", None)
    with pytest.raises(ImportError, match=r"imports pkg_resources, .*: pip install 'setuptools<82'\.$"):
        RobustBenchModel("Wong2020Fast")


def test_without_the_package_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "robustbench", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-robust\[robustbench\]'"):
        RobustBenchModel("Wong2020Fast")


def test_the_attack_package_is_found_under_the_name_that_the_zoo_imports(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pyautoattack.py").write_text("AutoAttack = 'the attack'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "autoattack", None)
    monkeypatch.delitem(sys.modules, "autoattack")  # put back afterwards
    RobustBenchModel("Wong2020Fast")
    assert sys.modules["autoattack"].AutoAttack == "the attack"
    monkeypatch.delitem(sys.modules, "pyautoattack")


def test_it_is_tested_from_the_command_line(
    asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--model.net=RobustBenchModel", "--model.net.name=Wong2020Fast", "--trainer.enable_progress_bar=false"]
    options += ["--trainer.limit_test_batches=1", "--data.eval_batch_size=16", "--trainer.accelerator=cpu"]
    options += ["--trainer.enable_model_summary=false", "--evaluation.attacks.pgd50.init_args.steps=1"]
    options += ["--evaluation.figure_samples=0", "--evaluation.check_samples=0"]
    with pytest.warns(UserWarning, match="No --ckpt_path was given"):
        main(["test", "--config", str(ROOT / "configs/digits/standard.yaml"), *options])
    (config,) = tmp_path.glob("runs/Digits/Standard/*/config.yaml")
    net = yaml.safe_load(config.read_text())["model"]["init_args"]["net"]
    assert net["init_args"] == {
        "name": "Wong2020Fast",
        "dataset": "cifar10",
        "threat": "Linf",
        "folder": "models",
        "sha256": None,
        "pretrained": True,
    }
    assert (config.parent / "robustness.json").is_file()
    assert len(asked) == 1
