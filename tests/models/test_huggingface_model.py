"""Nets of transformers: the same logits as the library's own, from a folder, a configuration and an export."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.functional import normalize
from torchvision.transforms.v2.functional import resize

from lightning_robust.models import HuggingFaceModel, load_net
from lightning_robust.models.huggingface_files import plain_config
from lightning_robust.models.net_config import build_net
from lightning_robust.models.pretrained import load_named_weights
from lightning_robust.models.standalone import standalone
from tests.helpers.transformers_folder import SIZES, write_vit

MEAN, STD = [0.4, 0.5, 0.6], [0.2] * 3


def pixels(channels: int = 3, size: int = 8) -> Tensor:
    return torch.rand(4, channels, size, size)


def test_a_folder_gives_the_librarys_net_behind_its_normalisation(tmp_path: Path) -> None:
    theirs, x = write_vit(tmp_path), pixels()
    net = load_net(f"hf:{tmp_path}")
    assert all(module.training for module in net.modules())  # it is there to be trained
    torch.testing.assert_close(net.eval()(x), theirs(normalize(x, MEAN, STD)).logits)
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(net(x), again(normalize(x, MEAN, STD)).logits)


@pytest.mark.parametrize("size", [8, 28, 32, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_size_and_channels(size: int, channels: int, tmp_path: Path) -> None:
    write_vit(tmp_path, weights=False, num_channels=channels)
    settings: Any = {"num_classes": 10, "in_channels": channels, "image_size": size}
    net: Any = load_net(f"hf:{tmp_path}", pretrained=False, **settings).eval()
    config = transformers.AutoConfig.from_pretrained(tmp_path, num_labels=10)
    theirs = transformers.ViTForImageClassification(config).eval()
    theirs.load_state_dict(net.net.state_dict())
    x = pixels(channels, size)
    torch.testing.assert_close(net(x), theirs(resize(x, [8, 8], antialias=True)).logits)
    assert ("Resize(size=8)" in str(net)) == (size != 8)
    if size != 8:
        with pytest.raises(ValueError, match="doesn't match model"):  # as the net itself would say
            load_net(f"hf:{tmp_path}", pretrained=False, **{**settings, "image_size": None})(x)


def test_trained_weights_for_other_channels_and_classes(tmp_path: Path) -> None:
    theirs: Any = write_vit(tmp_path)
    net: Any = HuggingFaceModel(str(tmp_path), num_classes=7, in_channels=1).eval()
    x = pixels(1)
    assert net(x).shape == (4, 7)
    grey = (x.expand(-1, 3, -1, -1) - 0.5) / 0.2  # the mean of their means
    hidden = [model.vit(v).last_hidden_state for model, v in ((theirs, grey), (net.net, (x - 0.5) / 0.2))]
    torch.testing.assert_close(*hidden)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_export_needs_no_folder_and_no_connection(channels: int, tmp_path: Path) -> None:
    write_vit(tmp_path / "vit")
    settings = {"name": str(tmp_path / "vit"), "num_classes": 4, "in_channels": channels, "image_size": 28}
    net: Any = HuggingFaceModel(**settings)
    described, prefix = standalone({"class_path": "lightning_robust.models.HuggingFaceModel", "init_args": settings})
    (tmp_path / "vit").rename(tmp_path / "gone")
    again = load_named_weights(build_net(json.loads(json.dumps(described))), net.state_dict(), "it")
    x = pixels(channels, 28)
    assert prefix == ""
    assert torch.equal(again.eval()(x), net.eval()(x))
    assert standalone(described)[0] == described


def test_a_configuration_alone_builds_a_net() -> None:
    config = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
    net: Any = HuggingFaceModel("mine", 10, pretrained=False, in_channels=1, image_size=28, config=config)
    assert net.adapted == {"resize": 224}  # no size stands in the configuration
    assert net(pixels(1, 28)).shape == (4, 10)


def test_settings_go_before_those_of_the_file(tmp_path: Path) -> None:
    write_vit(tmp_path)
    net: Any = HuggingFaceModel(str(tmp_path), pretrained=False, config={"patch_size": 2, "dtype": "float16"})
    assert net.net.config.patch_size == 2
    assert net(pixels()).shape == (4, 5)
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_weights_without_a_last_layer_need_the_number_of_classes(tmp_path: Path) -> None:
    theirs: Any = write_vit(tmp_path)
    theirs.vit.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"do not fit their configuration \(classifier.bias, .*Give num_classes"):
        HuggingFaceModel(str(tmp_path))
    net: Any = HuggingFaceModel(str(tmp_path), num_classes=3).eval()
    x = pixels()
    found = net.net.vit(normalize(x, MEAN, STD)).last_hidden_state
    torch.testing.assert_close(found, theirs.vit(normalize(x, MEAN, STD)).last_hidden_state)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    write_vit(tmp_path)
    write_vit(tmp_path / "deeper", num_hidden_layers=2)
    (tmp_path / "deeper/config.json").rename(tmp_path / "config.json")
    with pytest.raises(ValueError, match=r"do not fit their configuration \(vit.layers.1"):
        HuggingFaceModel(str(tmp_path))


@pytest.mark.parametrize("do_normalize", [True, False])
def test_statistics_that_are_not_said_are_asked_for(do_normalize: bool, tmp_path: Path) -> None:
    theirs, x = write_vit(tmp_path), pixels()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": do_normalize}))
    if do_normalize:
        with pytest.raises(ValueError, match=r"does not say how its images are normalised .* give mean and std"):
            HuggingFaceModel(str(tmp_path))
        net = HuggingFaceModel(str(tmp_path), mean=[0.0] * 3, std=[1.0] * 3)
    else:
        net = HuggingFaceModel(str(tmp_path))
    torch.testing.assert_close(net.eval()(x), theirs(x).logits)


class Trap:
    """Leaves a file if it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, Any]:
        return Path.touch, (self.folder / "sprung",)


def test_pickles_and_code_of_a_repository_are_left_alone(tmp_path: Path) -> None:
    write_vit(tmp_path, weights=False)
    torch.save({"classifier.bias": Trap(tmp_path)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"holds no model.safetensors, and weights in other formats are not loaded"):
        HuggingFaceModel(str(tmp_path))
    code = f"from pathlib import Path\nPath({str(tmp_path / 'sprung')!r}).touch()\nclass Config: ...\nclass Net: ...\n"
    (tmp_path / "theirs.py").write_text(code)
    config = json.loads((tmp_path / "config.json").read_text())
    named = {"AutoConfig": "theirs.Config", "AutoModelForImageClassification": "theirs.Net"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": named}))
    HuggingFaceModel(str(tmp_path), pretrained=False)
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "theirs", "auto_map": named}))
    with pytest.raises(ValueError, match="no classifier of images of the type 'theirs'"):
        HuggingFaceModel(str(tmp_path), pretrained=False)
    assert not (tmp_path / "sprung").exists()


def test_no_kernel_is_fetched_that_a_configuration_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would take an attention function from the Hub, which is code."""
    config = {"model_type": "vit", "image_size": 8, "patch_size": 4, **SIZES}
    named = {"attn_implementation": "evil/kernel", "_attn_implementation": "evil/kernel"}
    net: Any = HuggingFaceModel("mine", pretrained=False, config={**config, **named})
    assert net.net.config._attn_implementation == "sdpa"
    assert plain_config("mine", {**config, **named}) == {**config, "num_labels": 2}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "vits"}, "no classifier of images of the type 'vits'; did you mean 'vit'"),
        ({"model_type": "timm_wrapper"}, "does not say how many channels its images have"),
        ({"model_type": "vit", **SIZES, "hidden_act": "nope"}, r"could not build 'mine' \(KeyError: 'nope'"),
    ],
)
def test_what_cannot_be_built_is_told(config: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        HuggingFaceModel("mine", pretrained=False, config=config)


def test_folders_of_other_kinds_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no file or folder 'nowhere'"):
        load_net("hf:nowhere")
    with pytest.raises(ValueError, match=r"holds no config.json: it is no folder of transformers"):
        load_net(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"net": {"class_path": "SmallConvNet"}}))
    with pytest.raises(
        ValueError, match="names no model_type: it is an export of lightning_robust, so give the folder"
    ):
        load_net(f"hf:{tmp_path}", pretrained=False)


@pytest.mark.parametrize("settings", [{}, {"pretrained": True}, {"pretrained": False}])
def test_a_description_fetches_nothing(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="refused"):
        build_net({"class_path": "HuggingFaceModel", "init_args": {"name": "us/net", **settings}})


def test_without_the_package_its_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"the package transformers: pip install 'lightning-robust\[hf\]'"):
        load_net("hf:google/vit-base-patch16-224")


def test_the_librarys_logging_is_left_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_vit(tmp_path)
    logging = transformers.utils.logging
    capsys.readouterr()
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    HuggingFaceModel(str(tmp_path), num_classes=3)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    printed = capsys.readouterr()
    assert not printed.out + printed.err


def test_attacks_take_gradients_of_it(tmp_path: Path) -> None:
    write_vit(tmp_path)
    net, x = load_net(f"hf:{tmp_path}", image_size=16).eval(), pixels(size=16).requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(net(x), torch.arange(4)), x)
    assert gradient.abs().sum((1, 2, 3)).min() > 0


def test_files_beside_the_weights_are_not_taken_for_them(tmp_path: Path) -> None:
    net = write_vit(tmp_path)
    zeros = {name: torch.zeros_like(value) for name, value in net.state_dict().items()}
    save_file(zeros, tmp_path / "model_old.safetensors")
    x = torch.rand(2, 3, 8, 8)
    loaded = HuggingFaceModel(str(tmp_path), mean=[0.0] * 3, std=[1.0] * 3).eval()
    torch.testing.assert_close(loaded(x), net(x).logits)
