"""Nets by name on the command line and in YAML: each form is trained, tested, exported and loaded again."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_robust.cli.main import main
from lightning_robust.cli.net_names import with_nets, words_with_nets
from lightning_robust.models import load_net
from lightning_robust.publish.export import export_weights
from tests.cli.test_cli import folder  # noqa: F401
from tests.helpers.command_line import refusal
from tests.helpers.transformers_folder import write_vit
from tests.models.test_robustbench import asked  # noqa: F401

TIMM = {"class_path": "TimmModel", "init_args": {"name": "resnet18"}}
QUICK = [
    *(
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=2",
        "--trainer.limit_val_batches=1",
        "--trainer.limit_test_batches=1",
    ),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"),
    *("--data.batch_size=4", "--data.eval_batch_size=4", "--evaluation.figure_samples=0", "--evaluation.fit_samples=4"),
    *("--evaluation.check_samples=0", "--model.attack.steps=1", "--evaluation.attacks.pgd50.steps=1"),
    "--evaluation.fit_attacks.pgd10.steps=1",
]


@pytest.mark.parametrize(
    "words",
    [["--model.net", "timm:resnet18"], ["--model.net=timm:resnet18"], ["--model.init_args.net", "timm:resnet18"]],
)
def test_a_name_becomes_a_class_and_its_arguments(words: list[str]) -> None:
    option, _, value = words_with_nets(["fit", *words, "--model.beta", "6"])[1].partition("=")
    assert option in ("--model.net", "--model.init_args.net")
    assert json.loads(value) == TIMM


def test_a_teacher_goes_by_name_as_a_net_does() -> None:
    option, _, value = words_with_nets(["fit", "--model.teacher", "runs/a/best.ckpt"])[1].partition("=")
    assert option == "--model.teacher"
    assert json.loads(value) == {"class_path": "Pretrained", "init_args": {"source": "runs/a/best.ckpt"}}
    assert with_nets({"teacher": "timm:resnet18"}) == {"teacher": TIMM}


def test_all_other_words_stay() -> None:
    words = ["fit", "--model.net", "SmallConvNet", "--model.net=mine.Net", "--model.net.name=timm:a", "--a.net"]
    assert words_with_nets(words) == words
    assert words_with_nets(["--model.net", "net.yaml", "--config", "a/b"]) == [
        "--model.net",
        "net.yaml",
        "--config",
        "a/b",
    ]


def test_in_yaml_a_name_stands_where_a_net_does() -> None:
    inner = {"class_path": "Pretrained", "init_args": {"source": "./out", "net": "timm:resnet18"}}
    settings = {"a": [{"net": "timm:resnet18"}], "net": inner, "logger": {"name": "timm:resnet18"}, "n": 1}
    found = with_nets(settings)
    assert found["a"] == [{"net": TIMM}]
    assert found["net"]["init_args"]["net"] == TIMM
    assert found["logger"] == settings["logger"]


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    with pytest.raises(SystemExit):
        main(["fit", *args, "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["net"]


def test_the_configuration_holds_the_class(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    net = printed(capsys, "--config=digits/at", "--model.net", "timm:resnet18", "--model.net.num_classes=7")
    assert net["class_path"] == "lightning_robust.models.TimmModel"
    assert (net["init_args"]["name"], net["init_args"]["num_classes"]) == ("resnet18", 7)
    Path("mine.yaml").write_text("model: {class_path: AT, init_args: {net: 'torchvision:vgg11'}}\n")
    net = printed(capsys, "--config=digits/at", "--config=mine.yaml")
    assert (net["class_path"], net["init_args"]["name"]) == ("lightning_robust.models.TorchvisionModel", "vgg11")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tim:resnet18", "error: There is no library of nets 'tim'; did you mean 'timm'?"),
        ("torchvision:resnet81", "error: torchvision has no net 'resnet81'; did you mean 'resnet18'?"),
        ("./nowhere", "error: There is no file or folder './nowhere'."),
        ("Resnet18", "error: model.net: there is no class 'Resnet18'"),
    ],
)
def test_a_wrong_name_is_one_sentence(
    name: str,
    told: str,
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refusal(capsys, "fit", "--config=digits/at", "--model.net", name).startswith(told)
    Path("mine.yaml").write_text(f"model: {{class_path: AT, init_args: {{net: '{name}'}}}}\n")
    assert told.removeprefix("error: model.net") in refusal(capsys, "fit", "--config=digits/at", "--config=mine.yaml")


def newest(pattern: str) -> Path:
    return max(Path("runs/Digits/AT").glob(pattern), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:No --ckpt_path was given")
@pytest.mark.filterwarnings("ignore:Found 2 module.* in eval mode")  # as the zoo gives its nets
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("timm:resnet18", []),
        ("torchvision:mobilenet_v3_small", ["--model.net.resize=32"]),
        ("hf:./vit", []),
        ("hf:./vit", ["--model.net.pretrained=false"]),
        ("./start", []),
        ("./start.ckpt", []),
        ("robustbench:Linf/Wong2020Fast", []),
    ],
)
def test_each_form_is_trained_tested_exported_and_loaded(
    name: str,
    settings: list[str],
    folder: Path,  # noqa: F811
    asked: list[dict[str, Any]],  # noqa: F811
) -> None:
    write_vit(Path("vit"), image_size=32, patch_size=8)
    fit = ["fit", "--config=digits/at", *QUICK]
    if name.startswith("./start"):
        main([*fit, "--model.net.width=4"])
        export_weights(str(newest("fit-*/checkpoints/last.ckpt")), "start")
        newest("fit-*/checkpoints/last.ckpt").rename("start.ckpt")
        os.environ.pop("LIGHTNING_ROBUST_RUN", None)
    main([*fit, "--model.net", name, *settings])
    last, config = newest("fit-*/checkpoints/last.ckpt"), newest("fit-*/config.yaml")
    os.environ.pop("LIGHTNING_ROBUST_RUN", None)
    main(["test", f"--config={config}", *QUICK, f"--ckpt_path={last}"])
    report = json.loads(newest("test-*/robustness.json").read_text())
    assert report["checkpoint"]["path"] == str(last)
    export_weights(str(last), "out")
    adapted = {"timm:resnet18": (True, None), "torchvision:mobilenet_v3_small": (False, 32), "hf:./vit": (None, 32)}
    if name in adapted:  # the data's images have 8 x 8 pixels
        described = json.loads(Path("out/config.json").read_text())["net"]["init_args"]
        assert (described.get("small_images"), described["resize"]) == adapted[name]
    trained, x = load_net(str(last)).eval(), torch.rand(3, 1, 8, 8)
    for start in ("vit", "start", "start.ckpt"):  # what it started from is needed no longer
        if Path(start).exists():
            Path(start).rename(f"{start}-gone")
    assert torch.equal(load_net("./out").eval()(x), trained(x))
    os.environ.pop("LIGHTNING_ROBUST_RUN", None)
    main(["test", f"--config={config}", *QUICK, "--model.net", "./out"])
    tested = json.loads(newest("test-*/robustness.json").read_text())
    assert tested["attacks"]["pgd50"]["correct"] == report["attacks"]["pgd50"]["correct"]
    assert tested["clean"]["correct"] == report["clean"]["correct"]
