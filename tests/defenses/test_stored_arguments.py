"""A defense comes back from its checkpoint with all that it was given, or says what must be given again."""

import copy
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.attacks import PGD, FriendlyPGD, OneOf, TrainingAPGD, WorstOf
from lightning_robust.defenses import (
    ALP,
    AT,
    AVG,
    AWP,
    EAT,
    EMR,
    GAIRAT,
    IAAT,
    IAT,
    MAIL,
    MART,
    SCORE,
    SCOREAT,
    ST,
    TRADES,
    Defense,
    FreeAT,
    Standard,
)
from lightning_robust.parts import (
    ASAM,
    SAM,
    AdversarialWeightPerturbation,
    EffectiveWeightNorm,
    GradAlign,
    InputGradient,
    LocalLinearity,
    LogWeightNorms,
    MarginWeights,
    RobustWeightPerturbation,
)
from lightning_robust.publish.export import _threat
from lightning_robust.threat import Threat
from lightning_robust.types import Batch
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, plain_net

L2 = PGD(Threat("l2", "1/2", box_first=True), steps=2, step_size=0.125, start="normal", restarts=2)
# FreeAT and ST refuse restarts
ONCE = PGD(Threat("l2", "1/2"), steps=2, step_size=0.125, start="normal")
DEFENSES: dict[str, Callable[[nn.Module], Defense]] = {
    "Standard": lambda net: Standard(net, attack=L2),
    "AT": lambda net: AT(
        net,
        attack=L2,
        attack_bn="batch",
        reweighting=MarginWeights(0.1, 5.0, 1),
        regularizers=[EffectiveWeightNorm(0.5, 2.0, milestones=[3, 5], decay=0.5), InputGradient(0.25)],
        weight_perturbation=RobustWeightPerturbation(0.02, 1.5, 1, 4),
    ),
    "AVG": lambda net: AVG(net, attack=WorstOf({"l2": L2, "linf": PGD(Threat(eps=0.1))})),
    "EAT": lambda net: EAT(net, attack=OneOf({"l2": L2, "linf": TrainingAPGD(Threat(eps=0.1), steps=3)})),
    "TRADES": lambda net: TRADES(net, beta=4.0, clean_forwards=2, attack=L2),
    "MART": lambda net: MART(
        net, 3.0, attack=L2, base_batch_size=None, weight_perturbation=[SAM(0.02, 1), ASAM(0.3, 0.2, 1)]
    ),
    "ST": lambda net: ST(net, beta=2.0, discrepancy="js", attack=ONCE),
    "MAIL": lambda net: MAIL(net, bias=-0.25, reweighting=[MarginWeights(0.5, 3.0, 2)], attack=L2),
    "EMR": lambda net: EMR(net, weight=0.5, milestones=(2,), regularizers=[InputGradient(2.0)], attack=L2),
    "AWP": lambda net: AWP(net, gamma=0.02, weight_perturbation=[AdversarialWeightPerturbation(0.5, 2)], attack=L2),
    "IAAT": lambda net: IAAT(net, gamma="4/255", warmup=1, cap=0.5, attack=L2, probing="all"),
    "ALP": lambda net: ALP(net, beta=0.25, attack=L2),
    "GAIRAT": lambda net: GAIRAT(net, -2.0, "sigmoid", 0, reweighting=[MarginWeights(0.5, 3.0, 2)], attack=ONCE),
    "SCORE": lambda net: SCORE(net, 2.0, 0.125, "all", adversarial_first=True, attack=L2),
    "SCOREAT": lambda net: SCOREAT(net, 0.25, attack=L2),
    "FAT": lambda net: AT(net, attack=FriendlyPGD(Threat("l2", "1/2"), steps=2, tau=1, noise=0.125)),
    "Penalties": lambda net: AT(
        net,
        attack=L2,
        regularizers=[GradAlign(0.5, False, "batch"), LocalLinearity(1.0, 0.5, 3, 0.25, "eval"), LogWeightNorms(0.5)],
    ),
    "IAT": lambda net: IAT(net, alpha=0.5, attack=L2),
    "Margin": lambda net: TRADES(net, logit_margin=0.5, attack=L2),
    "FreeAT": lambda net: FreeAT(net, replays=2, attack=ONCE),
}


def still(params: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.0)


def saved(defense: Defense, folder: Path) -> Path:
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(defense, Few())
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


NOTES = ("_checked", "scale", "_kappa", "_points")


def inside(value: Any) -> Any:
    """What an object is made of, as far as it is not the net: without private notes on what has been seen."""
    if isinstance(value, dict):
        return {name: inside(part) for name, part in value.items()}
    if isinstance(value, Threat) or not hasattr(value, "__dict__"):
        return [inside(part) for part in value] if isinstance(value, (list, tuple)) else value
    return type(value), {name: inside(part) for name, part in vars(value).items() if name not in NOTES}


def settings(defense: Defense) -> dict[str, Any]:
    names = ["attack", "attack_bn", "reweightings", "regularizers", "weight_perturbations", "attack_precision"]
    own = [name for name, value in vars(defense).items() if name[0] != "_" and isinstance(value, (int, float, str))]
    return {name: inside(getattr(defense, name)) for name in [*names, *own]}


@pytest.mark.parametrize("name", DEFENSES)
def test_a_defense_comes_back_with_its_attack_and_parts(name: str, tmp_path: Path) -> None:
    """From a file that holds nothing but plain data, so that it can be loaded without running any code."""
    defense = DEFENSES[name](plain_net())
    path = saved(defense, tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    assert "net" not in checkpoint["hyper_parameters"]
    back = type(defense).load_from_checkpoint(path, net=plain_net(seed=7), weights_only=True)
    assert settings(back) == settings(defense)
    x = torch.rand(4, 1, 4, 4)
    assert torch.equal(back(x), defense(x))
    again = saved(back, tmp_path / "again")
    assert torch.load(again, weights_only=True)["hyper_parameters"] == checkpoint["hyper_parameters"]


def test_what_is_given_counts_more_than_what_is_stored(tmp_path: Path) -> None:
    path = saved(TRADES(plain_net(), beta=4.0, attack=L2), tmp_path)
    back = TRADES.load_from_checkpoint(path, net=plain_net(), beta=1.0, attack=PGD(steps=7))
    assert (back.beta, back.attack.steps, back.attack.threat) == (1.0, 7, Threat())


class Mine(PGD):
    """An attack of the user's own."""


class Distilled(AT):
    """A method that is given a net of its own."""

    def __init__(self, net: nn.Module, teacher: nn.Module | None = None, weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(net, attack_bn="batch", **kwargs)
        self.teacher, self.weight = teacher, weight


def test_a_part_that_cannot_be_stored_must_be_given(tmp_path: Path) -> None:
    path = saved(
        AT(plain_net(), attack=Mine(Threat(eps=0.1), steps=2), read_batch=lambda given: Batch(*given)), tmp_path
    )
    message = re.escape(f"does not hold the attack ({__name__}.Mine), read_batch ({__name__}.")
    with pytest.raises(ValueError, match=message + r".* give load_from_checkpoint attack=\.\.\., read_batch=\.\.\."):
        AT.load_from_checkpoint(path, net=plain_net())
    with pytest.raises(
        ValueError, match=r"hold the read_batch .* give load_from_checkpoint read_batch=\.\.\., or None"
    ):
        AT.load_from_checkpoint(path, net=plain_net(), attack=L2)
    assert AT.load_from_checkpoint(path, net=plain_net(), attack=L2, read_batch=None).attack is L2


def test_a_module_of_ones_own_stays_out_of_the_checkpoints_arguments(tmp_path: Path) -> None:
    teacher = nn.Linear(2, 3)
    defense = Distilled(plain_net(), teacher, weight=0.5)
    path = saved(defense, tmp_path)
    arguments = torch.load(path, weights_only=True)["hyper_parameters"]
    assert arguments == {"teacher": {"not_stored": "torch.nn.modules.linear.Linear"}, "weight": 0.5}
    with pytest.raises(ValueError, match=r"does not hold the teacher \(torch.nn.modules.linear.Linear\)"):
        Distilled.load_from_checkpoint(path, net=plain_net())
    back = Distilled.load_from_checkpoint(path, net=plain_net(), teacher=nn.Linear(2, 3))
    assert torch.equal(back.teacher.weight, teacher.weight)
    assert (back.weight, back.attack_bn) == (0.5, "batch")


class Changing(AT):
    """Changes its arguments before it hands them on."""

    def __init__(self, net: nn.Module, eps: float = 8.0, steps: int = 1, **kwargs: Any) -> None:
        eps = eps / 255
        kwargs = {"attack": PGD(Threat(eps=eps), steps=steps), **kwargs}
        super().__init__(net, **kwargs)


class ByName(AT):
    """Calls its base by name."""

    def __init__(self, net: nn.Module, k: int = 3, **kwargs: Any) -> None:
        AT.__init__(self, net, attack=PGD(steps=k), **kwargs)


class Own(ByName):
    """Makes its own net."""

    def __init__(self, k: int = 5, **kwargs: Any) -> None:
        super().__init__(plain_net(), k, **kwargs)


def test_arguments_are_stored_as_they_were_given(tmp_path: Path) -> None:
    path = saved(Changing(plain_net(), 4.0, attack_bn="batch"), tmp_path)
    assert torch.load(path, weights_only=True)["hyper_parameters"] == {"eps": 4.0, "steps": 1, "attack_bn": "batch"}
    back = Changing.load_from_checkpoint(path, net=plain_net())
    assert (back.attack.threat.eps, back.attack_bn) == (pytest.approx(4 / 255), "batch")
    path = saved(ByName(plain_net(), k=7), tmp_path)
    assert ByName.load_from_checkpoint(path, net=plain_net()).attack.steps == 7
    path = saved(Own(k=9), tmp_path)
    assert Own.load_from_checkpoint(path).attack.steps == 9


@pytest.mark.parametrize("make", [lambda: Own(9, reweighting=MarginWeights()), lambda: ByName(plain_net(), 9)])
def test_what_was_given_is_kept_in_no_other_place(make: Callable[[], Defense]) -> None:
    defense = make()
    for back in (copy.deepcopy(defense), pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(defense))))):
        assert back.attack.steps == 9
        assert dict(back.hparams) == dict(defense.hparams)
        assert "_given" not in vars(back)
    assert "_given" not in vars(defense)


@pytest.mark.parametrize("name", ["optimizer", "scheduler"])
def test_an_optimizer_is_asked_for_where_a_fit_goes_on(name: str, tmp_path: Path) -> None:
    """To evaluate, none is needed."""
    given = {"optimizer": still, "scheduler": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1)}
    path = saved(AT(plain_net(), **{name: given[name]}), tmp_path)
    back = AT.load_from_checkpoint(path, net=plain_net())
    quiet_trainer(limit_test_batches=1).test(back, Few(), verbose=False)
    with pytest.raises(ValueError, match=rf"does not hold the {name} of its training .* load_from_checkpoint {name}="):
        quiet_trainer(max_epochs=1).fit(back, Few())
    back = AT.load_from_checkpoint(path, net=plain_net(), **{name: given[name]})
    quiet_trainer(max_epochs=1, limit_train_batches=1).fit(back, Few())


def test_a_strangers_class_is_not_imported(tmp_path: Path) -> None:
    path = saved(AT(plain_net(), attack=L2), tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    for other in ("os.system", "lightning_robust.attacks.base.copy", "torch.nn.Linear"):
        checkpoint["hyper_parameters"]["attack"] = {"class_path": other, "init_args": {}}
        torch.save(checkpoint, path)
        with pytest.raises(ValueError, match=rf"'{re.escape(other)}' is no part of this package"):
            AT.load_from_checkpoint(path, net=plain_net())


def test_an_export_knows_what_it_was_trained_against(tmp_path: Path) -> None:
    def told(defense: Defense) -> Any:
        return _threat(torch.load(saved(defense, tmp_path), weights_only=True))

    assert told(AT(plain_net(), attack=L2)) == vars(L2.threat)
    assert told(AT(plain_net())) == vars(Threat())
    assert told(AT(plain_net(), attack=Mine(Threat(eps=0.1), steps=2))) is None


def test_a_module_within_a_module_keeps_its_own_arguments() -> None:
    class Outer(Standard):
        def __init__(self, net: nn.Module, size: int) -> None:
            self.inner = None
            super().__init__(net)
            self.__dict__["inner"] = TRADES(net, beta=2.0)

    outer = Outer(plain_net(), 3)
    assert dict(outer.hparams) == {"size": 3}
    assert "size" not in outer.inner.hparams
    assert outer.inner.hparams["beta"] == 2.0


@pytest.mark.parametrize("name", DEFENSES)
def test_a_defense_can_be_sent_to_another_process(name: str) -> None:
    """With the default optimizer, as `ddp_spawn` sends it."""
    defense = DEFENSES[name](plain_net())
    x: Tensor = torch.rand(2, 1, 4, 4)
    back = pickle.loads(pickle.dumps(defense))
    assert torch.equal(back(x), defense(x))
    (group,) = back.configure_optimizers().param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 5e-4)
    assert settings(back) == settings(defense)


@pytest.mark.parametrize("method", [Standard, TRADES, AT])
def test_loading_as_another_method_names_the_one_that_wrote(method: Any, tmp_path: Path) -> None:
    """Also where the settings of the one are unknown to the other, and never on an instance."""
    trainer = quiet_trainer(max_epochs=1, logger=False)
    trainer.fit(MART(plain_net(), beta=1.0, attack=PGD(Threat(eps=0.1), steps=1)), Few(n=8, batch_size=8))
    trainer.save_checkpoint(tmp_path / "mart.ckpt")
    with pytest.raises(ValueError, match=f"written by MART, not by {method.__name__}"):
        method.load_from_checkpoint(tmp_path / "mart.ckpt", net=plain_net(), weights_only=True)
    with pytest.raises(TypeError, match="cannot be called on an instance"):
        method(plain_net()).load_from_checkpoint(tmp_path / "mart.ckpt", net=plain_net())
