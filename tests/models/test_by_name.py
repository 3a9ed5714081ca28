"""Nets by name: the libraries' own nets with the same weights give the same logits; wrong names are told."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import lightning_robust as lr
from lightning_robust.defenses import Standard
from lightning_robust.models import Pretrained, SmallConvNet, from_pretrained, load_net
from lightning_robust.models.by_name import LIBRARIES, describe_name, is_net_name
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few
from tests.models.test_robustbench import ZooNet, asked  # noqa: F401

STATISTICS: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.25] * 3}


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("timm:resnet10t", lambda: timm.create_model("resnet10t", num_classes=10)),
        ("torchvision:squeezenet1_1", lambda: torchvision.models.squeezenet1_1(num_classes=10)),
    ],
)
def test_the_librarys_constructor_gives_the_same(name: str, theirs: Any) -> None:
    net: Any = lr.load_net(name, num_classes=10, **STATISTICS).eval()
    own = theirs().eval()
    own.load_state_dict(net.net.state_dict())
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(net(x), own((x - 0.5) / 0.25))


def test_pretrained_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: dict[str, Any] = {}
    for kind in set(LIBRARIES.values()):
        note = lambda kind=kind, **settings: asked_for.update({kind: settings}) or nn.Identity()  # noqa: E731
        monkeypatch.setattr(f"lightning_robust.models.{kind}", note)
    for name in ("timm:a", "torchvision:a", "hf:a", "robustbench:Linf/a"):
        load_net(name, pretrained=True)
    assert {kind: s.get("pretrained", s.get("weights")) for kind, s in asked_for.items()} == {
        "TimmModel": True,
        "TorchvisionModel": "DEFAULT",
        "HuggingFaceModel": True,
        "RobustBenchModel": True,
    }
    load_net("torchvision:a", pretrained=False)
    assert asked_for["TorchvisionModel"] == {"name": "a", "weights": None}
    load_net("torchvision:a", pretrained=True, weights="IMAGENET1K_V1")
    assert asked_for["TorchvisionModel"]["weights"] == "IMAGENET1K_V1"
    load_net("timm:a")
    assert asked_for["TimmModel"] == {"name": "a"}  # the class's own default


def test_robustbench_through_a_stand_in_of_its_package(asked: list[dict[str, Any]]) -> None:  # noqa: F811
    net: Any = load_net("robustbench:cifar100/Linf/Rice2020Overfitting")
    wanted = {"model_name": "Rice2020Overfitting", "model_dir": "models", "dataset": "cifar100", "threat_model": "Linf"}
    assert asked == [wanted]
    theirs, x = ZooNet().eval(), torch.rand(2, 1, 8, 8)
    theirs.load_state_dict(net.net.state_dict())
    assert torch.equal(net(x), theirs(x))
    load_net("robustbench:Linf/Wong2020Fast")
    assert (asked[1]["dataset"], asked[1]["threat_model"]) == ("cifar10", "Linf")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Of a training from the command line, as far as its net is concerned."""
    trainer, net = (
        quiet_trainer(max_epochs=1, default_root_dir=tmp_path),
        SmallConvNet(in_channels=1, width=4, num_classes=3),
    )
    trainer.fit(Standard(net), Few())
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    settings = {"in_channels": 1, "width": 4, "num_classes": 3}
    content["hyper_parameters"]["net"] = {"class_path": "lightning_robust.models.SmallConvNet", "init_args": settings}
    torch.save(content, path)
    return path


def test_a_checkpoint_a_folder_and_a_lone_file_bring_their_net(checkpoint: Path, tmp_path: Path) -> None:
    from lightning_robust.publish.export import export_weights

    net, x = SmallConvNet(in_channels=1, width=4, num_classes=3), torch.rand(2, 1, 8, 8)
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    net.load_state_dict({key.removeprefix("net."): value for key, value in stored.items() if key.startswith("net.")})
    export_weights(str(checkpoint), str(tmp_path / "out"))
    (tmp_path / "out/model.safetensors").rename(tmp_path / "alone.safetensors")
    lone = load_net(str(tmp_path / "alone.safetensors"))
    (tmp_path / "alone.safetensors").rename(tmp_path / "out/model.safetensors")
    for found in (lone, load_net(str(checkpoint)), load_net(str(tmp_path / "out"))):
        assert isinstance(found, Pretrained)
        assert torch.equal(found.eval()(x), net.eval()(x))
    assert torch.equal(from_pretrained(checkpoint)(x), net(x))


def test_a_lone_file_is_pinned_and_believed_no_more_than_a_folder(tmp_path: Path) -> None:
    from lightning_robust.utils.sha256 import file_sha256

    net, path = SmallConvNet(width=4), tmp_path / "a.safetensors"
    described = {"class_path": "SmallConvNet", "init_args": {"width": 4}}
    save_file(net.state_dict(), path, metadata={"net": json.dumps(described)})
    assert load_net(str(path), sha256=file_sha256(path))(torch.rand(1, 1, 8, 8)).shape == (1, 10)
    for text, told in (
        ("{", "describes its net in no JSON"),
        ('{"class_path": "os.system"}', "'os.system', which is no net"),
    ):
        save_file(net.state_dict(), path, metadata={"net": text})
        with pytest.raises(ValueError, match=told):
            load_net(str(path))
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"net": text}


def test_a_checkpoint_of_plain_weights_names_no_net(tmp_path: Path) -> None:
    torch.save(SmallConvNet(width=4).state_dict(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a.pt' describes no net: build the net yourself"):
        load_net(str(tmp_path / "a.pt"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tim:resnet18", "There is no library of nets 'tim'; did you mean 'timm'?"),
        ("timm:convnext_tyni", "timm has no net 'convnext_tyni'; did you mean 'convnext_tiny'?"),
        ("torchvision:resnet81", "torchvision has no net 'resnet81'; did you mean 'resnet18'?"),
        ("robustbench:Linf/Wong2020fast", "RobustBench has no model 'Wong2020fast' .*; did you mean 'Wong2020Fast'?"),
        ("robustbench:linf/Wong2020Fast", "RobustBench has no threat 'linf'; did you mean 'Linf'?"),
        ("robustbench:cifar/Linf/a", "RobustBench has no dataset 'cifar'; did you mean 'cifar10'?"),
        ("robustbench:Wong2020Fast", "must be robustbench:<threat>/<model> or robustbench:<dataset>/"),
        ("robustbench:a/b/c/d", "must be robustbench:<threat>/<model> or robustbench:<dataset>/"),
        ("resnet18", r"'resnet18' is no name of a net: write its library in front, such as timm:resnet18"),
        ("./nowhere", r"There is no file or folder './nowhere'"),
        ("nowhere.ckpt", "There is no file or folder 'nowhere.ckpt'"),
    ],
)
def test_names_that_are_not_right_are_told(name: str, told: str, asked: Any) -> None:  # noqa: F811
    with pytest.raises(ValueError, match=told):
        load_net(name)


def test_settings_that_a_net_does_not_have_are_told(checkpoint: Path) -> None:
    with pytest.raises(TypeError, match=r"timm:resnet18 has no setting 'classes' \(TimmModel\): leave it out"):
        load_net("timm:resnet18", classes=3)
    with pytest.raises(TypeError, match=r"has no setting 'mean' \(Pretrained\)"):
        load_net(str(checkpoint), mean=[0.5])
    with pytest.raises(TypeError, match=r"has no setting 'pretrained' \(Pretrained\)"):
        load_net(str(checkpoint), pretrained=False)
    load_net(str(checkpoint), pretrained=True)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("timm:resnet18", "timm", "zoo"),
        ("hf:a/b", "transformers", "hf"),
        ("robustbench:Linf/a", "robustbench", "robustbench"),
    ],
)
def test_a_missing_extra_is_one_sentence(name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError) as error:
        load_net(name)
    assert str(error.value).startswith(f"This needs the package {package}: pip install 'lightning-robust[{extra}]' (")
    assert "\n" not in str(error.value)


def test_every_library_has_its_class() -> None:
    for library, kind in LIBRARIES.items():
        name = f"{library}:{'Linf/' if library == 'robustbench' else ''}a"
        assert describe_name(name)["class_path"] == kind
        assert is_net_name(name)
        assert hasattr(lr.models, kind)


@pytest.mark.parametrize(
    "text", ["SmallConvNet", "mine.Net", "net.yaml", "nets/net.json", "{a: b}", "[a: b]", "a: b", None, 3]
)
def test_what_is_no_name(text: Any) -> None:
    assert not is_net_name(text)
