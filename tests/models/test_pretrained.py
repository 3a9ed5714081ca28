"""Loading weights: what is refused, and why; strangers' files run nothing; the Hub with and without a connection."""

import inspect
import json
import os
import pickle
import re
import sys
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
import torchvision
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_robust.cli.main import main
from lightning_robust.defenses import Standard
from lightning_robust.models import (
    Pretrained,
    SmallConvNet,
    TimmModel,
    TorchvisionModel,
    WideResNet,
    from_pretrained,
    load_weights,
)
from lightning_robust.models.net_config import build_net, net_class
from lightning_robust.models.pretrained import load_named_weights
from lightning_robust.models.standalone import standalone
from lightning_robust.publish.export import export_weights
from lightning_robust.utils.sha256 import file_sha256
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import plain_net

ROOT = Path(__file__).parents[2]
X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
SMALL = {"class_path": "SmallConvNet", "init_args": {"width": 4}}


def net_of_width_4(**settings: Any) -> nn.Module:
    return SmallConvNet(width=4, **settings)


def export(folder: Path, net: nn.Module | None = None, described: Any = SMALL) -> Path:
    """An export as `export_weights` leaves it, as far as loading goes."""
    folder.mkdir(parents=True, exist_ok=True)
    net = net or net_of_width_4()
    weights, told = {k: v.contiguous() for k, v in net.state_dict().items()}, json.dumps(described, sort_keys=True)
    save_file(weights, folder / "model.safetensors", metadata={"net": told})
    config = {"net": described, "sha256": file_sha256(folder / "model.safetensors")}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_a_file_and_a_checkpoint_give_the_same(tmp_path: Path) -> None:
    net = net_of_width_4()
    export(tmp_path, net)
    torch.save(net.state_dict(), tmp_path / "plain.pt")
    torch.save({"state_dict": {f"module.model.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "zoo.pt")
    wanted = net(X)
    for source in (tmp_path, tmp_path / "model.safetensors", str(tmp_path / "plain.pt"), tmp_path / "zoo.pt"):
        other = net_of_width_4()
        assert not torch.equal(other(X), wanted)
        assert load_weights(other, source) is other
        assert other.training
        assert torch.equal(other(X), wanted)


def test_a_checkpoint_of_a_defense_gives_its_net(tmp_path: Path) -> None:
    model = Standard(net_of_width_4())
    trainer = quiet_trainer(max_epochs=0)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(load_weights(net_of_width_4(), tmp_path / "a.ckpt")(X), model.net(X))


@pytest.mark.parametrize("source", ["folder", "file"])
def test_a_wrong_checksum_and_a_damaged_file_are_refused(tmp_path: Path, source: str) -> None:
    export(tmp_path)
    file = tmp_path / "model.safetensors"
    where, right = (tmp_path if source == "folder" else file), file_sha256(file)
    from_pretrained(where, sha256=right.upper())
    with pytest.raises(ValueError, match=f"has the SHA-256 {right}, not {'0' * 64}: it is truncated, changed"):
        from_pretrained(where, sha256="0" * 64)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # one bit, without a checksum of the user's
    with pytest.raises(ValueError, match=f"not {right}"):
        from_pretrained(where)
    (tmp_path / "config.json").unlink()
    file.write_bytes(content[:100])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read as safetensors"):
        load_weights(net_of_width_4(), where)


@pytest.mark.parametrize(
    "changed", [{"mean": [0.1], "std": [0.9]}, {"mean": [0.4], "std": [0.5]}, {"in_channels": 1}, {"num_classes": 10}]
)
@pytest.mark.parametrize("pinned", [True, False])
def test_the_weights_checksum_vouches_for_the_net(changed: dict[str, Any], pinned: bool, tmp_path: Path) -> None:
    """Another normalisation has the same weights, and other predictions."""
    folder = export(tmp_path)
    sha256 = file_sha256(folder / "model.safetensors") if pinned else None
    x = torch.rand(4, 1, 8, 8)
    before = from_pretrained(folder, sha256=sha256)(x)
    config = json.loads((folder / "config.json").read_text())
    config["net"]["init_args"] |= changed
    (folder / "config.json").write_text(json.dumps(config))
    for load in (from_pretrained, lambda source, sha256: Pretrained(str(source), sha256=sha256)):
        with pytest.raises(ValueError, match=r"config\.json describes another net than the one whose weights"):
            load(folder, sha256=sha256)
    assert torch.equal(load_weights(net_of_width_4(), folder, sha256=sha256).eval()(x), before)


def test_weights_that_do_not_say_what_they_are_of_cannot_be_pinned(tmp_path: Path) -> None:
    folder, file = export(tmp_path), tmp_path / "model.safetensors"
    save_file(net_of_width_4().state_dict(), file)
    config = {"net": SMALL, "sha256": file_sha256(file)}
    (folder / "config.json").write_text(json.dumps(config))
    from_pretrained(folder)
    with pytest.raises(ValueError, match=r"does not say which net it is of, so that its SHA-256 does not vouch"):
        from_pretrained(folder, sha256=file_sha256(file))


def test_a_checkpoint_is_checked_too(tmp_path: Path) -> None:
    """As RobustBench's files: the checksum is looked at before anything is read."""
    file = tmp_path / "Rice2020Overfitting.pt"
    torch.save({"state_dict": net_of_width_4().state_dict()}, file)
    load_weights(net_of_width_4(), file, sha256=file_sha256(file))
    right = file_sha256(file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match="has the SHA-256"):
        load_weights(net_of_width_4(), file, sha256=right)
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_weights(net_of_width_4(), file)


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("suffix", ["pt", "ckpt", "safetensors"])
def test_a_pickle_is_never_run(tmp_path: Path, suffix: str) -> None:
    file, harm = tmp_path / f"model.{suffix}", tmp_path / "harm"
    torch.save({"state_dict": net_of_width_4().state_dict(), "defense": Bomb(harm)}, file)
    if suffix == "safetensors":
        file.write_bytes(pickle.dumps(Bomb(harm)))
    told = "cannot be read as safetensors" if suffix == "safetensors" else "more than tensors and plain values"
    with pytest.raises(ValueError, match=told):
        load_weights(net_of_width_4(), file)
    if suffix != "safetensors":
        with pytest.raises(ValueError, match=told):
            export_weights(str(file), str(tmp_path / "out"))
    assert not harm.exists()
    if suffix == "pt":  # it is one that would
        torch.load(file, weights_only=False)
        assert harm.exists()


def test_weights_of_another_net_are_told_in_one_line_and_change_nothing(tmp_path: Path) -> None:
    export(tmp_path)
    other = net_of_width_4(num_classes=7)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(ValueError) as error:  # noqa: PT011
        load_weights(other, tmp_path)
    assert str(error.value) == (
        f"The weights of {tmp_path / 'model.safetensors'} do not fit SmallConvNet (shapes: head.bias is [10], the "
        "net's [7], head.weight is [10, 16], the net's [7, 16])."
    )
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
    with pytest.raises(ValueError, match=r"missing: 0\.bias, 0\.weight, 3\.bias and 1 more; not in the net: .* and 17"):
        load_weights(plain_net(), tmp_path)


def test_tensors_alone_are_weights(tmp_path: Path) -> None:
    none = [{"state_dict": {"a": 3}}, {"state_dict": {}}, {"state_dict": 3}, [1], {"epoch": 2}]
    for content in (*none, {"state_dict": {1: torch.ones(1)}}, {"defense": "AT", "state_dict": [1]}):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(ValueError, match=r"holds no weights|is no checkpoint"):
            load_weights(net_of_width_4(), tmp_path / "a.pt")


@pytest.mark.parametrize("junk", ["Repository not found", "epoch,acc\n0,1\n", "hello world", "jpeg", ""])
def test_what_is_no_file_of_weights_is_told(junk: str, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_text(junk)
    with pytest.raises(ValueError, match=r"a.pt (cannot be read as a checkpoint|was not loaded)"):
        load_weights(net_of_width_4(), tmp_path / "a.pt")


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"There is no file or folder '.*nowhere'"):
        from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"There is no file or folder 'zoo/net\.pt'"):
        load_weights(net_of_width_4(), "zoo/net.pt")
    with pytest.raises(ValueError, match=r"holds no model\.safetensors: it was not exported"):
        from_pretrained(tmp_path)
    export(tmp_path)
    (tmp_path / "config.json").unlink()
    save_file(net_of_width_4().state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"describes no net: build the net yourself"):
        from_pretrained(tmp_path)
    for text, told in (("{", "is no JSON"), ("[]", "holds a list"), ("{}", "describes no net")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=told):
            from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "class_path",
    [
        *(
            "os.system",
            "torch.nn.Linear",
            "tests.helpers.few.plain_net",
            "evil.SmallConvNet",
            "lightning_robust.cli.main.main",
        ),
        *("lightning_robust.models.normalized", "Normalize", "Pretrained", "from_pretrained"),
        *("lightning_robust.models.net_config.importlib", "lightning_robust.modelsx.SmallConvNet", None, 3, ["x"]),
    ],
)
def test_a_strangers_class_is_neither_imported_nor_built(tmp_path: Path, class_path: Any) -> None:
    before = set(sys.modules)
    export(tmp_path, described={"class_path": class_path, "init_args": {}})
    with pytest.raises(ValueError, match=re.escape(f"asks for {class_path!r}, which is no net of lightning_robust")):
        from_pretrained(tmp_path)
    assert "evil" not in set(sys.modules) - before


@pytest.mark.parametrize(
    ("described", "told"),
    [
        ({"class_path": "TorchvisionModel", "init_args": {"weights": "DEFAULT"}}, r"other weights \(weights\)"),
        ({"class_path": "TimmModel", "init_args": {"name": "resnet18", "pretrained": True}}, r"weights \(pretrained\)"),
        (
            {"class_path": "TimmModel", "init_args": {"name": "resnet18", "options": {"checkpoint_path": "/etc/x"}}},
            r"other weights \(checkpoint_path\)",
        ),
        (
            {"class_path": "TimmModel", "init_args": {"name": "x", "options": {"pretrained_cfg": {"url": "x"}}}},
            r"other weights \(pretrained_cfg\)",
        ),
        (
            {"class_path": "TimmModel", "init_args": {"name": "hf-hub:a/b"}},
            "does not describe a TimmModel: timm has no",
        ),
        ({"class_path": "RobustBenchModel", "init_args": {"name": "Wong2020Fast"}}, r"other weights \(pretrained\)"),
        ({"class_path": "SmallConvNet", "init_args": {"wdth": 4}}, "does not describe a SmallConvNet: .*wdth"),
        ({"class_path": "SmallConvNet", "init_args": {"width": "four"}}, "does not describe a SmallConvNet"),
        ({"class_path": "SmallConvNet", "init_args": {"width": -4}}, "does not describe a SmallConvNet"),
        ({"class_path": "SmallConvNet", "init_args": 4}, "describes no net"),
        ("SmallConvNet", "describes no net"),
    ],
)
def test_settings_that_fetch_or_do_not_fit_are_refused(tmp_path: Path, described: Any, told: str) -> None:
    export(tmp_path, described=described)
    with pytest.raises(ValueError, match=told):
        from_pretrained(tmp_path)


def test_every_net_of_the_package_may_be_built() -> None:
    for name in ("SmallConvNet", "PreActResNet", "WideResNet", "IAATWideResNet", "TimmModel", "TorchvisionModel"):
        assert net_class(name) is net_class(f"lightning_robust.models.{name}") is not None
    assert isinstance(
        build_net({"class_path": "WideResNet", "init_args": {"depth": 10, "widen_factor": 1}}), WideResNet
    )


@pytest.mark.parametrize("package", ["safetensors", "huggingface_hub"])
def test_without_the_extra_its_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    export(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=rf"the package {package}: pip install 'lightning-robust\[zoo\]'"):
        from_pretrained(tmp_path if package == "safetensors" else "us/net")
    torch.save(net_of_width_4().state_dict(), tmp_path / "a.pt")
    load_weights(net_of_width_4(), tmp_path / "a.pt")  # which needs none


def test_a_recipe_starts_from_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it has trained to can be exported in turn, without what it started from."""
    monkeypatch.chdir(tmp_path)
    start = net_of_width_4()
    export(tmp_path / "start", start)
    recipe = yaml.safe_load((ROOT / "configs/digits/standard.yaml").read_text())
    digest = file_sha256(tmp_path / "start/model.safetensors")
    recipe["model"]["init_args"]["net"] = {"class_path": "Pretrained", "init_args": {"source": "start"}}
    recipe["model"]["init_args"]["net"]["init_args"]["sha256"] = digest
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    quick = ["--trainer.limit_train_batches=1", "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"]
    quick += ["--trainer.enable_model_summary=false", "--trainer.accelerator=cpu", "--evaluation.check_samples=0"]
    quick += ["--model.init_args.optimizer.init_args.lr=1e-9", "--evaluation.figure_samples=0"]
    main(["fit", "--config", "recipe.yaml", *quick])
    (last,) = tmp_path.glob("runs/Digits/Standard/*/checkpoints/last.ckpt")
    weights = torch.load(last, weights_only=True)["state_dict"]
    assert torch.allclose(weights["net.net.head.weight"], start.head.weight, atol=1e-5)
    export_weights(str(last), "out")
    (tmp_path / "start").rename(tmp_path / "gone")
    assert json.loads(Path("out/config.json").read_text())["net"] == SMALL
    with safe_open("out/model.safetensors", "pt") as file:
        assert set(file.keys()) == set(start.state_dict())
    back = from_pretrained("out")
    assert torch.equal(back.state_dict()["head.weight"], weights["net.net.head.weight"])


def test_pretrained_may_be_given_the_net(tmp_path: Path) -> None:
    net = plain_net()
    export(tmp_path, net, {"class_path": "mine.Net", "init_args": {}})
    model, x = Pretrained(str(tmp_path), net=plain_net(seed=3)), torch.rand(2, 1, 4, 4)
    assert torch.equal(model(x), net(x))
    export(tmp_path)
    assert all(module.training for module in Pretrained(str(tmp_path)).modules())  # it is there to be trained


def stand_in_for_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretrained weights are random ones."""

    def weights(self: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            builder = {"ResNet18": "resnet18", "GoogLeNet": "googlenet"}[type(self).__name__.partition("_")[0]]
            options = {"init_weights": False, "aux_logits": True} if builder == "googlenet" else {}
            return torchvision.models.get_model(builder, weights=None, **options).state_dict()

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", weights)
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **kwargs: create(name, **kwargs))


@pytest.mark.parametrize(
    ("made", "settings"),
    [
        (TorchvisionModel, {"name": "resnet18", "weights": "DEFAULT", "num_classes": 4}),
        (TorchvisionModel, {"name": "resnet18", "weights": "DEFAULT", "mean": [0.0] * 3, "std": [1.0] * 3}),
        pytest.param(TorchvisionModel, {"name": "googlenet", "weights": "DEFAULT"}, marks=pytest.mark.slow),
        (TimmModel, {"name": "resnet10t", "pretrained": True, "num_classes": 4}),
    ],
)
def test_nets_that_began_with_other_weights_need_them_no_longer(
    monkeypatch: pytest.MonkeyPatch, made: Any, settings: dict[str, Any]
) -> None:
    """The normalisation that came with those weights stays, though no file of weights holds it."""
    stand_in_for_downloads(monkeypatch)
    net = made(**settings)
    monkeypatch.undo()
    described, prefix = standalone({"class_path": f"lightning_robust.models.{made.__name__}", "init_args": settings})
    assert prefix == ""
    again = load_named_weights(build_net(json.loads(json.dumps(described))), net.state_dict(), "it")
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(again.eval()(x), net.eval()(x))


def test_transformers_keep_the_size_of_image_that_their_weights_imply() -> None:
    settings = {"name": "vit_b_16", "weights": "IMAGENET1K_SWAG_E2E_V1"}
    described, _ = standalone({"class_path": "TorchvisionModel", "init_args": settings})
    assert described["init_args"]["options"] == {"image_size": 384}


def cached(cache: Path, name: str = "us/net") -> Path:
    """The Hub's cache with one net in it, as its client lays it out."""
    repo, commit = cache / f"models--{name.replace('/', '--')}", "a" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text(commit)
    return export(repo / "snapshots" / commit)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As with HF_HUB_OFFLINE=1 and a cache of one's own, which the client reads when it is imported."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_offline_an_empty_cache_is_told_at_once(offline: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(ValueError) as error:  # noqa: PT011
        from_pretrained("us/net")
    assert time.monotonic() - begun < 5
    for part in ("'us/net' is no folder here", "outgoing traffic has been disabled", "connect once", "give a folder"):
        assert part in str(error.value)


def test_offline_the_cache_serves(offline: Path) -> None:
    net = load_weights(net_of_width_4(), cached(offline))
    assert torch.equal(from_pretrained("us/net")(X), net.eval()(X))  # type: ignore[no-untyped-call]


def test_the_hub_is_asked_for_two_files_of_one_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    signature = inspect.signature(huggingface_hub.snapshot_download)

    def snapshot_download(*args: Any, **kwargs: Any) -> str:
        asked.append(signature.bind(*args, **kwargs).arguments)
        return str(export(tmp_path / "pulled"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    from_pretrained("us/net", revision="v1")
    files = ["model.safetensors", "config.json"]
    assert asked == [{"repo_id": "us/net", "revision": "v1", "allow_patterns": files}]
    with pytest.raises(ValueError, match="has the SHA-256"):
        load_weights(net_of_width_4(), "us/net", sha256="1" * 64)
    monkeypatch.chdir(tmp_path)
    export(tmp_path / "us/net")
    from_pretrained("us/net")  # what is here comes first
    assert len(asked) == 2
