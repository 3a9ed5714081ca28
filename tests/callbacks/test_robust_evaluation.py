"""RobustEvaluation on modules, loaders and trainers that know nothing of it, against computations outside Lightning."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import matplotlib.image
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from scipy.stats import binomtest
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import RobustEvaluation, best_report, evaluation_files, progress
from lightning_robust.callbacks.run_folder import run_folder
from lightning_robust.data import Digits, Indexed
from lightning_robust.defenses import Standard
from lightning_robust.evaluation.checksums import checksums
from lightning_robust.models import SmallConvNet
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.foreign import ForeignModule, images, loader

N = 23  # odd, so that it divides into neither batches nor ranks
STAGES: dict[str, Callable[[Trainer, ForeignModule, DataLoader[Any]], Any]] = {
    "fit": lambda trainer, module, data: trainer.fit(module, loader(8, 8), data),
    "validate": lambda trainer, module, data: trainer.validate(module, data, verbose=False),
    "test": lambda trainer, module, data: trainer.test(module, data, verbose=False),
}
each_stage = pytest.mark.parametrize("stage", STAGES)


class Spy(PGD):
    """PGD that keeps what it saw."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(Threat(eps=0.1), steps=1, **settings)
        self.inference: list[bool] = []
        self.dtypes: list[torch.dtype] = []

    def __call__(self, net: Any, x: Tensor, target: Tensor, **settings: Any) -> Tensor:
        self.inference.append(torch.is_inference_mode_enabled())
        self.dtypes.append(net(x).dtype)
        return super().__call__(net, x, target, **settings)


class Broken(PGD):
    def __call__(self, *args: Any, **settings: Any) -> Tensor:
        super().__call__(*args, **settings)
        raise RuntimeError("in the midst of an evaluation")


class Cheat(PGD):
    def __call__(self, net: Any, x: Tensor, target: Tensor, **settings: Any) -> Tensor:
        return (x + 0.12).clamp(0, 1)


class Dim(PGD):
    """Scales towards black: other samples fall to it than to PGD."""

    def __call__(self, net: Any, x: Tensor, target: Tensor, **settings: Any) -> Tensor:
        return x * (1 - self.threat.eps / x.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)


def attacks() -> dict[str, PGD]:
    """In the second, the size of a perturbation shows its random start."""
    noise = PGD(Threat("l2", 0.8), steps=1, step_size=0.01)
    return {"linf": PGD(Threat(eps=0.06), steps=3), "noise": noise, "dim": Dim(Threat("l2", 1.5))}


def evaluation(**settings: Any) -> RobustEvaluation:
    """Without figures and checks of its soundness, unless asked."""
    return RobustEvaluation(**{"attacks": attacks(), "figure_samples": 0, "check_samples": 0, **settings})


def report(folder: Path, name: str = "robustness") -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


def by_hand(module: ForeignModule, data: Dataset[Any], seed: int = 0) -> dict[str, int]:
    """The whole set at once, outside Lightning."""
    x, y = data.tensors  # type: ignore[attr-defined]
    module.eval()
    right = {"clean": module(x).argmax(1) == y}
    for name, attack in attacks().items():
        x_adv = attack(module, x, y, rng=SampleRNG(seed, checksums(x, y)))
        right[name] = right["clean"] & (module(x_adv).argmax(1) == y)
    right["worst"] = torch.stack(list(right.values())).all(0)
    return {name: int(mask.sum()) for name, mask in right.items()}


def counts(told: dict[str, Any]) -> dict[str, int]:
    rows = {"clean": told["clean"], **told["attacks"], "worst": told["worst"]}
    return {name: row["correct"] for name, row in rows.items()}


def sizes(told: dict[str, Any]) -> dict[str, Any]:
    return {name: row["perturbation"] for name, row in told["attacks"].items()}


@each_stage
@pytest.mark.parametrize("seed", [0, 5])
def test_counts_are_those_of_a_computation_outside_lightning(stage: str, seed: int, tmp_path: Path) -> None:
    module, data = ForeignModule(), images(N)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)  # fit leaves the weights alone
    module.body[1].momentum = 0.0
    expected = by_hand(ForeignModule(), data, seed)
    assert (
        expected["worst"] < min(expected[name] for name in attacks()) < expected["clean"]
    )  # all of them tell something

    trainer = Trainer(accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, callbacks=[evaluation(seed=seed)])
    STAGES[stage](trainer, module, DataLoader(data, 5))

    told = report(Path(str(trainer.log_dir)))
    assert counts(told) == expected
    prefix = "test" if stage == "test" else "val"
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged == {f"{prefix}/{name}_acc": pytest.approx(count / N) for name, count in expected.items()}


def test_the_report_says_what_was_evaluated(tmp_path: Path) -> None:
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation()])
    trainer.test(ForeignModule(), loader(N), verbose=False)
    told = report(tmp_path)
    assert (told["n"], told["stage"], told["seed"], told["devices"], told["checkpoint"]) == (N, "test", 0, 1, None)
    assert told["threat"] == [
        {"norm": norm, "eps": eps, "lower": 0.0, "upper": 1.0, "box_first": False}
        for norm, eps in (("linf", 0.06), ("l2", 0.8), ("l2", 1.5))
    ]
    for row in (told["clean"], told["worst"], *told["attacks"].values()):
        reference = binomtest(row["correct"], N).proportion_ci(method="wilson")
        assert row["confidence_interval"] == pytest.approx([reference.low, reference.high], abs=1e-6)
        assert row["accuracy"] == row["correct"] / N
    assert told["attacks"]["linf"]["attack"]["steps"] == 3
    assert told["attacks"]["dim"]["perturbation"] == pytest.approx({"mean": 1.5, "max": 1.5}, rel=1e-5)
    assert all(row["seconds"] > 0 for row in (told["clean"], *told["attacks"].values()))
    assert torch.__version__.startswith(told["versions"]["torch"])


def test_the_report_names_the_checkpoint_and_its_hash(tmp_path: Path) -> None:
    import hashlib

    module, trainer = ForeignModule(), quiet_trainer(max_epochs=1)
    trainer.fit(module, loader(8), loader(8))
    trainer.save_checkpoint(tmp_path / "trained.ckpt")
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation()])
    trainer.test(ForeignModule(seed=9), loader(N), ckpt_path=str(tmp_path / "trained.ckpt"), verbose=False)
    digest = hashlib.sha256((tmp_path / "trained.ckpt").read_bytes()).hexdigest()
    assert report(tmp_path)["checkpoint"] == {"path": str(tmp_path / "trained.ckpt"), "sha256": digest}
    assert counts(report(tmp_path)) == by_hand(module, images(N))


@pytest.mark.parametrize("batch_size", [1, 4, N])
@pytest.mark.slow
def test_the_result_does_not_depend_on_the_batch_size(batch_size: int, tmp_path: Path) -> None:
    told = {}
    for size in (7, batch_size):
        trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation()])
        trainer.test(ForeignModule(), loader(N, size), verbose=False)
        told[size] = report(tmp_path)
    assert counts(told[7]) == counts(told[batch_size])
    for name, size in sizes(told[7]).items():
        assert sizes(told[batch_size])[name] == pytest.approx(size, rel=1e-5)
    assert sizes(told[7])["noise"]["mean"] < 0.99 * 0.8  # so that another random start would be seen


def test_a_samples_random_start_follows_its_index_not_its_place(tmp_path: Path) -> None:
    data, found = Indexed(images(N)), []
    for order in (list(range(N)), list(reversed(range(N)))):
        trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation()])
        trainer.test(ForeignModule(), DataLoader(data, 4, sampler=order), verbose=False)
        found.append(report(tmp_path))
    assert counts(found[0]) == counts(found[1])
    assert sizes(found[0])["noise"] == pytest.approx(sizes(found[1])["noise"], rel=1e-5)


@pytest.mark.parametrize("sampler", ["padded by Lightning", "unpadded"])
@pytest.mark.parametrize("stage", ["validate", "test", "fit"])
# Lightning's advice to evaluate on one device: https://github.com/Lightning-AI/pytorch-lightning/issues/12862
@pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders")
@pytest.mark.slow
def test_two_ranks_count_every_sample_once(sampler: str, stage: str, tmp_path: Path) -> None:
    def on(rank: int, ranks: int = 2) -> Any:
        module, callback = Standard(SmallConvNet(width=2), optimizer=lambda p: torch.optim.SGD(p, lr=0.0)), evaluation()
        if sampler == "unpadded":
            data: Any = Digits(val_size=N, batch_size=700, eval_batch_size=4)
            data.test_data = lambda: torch.utils.data.Subset(Digits._split()[1], range(N))
        else:
            held_out = images(N, size=8, num_classes=10)
            data = {"fit": (loader(8, 4, size=8), DataLoader(held_out, 4))}.get(stage, (DataLoader(held_out, 4),))
        written: dict[str, Any] = {}  # fit writes its report again once the best checkpoint is known
        for module_that_writes in (evaluation_files, best_report):
            module_that_writes.write_json = lambda told, path: written.update({path.name: told})
        kwargs = {"max_epochs": 1, "default_root_dir": tmp_path, "callbacks": [callback], "num_sanity_val_steps": 1}
        trainer = ddp_trainer(ranks, **kwargs) if ranks > 1 else quiet_trainer(**kwargs)
        extra = {} if stage == "fit" else {"verbose": False}
        getattr(trainer, stage)(module, *(data if isinstance(data, tuple) else [data]), **extra)
        return list(written.values()), {
            k: float(v) for k, v in trainer.callback_metrics.items() if "_acc" in k and "train" not in k
        }

    torch.manual_seed(0)
    [(alone, logged)] = run_ddp(lambda rank: on(rank, 1), ranks=1)
    torch.manual_seed(0)
    (first, logged0), (second, logged1) = run_ddp(on)
    assert len(alone) == len(first) == 1
    assert second == []  # only rank 0 writes
    assert first[0]["n"] == alone[0]["n"] == N
    if stage != "fit":  # in fit, each rank's batch norm has seen other samples
        assert counts(first[0]) == counts(alone[0])
        for name, size in sizes(alone[0]).items():
            assert sizes(first[0])[name] == pytest.approx(size, rel=1e-5)
        assert logged0 == pytest.approx(logged)
    assert logged0 == logged1


def test_inside_fit_cheaper_attacks_on_fewer_samples(tmp_path: Path) -> None:
    full, cheap = Spy(), Spy()
    callback = evaluation(attacks={"full": full}, fit_attacks={"cheap": cheap}, fit_samples=6)
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path, callbacks=[callback], num_sanity_val_steps=0)
    trainer.fit(ForeignModule(), loader(8), loader(N, 4))
    assert not full.dtypes
    assert cheap.dtypes
    assert (report(tmp_path)["n"], list(report(tmp_path)["attacks"])) == (6, ["cheap"])
    trainer.validate(ForeignModule(), loader(N, 4), verbose=False)
    assert full.dtypes
    assert (report(tmp_path)["n"], list(report(tmp_path)["attacks"])) == (N, ["full"])


@each_stage
def test_gradients_are_possible_and_inference_mode_is_off(stage: str, tmp_path: Path) -> None:
    spy = Spy()
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path, callbacks=[evaluation(attacks={"spy": spy})])
    STAGES[stage](trainer, ForeignModule(), loader(N))
    assert spy.inference
    assert not any(spy.inference)


def test_sanity_checking_does_not_attack_but_checks_the_data(tmp_path: Path) -> None:
    spy, seen = Spy(), []
    callback = evaluation(attacks={"spy": spy})
    callback.on_sanity_check_end = lambda *_: seen.append(len(spy.dtypes))  # type: ignore[method-assign]
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path, callbacks=[callback], num_sanity_val_steps=2)
    trainer.fit(ForeignModule(), loader(8), loader(N))
    assert seen == [0]
    assert spy.dtypes
    assert report(tmp_path)["n"] == N  # what the sanity check saw is not counted

    x, y = images(4).tensors
    bad = DataLoader(torch.utils.data.TensorDataset(2 * x, y), 4)
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path, callbacks=[evaluation()])
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        trainer.fit(ForeignModule(), loader(8), bad)
    assert trainer.global_step == 0


@each_stage
# one module is in evaluation mode on purpose:
# https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/loops/fit_loop.py
@pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode at the start of training")
@pytest.mark.parametrize("broken", [False, True], ids=["done", "raises"])
def test_the_module_is_left_as_it_was(stage: str, broken: bool, tmp_path: Path) -> None:
    module = ForeignModule()
    module.body[4].eval()  # one module's mode and one parameter's flag differ from the rest
    module.head.bias.requires_grad_(False)
    state: list[Any] = []

    def snapshot() -> Any:
        return (
            [m.training for m in module.modules()],
            [p.requires_grad for p in module.parameters()],
            [None if p.grad is None else p.grad.clone() for p in module.parameters()],
            [b.clone() for b in module.buffers()],
        )

    class Around(PGD):
        """Notes the state before it runs; the callback's own forward passes come before and after."""

        def __call__(self, *args: Any, **settings: Any) -> Tensor:
            state.append(snapshot())
            out = super().__call__(*args, **settings)
            if broken:
                raise RuntimeError("in the midst of an evaluation")
            return out

    callback = evaluation(attacks={"around": Around(steps=2)}, check_samples=2)
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path, callbacks=[callback], num_sanity_val_steps=0)
    if broken:
        with pytest.raises(RuntimeError, match="in the midst"):
            STAGES[stage](trainer, module, loader(N))
        assert len(state) == 1
        torch.testing.assert_close(state[0], snapshot(), rtol=0, atol=0)
    else:
        STAGES[stage](trainer, module, loader(N))
        for later in state[1:]:
            torch.testing.assert_close(state[0], later, rtol=0, atol=0)
        after = snapshot()
        assert after[1] == state[0][1] == [*[True] * 5, False]
        assert not module.body[4].training  # Lightning brings back its mode too
        if stage != "fit":
            assert after[2] == [None] * 6


def test_several_loaders_are_told_apart(tmp_path: Path) -> None:
    callback = evaluation(figure_samples=1)
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[callback])
    second = images(9, seed=4)
    trainer.test(ForeignModule(), [loader(N), DataLoader(second, 4)], verbose=False)
    for i, data in enumerate((images(N), second)):
        expected = by_hand(ForeignModule(), data)
        assert counts(report(tmp_path, f"robustness-{i}")) == expected
        for name, count in expected.items():
            value = trainer.callback_metrics[f"test/{name}_acc/dataloader_idx_{i}"]
            assert float(value) == pytest.approx(count / len(data))
        assert (tmp_path / "figures" / f"test-linf-{i}.png").exists()


@pytest.mark.parametrize("samples", [0, 3])
def test_the_figure_shows_the_first_samples(samples: int, tmp_path: Path) -> None:
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation(figure_samples=samples)])
    trainer.test(ForeignModule(), loader(N), verbose=False)
    figures = sorted(path.name for path in tmp_path.glob("figures/*"))
    if not samples:
        assert figures == []
        return
    assert figures == ["test-classes.png", "test-dim.png", "test-linf.png", "test-noise.png"]
    picture = matplotlib.image.imread(tmp_path / "figures" / "test-linf.png")
    assert picture[..., :3].std() > 0.1  # not blank


def test_figures_reach_the_loggers_that_take_them(tmp_path: Path) -> None:
    loggers = [CSVLogger(tmp_path, name="", version="run"), TensorBoardLogger(tmp_path, name="", version="board")]
    taken = []
    loggers[1].experiment.add_figure = lambda name, figure, **_: taken.append((name, len(figure.axes)))
    trainer = quiet_trainer(logger=loggers, callbacks=[evaluation(figure_samples=2)])
    trainer.test(ForeignModule(), loader(N), verbose=False)
    assert taken == [("test-linf", 6), ("test-noise", 6), ("test-dim", 6), ("test-classes", 1)]
    assert report(tmp_path / "run")["n"] == N
    assert (tmp_path / "run" / "figures" / "test-linf.png").exists()


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("kind", ["rich", "tqdm", "none"])
@pytest.mark.slow
def test_the_progress_bar_follows_the_evaluation(
    stage: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples done, in each attack to the end; and a bound on worst-case accuracy that only falls, to the result."""
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    lines: list[list[tuple[float, str]]] = []

    def watched(line: Any) -> Any:
        @contextmanager
        def told(*args: Any) -> Iterator[Any]:
            with line(*args) as show:
                lines.append([])
                yield lambda done, title: (lines[-1].append((done, title)), show(done, title))

        return told

    for name in ("_rich_line", "_tqdm_line"):
        monkeypatch.setattr(progress, name, watched(getattr(progress, name)))
    bars = {"rich": [RichProgressBar()], "tqdm": [TQDMProgressBar()], "none": []}[kind]
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation(), *bars], enable_progress_bar=bool(bars))
    STAGES[stage](trainer, ForeignModule(), loader(N, 4))
    if not bars:
        assert not lines
        return
    told = report(tmp_path)
    assert [line[0][1].split(":")[0] for line in lines] == ["linf", "noise", "dim"]
    bounds = [float(title.split("<= ")[1].rstrip("%")) for line in lines for _, title in line if "<=" in title]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] < 100 * told["clean"]["accuracy"]
    assert bounds[-1] == pytest.approx(100 * told["worst"]["accuracy"], abs=0.01)
    for line in lines:
        done = [number for number, _ in line]
        assert done == sorted(done)
        assert done[-1] == told["clean"]["correct"]
    assert 4 / 3 in [number for number, _ in lines[0]]  # a third of the steps with the first four


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_attacks_run_in_full_precision_under_mixed_precision(stage: str, tmp_path: Path) -> None:
    spy, seen = Spy(), []
    module = ForeignModule()
    forward = module.forward

    def watched(x: Tensor) -> Tensor:
        logits = forward(x)
        seen.append(logits.dtype)
        return logits

    module.forward = watched
    trainer = quiet_trainer(
        max_epochs=1, precision="bf16-mixed", default_root_dir=tmp_path, callbacks=[evaluation(attacks={"spy": spy})]
    )
    STAGES[stage](trainer, module, loader(N))
    assert torch.bfloat16 in seen  # the steps themselves
    assert set(spy.dtypes) == {torch.float32}


def test_an_attack_that_leaves_its_threat_model_is_refused(tmp_path: Path) -> None:
    callback = evaluation(attacks={"cheat": Cheat(Threat(eps=0.1))})
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[callback])
    with pytest.raises(
        ValueError, match=r"'cheat' left its threat model: a perturbation of linf size 0\.12.* eps 0\.1\."
    ):
        trainer.test(ForeignModule(), loader(N), verbose=False)
    assert not (tmp_path / "robustness.json").exists()
    callback = evaluation(attacks={"honest": Cheat(Threat(eps=0.12))})
    quiet_trainer(default_root_dir=tmp_path, callbacks=[callback]).test(ForeignModule(), loader(N), verbose=False)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="distinct names"):
        RobustEvaluation({"clean": PGD()})
    with pytest.raises(ValueError, match="distinct names"):
        RobustEvaluation({"pgd": PGD()}, fit_attacks={"worst": PGD()})
    with pytest.raises(ValueError, match="figure_every_n_epochs must be at least 1, got 0"):
        RobustEvaluation({"pgd": PGD()}, figure_every_n_epochs=0)
    with pytest.raises(ValueError, match="fit_samples must be at least 1, got 0"):
        RobustEvaluation({"pgd": PGD()}, fit_samples=0)


def test_one_callback_through_fit_validate_and_test(tmp_path: Path) -> None:
    module = ForeignModule()
    trainer = quiet_trainer(max_epochs=2, default_root_dir=tmp_path, callbacks=[evaluation()])
    trainer.fit(module, loader(8), loader(N))
    trainer.test(module, loader(N), verbose=False)
    expected = by_hand(module, images(N))
    assert counts(report(tmp_path)) == expected
    trainer.validate(module, loader(N), verbose=False)
    trainer.test(module, loader(N), verbose=False)
    assert counts(report(tmp_path)) == expected


@pytest.mark.parametrize("spoil", [lambda x: x * torch.nan, lambda x: x - 0.05], ids=["NaN", "below 0"])
def test_examples_that_are_no_images_are_refused(tmp_path: Path, spoil: Callable[[Tensor], Tensor]) -> None:
    class Spoiled(PGD):
        def __call__(self, net: Any, x: Tensor, target: Tensor, **settings: Any) -> Tensor:
            return spoil(x)

    callback = evaluation(attacks={"spoiled": Spoiled(Threat(eps=0.1))})
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[callback])
    with pytest.raises(ValueError, match="'spoiled' left its threat model: examples range over"):
        trainer.test(ForeignModule(), loader(N), verbose=False)


@pytest.mark.parametrize(("pixel", "told"), [(3.0, "must lie in"), (torch.nan, "contain NaN")])
def test_bad_input_in_a_later_batch_is_refused(tmp_path: Path, pixel: float, told: str) -> None:
    x, y = (torch.stack(part) for part in zip(*images(N), strict=True))
    x[-1, 0, 0, 0] = pixel
    data = DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation()])
    with pytest.raises(ValueError, match=told):
        trainer.test(ForeignModule(), data, verbose=False)


def test_fit_draws_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(evaluation_files, "save_figure", lambda trainer, *_: drawn.append(trainer.current_epoch))
    callback = RobustEvaluation({"pgd": PGD(Threat(eps=0.1), steps=1)}, figure_samples=1, figure_every_n_epochs=3)
    quiet_trainer(max_epochs=6, default_root_dir=tmp_path, callbacks=[callback]).fit(
        ForeignModule(), loader(8, 8), loader(8, 8)
    )
    assert drawn == [0, 3, 5]


class Stops(PGD):
    """Is interrupted at its third batch, once."""

    left = 3
    seen: ClassVar[list[int]] = []

    def __call__(self, net: Any, x: Tensor, target: Tensor, **settings: Any) -> Tensor:
        Stops.seen.append(len(x))
        Stops.left -= 1
        if not Stops.left:
            raise RuntimeError("in the midst of an evaluation")
        return super().__call__(net, x, target, **settings)


@pytest.mark.parametrize("state_dir", [None, "elsewhere"])
def test_an_interrupted_test_goes_on(state_dir: str | None, tmp_path: Path) -> None:
    place = None if state_dir is None else str(tmp_path / state_dir)

    def run(seed: int = 0, weights: int = 4) -> dict[str, Any]:
        attack = {"stops": Stops(Threat(eps=0.06), steps=3)}
        callback = evaluation(attacks=attack, batch_size=3, state_dir=place, seed=seed)
        trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[callback])
        trainer.test(ForeignModule(seed=weights), loader(N))
        return report(run_folder(trainer))

    Stops.left, Stops.seen = 99, []
    expected, whole = counts(run()), list(Stops.seen)
    assert len(whole) > 3
    Stops.left = 3
    with pytest.raises(RuntimeError, match="in the midst"):
        run()
    Stops.seen = []
    assert counts(run()) == expected
    assert Stops.seen == whole[2:]
    assert not list((tmp_path / (state_dir or "unfinished")).glob("*"))  # nothing stays behind
    for other in ({"seed": 1}, {"weights": 5}):
        Stops.left = 3
        with pytest.raises(RuntimeError, match="in the midst"):
            run()
        Stops.seen = []
        run(**other)
        assert len(Stops.seen) >= 3  # another evaluation begins anew


def test_without_attacks_clean_accuracy_alone(tmp_path: Path) -> None:
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation(attacks={})])
    trainer.test(ForeignModule(), loader(N))
    told, expected = report(tmp_path), by_hand(ForeignModule(), images(N))
    assert told["clean"]["correct"] == told["worst"]["correct"] == expected["clean"]
    assert told["attacks"] == {}


def test_every_sample_has_its_line(tmp_path: Path) -> None:
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[evaluation()])
    trainer.test(ForeignModule(), loader(N))
    with (tmp_path / "samples.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    told, (_, y) = report(tmp_path), images(N).tensors
    assert [int(line["index"]) for line in lines] == list(range(N))
    assert [int(line["label"]) for line in lines] == y.tolist()
    assert sum(line["robust"] == "1" for line in lines) == told["worst"]["correct"]
    right = [line for line in lines if line["clean"] == line["label"]]
    assert len(right) == told["clean"]["correct"]
    for name, row in told["attacks"].items():
        stands = [line for line in right if line[f"{name}/broken_by"] == ""]
        assert len(stands) == row["correct"]
        assert all(line[f"{name}/class"] == line["label"] for line in stands)
        assert max(float(line[f"{name}/size"]) for line in right) == pytest.approx(row["perturbation"]["max"])


@pytest.mark.parametrize("first", ["averaging", "evaluation"])
def test_averaged_weights_are_attacked_where_they_are_validated(first: str, tmp_path: Path) -> None:
    """Weight averaging takes its weights back at the end of the validation epoch, before callbacks that come later."""
    seen: dict[str, list[float]] = {"step": [], "attack": []}

    class Notes(PGD):
        def __call__(self, net: Any, x: Tensor, target: Tensor, **settings: Any) -> Tensor:
            seen["attack"].append(float(module.head.weight.detach()[0].sum()))
            return super().__call__(net, x, target, **settings)

    module = ForeignModule()
    step = module.validation_step
    module.validation_step = lambda *args: (  # type: ignore[method-assign]
        seen["step"].append(float(module.head.weight.detach()[0].sum())),
        step(*args),
    )[1]
    callbacks = [EMAWeightAveraging(decay=0.5), evaluation(attacks={"notes": Notes(steps=1)})]
    callbacks = callbacks if first == "averaging" else callbacks[::-1]
    trainer = quiet_trainer(max_epochs=2, default_root_dir=tmp_path, callbacks=callbacks, num_sanity_val_steps=0)
    trainer.fit(module, loader(24, 4), loader(N))
    assert set(seen["attack"]) == set(seen["step"])
    assert len(set(seen["step"])) == 2
    assert float(module.head.weight.detach()[0].sum()) not in seen["step"][:1]
