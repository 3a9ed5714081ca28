"""The papers' recipes have the hyper-parameters of the authors' code (owner/name@commit in each file's header).

The table was typed from those sources, not from the files.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from torch.optim import lr_scheduler

from lightning_robust.parts.lr_schedules import CosineAnnealingLR, MultiStepLR
from lightning_robust.types import to_float
from tests import test_modern_recipes as modern
from tests.helpers.recipe_rates import built, rates

CONFIGS = Path(__file__).parent.parent / "configs"
RECIPES = sorted(p for p in CONFIGS.rglob("*.yaml") if p.parent.name != "evaluation")
PAPERS = [path for path in RECIPES if path.parent.name != "digits"]
WARMED = [p for p in RECIPES if re.search("OneCycleLR|WarmupCosineLR|PiecewiseLinearLR", p.read_text())]
"""Whose rates rise at first: see test_modern_recipes.py."""
FALLING = [path for path in RECIPES if path not in WARMED]
RN18, PRN18 = ("TorchvisionModel", "resnet18"), ("PreActResNet", 18)
WRN34, WRN28, IAAT32 = ("WideResNet", 34, 10), ("WideResNet", 28, 10), ("IAATWideResNet", 32, 10)
EMR34 = (*WRN34, "leaky_relu", "pool")


class Recipe(NamedTuple):
    """One line of the table: epochs count from 0; `drops` are those before which the rate falls, and by what factor."""

    method: str
    net: tuple[Any, ...]
    attack: tuple[Any, ...]  # eps, step size, start, mode of the batch norms; 10 steps
    sgd: tuple[Any, ...]  # rate, weight decay, "nesterov" if so; momentum 0.9
    batch: int
    epochs: int
    drops: tuple[Any, ...]  # milestones and factor; none: a cosine
    more: dict[str, Any] = {}  # noqa: RUF012


NORMAL, UNIFORM = (0.031, 0.007, "normal", "eval"), (8 / 255, 2 / 255, "uniform", "train")
SQUEEZE = (8 / 255, 2 / 255, "normal", "batch")
SOFT = (8 / 255, 2 / 255, "normal", "eval")
TAUGHT = ((0.1, 2e-4), 128)
RICE = ((0.1, 5e-4), 128, 200, (100, 150, 0.1))
MART_SGD = ((0.01, 3.5e-3), 128, 120)
IAAT_SGD = ((0.1, 5e-4), 256, 110, (70, 90, 100, 0.2))
SELF = ((0.1, 5e-4, "nesterov"), 256, 200, ())
IAAT_MORE = {"gamma": 1.9 / 255, "beta": 0.1, "warmup": 10, "probing": "all"}


def mail(bias: float, slope: float, start: int) -> dict[str, Any]:
    return {"reweighting": {"bias": bias, "slope": slope, "start_epoch": start}}


def emr(weight: float, temperature: float, *milestones: int) -> dict[str, Any]:
    return {"regularizers": {"weight": weight, "temperature": temperature, "milestones": list(milestones)}}


def perturbed(gamma: float, start: int = 0, **more: Any) -> dict[str, Any]:
    return {"weight_perturbation": {"gamma": gamma, "start_epoch": start, "restore": "after_step", **more}}


RWP = {"threshold": 1.7, "steps": 10}
TABLE: dict[str, Recipe] = {
    "cifar10/at": Recipe("AT", PRN18, UNIFORM, *RICE),
    "cifar10/trades": Recipe(
        "TRADES", WRN34, NORMAL, (0.1, 2e-4), 128, 76, (74, 0.1), {"beta": 6, "clean_forwards": 2}
    ),
    "cifar10/mart": Recipe("MART", RN18, NORMAL, *MART_SGD, (74, 89, 99, 0.1), {"beta": 5}),
    "cifar10/mail_at": Recipe(
        "MAIL", RN18, NORMAL, *MART_SGD, (75, 90, 100, 0.1), {"bias": -0.5, "slope": 10, "start_epoch": 76}
    ),
    "cifar10/mail_trades": Recipe("TRADES", RN18, NORMAL, *MART_SGD, (75, 90, 100, 0.1), {"beta": 5, **mail(0, 2, 76)}),
    "cifar10/alp": Recipe("ALP", WRN34, NORMAL, (0.1, 2e-4), 128, 77, (74, 0.1), {"beta": 0.5}),
    "cifar10/score_at": Recipe(
        "SCOREAT", PRN18, UNIFORM, (0.05, 5e-4), 128, 110, (100, 105, 0.1), {"clip": 0.4**2 * 10 / 9}
    ),
    "cifar10/score_trades": Recipe(
        "SCORE",
        PRN18,
        (8 / 255, 2 / 255, "normal", "eval"),
        (0.05, 5e-4),
        128,
        110,
        (100, 105, 0.1),
        {"beta": 6, "clip": 0.3**2 * 10 / 9, "clipped": "all", "adversarial_first": True},
    ),
    "cifar10/awp": Recipe("AWP", PRN18, UNIFORM, *RICE, {"gamma": 0.01, "start_epoch": 0, "restore": "after_step"}),
    "cifar10/rwp": Recipe("AT", PRN18, UNIFORM, *RICE, perturbed(0.01, **RWP)),
    "cifar10/trades_awp": Recipe(
        "TRADES",
        WRN34,
        (8 / 255, 2 / 255, "normal", "eval"),
        (0.1, 5e-4),
        128,
        200,
        (99, 149, 0.1),
        {"beta": 6, **perturbed(0.005, 9)},
    ),
    "cifar10/rst": Recipe("TRADES", WRN28, NORMAL, *SELF, {"beta": 6}),
    "cifar10/iaat": Recipe("IAAT", IAAT32, UNIFORM, *IAAT_SGD, IAAT_MORE),
    "cifar10/iaat_at": Recipe("AT", IAAT32, UNIFORM, (0.1, 5e-4), 256, 200, (60, 120, 160, 0.2)),
    "cifar10/emr_at": Recipe(
        "EMR",
        EMR34,
        (0.0314, 0.00784, "uniform", "train"),
        (0.1, 5e-4),
        128,
        100,
        (60, 90, 0.1),
        {"weight": 3 / 128, "temperature": 40, "milestones": [59, 89]},
    ),
    "cifar10/emr_trades": Recipe(
        "TRADES",
        EMR34,
        (0.0314, 0.00784, "uniform", "train"),
        (0.1, 1e-3),
        128,
        130,
        (60, 120, 0.1),
        {"beta": 12, "clean_forwards": 2, "ascend": "ce", **emr(1 / 128, 1, 59, 119)},
    ),
    "cifar10/emr_mail_at": Recipe(
        "MAIL",
        EMR34,
        NORMAL,
        (0.1, 2e-4),
        128,
        100,
        (75, 90, 0.1),
        {"bias": -0.07, "slope": 30, "start_epoch": 74, **emr(1 / 128, 0.1, 74, 89)},
    ),
    "cifar10/emr_mail_trades": Recipe(
        "TRADES",
        EMR34,
        NORMAL,
        (0.1, 2e-4),
        128,
        100,
        (75, 90, 0.1),
        {"beta": 5, **mail(0.05, 5, 74), **emr(1 / 128, 0.1, 74, 89)},
    ),
    "cifar10/rslad": Recipe(
        "RSLAD", RN18, SOFT, *TAUGHT, 300, (215, 260, 285, 0.1), {"teacher": {"name": "Zhang2019Theoretically"}}
    ),
    "cifar100/rslad": Recipe(
        "RSLAD",
        RN18,
        SOFT,
        *TAUGHT,
        300,
        (215, 260, 285, 0.1),
        {"scale": 10, "teacher": {"name": "Gowal2020Uncovering", "dataset": "cifar100"}},
    ),
    "cifar10/ard": Recipe(
        "ARD",
        RN18,
        UNIFORM,
        *TAUGHT,
        200,
        (100, 0.1),  # at 150 the authors' code sets the same rate again
        {"alpha": 1, "temperature": 30, "teacher": {"name": "Zhang2019Theoretically"}},
    ),
    "cifar10/iad": Recipe(
        "IAD",
        RN18,
        UNIFORM,
        *TAUGHT,
        200,
        (100, 0.1),  # as ARD's
        {"alpha": 1, "temperature": 1, "beta": 0.1, "begin": 60},
    ),
    "cifar10/adaad": Recipe("AdaAD", RN18, SOFT, *RICE, {"alpha": 1, "teacher": {"name": "Chen2021LTD_WRN34_20"}}),
    "cifar100/adaad": Recipe(
        "AdaAD",
        RN18,
        SOFT,
        *RICE,
        {"alpha": 1, "scale": 100, "teacher": {"name": "Chen2021LTD_WRN34_10", "dataset": "cifar100"}},
    ),
    "cifar10/st": Recipe("ST", RN18, SQUEEZE, (0.1, 5e-4), 128, 120, (79, 99, 0.1), {"beta": 6, "keep_roles": True}),
    "cifar10/st_rst": Recipe("ST", WRN28, (0.031, 0.007, "uniform", "batch"), *SELF, {"beta": 6, "keep_roles": True}),
    "cifar10/st_awp": Recipe(
        "ST", RN18, SQUEEZE, (0.1, 5e-4), 128, 200, (99, 149, 0.1), {"beta": 6, **perturbed(0.005, 9)}
    ),
    "cifar10/st_rwp": Recipe(
        "ST", RN18, SQUEEZE, (0.1, 5e-4), 128, 200, (99, 149, 0.1), {"beta": 6, **perturbed(0.005, 9, **RWP)}
    ),
    "cifar100/at": Recipe("AT", PRN18, UNIFORM, *RICE),
    "cifar100/st": Recipe("ST", RN18, SQUEEZE, (0.1, 5e-4), 128, 120, (79, 99, 0.1), {"beta": 4, "keep_roles": True}),
    "svhn/at": Recipe("AT", PRN18, (8 / 255, 1 / 255, "uniform", "train"), (0.01, 5e-4), 128, 200, (100, 150, 0.1)),
    "svhn/st": Recipe(
        "ST",
        RN18,
        (8 / 255, 1 / 255, "normal", "batch"),
        (0.01, 5e-4),
        128,
        120,
        (79, 99, 0.1),
        {"beta": 6, "keep_roles": True},
    ),
    "imagenet/free_at": Recipe(
        "FreeAT",
        ("TorchvisionModel", "resnet50"),
        (4 / 255, 4 / 255, "uniform", "eval"),
        (0.1, 1e-4),
        64,
        23,  # 90 / 4
        (8, 16, 0.1),
        {"replays": 4, "base_batch_size": 256},
    ),
}

EXPECTED = {
    "cifar10/at": {"82.92", "53.49", "84.93", "45.59"},
    "cifar10/trades": {"84.92", "53.08"},
    "cifar10/awp": {"81.18", "55.39", "81.65", "54.30"},
    "cifar10/trades_awp": {"85.36", "56.17"},
    "cifar10/rst": {"89.69", "59.53"},
    "cifar10/st": {"83.39", "53.85"},
    "cifar10/st_awp": {"83.03", "56.35"},
    "cifar100/at": {"52.69", "28.15", "53.83", "21.87"},
    "cifar100/st": {"57.86", "30.55"},
    "svhn/at": {"89.81", "61.04", "89.70", "54.30"},
}
"""Published accuracies, in percent, of the sources that the headers name; all other recipes promise nothing."""


RATES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("cifar10/mart", "cifar100/mart", "svhn/mart"), (120, 74, 89, 99)),
    **dict.fromkeys(("cifar10/mail_at", "cifar10/mail_trades"), (120, 75, 90, 100)),
    **dict.fromkeys(
        ("cifar10/at", "cifar10/awp", "cifar10/idbh", "cifar10/rwp", "cifar100/at", "svhn/at"), (200, 100, 150)
    ),
    **dict.fromkeys(("cifar10/trades", "cifar100/trades", "svhn/trades"), (76, 74)),
    **dict.fromkeys(
        ("cifar10/trades_awp", "cifar10/trades_awp_ema", "cifar10/st_awp", "cifar10/st_rwp"), (200, 99, 149)
    ),
    **dict.fromkeys(("cifar10/st", "cifar100/st", "svhn/st"), (120, 79, 99)),
    **dict.fromkeys(("cifar10/rslad", "cifar100/rslad"), (300, 215, 260, 285)),
    **dict.fromkeys(("cifar10/ard", "cifar10/iad"), (200, 100)),
    **dict.fromkeys(("cifar10/adaad", "cifar100/adaad"), (200, 100, 150)),
    **dict.fromkeys(("cifar10/cfa", "cifar10/cfa_at"), (200, 100, 150)),
    **dict.fromkeys(("cifar10/ikl", "cifar100/ikl", "cifar10/gkl", "cifar100/gkl"), (200,)),
    **dict.fromkeys(("cifar10/iaat", "cifar100/iaat", "svhn/iaat"), (110, 70, 90, 100)),
    **dict.fromkeys(("cifar10/emr_mail_at", "cifar10/emr_mail_trades"), (100, 75, 90)),
    **dict.fromkeys((f"imagenet/{method}" for method in ("at", "emr_at", "iaat", "st", "trades")), (90, 30, 60, 80)),
    **dict.fromkeys(("cifar10/rst", "cifar10/st_rst"), (200,)),
    **dict.fromkeys(("mnist/emr_at", "mnist/emr_standard"), (30,)),
    **dict.fromkeys(("digits/rst", "digits/st_rst"), (80,)),
    "cifar10/mmc": (200, 101, 151),
    **dict.fromkeys(("cifar10/smooth_at", "cifar10/at_early_stopping"), (200, 100, 150)),
    "imagenet/smooth_at": (90, 30, 60, 80),
    "cifar10/llr": (128, 102, 113, 123),
    "cifar10/fat_trades": (85, 74),
    "cifar10/fat_mart": (85, 59),
    "cifar10/iat": (200, 100, 150),
    **dict.fromkeys(("cifar10/alp", "cifar10/he_at", "cifar10/he_trades", "cifar10/he_alp"), (77, 74)),
    **dict.fromkeys(("cifar10/score_at", "cifar10/score_trades"), (110, 100, 105)),
    **dict.fromkeys(("cifar10/sam", "cifar10/asam", "cifar100/sam", "cifar100/asam"), (200,)),
    "cifar10/eat": (20, 7, 13),
    "cifar10/iaat_at": (200, 60, 120, 160),
    "cifar10/emr_at": (100, 60, 90),
    "cifar10/emr_trades": (130, 60, 120),
    **dict.fromkeys(("imagenet/at_targeted", "imagenet/at_denoise"), (110, 35, 70, 95)),
    "imagenet/free_at": (23, 8, 16),
}
"""A recipe's epochs, and those before which its rate falls: with none, along a cosine. Others of digits: 40 epochs."""

FASTER = {"cifar10/iaat", "cifar100/iaat", "svhn/iaat", "cifar10/iaat_at"}
"""Their rates fall to a fifth, all others' to a tenth."""


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def number(value: Any) -> Any:
    return [number(v) for v in value] if isinstance(value, list) else to_float(value)


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        found = found[0] if isinstance(found, list) else found
        return all(same(found["init_args"].get(key, DEFAULTS.get(key)), value) for key, value in expected.items())
    if isinstance(expected, bool | str):
        return bool(found == expected)
    return bool(number(found) == pytest.approx(expected))


DEFAULTS = {"start_epoch": 0, "milestones": []}
"""Of what a recipe leaves out."""


@pytest.mark.parametrize("recipe", TABLE)
def test_hyper_parameters_are_the_authors(recipe: str) -> None:
    config, expected = yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text()), TABLE[recipe]
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    net, attack, sgd = model["net"]["init_args"], model["attack"]["init_args"], model["optimizer"]["init_args"]
    assert config["model"]["class_path"] == expected.method
    assert model["net"]["class_path"] == expected.net[0]
    keys = ("depth", "widen_factor", "activation", "shortcut")
    described = [net["name"]] if "name" in net else [net[key] for key in keys if key in net]
    assert described == list(expected.net[1:]) or (expected.net == IAAT32 and not described)  # its defaults
    eps, step, start, bn = expected.attack
    assert attack["threat"]["norm"] == "linf"
    assert (to_float(attack["threat"]["eps"]), to_float(attack["step_size"])) == pytest.approx((eps, step))
    assert (attack.get("steps", 10), attack.get("start", "uniform")) == (10, start)
    assert model.get("attack_bn", "batch" if expected.method == "ST" else "eval") == bn
    assert model["optimizer"]["class_path"] == "SGD"
    assert (sgd["lr"], sgd["weight_decay"], sgd["momentum"]) == (*expected.sgd[:2], 0.9)
    assert sgd.get("nesterov", False) == ("nesterov" in expected.sgd)
    assert (data["batch_size"], config["trainer"]["max_epochs"]) == (expected.batch, expected.epochs)
    *milestones, factor = expected.drops or (None,)
    schedule = built(CONFIGS / f"{recipe}.yaml", expected.epochs)
    assert type(schedule) is (MultiStepLR if expected.drops else CosineAnnealingLR)
    found = (list(schedule.milestones), schedule.gamma) if expected.drops else schedule.T_max
    assert found == ((milestones, factor) if expected.drops else expected.epochs)
    for key, value in expected.more.items():
        assert same(model.get(key, DEFAULTS.get(key)), value), key


@pytest.mark.parametrize("path", FALLING, ids=name)
def test_rates_at_the_recipes_own_length(path: Path) -> None:
    epochs, *milestones = RATES.get(name(path), (40,))
    config = yaml.safe_load(path.read_text())
    assert config["trainer"]["max_epochs"] == epochs
    sgd = torch.optim.SGD(
        [torch.zeros(1, requires_grad=True)], to_float(config["model"]["init_args"]["optimizer"]["init_args"]["lr"])
    )
    factor = 0.2 if name(path) in FASTER else 0.1
    theirs = (
        lr_scheduler.MultiStepLR(sgd, milestones, factor) if milestones else lr_scheduler.CosineAnnealingLR(sgd, epochs)
    )
    assert rates(built(path, epochs), epochs) == rates(theirs, epochs)


@pytest.mark.parametrize("path", FALLING, ids=name)
@pytest.mark.parametrize("share", [0.5, 2])
@pytest.mark.slow
def test_the_rate_never_rises_in_a_shorter_or_longer_run(path: Path, share: float) -> None:
    epochs = int(RATES.get(name(path), (40,))[0] * share)
    found = rates(built(path, epochs), epochs)
    assert found == sorted(found, reverse=True)
    if path.parent.name == "digits":  # and falls to its end, whatever the length
        assert 0 < found[-1] < found[0] / 50


@pytest.mark.parametrize("path", [p for p in RECIPES if p.parent.name == "fashion_mnist"], ids=name)
def test_rates_on_fashion_mnist_rise_for_a_twentieth_of_the_run(path: Path) -> None:
    model = yaml.safe_load(path.read_text())["model"]["init_args"]
    found = rates(built(path, 400), 400)
    assert model["scheduler_interval"] == "step"
    assert max(found) == found[20] == model["optimizer"]["init_args"]["lr"]
    assert found[:20] == sorted(found[:20])
    assert found[20:] == sorted(found[20:], reverse=True)
    assert 0 < found[-1] < found[20] / 1000


def test_every_recipe_of_the_authors_is_in_the_table() -> None:
    """All others say that none was published, or that they are the project's own."""
    for path in PAPERS:
        text = path.read_text()
        own = "none published" in text or "the project's own" in text
        held = name(path) in {*TABLE, *modern.PUBLISHED}
        assert held or own, path
        assert not (own and held) or name(path) == "cifar10/st_rwp", path


@pytest.mark.parametrize("path", PAPERS, ids=name)
def test_the_header_names_paper_source_and_selection(path: Path) -> None:
    head = " ".join(line[2:] for line in path.read_text().splitlines() if line.startswith("# "))
    assert re.search(r"arXiv \d{4}\.\d{5}|ICLR|CVPR|adversarial weight perturbation|robust weight perturbation", head)
    assert re.search(r"Hyper-parameters: .+ Selection: .+", head)
    assert re.search(r"\w+/[\w-]+@[0-9a-f]{7}|none published", head)
    promised = head.partition("Expected: ")[2]
    assert set(re.findall(r"\d\d\.\d\d(?!\d)", promised)) == {**EXPECTED, **modern.EXPECTED}.get(name(path), set())
    assert set(re.findall(r"(?<![\d./v])\d\d\.\d\d?(?!\d)", head.replace(promised, ""))) == set()


@pytest.mark.parametrize("path", PAPERS, ids=name)
def test_selection_never_sees_the_test_set(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    assert config["evaluation"]["fit_attacks"]
    assert config.get("checkpoint", {}).get("monitor", "val/worst_acc").startswith("val/")


def threats(value: Any) -> list[Any]:
    """Every setting with this name, however deep."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value["threat"]] if isinstance(value, dict) and "threat" in value else []
    return own + [threat for child in children for threat in threats(child)]


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=name)
def test_the_threat_is_named_once(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    attack = config["model"]["init_args"]["attack"]["init_args"] if "model" in config else {}
    trained = threats(attack)
    assert threats(config) == trained
    assert len(trained) == (path.parent.name != "evaluation") * len(attack.get("attacks", [1]))
