"""`lightning-robust evaluate`: the same counts as `test` and as a plain loop, for nets of every library."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_robust.attacks.named import named_attacks
from lightning_robust.cli.evaluation import _tell_stopping, listed, threat_list
from lightning_robust.cli.main import main
from lightning_robust.data import Arrays, Digits
from lightning_robust.models import load_net
from tests.helpers.command_line import refusal
from tests.helpers.transformers_folder import write_vit
from tests.models.test_robustbench import asked  # noqa: F401

pytestmark = pytest.mark.slow  # each starts the command line, which takes a third of a second and more

QUICK = ["--check_samples", "0", "--trainer.accelerator", "cpu", "--attacks", "pgd10"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with an archive of 40 training and 30 test images, 3 x 16 x 16, of 4 classes."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    label = {"train": np.arange(40) % 4, "test": np.arange(30) % 4}
    images = {
        part: np.clip(rng.integers(0, 256, (len(y), 16, 16, 3)) * 0.5 + 30 * y[:, None, None, None], 0, 255)
        for part, y in label.items()
    }
    np.savez(
        "data.npz",
        **{f"x_{part}": x.astype(np.uint8) for part, x in images.items()},
        **{f"y_{part}": y for part, y in label.items()},
    )
    return tmp_path


def summary(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return content


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("linf 8/255", ["linf 8/255"]),
        ("linf 2/255,4/255 , l2 0.5, 1", ["linf 2/255", "linf 4/255", "l2 0.5", "l2 1"]),
    ],
)
def test_threats_share_a_norm(text: str, wanted: list[str]) -> None:
    assert threat_list(text) == wanted


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--data", "Digits"], "net"),
        (["--net", "timm:resnet19", "--data", "Digits"], "resnet18"),
        (["--net", "SmallConvNet", "--data", "Digit"], "Digits"),
        (["--net", "SmallConvNet", "--data", "Digits", "--attacks", "pdg"], "There is no attack 'pdg'"),
        (["--net", "SmallConvNet", "--data", "Digits", "--threat", "l3 1"], "Unknown norm 'l3'"),
        (["--net", "SmallConvNet", "--data", "Digits", "--net.num_classes", "7"], "10 classes"),
    ],
)
def test_mistakes_are_one_sentence(
    args: list[str], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refusal(capsys, "evaluate", *args)
    assert not list(folder.glob("runs/**/*"))


def test_the_config_says_it_all_and_an_earlier_evaluation_is_kept(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--net", "SmallConvNet", "--data", "Digits", "--samples", "20", "--out", "out", *QUICK]
    main(command)
    before = (folder / "out" / "robustness.json").read_text()
    main(["report", "out"])
    page = (folder / "out" / "report.html").read_text()
    assert "SmallConvNet on Digits" in page
    assert "lightning-robust evaluate --config out/config.yaml" in page
    main(["evaluate", "--config", "out/config.yaml", "--out", "again"])
    again, once = (summary(folder / name) for name in ("again", "out"))
    assert again["threats"]["linf 8/255"]["correct"] == once["threats"]["linf 8/255"]["correct"]
    assert "is there already" in refusal(capsys, *command)
    assert (folder / "out" / "robustness.json").read_text() == before


def test_a_checkpoint_is_not_tested_on_images_it_was_trained_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    np.savez("all.npz", images=rng.integers(0, 256, (60, 8, 8), dtype=np.uint8), labels=np.arange(60) % 4)
    data = ["--data", "Arrays", "--data.root", "all.npz", "--data.test_size", "0.2"]
    quick = [
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
        "--data.val_size",
        "8",
        "--evaluation.attacks",
        "{}",
    ]
    net = ["--model", "Standard", "--model.net", "SmallConvNet", "--model.net.width", "2"]
    main(["fit", *net, "--model.optimizer", "SGD", "--model.optimizer.lr", "0.1", *data, *quick])
    (checkpoint,) = folder.glob("runs/Arrays/Standard/fit-*/checkpoints/last.ckpt")
    main(["evaluate", "--net", str(checkpoint), *data, "--out", "out", *QUICK])
    told = refusal(capsys, "evaluate", "--net", str(checkpoint), *data[:-1], "0.5", "--out", "other", *QUICK)
    assert "held out" in told


def test_an_untrained_net_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", "--net", "SmallConvNet", "--data", "Digits", "--samples", "20", "--out", "out", *QUICK])
    assert "has no trained weights" in capsys.readouterr().err


def test_several_threats_and_a_surrogate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    net = ["--net", "SmallConvNet", "--data", "Digits", "--samples", "60"]
    main(["evaluate", *net, "--threat", "linf 0.05, 0.1", "--surrogate", "SmallConvNet", "--out", "out", *QUICK])
    told = summary(folder / "out")
    assert list(told["threats"]) == ["linf 0.05", "linf 0.1"]
    assert list(told["threats"]["linf 0.1"]["attacks"]) == ["transfer-pgd10"]
    assert "all of them" in capsys.readouterr().out


@pytest.mark.parametrize(("names", "told"), [("pgd10, apgd-ce", ""), ("autoattack, pgd5, fab", "autoattack, fab")])
def test_attacks_that_stop_where_the_surrogate_errs_are_told(
    names: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _tell_stopping(named_attacks(listed(names)))
    printed = capsys.readouterr().err
    assert printed.startswith(f"warning: {told} stops where the surrogate errs") if told else not printed


def test_strict_ends_with_status_3_for_a_net_of_ones_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The net is a class in the working folder, and passes no gradient."""
    (folder / "masked_nets.py").write_text(
        "import torch\n"
        "class Rounded(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        torch.manual_seed(0)\n"
        "        return (x.flatten(1) * 4).round() @ torch.randn(64, 10)\n"
    )
    quick = ["--attacks", "pgd10", "--trainer.accelerator", "cpu", "--samples", "40", "--threat", "linf 0.1"]
    said = refusal(
        capsys, *("evaluate", "--net", "masked_nets.Rounded", "--data", "Digits", "--strict", "true", *quick), status=3
    )
    assert "did not pass" in said
    assert "gradient" in said
    assert list(folder.glob("runs/Digits/evaluate-*/robustness.json"))


def test_a_net_of_robustbench_counts_as_in_a_plain_loop(
    folder: Path,
    asked: list[dict[str, Any]],  # noqa: F811
) -> None:
    seeded = [*QUICK, "--seed", "3"]
    main(["evaluate", "--net", "robustbench:Linf/Wong2020Fast", "--data", "Digits", "--out", "out", *seeded])
    assert [call["model_name"] for call in asked] == ["Wong2020Fast"]
    torch.manual_seed(3)
    net, data = load_net("robustbench:Linf/Wong2020Fast"), Digits()
    data.setup("test")
    x, y = next(iter(DataLoader(data.test_set, batch_size=450)))[:2]
    assert summary(folder / "out")["clean"]["correct"] == int((net(x).argmax(1) == y).sum())


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torchvision", "timm", "hf"])
def test_evaluate_test_and_a_plain_loop_agree(library: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_vit(folder / "vit", 4, image_size=16)
    name = {"torchvision": "torchvision:resnet18", "timm": "timm:resnet10t", "hf": "hf:./vit"}
    quick = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--evaluation.figure_samples=0"]
    quick += ["--evaluation.check_samples=0"]
    data = ["--data", "Arrays", "--data.root", "data.npz", "--data.val_size", "8", "--data.batch_size", "16"]
    attack = ["--model.attack", "PGD", "--model.attack.threat.eps", "2/255", "--model.attack.steps", "2"]
    evaluation = ["--evaluation.attacks", '{"pgd10": {"class_path": "PGD", "init_args": {"steps": 10}}}']
    optimizer = ["--model.optimizer", "SGD", "--model.optimizer.lr", "0.05"]
    main(["fit", "--model", "AT", "--model.net", name[library], *attack, *optimizer, *data, *evaluation, *quick])
    (run,) = folder.glob("runs/Arrays/AT/fit-*")
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", checkpoint])
    (tested,) = folder.glob("runs/Arrays/AT/test-*/robustness.json")
    by_test = json.loads(tested.read_text())

    main(["evaluate", "--net", checkpoint, *data, "--threat", "linf 2/255", "--out", "out", *QUICK])
    by_evaluate = json.loads((folder / "out" / "robustness.json").read_text())

    net = load_net(checkpoint).eval()
    module = Arrays("data.npz", val_size=8)
    module.setup("test")
    x, y = next(iter(DataLoader(module.test_set, batch_size=30)))[:2]
    correct = int((net(x).argmax(1) == y).sum())

    assert by_test["n"] == by_evaluate["n"] == 30
    assert by_test["clean"]["correct"] == by_evaluate["clean"]["correct"] == correct
    assert by_test["attacks"]["pgd10"]["correct"] == by_evaluate["attacks"]["pgd10"]["correct"]
    assert re.search(r"pgd10 +\d", capsys.readouterr().out)
