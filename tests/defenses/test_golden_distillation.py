"""RSLAD and ARD against one step of their authors' code, and what becomes of the teacher."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import AveragedWeights
from lightning_robust.cli.main import main as run_command
from lightning_robust.defenses import ARD, HAT, IAD, RSLAD, AdaAD, Distillation
from lightning_robust.threat import Threat
from lightning_robust.types import Batch, Views
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, norm_net, plain_net
from tests.helpers.second_ring import RING, assert_same_step, batch, of, recorded, replayed


def made(name: str) -> Distillation:
    record, student = RING[name], recorded(RING[name]["base"])
    given: dict[str, Any] = {"teacher": recorded(record["teacher"]), "attack": replayed(record)}
    if name.startswith("rslad"):
        return RSLAD(student, scale=record["hparams"]["scale"], **given)
    h = record["hparams"]
    return ARD(student, alpha=h["alpha"], temperature=h["temperature"], attack_bn="train", **given)


@pytest.mark.parametrize("name", [name for name in RING if name.startswith(("rslad", "ard"))])
def test_the_authors_step(name: str) -> None:
    record, defense = RING[name], made(name)
    assert_same_step(defense, record)
    torch.testing.assert_close(defense.teacher(batch().x), of(record, "teacher_output"), rtol=1e-9, atol=1e-11)
    if name.startswith("rslad"):
        views = Views(of(record, "x_adv"), more={"teacher": of(record, "teacher_output")})
        parts = made(name).loss(batch(), views).parts
        for part, theirs in (("robust", "kl_adv"), ("natural", "kl_nat")):  # theirs with its factor
            value = record["hparams"]["scale"] * parts[part].mean()
            torch.testing.assert_close(value, of(record, theirs), rtol=1e-9, atol=1e-11)


# ------------------------------------------------------------------------------------------------------- the teacher

ATTACK = PGD(Threat(eps=0.1), steps=2, step_size=0.05, start="normal")


def small(seed: int = 3, net: nn.Module | None = None, **settings: Any) -> RSLAD:
    attack = settings.pop("attack", ATTACK)
    sgd = lambda params: torch.optim.SGD(params, lr=0.3, momentum=0.9, weight_decay=0.1)  # noqa: E731
    return RSLAD(net or plain_net(), norm_net(seed), attack=attack, optimizer=sgd, **settings)


def weights(net: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in net.state_dict().values()]


def test_training_leaves_the_teacher_as_it_was() -> None:
    """Its weights and statistics, under weight decay, averages of weights and compiled nets' configuration."""
    defense = small(channels_last=True)
    before = weights(defense.teacher.net)
    defense.train()
    quiet_trainer(max_epochs=2, callbacks=[AveragedWeights(decay=0.5)]).fit(defense, Few())
    assert not defense.teacher.net.training
    assert all(torch.equal(a, b) for a, b in zip(weights(defense.teacher.net), before, strict=True))
    assert all(p.grad is None for p in defense.teacher.net.parameters())
    assert not any("teacher" in name for name in [*defense.state_dict(), *dict(defense.named_modules())])


def test_the_teacher_is_in_evaluation_mode_whatever_is_done_to_it() -> None:
    defense, x = small(), torch.rand(4, 1, 4, 4)
    expected = norm_net(3).eval()(x).detach()
    defense.teacher.net.train()
    found = defense.teacher(x)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


def test_the_teacher_follows_the_type_of_the_images() -> None:
    x = torch.rand(4, 1, 4, 4)
    defense = small()
    assert defense.teacher(x.double()).dtype == torch.float64
    torch.testing.assert_close(defense.teacher(x), norm_net(3).eval()(x).detach())


def test_the_checksum_tells_teachers_apart_and_is_that_of_the_weights_as_they_were_given() -> None:
    teacher = small().teacher
    teacher(torch.rand(4, 1, 4, 4, dtype=torch.bfloat16))
    assert teacher.checksum == small().teacher.checksum != small(seed=4).teacher.checksum


def test_a_resumed_run_ends_where_one_that_was_not_stopped_ends(tmp_path: Path) -> None:
    whole, data = small(), Few(n=16, seed=3)
    quiet_trainer(max_epochs=3).fit(whole, data)
    first = quiet_trainer(max_epochs=1)
    first.fit(small(), Few(n=16, seed=3))
    first.save_checkpoint(tmp_path / "first.ckpt")
    stored = torch.load(tmp_path / "first.ckpt", weights_only=True)
    assert set(stored["state_dict"]) == {f"net.{name}" for name in plain_net().state_dict()}
    resumed = small()
    given: dict[str, Any] = {"ckpt_path": str(tmp_path / "first.ckpt"), "weights_only": True}
    quiet_trainer(max_epochs=3).fit(resumed, Few(n=16, seed=3), **given)
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed.net), weights(whole.net), strict=True))
    with pytest.raises(ValueError, match="learnt from another teacher"):
        quiet_trainer(max_epochs=3).fit(small(seed=4), Few(n=16, seed=3), **given)


def test_a_checkpoint_is_evaluated_without_the_teacher_and_asks_for_it_to_train(tmp_path: Path) -> None:
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(small(), Few())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    back = RSLAD.load_from_checkpoint(tmp_path / "last.ckpt", net=plain_net(seed=7), weights_only=True)
    quiet_trainer().test(back, Few(), verbose=False)
    with pytest.raises(ValueError, match=r"does not hold the teacher of its training .*load_from_checkpoint teacher="):
        back.generate(Batch(torch.rand(2, 1, 4, 4), torch.tensor([0, 1])))
    given = {"net": plain_net(seed=7), "teacher": norm_net(3), "weights_only": True}
    again = RSLAD.load_from_checkpoint(tmp_path / "last.ckpt", **given)
    assert again.generate(Batch(torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))).more["teacher"].shape == (2, 3)


def test_a_teacher_of_other_classes_is_refused() -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    with pytest.raises(ValueError, match="The teacher gives 5 logits but the net 3"):
        quiet_trainer(max_epochs=1, num_sanity_val_steps=0).fit(RSLAD(plain_net(), teacher, attack=ATTACK), Few())
    net = plain_net()
    with pytest.raises(ValueError, match="The teacher is the net that is to learn"):
        RSLAD(net, net)


@pytest.mark.parametrize(
    ("method", "settings", "told"),
    [
        (RSLAD, {"natural": 1.5}, r"natural in \[0, 1\] and scale > 0, got 1.5 and 1.0"),
        (RSLAD, {"scale": 0.0}, "got 0.16.* and 0.0"),
        (RSLAD, {"label_smoothing": 0.1}, "leave label_smoothing out"),
        (ARD, {"alpha": -0.5}, r"alpha in \[0, 1\] and temperature > 0, got -0.5 and 30.0"),
        (ARD, {"temperature": 0.0}, "got 1.0 and 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(method: Any, settings: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        method(plain_net(), norm_net(), **settings)


@pytest.mark.slow
def test_two_ranks_equal_one_process_and_share_no_teacher() -> None:
    def on(ranks: int) -> list[Tensor]:
        defense = small(net=plain_net(dtype=torch.float64))
        own: dict[str, Any] = {"max_epochs": 2, "precision": "64-true"}
        trainer = ddp_trainer(ranks, **own) if ranks > 1 else quiet_trainer(**own)
        trainer.fit(defense, Few(n=16, batch_size=4 // ranks, seed=3))
        return weights(defense.net)

    alone = on(1)
    for own in run_ddp(lambda rank: on(2)):
        torch.testing.assert_close(own, alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", [RSLAD, ARD, IAD, AdaAD, HAT])
def test_the_teacher_answers_in_the_precision_of_the_loss(method: Any) -> None:
    """Where the attack alone is in bf16, what the net learns from is not rounded."""
    data, teacher = Few(n=8, batch_size=8), norm_net(3)

    class Seen(method):  # type: ignore[misc]
        def loss(self, batch: Batch, views: Views) -> Any:
            self.seen = (views.adv, views.more["teacher"])
            return super().loss(batch, views)

    defense = Seen(plain_net(), teacher, attack=ATTACK, optimizer=torch.optim.SGD, attack_precision="bf16")
    quiet_trainer(max_epochs=1).fit(defense, data)
    x, taught = defense.seen
    assert taught.dtype == torch.float32
    if method is HAT:
        torch.testing.assert_close(taught, norm_net(3).eval()(x))


@pytest.mark.slow
def test_the_command_line_tests_without_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--evaluation.samples=4"]
    run_command(["fit", "--config=digits/trades", *main])
    (teacher,) = tmp_path.glob("runs/*/TRADES/*/checkpoints/last.ckpt")
    teacher.rename("teacher.ckpt")
    run_command(["fit", "--config=digits/rslad", *main])
    Path("teacher.ckpt").unlink()
    (run,) = tmp_path.glob("runs/*/RSLAD/*")
    run_command(["test", f"--config={run}/config.yaml", f"--ckpt_path={run}/checkpoints/last.ckpt"])
    assert len([*tmp_path.glob("runs/*/RSLAD/test-*/robustness.json")]) == 1
