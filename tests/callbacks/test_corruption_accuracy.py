"""Accuracy at every corruption and severity against a loop over the samples, on ranks, with any module and loader."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning import Trainer
from torch.utils.data import DataLoader, TensorDataset

from lightning_robust.callbacks import CorruptionAccuracy
from lightning_robust.cli.main import main
from lightning_robust.data import CIFAR10C, CorruptionSuite, Indexed, RobustDataModule
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.foreign import ForeignModule, images

GROUPS = [("clean", 0), ("fog", 1), ("fog", 3), ("snow", 1), ("snow", 3)]
REFERENCE = {"fog": 0.7, "snow": 0.6, "clean": 0.4}
ROOT = Path(__file__).parents[2]


def corruptions(n: int = 5) -> CorruptionSuite:
    return CorruptionSuite({group: images(n + 2 * (i == 1), seed=i) for i, group in enumerate(GROUPS)})


class Known(RobustDataModule):
    num_classes = 3

    def train_data(self, augment: bool) -> TensorDataset:
        return images(9)

    def test_data(self) -> CorruptionSuite:
        return corruptions()


def expected() -> dict[tuple[str, int], tuple[int, int]]:
    """Right answers and samples of each group, one after the other."""
    net, out = ForeignModule().eval(), {}
    for group, dataset in zip(GROUPS, corruptions().datasets, strict=True):
        with torch.no_grad():
            right = [int(net(x[None]).argmax()) == int(y) for x, y in dataset]
        out[group] = (sum(right), len(right))
    return out


class Module(ForeignModule):
    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self(batch[0])

    validation_step = test_step


def counts(path: Path) -> dict[tuple[str, int], tuple[int, int]]:
    """As written."""
    report = json.loads((path / "corruptions.json").read_text())
    cells = {(c, int(s)): cell for c, row in report["corruptions"].items() for s, cell in row["severities"].items()}
    return {group: (cell["correct"], cell["n"]) for group, cell in {("clean", 0): report["clean"], **cells}.items()}


# Lightning says that its sampler repeats samples; they are left out here:
# https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/trainer/connectors/data_connector.py
@pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders")
@pytest.mark.parametrize(
    ("stage", "kind"), [("test", "our data"), ("test", "plain"), ("validate", "plain"), ("validate", "indexed")]
)
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.slow
def test_each_sample_counts_once(stage: str, kind: str, ranks: int, tmp_path: Path) -> None:
    """Also where Lightning repeats samples so that all ranks have as many: 27 on 2 or 4 ranks."""

    def on(rank: int) -> dict[str, float]:
        settings: dict[str, Any] = {"callbacks": [CorruptionAccuracy(REFERENCE)], "default_root_dir": tmp_path}
        trainer = ddp_trainer(ranks, **settings) if ranks > 1 else quiet_trainer(**settings)
        data: Any = {
            "our data": Known(eval_batch_size=4),
            "plain": DataLoader(corruptions(), 4),
            "indexed": DataLoader(Indexed(corruptions()), 4),
        }[kind]
        getattr(trainer, stage)(Module(), data, verbose=False)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    known, prefix = expected(), {"validate": "val", "test": "test"}[stage]
    error = {group: 1 - right / n for group, (right, n) in known.items()}
    fog, snow = ((error[c, 1] + error[c, 3]) / 2 for c in ("fog", "snow"))
    for logged in run_ddp(on, ranks):
        assert logged == pytest.approx(
            {
                f"{prefix}/fog_acc": 1 - fog,
                f"{prefix}/snow_acc": 1 - snow,
                f"{prefix}/corruption_acc": 1 - (fog + snow) / 2,
                f"{prefix}/uncorrupted_acc": 1 - error["clean", 0],
                f"{prefix}/mce": (fog / 0.7 + snow / 0.6) / 2,
                f"{prefix}/relative_mce": (
                    (fog - error["clean", 0]) / (0.7 - 0.4) + (snow - error["clean", 0]) / (0.6 - 0.4)
                )
                / 2,
            },
            rel=1e-5,
        )
    assert counts(tmp_path) == known


def test_what_is_left_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = quiet_trainer(callbacks=[CorruptionAccuracy(REFERENCE)], default_root_dir=tmp_path)
    trainer.test(Module(), DataLoader(corruptions(), 4), verbose=False)
    report = json.loads((tmp_path / "corruptions.json").read_text())
    known = expected()
    assert (report["stage"], report["n"], report["checkpoint"], report["reference"]) == ("test", 27, None, REFERENCE)
    cell = report["corruptions"]["fog"]["severities"]["1"]
    assert cell["accuracy"] == known["fog", 1][0] / 7
    assert cell["confidence_interval"][0] <= cell["accuracy"] <= cell["confidence_interval"][1]
    row = report["corruptions"]["snow"]
    assert row["accuracy"] == pytest.approx((known["snow", 1][0] / 5 + known["snow", 3][0] / 5) / 2)
    assert row["ce"] == pytest.approx((1 - row["accuracy"]) / 0.6)
    assert report["mce"] == pytest.approx(sum(r["ce"] for r in report["corruptions"].values()) / 2)
    printed = capsys.readouterr().out
    for word in ("corruption", "fog", "snow", "mean", "clean", "CE", f"{100 * row['accuracy']:.2f}"):
        assert word in printed
    figure = tmp_path / "figures" / "test-corruptions.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert figure.stat().st_size > 5000


def test_validation_inside_fit_counts_every_epoch_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = quiet_trainer(max_epochs=2, callbacks=[CorruptionAccuracy()], default_root_dir=tmp_path)
    trainer.fit(Module(), DataLoader(images(8), 4), DataLoader(corruptions(), 4))
    assert json.loads((tmp_path / "corruptions.json").read_text())["n"] == 27
    assert "mean" not in capsys.readouterr().out
    assert "val/mce" not in trainer.callback_metrics


def test_other_loaders_are_left_to_others_and_unseen_groups_are_unknown(tmp_path: Path) -> None:
    trainer = quiet_trainer(callbacks=[CorruptionAccuracy()], default_root_dir=tmp_path, limit_test_batches=2)
    trainer.test(Module(), [DataLoader(images(6), 4), DataLoader(corruptions(), 4)], verbose=False)
    report = json.loads((tmp_path / "corruptions.json").read_text())
    assert (report["n"], report["clean"]["n"]) == (8, 5)
    assert report["corruptions"]["snow"] == {"accuracy": None, "severities": {"1": None, "3": None}}
    assert report["mean"] == {"accuracy": None}


def test_modes_and_predictions_are_those_of_evaluation(tmp_path: Path) -> None:
    module = Module()
    module.train()
    trainer = quiet_trainer(callbacks=[CorruptionAccuracy()], default_root_dir=tmp_path, precision="bf16-mixed")
    trainer.test(module, DataLoader(corruptions(), 27), verbose=False)
    assert counts(tmp_path) == expected()  # no dropout, and not in half precision
    assert all(p.requires_grad for p in module.parameters())


def test_without_corruptions_it_says_where_they_are_but_lets_fit_and_validate_go_on(tmp_path: Path) -> None:
    trainer = quiet_trainer(max_epochs=1, callbacks=[CorruptionAccuracy()], default_root_dir=tmp_path)
    trainer.fit(Module(), DataLoader(images(8), 4), DataLoader(images(4), 4))
    trainer.validate(Module(), DataLoader(images(4), 4), verbose=False)
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match="no loader over a CorruptionSuite: test on CIFAR10C"):
        quiet_trainer(callbacks=[CorruptionAccuracy()]).test(Module(), DataLoader(images(4), 4), verbose=False)


# Lightning's advice on shuffling, which is not taken here:
# https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/trainer/connectors/data_connector.py
@pytest.mark.filterwarnings("ignore:Your `test_dataloader`'s sampler has shuffling enabled")
def test_shuffled_samples_need_their_positions(tmp_path: Path) -> None:
    trainer = quiet_trainer(callbacks=[CorruptionAccuracy()], default_root_dir=tmp_path)
    with pytest.raises(ValueError, match=r"do not shuffle, wrap the dataset in .*Indexed"):
        trainer.test(Module(), DataLoader(corruptions(), 4, shuffle=True), verbose=False)
    trainer.test(Module(), DataLoader(Indexed(corruptions()), 4, shuffle=True), verbose=False)
    assert counts(tmp_path) == expected()


def test_samples_that_every_rank_sees_count_once(tmp_path: Path) -> None:
    def on(rank: int) -> None:
        settings: dict[str, Any] = {"use_distributed_sampler": False, "default_root_dir": tmp_path}
        trainer: Trainer = ddp_trainer(callbacks=[CorruptionAccuracy()], **settings)
        trainer.test(Module(), DataLoader(corruptions(), 4), verbose=False)

    run_ddp(on)
    assert counts(tmp_path) == expected()


def test_a_reference_of_other_corruptions_is_refused() -> None:
    trainer = quiet_trainer(callbacks=[CorruptionAccuracy({"fog": 0.5})])
    with pytest.raises(ValueError, match=r"The reference has no error for snow\."):
        trainer.test(Module(), DataLoader(corruptions(), 4), verbose=False)


def test_alexnet_is_the_reference_of_imagenet_c() -> None:
    reference = CorruptionAccuracy("alexnet").reference
    assert reference is not None
    assert reference["fog"] == 0.819324


def test_from_the_command_line_on_cifar_10_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("fog", "snow"):
        np.save(f"{name}.npy", np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8))
    np.save("labels.npy", np.tile(np.array([3, 7]), 5))
    config = ROOT / "configs/digits/standard.yaml"
    options = {"model.net.in_channels": 3, "data": "CIFAR10C", "data.root": ".", "data.corruptions": ["snow", "fog"]}
    options |= {"trainer.callbacks+": "CorruptionAccuracy", "trainer.callbacks.reference": "alexnet"}
    options |= {"evaluation.attacks.pgd50.init_args.steps": 1, "evaluation.figure_samples": 0}
    options |= {"evaluation.check_samples": 0}
    options |= {"trainer.enable_progress_bar": False, "trainer.accelerator": "cpu"}
    with pytest.warns(UserWarning, match="No --ckpt_path was given"):
        main(["test", "--config", str(config), *(f"--{name}={value}" for name, value in options.items())])
    (report,) = tmp_path.glob("runs/CIFAR10C/Standard/*/corruptions.json")
    found = json.loads(report.read_text())
    assert found["n"] == 20
    assert list(found["corruptions"]) == ["snow", "fog"]
    assert found["mce"] == pytest.approx(sum(row["ce"] for row in found["corruptions"].values()) / 2)
    settings = yaml.safe_load((report.parent / "config.yaml").read_text())
    assert settings["data"]["init_args"]["corruptions"] == ["snow", "fog"]


def test_our_data_module_can_be_given_to_any_trainer(tmp_path: Path) -> None:
    np.save(tmp_path / "fog.npy", np.zeros((10, 4, 4, 3), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", np.zeros(10, dtype=np.uint8))
    data = CIFAR10C(str(tmp_path), corruptions=["fog"])
    trainer = quiet_trainer(callbacks=[CorruptionAccuracy()], default_root_dir=tmp_path)
    trainer.test(Module(channels=3), DataLoader(data.test_data(), 4), verbose=False)
    assert json.loads((tmp_path / "corruptions.json").read_text())["n"] == 10


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (lambda i: i % 3, r"27 samples of clean at severity 0 were counted, but there are 5: let the loader give each"),
        (lambda i: i + 1, r"Positions in 27 corrupted samples range over \[\d+, 27\] in a batch: set index_key"),
        (lambda i: i - 1, r"Positions in 27 corrupted samples range over \[-1, \d+\] in a batch: set index_key"),
    ],
)
def test_what_is_no_position_is_refused(ids: Any, told: str, tmp_path: Path) -> None:
    suite, index = corruptions(), torch.arange(27)
    samples = [(*suite[i], ids(index)[i]) for i in range(27)]

    class Suite(CorruptionSuite):
        def __getitem__(self, i: int) -> Any:
            return samples[i]

    data = Suite(dict(zip(suite.groups, suite.datasets, strict=True)))
    trainer = quiet_trainer(callbacks=[CorruptionAccuracy(index_key=2)], default_root_dir=tmp_path)
    with pytest.raises(ValueError, match=told):
        trainer.test(Module(), DataLoader(data, 4), verbose=False)
    trainer = quiet_trainer(callbacks=[CorruptionAccuracy()], default_root_dir=tmp_path)
    trainer.test(Module(), DataLoader(data, 4), verbose=False)  # a third tensor means nothing by itself
    assert counts(tmp_path) == expected()


def test_a_reference_without_errors_is_refused_before_the_test(tmp_path: Path) -> None:
    class Never(Module):
        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            raise AssertionError

    trainer = quiet_trainer(callbacks=[CorruptionAccuracy({"fog": 0.0, "snow": 0.5})], default_root_dir=tmp_path)
    with pytest.raises(ValueError, match="makes no error under fog, and mCE divides by it"):
        trainer.test(Never(), DataLoader(corruptions(), 4), verbose=False)
