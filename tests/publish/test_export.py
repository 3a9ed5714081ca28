"""Weights from a run to a folder and back: the same logits, and the evaluation's own numbers."""

import ast
import errno
import inspect
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from safetensors import safe_open
from torch import Tensor, nn

from lightning_robust.cli.main import main
from lightning_robust.defenses import AT
from lightning_robust.models import SmallConvNet, from_pretrained, load_weights
from lightning_robust.publish.export import export_weights, push_weights
from lightning_robust.utils.sha256 import file_sha256
from tests.helpers.command_line import refusal
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, plain_net

ROOT = Path(__file__).parents[2]
QUICK = [
    *("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.enable_progress_bar=false"),
    *("--trainer.enable_model_summary=false", "--trainer.accelerator=cpu", "--evaluation.figure_samples=0"),
    *("--evaluation.check_samples=0", "--evaluation.attacks.pgd50.steps=2", "--evaluation.fit_attacks.pgd10.steps=1"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run of the command line has trained, and two of them have tested; the last with another attack."""
    folder = tmp_path_factory.mktemp("runs")
    config, quick = str(ROOT / "configs/digits/at.yaml"), [*QUICK, f"--trainer.default_root_dir={folder}"]
    main(["fit", "--config", config, *quick, "--model.init_args.net.init_args.width=4"])
    place = folder / "Digits/AT"
    (run,) = place.glob("fit-*")
    test = ["test", "--config", str(run / "config.yaml"), *quick, "--ckpt_path", str(best(place))]
    main([*test, "--evaluation.attacks.pgd50.threat.eps=8/255"])
    os.environ.pop("LIGHTNING_ROBUST_RUN", None)
    return place


def best(place: Path) -> Path:
    (path,) = place.glob("fit-*/checkpoints/best-*.ckpt")
    return path


def report_of(place: Path) -> Path:
    (path,) = place.glob("test-*/robustness.json")
    return path


def stored(path: Path) -> dict[str, Tensor]:
    """A checkpoint's weights by the net's names."""
    content = torch.load(path, weights_only=True)["state_dict"]
    return {name.removeprefix("net."): value for name, value in content.items() if name.startswith("net.")}


def described(folder: str | Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(folder, "config.json").read_text())
    return content


def test_a_run_comes_back_to_the_bit(place: Path, tmp_path: Path) -> None:
    folder = export_weights(str(best(place)), str(tmp_path / "out"))
    x, net = torch.rand(5, 1, 8, 8), SmallConvNet(width=4)
    net.load_state_dict(stored(best(place)))
    back = from_pretrained(folder)
    assert isinstance(back, SmallConvNet)
    assert not any(module.training for module in back.modules())
    assert torch.equal(back(x), net.eval()(x))
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors", "robustness.json"]
    config = described(folder)
    assert config["net"]["class_path"] == "SmallConvNet"
    assert config["net"]["init_args"]["width"] == 4
    assert config["threat"]["eps"] == 0.15
    assert (config["num_classes"], config["in_channels"], config["defense"]) == (10, 1, "AT")
    assert config["sha256"] == file_sha256(Path(folder, "model.safetensors"))
    assert config["checkpoint_sha256"] == file_sha256(best(place))
    assert not config["averaged"]


def test_exporting_twice_gives_the_same_bytes(place: Path, tmp_path: Path) -> None:
    first, second = (export_weights(str(best(place)), str(tmp_path / name)) for name in "ab")
    assert described(first)["sha256"] == described(second)["sha256"]
    with safe_open(Path(first, "model.safetensors"), "pt") as file:  # safetensors writes several entries in any order
        assert [*file.metadata()] == ["about"]


def test_the_card_has_the_numbers_of_the_evaluation_and_no_others(place: Path, tmp_path: Path) -> None:
    folder = export_weights(str(best(place)), str(tmp_path / "out"), name="us/digits", license="mit")
    report = json.loads(report_of(place).read_text())
    assert json.loads(Path(folder, "robustness.json").read_text()) == report
    card = Path(folder, "README.md").read_text()
    pattern = r"^\| ([\w ]+) \| (.*) \| ([\d.]+%) \| (\d+)/(\d+) \| ([\d.]+%) to ([\d.]+%) \|$"
    rows = {row[0]: row[1:] for row in re.findall(pattern, card, re.MULTILINE)}
    wanted = {"clean": report["clean"], "pgd50": report["attacks"]["pgd50"], "worst case": report["worst"]}
    threats = {"clean": "", "pgd50": "linf 8/255", "worst case": ""}
    assert rows == {
        key: (
            threats[key],
            f"{row['accuracy']:.2%}",
            str(row["correct"]),
            str(report["n"]),
            *(f"{bound:.2%}" for bound in row["confidence_interval"]),
        )
        for key, row in wanted.items()
    }
    assert report["n"] == 450
    for line in ("On 450 images of the test set, seed 0", "It was not checked.", "# us/digits", '"steps": 2'):
        assert line in card
    assert 'net = from_pretrained("us/digits")' in card
    assert "trained by AT against linf 0.15" in card
    (run,) = place.glob("fit-*")
    assert (run / "config.yaml").read_text().strip() in card
    assert f"torch {torch.__version__.split('+')[0]}" in card


def test_the_front_matter_is_the_hubs(place: Path, tmp_path: Path) -> None:
    """Read by the Hub's own class; the licence is the user's to give."""
    export_weights(str(best(place)), str(tmp_path), license="apache-2.0")
    data = huggingface_hub.ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.pipeline_tag, data.library_name) == (
        "apache-2.0",
        "image-classification",
        "lightning-robust",
    )
    assert data.tags == ["adversarial-robustness", "lightning-robust", "at", "linf"]
    export_weights(str(best(place)), str(tmp_path))
    assert "license:" not in (tmp_path / "README.md").read_text().split("\n---\n")[0]


def test_an_exports_checksum_pins_its_net(place: Path, tmp_path: Path) -> None:
    folder = Path(export_weights(str(best(place)), str(tmp_path / "out")))
    sha256, config = file_sha256(folder / "model.safetensors"), described(folder)
    from_pretrained(folder, sha256=sha256)
    config["net"]["init_args"] |= {"mean": [0.0], "std": [1.0]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="describes another net than the one whose weights were exported"):
        from_pretrained(folder, sha256=sha256)


def test_a_card_says_that_a_recipe_is_code_and_keeps_it_in_its_block(place: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run/checkpoints/a.ckpt"
    checkpoint.parent.mkdir(parents=True)
    shutil.copy(best(place), checkpoint)
    (tmp_path / "run/config.yaml").write_text("a: 1\n# ```\n# [click](evil)\n")
    name = 'us/"); import os  # '
    folder = Path(export_weights(str(checkpoint), str(tmp_path / "out"), name=name))
    card = (folder / "README.md").read_text()
    assert "A recipe is code: whatever it names is imported and called. Read it before you run it." in card
    assert "````yaml\na: 1\n# ```\n# [click](evil)\n````" in card
    (line,) = [line for line in card.splitlines() if line.startswith("net = from_pretrained(")]
    (call,) = ast.parse(line).body
    assert call.value.args[0].value == name  # type: ignore[attr-defined]
    link = folder / "README.md"
    link.unlink()
    link.symlink_to(tmp_path / "victim")
    export_weights(str(checkpoint), str(folder))
    assert not (tmp_path / "victim").exists()


def test_without_an_evaluation_the_card_says_so(place: Path, tmp_path: Path) -> None:
    """`last.ckpt` was not tested: the numbers of the best one are not its own, nor are an earlier export's."""
    last, folder = best(place).with_name("last.ckpt"), str(tmp_path)
    if file_sha256(last) == file_sha256(best(place)):
        content = torch.load(last, weights_only=True)
        last = tmp_path / "a/b/other.ckpt"
        last.parent.mkdir(parents=True)
        torch.save({**content, "global_step": 99}, last)
    export_weights(str(best(place)), folder)
    assert (tmp_path / "robustness.json").is_file()
    export_weights(str(last), folder)
    assert not (tmp_path / "robustness.json").exists()
    card = (tmp_path / "README.md").read_text()
    assert "No evaluation of these weights was recorded." in card
    assert "%" not in card.split("## Use")[0]
    with pytest.raises(ValueError, match="is of other weights: its checkpoint has the SHA-256"):
        export_weights(str(last), folder, evaluation=str(report_of(place)))


def test_the_strongest_test_of_these_weights_counts(place: Path, tmp_path: Path) -> None:
    """It is at the threat of the training; weaker ones, of validation, of other weights or threats do not count."""
    runs = tmp_path / "AT"
    shutil.copytree(place, runs)
    report = json.loads(report_of(place).read_text())
    at_training = json.loads(json.dumps(report).replace(str(8 / 255), "0.15"))

    def broken(report: dict[str, Any], correct: int) -> dict[str, Any]:
        return {**report, "worst": {**report["worst"], "accuracy": correct / report["n"], "correct": correct}}

    others = [
        {**broken(at_training, 30), "seed": 4},
        {**broken(at_training, 20), "seed": 5},
        {**broken(at_training, 40), "seed": 6},
        {**broken(at_training, 1), "seed": 7, "stage": "validate"},
        {**broken(at_training, 1), "seed": 8, "n": 10},
        {**broken(at_training, 1), "seed": 9, "checkpoint": {"sha256": "0" * 64}},
        {**broken(report, 0), "seed": 10},
        {**broken(at_training, 1), "seed": 11, "checkpoint": None},
        None,
    ]
    for number, other in enumerate(others):
        path = runs / f"later-{number}/robustness.json"
        path.parent.mkdir()
        path.write_text("" if other is None else json.dumps(other))
        os.utime(path, (2e9 + number, 2e9 + number))
    folder = export_weights(str(best(runs)), str(tmp_path / "out"))
    assert json.loads(Path(folder, "robustness.json").read_text())["seed"] == 5
    card = Path(folder, "README.md").read_text()
    listed = re.findall(r"^\| (\S+)/robustness.json \| (linf \S+) \| pgd50 \| (\d+) \|", card, re.MULTILINE)
    assert [row for row in listed if row[0].startswith("later")] == [
        *((f"later-{number}", "linf 0.15", "450") for number in (0, 1, 2)),
        ("later-4", "linf 0.15", "10"),
        ("later-6", "linf 8/255", "450"),
    ]


def test_the_hubs_index_holds_the_accuracies(place: Path, tmp_path: Path) -> None:
    export_weights(str(best(place)), str(tmp_path), name="us/digits")
    report = json.loads((tmp_path / "robustness.json").read_text())
    results = huggingface_hub.ModelCard.load(tmp_path / "README.md").data.eval_results
    assert results is not None
    assert {(row.dataset_name, row.metric_name, row.metric_value) for row in results} == {
        ("Digits", "clean accuracy", report["clean"]["accuracy"]),
        ("Digits", "robust accuracy (pgd50, linf 8/255)", report["attacks"]["pgd50"]["accuracy"]),
    }


def test_others_may_read_the_files(place: Path, tmp_path: Path) -> None:
    folder = Path(export_weights(str(best(place)), str(tmp_path / "out")))
    umask = os.umask(0)
    os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & ~umask}


def test_a_given_evaluation_counts(place: Path, tmp_path: Path) -> None:
    report = json.loads(report_of(place).read_text())
    report["checks"] = [
        {"name": "a", "status": "pass", "sentence": "Fine."},
        {"name": "b", "status": "warn", "sentence": "Doubt."},
    ]
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({**report, "seed": 7}))
    export_weights(str(best(place)), str(tmp_path / "out"), evaluation=str(mine))
    card = (tmp_path / "out/README.md").read_text()
    assert "seed 7;" in card
    assert "- warn: Doubt." in card
    assert "Fine." not in card
    mine.write_text("{}")
    with pytest.raises(ValueError, match="cannot be read as a robustness"):
        export_weights(str(best(place)), str(tmp_path / "out"), evaluation=str(mine))


def fitted(folder: Path, net: nn.Module, **trainer: Any) -> Path:
    """A checkpoint of a defense that Python code trained, without the command line."""
    (folder / "run").mkdir(parents=True)
    run = quiet_trainer(max_epochs=2, default_root_dir=folder, **trainer)
    run.fit(AT(net, optimizer=lambda p: torch.optim.SGD(p, lr=0.5)), Few())
    run.save_checkpoint(folder / "run/last.ckpt")
    return folder / "run/last.ckpt"


# Lightning's advice on sharded nets:
# https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/callbacks/weight_averaging.py
@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
def test_averaged_weights_are_those_exported(tmp_path: Path) -> None:
    paths: list[Path] = []

    class Saving(EMAWeightAveraging):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_epoch_end(trainer, pl_module)
            if not paths:
                paths.append(tmp_path / "ema/run/mid.ckpt")
                trainer.save_checkpoint(paths[0])

    fitted(tmp_path / "ema", plain_net(), callbacks=[Saving(decay=0.5)])
    folder = export_weights(str(paths[0]), str(tmp_path / "out"))
    content = torch.load(paths[0], weights_only=True)
    back = load_weights(plain_net(seed=3), folder).state_dict()
    for name, value in back.items():
        assert torch.equal(value, content["state_dict"][f"net.{name}"])
    assert any(not torch.equal(value, content["current_model_state"][f"net.{name}"]) for name, value in back.items())
    assert described(folder)["averaged"]
    assert "averaged over training" in Path(folder, "README.md").read_text()


def test_without_the_command_line_the_net_is_the_users_to_build(tmp_path: Path) -> None:
    net = plain_net()
    folder = export_weights(str(fitted(tmp_path / "py", net)), str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"describes no net: build the net yourself and use load_weights\(net, source"):
        from_pretrained(folder)
    x = torch.rand(3, 1, 4, 4)
    assert torch.equal(load_weights(plain_net(seed=3), folder)(x), net(x))
    card = Path(folder, "README.md").read_text()
    assert "load_weights(net, " in card
    assert "None was recorded." in card


class Tied(nn.Module):
    """One weight under two names, and a view of another."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 16)
        self.again = self.head
        self.last = nn.Linear(16, 3)
        self.register_buffer("part", self.last.weight.detach()[1:])
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.again(self.head(x.flatten(1)).tanh()).tanh())


def by_channels() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    return net.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("made", [Tied, by_channels])
def test_tensors_that_share_memory_or_lie_in_another_order(made: Callable[[], nn.Module], tmp_path: Path) -> None:
    net, other, x = made(), made(), torch.rand(3, 1, 4, 4)
    folder = export_weights(str(fitted(tmp_path / "x", net)), str(tmp_path / "out"))
    with safe_open(Path(folder, "model.safetensors"), "pt") as file:
        assert set(file.keys()) == set(net.state_dict())
    assert not torch.equal(other(x), net(x))
    assert torch.equal(load_weights(other, folder)(x), net(x))
    if isinstance(other, Tied):
        assert other.again.weight is other.head.weight
    else:
        assert not any(child.weight.is_contiguous() for child in (net[1], other[1]))  # type: ignore[index]


def test_what_is_no_checkpoint_of_a_defense_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="was not written in training a defense"):
        export_weights(str(tmp_path / "a.pt"), str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"cannot be read as a checkpoint \(.*No such file"):
        export_weights(str(tmp_path / "none.ckpt"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fit_their_description_are_not_exported(place: Path, tmp_path: Path) -> None:
    content = torch.load(best(place), weights_only=True)
    content["hyper_parameters"]["net"]["init_args"]["num_classes"] = 7
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"shapes: head.bias is \[10\], the net's \[7\]"):
        export_weights(str(tmp_path / "a.ckpt"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


class Hub:
    """Stands in for the Hub; keeps to the signatures of the installed package."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.fails: Exception | None = None
        for name in ("create_repo", "upload_folder", "snapshot_download"):
            monkeypatch.setattr(huggingface_hub, name, self.stand_in(name))

    def stand_in(self, name: str) -> Any:
        signature = inspect.signature(getattr(huggingface_hub, name))

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, dict(signature.bind(*args, **kwargs).arguments)))
            if self.fails:
                raise self.fails
            return getattr(self, name)

        return call

    create_repo = "hub:us/digits"
    upload_folder = None
    snapshot_download = ""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    return Hub(monkeypatch)


def test_push_creates_and_uploads_the_export_alone(place: Path, tmp_path: Path, hub: Hub) -> None:
    folder = export_weights(str(best(place)), str(tmp_path))
    (tmp_path / "secret.txt").write_text("mine")
    assert push_weights(folder, "us/digits") == "hub:us/digits"
    (first, created), (second, uploaded) = hub.calls
    assert (first, second) == ("create_repo", "upload_folder")
    assert created == {"repo_id": "us/digits", "private": True, "exist_ok": True}
    files = ["model.safetensors", "config.json", "robustness.json", "README.md"]
    assert uploaded == {
        "repo_id": "us/digits",
        "folder_path": folder,
        "allow_patterns": files,
        "delete_patterns": ["robustness.json"],
    }
    push_weights(folder, "us/digits", private=False)
    assert hub.calls[2][1]["private"] is False


def test_what_is_not_whole_is_not_pushed(place: Path, tmp_path: Path, hub: Hub) -> None:
    folder = export_weights(str(best(place)), str(tmp_path))
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-4])
    with pytest.raises(ValueError, match="truncated, changed or another file"):
        push_weights(folder, "us/digits")
    (tmp_path / "model.safetensors").write_bytes(weights)
    (tmp_path / "README.md").unlink()
    with pytest.raises(
        ValueError, match=r"is no whole export: it needs model\.safetensors, config\.json and README\.md"
    ):
        push_weights(folder, "us/digits")
    assert not hub.calls


def test_what_the_hub_refuses_is_told(place: Path, tmp_path: Path, hub: Hub) -> None:
    folder = export_weights(str(best(place)), str(tmp_path))
    hub.fails = huggingface_hub.errors.LocalTokenNotFoundError("Token is required.\nMore.")
    with pytest.raises(
        ValueError, match=r"did not take 'us/digits' \(LocalTokenNotFoundError: Token is required\.\) .*hf auth login"
    ):
        push_weights(folder, "us/digits")


def test_the_documented_commands_work(
    place: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/sharing-weights.md").read_text()
    commands = re.findall(r"^lightning-robust .*$", page, re.MULTILINE)
    assert [command.split()[1] for command in commands] == ["export", "push"]
    for command in commands:
        words = shlex.split(command.replace("<run>/checkpoints/<best>.ckpt", shlex.quote(str(best(place)))))
        main(words[1:])
    assert capsys.readouterr().out.split()[-1] == "hub:us/digits"
    names: dict[str, Any] = {"x": torch.rand(2, 1, 8, 8), "my_net": SmallConvNet(width=4)}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, names)
    assert names["logits"].shape == (2, 10)
    assert torch.equal(names["my_net"].eval()(names["x"]), names["logits"])


def test_what_cannot_be_written_is_told(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "--ckpt_path", str(best(place)), "--folder"]
    (tmp_path / "file").touch()
    assert "File exists" in refusal(capsys, *command, str(tmp_path / "file"))
    folder = export_weights(str(best(place)), str(tmp_path / "out"))
    before = Path(folder, "model.safetensors").read_bytes()

    def full(self: Path, data: bytes, *args: Any) -> int:
        with self.open("wb") as file:
            file.write(data[:4])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    told = refusal(capsys, *command, folder)
    monkeypatch.undo()
    assert re.search(r"model.safetensors was not written .*No space left", told)
    assert Path(folder, "model.safetensors").read_bytes() == before
    assert not list(Path(folder).glob("*.tmp"))


def test_a_foreign_report_beside_the_run_is_passed_over(place: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(place, tmp_path / "copy"))
    odd = best(copied).parents[2] / "test-odd" / "robustness.json"
    odd.parent.mkdir()
    odd.write_text('{"checkpoint": "x.ckpt"}')
    assert export_weights(str(best(copied)), str(tmp_path / "out"))


def test_the_command_line_says_in_one_line_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export = ["export", "--folder", str(tmp_path), "--ckpt_path"]
    assert "none.ckpt cannot be read as a checkpoint" in refusal(capsys, *export, str(tmp_path / "none.ckpt"))
    push = ["push", "--folder", str(tmp_path / "none"), "--repo_id", "us/digits"]
    assert refusal(capsys, *push).startswith("error: There is no file or folder")
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    told = refusal(capsys, *export, "any.ckpt")
    assert told.startswith("error: This needs the package safetensors: pip install 'lightning-robust[zoo")
