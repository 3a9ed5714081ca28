"""Files of strangers: none runs code, writes outside its folder or ends in a traceback."""

import ast
import io
import json
import os
import pickle
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import Curves, PseudoLabels, RobustEvaluation
from lightning_robust.cli.main import main
from lightning_robust.cli.predictions import Predictions
from lightning_robust.defenses import Standard
from lightning_robust.models import SmallConvNet
from lightning_robust.utils.sha256 import file_sha256
from tests.cli.test_checkpoints import Payload
from tests.cli.test_cli import folder  # noqa: F401
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, norm_net

PACKAGE = Path(__file__).parents[1] / "lightning_robust"
FIT = ["fit", "--config=digits/at", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
PWNED = Path("outside/pwned")
LAUGHS = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else '1'}]\n" for i in range(9))

CONFIGS = {
    "python object": "model: !!python/object/apply:os.system ['touch outside/pwned']\n",
    "python name": "model: !!python/name:os.system\n",
    "billion laughs": LAUGHS,
    "cycle": "model: &a {init_args: *a}\n",
    "deep": "model: " + "[" * 5000 + "]" * 5000 + "\n",
    "duplicate": "weights_only: true\nweights_only: false\n",
    "unpickles": "ckpt_path: http://127.0.0.1:9/a.ckpt\nweights_only: false\n",
    "unpickles a file": "ckpt_path: evil.ckpt\nweights_only: no\n",
    "not text": "\x00\x01\x02",
    "terminal codes": "\x1b[2J: 3\n",
    "other section": "os: {system: touch outside/pwned}\n",
    "no class": "model: {class_path: os.system, init_args: {command: touch outside/pwned}}\n",
    "a list": "model: [1, 2]\n",
    "a number": "trainer: 3\n",
}


def pickled() -> bytes:
    return pickle.dumps(Payload(PWNED))


def checkpoint(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def archive(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr(name, content)
    return file.getvalue()


WEIGHTS = {f"net.{k}": v for k, v in SmallConvNet(width=4).state_dict().items()}
STRANGERS_NET = "net of a stranger"
CHECKPOINTS: dict[str, Callable[[], bytes]] = {
    "pickle": pickled,
    "code as weights": lambda: checkpoint({"state_dict": Payload(PWNED)}),
    "code as hyper-parameters": lambda: checkpoint({"state_dict": WEIGHTS, "hyper_parameters": Payload(PWNED)}),
    "code in an old file": lambda: b"\x80\x02" + pickled(),
    "zip that climbs": lambda: archive("../../outside/pwned", b"x"),
    "zip of a pickle": lambda: archive("archive/data.pkl", pickled()),
    "text": lambda: b"import os; os.system('touch outside/pwned')",
    "nothing": lambda: b"",
    "list": lambda: checkpoint([1, 2]),
    "no weights": lambda: checkpoint({"epoch": 3}),
    "weights that are none": lambda: checkpoint({"state_dict": {"net.a": 3}, "pytorch-lightning_version": "2.6.6"}),
    "no version": lambda: checkpoint({"state_dict": WEIGHTS, "defense": "AT"}),
    "another method": lambda: checkpoint({"state_dict": {}, "defense": ["os"], "pytorch-lightning_version": "2.6.6"}),
    "version of a stranger": lambda: checkpoint({"state_dict": WEIGHTS, "pytorch-lightning_version": "\x1b[2J"}),
    STRANGERS_NET: lambda: checkpoint(
        {
            "state_dict": WEIGHTS,
            "defense": "AT",
            "epoch": 0,
            "pytorch-lightning_version": "2.6.6",
            "hyper_parameters": {"net": {"class_path": "os.system", "init_args": {"command": "touch outside/pwned"}}},
        }
    ),
    "net without end": lambda: checkpoint(
        {"state_dict": WEIGHTS, "defense": "AT", "hyper_parameters": {"net": nested()}}
    ),
}


def nested() -> dict[str, Any]:
    net: dict[str, Any] = {"class_path": "SmallConvNet"}
    for _ in range(100):
        net = {"class_path": "Pretrained", "init_args": {"source": "x", "net": net}}
    return {"net": net}


DESCRIPTIONS: dict[str, Any] = {
    "another class": {"class_path": "os.system", "init_args": {"command": "touch outside/pwned"}},
    "a dotted one": {"class_path": "lightning_robust.models.small.os.system"},
    "another export": {"class_path": "Pretrained", "init_args": {"source": "outside"}},
    "other weights": {"class_path": "TimmModel", "init_args": {"name": "resnet18", "checkpoint_path": "outside/a"}},
    "settings of no net": {"class_path": "SmallConvNet", "init_args": {"width": -1}},
    "a list": [1, 2],
    "too large": {"class_path": "SmallConvNet", "init_args": {"width": "9" * 99}},
}


@pytest.fixture
def here(folder: Path) -> Path:  # noqa: F811
    Path("outside").mkdir()
    Path("outside/mine.txt").write_text("mine")
    return folder


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The sentence that a command ends with; nothing was run, and all outside the run's folders is as it was."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert "\x1b" not in told
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert not any(advice in line for advice in ("add_safe_globals", "weights_only=False", "weights_only` set to"))
    untouched()
    return line


def untouched() -> None:
    assert [path.name for path in Path("outside").iterdir()] == ["mine.txt"]
    assert Path("outside/mine.txt").read_text() == "mine"
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("evil.ckpt").write_bytes(pickled())
    Path("evil.yaml").write_text(CONFIGS[name])
    refused(capsys, *FIT, "--config=evil.yaml")


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.slow
def test_checkpoints(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("evil.ckpt").write_bytes(CHECKPOINTS[name]())
    net = "--model.init_args.net.init_args.width=5"
    refused(capsys, "test", *FIT[1:], net, "--ckpt_path=evil.ckpt")
    if name == STRANGERS_NET:  # is named in the card, for whoever builds it
        main(["export", "--ckpt_path=evil.ckpt", "--folder=out"])
        untouched()
    else:
        refused(capsys, "export", "--ckpt_path=evil.ckpt", "--folder=out")
        assert not Path("out").exists()


@pytest.mark.parametrize("name", DESCRIPTIONS)
@pytest.mark.slow
def test_descriptions_of_nets(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("evil").mkdir()
    save_file(SmallConvNet(width=4).state_dict(), "evil/model.safetensors")
    config = {"net": DESCRIPTIONS[name], "sha256": file_sha256("evil/model.safetensors")}
    Path("evil/config.json").write_text(json.dumps(config))
    refused(capsys, *FIT, "--model.net=Pretrained", "--model.net.source=evil")


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"net": 1e999}', b"\xff\xfe", b'{"sha256": 3}', b"{" * 9999], ids=range(7)
)
def test_descriptions_that_are_none(content: bytes, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("evil").mkdir()
    save_file(SmallConvNet(width=4).state_dict(), "evil/model.safetensors")
    Path("evil/config.json").write_bytes(content)
    refused(capsys, *FIT, "--model.net=Pretrained", "--model.net.source=evil")


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x08\0\0\0\0\0\0\0{}      ", pickle.dumps([1])], ids=range(4))
def test_weights(content: bytes, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("evil").mkdir()
    Path("evil/model.safetensors").write_bytes(content)
    Path("evil/config.json").write_text(json.dumps({"net": {"class_path": "SmallConvNet"}}))
    refused(capsys, *FIT, "--model.net=Pretrained", "--model.net.source=evil")


@pytest.mark.slow
def test_archives_of_images(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Arrays that are pickles; archives of ImageNet whose names climb; pickles of CIFAR."""
    np.savez("evil.npz", image=np.array([Payload(PWNED)], dtype=object), label=np.zeros(1, dtype=int))
    semi = ["--data=SemiSupervised", "--data.labelled=Digits", "--data.images=evil.npz"]
    assert "cannot be read as an .npz archive" in refused(capsys, *FIT, *semi)
    Path("data/imagenet").mkdir(parents=True)
    for name in ("ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"):
        with tarfile.open(f"data/imagenet/{name}", "w:gz" if name.endswith("gz") else "w") as packed:
            packed.addfile(tarfile.TarInfo("../../outside/pwned"), io.BytesIO(b""))
    assert "must be the published ones" in refused(capsys, *FIT, "--data=ImageNet")
    Path("data/imagenet/meta.bin").write_bytes(pickled())
    assert "meta.bin is damaged" in refused(capsys, *FIT, "--data=ImageNet")
    Path("data/cifar-10-batches-py").mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        Path("data/cifar-10-batches-py", name).write_bytes(pickled())
    refused(capsys, *FIT, "--data=CIFAR10")


def test_reports(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = ["--model_id=A", "--dataset=cifar10", "--name=a", "--link=b", "--authors=c", "--venue=d"]
    about += ["--architecture=e", "--additional_data=false", "--report=evil.json"]
    for content in ("", "[]", "{}", '{"attacks": {"a": {}}}', '{"attacks": [1]}', "3", '{"attacks": null}'):
        Path("evil.json").write_text(content)
        assert "cannot be read as a robustness.json" in refused(capsys, "leaderboard", *about)
    refused(capsys, "leaderboard", *about, "--model_id=../../outside/pwned")


@pytest.mark.slow
def test_links_in_a_run_that_goes_on(here: Path) -> None:
    """A stranger's run folder, in which training goes on, writes nothing through its links."""
    quick = [
        "--trainer.limit_train_batches=1",
        "--trainer.limit_val_batches=1",
        "--model.init_args.net.init_args.width=4",
    ]
    quick += ["--evaluation.figure_samples=0", "--evaluation.fit_samples=4", "--trainer.enable_model_summary=false"]
    main([*FIT, *quick, "--trainer.max_epochs=1"])
    (best,) = Path("runs").rglob("best-*.ckpt")
    run = best.parents[1]
    os.environ.pop("LIGHTNING_ROBUST_RUN", None)
    for name in ("metrics.csv", "hparams.yaml", "config.yaml", "robustness.json", "checkpoints/last.ckpt"):
        content = (run / name).read_bytes()
        (run / name).unlink()
        elsewhere = Path("elsewhere", Path(name).name).absolute()
        elsewhere.parent.mkdir(exist_ok=True)
        elsewhere.write_bytes(content)
        (run / name).symlink_to(elsewhere)
    before = {path: path.read_bytes() for path in Path("elsewhere").iterdir()}
    main([*FIT, *quick, "--trainer.max_epochs=2", f"--ckpt_path={best}"])
    assert {path: path.read_bytes() for path in Path("elsewhere").iterdir()} == before
    assert not (run / "metrics.csv").is_symlink()


def leave_all(run: Path) -> set[Path]:
    """Let the callbacks write all that they write, and list it."""
    evaluation = RobustEvaluation({"pgd": PGD(steps=1)}, check_samples=0, state_dir=str(run / "unfinished"))
    callbacks = [evaluation, Curves(["train/loss"]), PseudoLabels(str(run / "labels")), Predictions()]
    trainer = quiet_trainer(max_epochs=1, callbacks=callbacks)
    trainer.run_folder = run
    model = Standard(norm_net())
    trainer.fit(model, Few())
    trainer.test(model, Few(), verbose=False)
    trainer.predict(model, Few())
    return {path for path in run.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_what_callbacks_leave_replaces_planted_links(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    written = leave_all(run)
    expected = {"labels.npz", "predictions.csv", "robustness.json", "samples.csv", "curves.png", "test-pgd.png"}
    assert {path.name for path in written} >= expected
    elsewhere.mkdir()
    for path in written:
        path.unlink()
        path.symlink_to(elsewhere / path.name)
        (elsewhere / path.name).write_text("mine")
    assert leave_all(run) == written
    assert {path.read_text() for path in elsewhere.iterdir()} == {"mine"}
    assert not any(path.is_symlink() for path in written)


@pytest.mark.slow
def test_what_callbacks_leave_goes_through_no_planted_link_to_a_folder(tmp_path: Path) -> None:
    """The run's own folder may be reached over links: output roots often are."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    run, elsewhere = tmp_path / "runs/run", tmp_path / "elsewhere"
    written = leave_all(run)
    folders = {path.parent for path in written} - {run}
    assert folders == {run / "figures"}
    for inner in folders:
        shutil.rmtree(inner)
        (elsewhere / inner.name).mkdir(parents=True)
        inner.symlink_to(elsewhere / inner.name)
    assert leave_all(run) >= written
    assert not [path for path in elsewhere.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_planted_links_to_folders_of_states_and_checkpoints_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the data and the model, and of a job whose name is known before it starts."""
    Path("mine/Digits/AT/run").mkdir(parents=True)
    root = ["--trainer.default_root_dir=mine", "--trainer.fast_dev_run=true"]
    Path("mine/Digits/AT/unfinished").symlink_to(Path("outside").absolute())
    assert "unfinished is a link, and nothing is written through it" in refused(capsys, *FIT, *root)
    Path("mine/Digits/AT/unfinished").unlink()
    Path("mine/Digits/AT/run/checkpoints").symlink_to(Path("outside").absolute())
    monkeypatch.setattr("lightning_robust.cli.robust_cli.run_name", lambda *args: "run")
    assert "checkpoints is a link, and nothing is written through it" in refused(capsys, *FIT, *root)


WRITERS = {"savefig", "savez", "savez_compressed", "save_file", "to_csv", "write_bytes", "write_text"}
SAVERS = ("torch.save", "np.save", "parser.save", "json.dump", "csv.writer", "pickle.dump")


def writes(source: str) -> list[str]:
    """The calls that write a file outside of a block of `atomic_write`."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    blocks = [node for node in nodes if isinstance(node, ast.With) and "atomic_write(" in ast.unparse(node.items[0])]
    inside = {id(node) for block in blocks for node in ast.walk(block)}
    made = [node for node in nodes if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)]
    memory = {
        ast.unparse(node.targets[0]) for node in made if ast.unparse(node.value) in ("io.BytesIO()", "io.StringIO()")
    }
    calls = [node for node in nodes if isinstance(node, ast.Call) and id(node) not in inside]
    to_file = [call for call in calls if not memory & {ast.unparse(value) for value in call.args}]
    return [ast.unparse(call) for call in to_file if is_writer(call)]


def is_writer(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    texts = [
        value.value for value in (*call.args, *(k.value for k in call.keywords)) if isinstance(value, ast.Constant)
    ]
    modes = [text for text in texts if isinstance(text, str) and re.fullmatch("[rwaxbt+]+", text)]
    last = name.rpartition(".")[2]
    return last in WRITERS or name.endswith(SAVERS) or ("open" in last and any(set(m) & set("wax+") for m in modes))


def test_every_file_is_written_by_atomic_write() -> None:
    found = {path.name: calls for path in PACKAGE.rglob("*.py") if (calls := writes(path.read_text()))}
    assert found == {"files.py": ["temporary.open('r+b')"]}  # its own, of the file that it has made


def test_the_writers_are_seen() -> None:
    seen = "open(a, 'w'); a.open(mode='ab'); a.write_text(''); torch.save(b, a); figure.savefig(a); os.fdopen(a, 'x')"
    assert len(writes(seen)) == 6
    assert not writes("open(a); a.open('rb'); state.save(b); m = io.BytesIO(); torch.save(b, m)")
    assert not writes("with atomic_write(a) as b, b.open('w') as c: json.dump(d, c)")
