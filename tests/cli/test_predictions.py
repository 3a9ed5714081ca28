"""What `predict` leaves, against the net's own logits; and trainers without checkpoints or anything else."""

import csv
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, IterableDataset

from lightning_robust.cli.main import main
from lightning_robust.cli.predictions import Predictions
from lightning_robust.cli.terminal import how_to_test
from lightning_robust.data import Digits
from lightning_robust.defenses import Standard
from lightning_robust.models import SmallConvNet
from tests.cli.test_cli import QUICK, STANDARD, folder, the_run  # noqa: F401
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, plain_net
from tests.helpers.foreign import images

pytestmark = pytest.mark.slow  # each starts the command line, which takes a third of a second and more


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_predict_writes_what_a_plain_loop_finds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    main(["fit", "--config", STANDARD, *QUICK])
    (last,) = folder.rglob("last.ckpt")
    capsys.readouterr()
    main(["predict", "--config", STANDARD, *QUICK, f"--ckpt_path={last}", "--data.eval_batch_size=64"])
    run = the_run(folder, "Digits/Standard/predict-*")
    rows = table(run / "predictions.csv")
    net, test = SmallConvNet(width=4).eval(), Digits().test_data()
    weights = torch.load(last, weights_only=True)["state_dict"]
    net.load_state_dict({k.removeprefix("net."): v for k, v in weights.items() if k.startswith("net.")})
    x, y = test.tensors
    with torch.no_grad():
        confidence, predicted = net(x).softmax(1).max(1)
    assert [int(row["index"]) for row in rows] == list(range(450))
    assert [int(row["label"]) for row in rows] == y.tolist()
    assert [int(row["predicted"]) for row in rows] == predicted.tolist()
    torch.testing.assert_close(torch.tensor([float(row["confidence"]) for row in rows]), confidence, rtol=0, atol=1e-5)
    right = float((predicted == y).float().mean())
    told = f"450 predictions, {right:.2%} of them right: {run.relative_to(folder)}/predictions.csv"
    assert told in capsys.readouterr().out


def test_two_ranks_write_one_table(tmp_path: Path) -> None:
    def on(rank: int) -> None:
        trainer = ddp_trainer(callbacks=[Predictions()], default_root_dir=tmp_path)
        trainer.predict(Standard(plain_net()), Few(test_size=11, batch_size=3), return_predictions=False)

    run_ddp(on)
    rows = table(tmp_path / "predictions.csv")
    x, y = images(11, seed=1).tensors
    expected = plain_net()(x).argmax(1).tolist()
    assert [(int(r["index"]), int(r["label"]), int(r["predicted"])) for r in rows] == list(
        zip(range(11), y.tolist(), expected, strict=True)
    )


class Stream(IterableDataset[Any]):
    """Images without positions."""

    def __iter__(self) -> Iterator[Any]:
        return iter(images(5, seed=1).tensors[0])


@pytest.mark.parametrize("data", [images(5, seed=1).tensors[0], Stream()], ids=["map", "stream"])
@pytest.mark.parametrize("make", [lambda x: [x], lambda x: {"image": x}, lambda x: x], ids=["list", "dict", "tensor"])
@pytest.mark.filterwarnings("ignore:Couldn.t infer the batch indices")
def test_images_without_labels_or_positions(make: Any, data: Any, tmp_path: Path) -> None:
    loader: Any = DataLoader(data, 2, collate_fn=lambda xs: make(torch.stack(xs)))
    trainer = quiet_trainer(callbacks=[Predictions()], default_root_dir=tmp_path)
    trainer.predict(Standard(plain_net()), loader)
    expected = plain_net()(images(5, seed=1).tensors[0]).argmax(1).tolist()
    rows = table(tmp_path / "predictions.csv")
    assert [(r["index"], r["label"], r["predicted"]) for r in rows] == [
        (str(i), "", str(e)) for i, e in enumerate(expected)
    ]


def test_a_run_without_checkpoints_leaves_none(folder: Path) -> None:  # noqa: F811
    main(["fit", "--config", STANDARD, *QUICK, "--trainer.enable_checkpointing=false"])
    run = the_run(folder, "Digits/Standard/fit-*")
    assert not list(run.rglob("*.ckpt"))
    assert (run / "metrics.csv").is_file()
    assert (run / "robustness.json").is_file()


KEPT: list[dict[str, torch.Tensor]] = []


class Keeps(Callback):
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        KEPT.append({name: value.clone() for name, value in pl_module.state_dict().items() if name.startswith("net.")})


@pytest.mark.slow
def test_a_bare_run_trains_to_the_same_weights(folder: Path) -> None:  # noqa: F811
    """Lightning's mode for raw speed, which refuses loggers, bars, checkpoints, and a recipe's `log_every_n_steps`."""
    quick = [word for word in QUICK if "progress_bar" not in word and "summary" not in word]
    KEPT.clear()
    for more in ("true", "false"):
        keep = "--trainer.callbacks+=tests.cli.test_predictions.Keeps"
        main(["fit", "--config", STANDARD, *quick, keep, f"--trainer.barebones={more}"])
        assert bool(list(folder.rglob("*.ckpt"))) == (more == "false")
    torch.testing.assert_close(*KEPT, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["plain", "a b", "it's", '"quoted"', "$HOME", "`touch pwned`", "a;b", "a\\b"])
def test_printed_commands_are_read_by_a_shell_as_they_were_meant(name: str, tmp_path: Path) -> None:
    run, elsewhere = tmp_path / name, tmp_path / f"{name} 2" / "x.ckpt"
    config, inside = run / "config.yaml", run / f"checkpoints/{name}.ckpt"
    for checkpoint in (inside, elsewhere):
        script = how_to_test(config, checkpoint).replace("lightning-robust", r"printf '%s\n'")
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
        assert done.stdout.splitlines() == ["test", "--config", str(config), "--ckpt_path", str(checkpoint)]
    assert not (tmp_path / "pwned").exists()
    assert shlex.split(how_to_test(config, inside).splitlines()[0]) == [f"run={run}"]
