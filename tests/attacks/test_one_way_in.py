"""What holds for every attack because all of them are called through `Attack.__call__`."""

import ast
import inspect
from collections import OrderedDict
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

import lightning_robust.attacks
from lightning_robust.attacks import APGD, CW, PGD, Attack, AutoAttack, DeepFool, Ensemble, entrance
from lightning_robust.attacks.functional import pgd
from lightning_robust.runtime.modes import attack_mode
from lightning_robust.threat import Threat
from tests.helpers.each_attack import each
from tests.helpers.toys import conv_net

PACKAGE = Path(lightning_robust.attacks.__file__).parents[1]
X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(4)
OPTIONS: dict[str, Any] = {"objective": lambda logits, y: logits.sum(1), "step_size": 0.01, "start": X.flip(3)}


def test_no_attack_has_a_call_of_its_own() -> None:
    found = []
    for path in PACKAGE.glob("attacks/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                names = {a.arg for a in (*node.args.args, *node.args.kwonlyargs)}
                if {"objective", "eps", "step_size", "start", "bn", "rng"} <= names:
                    found.append(f"{path.name} {node.name}")
    assert found == ["base.py __call__"]
    kinds = [kind for kind in vars(lightning_robust.attacks).values() if inspect.isclass(kind)]
    assert [kind for kind in kinds if kind is not Attack and "__call__" in vars(kind)] == []


@each
@pytest.mark.parametrize("name", OPTIONS)
def test_an_argument_is_used_or_refused(attack: Attack, name: str) -> None:
    if name not in attack.uses:
        with pytest.raises(ValueError, match=f"{type(attack).__name__} does not use {name}: leave it out"):
            attack(conv_net(), X, Y, **{name: OPTIONS[name]})
        return
    net = conv_net().eval()
    x = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    y = net(x).argmax(1)  # what is wrong from the start is left as it is
    option = x.roll(1, 0) if name == "start" else OPTIONS[name]
    if name == "objective":
        spy = Mock(side_effect=option)
        attack(net, x, y, objective=spy)
        assert spy.called
        return
    examples = []
    for options in ({}, {name: option}):
        torch.manual_seed(0)
        examples.append(attack(net, x, y, eps=1.0, **options))
    assert not torch.equal(*examples)


@each
def test_reference_logits_are_used_or_refused(attack: Attack) -> None:
    reference = torch.randn(4, 4)
    if "reference" in attack.uses:
        attack(conv_net(), X, reference, objective=lambda logits, target: (logits - target).square().sum(1))
    else:
        with pytest.raises(ValueError, match=r"needs labels|does not use objective"):
            attack(conv_net(), X, reference, objective=lambda logits, target: logits.sum(1))
    with pytest.raises(ValueError, match=r"must be probabilities, .*: apply a softmax to logits"):
        attack(conv_net(), X, reference)


BAD: dict[str, tuple[type[Exception], str, Tensor, Tensor, dict[str, Any]]] = {
    "normalised": (ValueError, r"must lie in \[0, 1\] but range over", X * 4 - 2, Y, {}),
    "times 255": (ValueError, "must lie in", X * 255, Y, {}),
    "bytes": (TypeError, "must be floating-point", (X * 255).byte(), Y, {}),
    "NaN": (ValueError, "contain NaN", X.masked_fill(X > 0.99, torch.nan), Y, {}),
    "label -1": (ValueError, "Labels must be at least 0", X, Y - 1, {}),
    "label k": (ValueError, "below the net's 4 outputs", X, Y + 1, {}),
    "column of labels": (TypeError, r"class numbers \[b\] .* give y.flatten", X, Y[:, None], {}),
    "one-hot labels": (TypeError, r"give y.argmax\(1\) of one-hot", X, torch.eye(4).long(), {}),
    "labels as floats": (TypeError, r"class numbers \[b\] .* give y.flatten", X, Y.float(), {}),
    "soft labels below 0": (ValueError, "must be probabilities, but they go down to -1", X, 2 * torch.eye(4) - 1, {}),
    "soft labels that sum to 2": (ValueError, "a row sums to 2", X, 2 * torch.eye(4), {}),
    "soft labels that are NaN": (ValueError, "a row sums to nan", X, torch.eye(4) / torch.eye(4), {}),
    "soft labels of five classes": (ValueError, "have 5 columns, but the net has 4 outputs", X, torch.eye(4, 5), {}),
    "fewer soft labels": (ValueError, "there are 3 for 4 images", X, torch.eye(4)[:3], {}),
    "labels as a list": (TypeError, "Labels must be a torch.Tensor, got a list", X, [0, 1, 2, 3], {}),  # type: ignore[dict-item]
    "an array": (TypeError, "Images must be a torch.Tensor, got a ndarray", X.numpy(), Y, {}),  # type: ignore[dict-item]
    "infinite pixels": (ValueError, "must lie in", X.masked_fill(X > 0.99, torch.inf), Y, {}),
    "half precision": (TypeError, "torch.float16 round a radius of 8/255 away", X.half(), Y, {}),
    "bfloat16": (TypeError, "torch.bfloat16 round", X.bfloat16(), Y, {}),
    "eps in levels": (ValueError, r"eps of 8 in linf is larger than the box \[0, 1\]: write '8/255'", X, Y, {"eps": 8}),
    "levels of each": (ValueError, "eps of 8 in linf", X, Y, {"eps": torch.tensor([0.1, 8, 0.1, 0.1])}),
    "infinite eps": (ValueError, "eps must be finite", X, Y, {"eps": torch.inf}),
    "eps [b 1 1 1]": (
        ValueError,
        r"one per sample \[4\], got shape \(4, 1, 1, 1\)",
        X,
        Y,
        {"eps": torch.ones(4, 1, 1, 1)},
    ),
    "a list of eps": (
        TypeError,
        "eps must be a number, a fraction such as '8/255' or a tensor",
        X,
        Y,
        {"eps": [0.1] * 4},
    ),
    "eps as words": (ValueError, "'eight' is neither a number nor a fraction", X, Y, {"eps": "eight"}),
    "fewer labels": (ValueError, "there are 3 for 4 images", X, Y[:3], {}),
    "negative eps": (ValueError, "eps must be finite and >= 0, got -0.1", X, Y, {"eps": -0.1}),
    "eps NaN": (ValueError, "eps must be finite", X, Y, {"eps": torch.tensor([0.1, 0.1, torch.nan, 0.1])}),
    "two eps": (ValueError, r"eps must be one number or one per sample \[4\]", X, Y, {"eps": torch.ones(2)}),
}


@each
@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_refused_in_a_sentence(attack: Attack, bad: str) -> None:
    error, told, x, y, options = BAD[bad]
    if "levels" in bad and attack.threat.norm != "linf":
        return  # where a radius of 8 has a meaning
    with pytest.raises(error, match=told):
        attack(conv_net(), x, y, **options)


class Wrapped(nn.Module):
    """A net whose logits are inside something else."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.net = conv_net()
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.net(x))


class Output(OrderedDict[str, Tensor]):
    """As Hugging Face's `ModelOutput`: a mapping whose values are attributes too."""

    @property
    def logits(self) -> Tensor:
        return self["logits"]


@each
@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: (z, z.sum()),
        lambda z: [z],
        lambda z: {"features": z.exp(), "logits": z},
        lambda z: Output(loss=z.sum(), logits=z),
    ],
    ids=["tuple", "list", "dict", "output"],
)
def test_logits_are_found_in_what_a_net_returns(attack: Attack, wrap: Any) -> None:
    torch.manual_seed(0)
    plain = attack(conv_net(), X, Y)
    torch.manual_seed(0)
    assert torch.equal(attack(Wrapped(wrap), X, Y), plain)


def test_an_output_without_logits_is_refused() -> None:
    with pytest.raises(TypeError, match=r"it returned a dict with the keys \['scores'\]: wrap it"):
        pgd(Wrapped(lambda z: {"scores": z}), X, Y)
    with pytest.raises(ValueError, match=r"must give logits \[b k\] for 4 images, got shape"):
        pgd(Wrapped(lambda z: z.sum(1)), X, Y)
    with pytest.raises(ValueError, match=r"hold NaN or \+inf"):
        pgd(Wrapped(lambda z: z * torch.nan), X, Y)
    with pytest.warns(UserWarning, match="look like probabilities"):
        pgd(Wrapped(lambda z: z.softmax(1)), X, Y)


def test_radii_may_be_written_as_fractions() -> None:
    exact = PGD(steps=2, start="none")(conv_net(), X, Y, eps=8 / 255, step_size=2 / 255)
    assert torch.equal(PGD(steps=2, start="none")(conv_net(), X, Y, eps="8/255", step_size="2/255"), exact)


@each
def test_the_mode_is_entered_once(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = []

    def counting(*args: Any) -> Any:
        entered.append(args)
        return attack_mode(*args)

    monkeypatch.setattr(entrance, "attack_mode", counting)
    attack(conv_net(), X, Y)
    assert len(entered) == 1


@each
def test_another_threat_moves_the_whole_attack(attack: Attack) -> None:
    norm = "l2" if attack.threat.norm == "l2" else "linf"
    threat = Threat(norm, 0.05)
    other = attack.with_threat(threat)
    assert not attack.threat_given
    assert other.threat_given
    assert type(other) is type(attack)
    assert {stage.threat for stage in (other.stages or {"": other}).values()} == {threat}
    assert (threat.distance(other(conv_net(), X, Y), X) <= 0.05 + 1e-6).all()


def test_autoattack_has_more_restarts_under_an_l1_threat() -> None:
    moved = AutoAttack().with_threat(Threat("l1", 12))
    built = AutoAttack(Threat("l1", 12))
    for ours, theirs in zip(moved.stages.values(), built.stages.values(), strict=True):
        assert vars(ours) == vars(theirs)


@pytest.mark.parametrize(("kind", "norm"), [(CW, "linf"), (CW, "l1"), (DeepFool, "l1")])
def test_a_norm_that_an_attack_does_not_work_in_is_refused(kind: Any, norm: Any) -> None:
    with pytest.raises(ValueError, match=f"works in .* alone, got a threat in {norm}"):
        kind(Threat(norm, 0.1))
    with pytest.raises(ValueError, match=f"works in .* alone, got a threat in {norm}"):
        kind().with_threat(Threat(norm, 0.1))


def test_an_ensemble_takes_the_threat_that_one_of_its_attacks_names() -> None:
    threat = Threat("l2", 0.3)
    ensemble = Ensemble({"named": PGD(threat), "left out": APGD()})
    assert ensemble.threat_given
    assert {attack.threat for attack in ensemble.attacks.values()} == {threat}
    with pytest.raises(ValueError, match=r"one threat model, got 2: l2 0\.3, linf 8/255"):
        Ensemble({"a": PGD(threat), "b": PGD(Threat())})


@pytest.mark.parametrize(
    ("threat", "text"),
    [
        (Threat(), "linf 8/255"),
        (Threat("linf", 1.9 / 255), "linf 1.9/255"),
        (Threat("linf", "4/255"), "linf 4/255"),
        (Threat("linf", 0.2), "linf 0.2"),
        (Threat("linf", 0.0), "linf 0"),
        (Threat("l2", "128/255"), "l2 128/255"),
        (Threat("l2", 0.5), "l2 0.5"),
        (Threat("l1", 12), "l1 12"),
        (Threat("l2", 1 / 7), "l2 0.1429"),
    ],
)
def test_a_threat_is_written_as_in_papers(threat: Threat, text: str) -> None:
    assert str(threat) == text


def test_a_step_size_follows_the_threat_it_was_chosen_for() -> None:
    chosen = PGD(Threat("linf", 0.1), steps=5, step_size=0.02)
    assert chosen.with_threat(Threat("linf", 0.2)).step_size == pytest.approx(0.04)
    assert chosen.with_threat(Threat("l2", 2.0)).step_size is None
    left_out = PGD(steps=5, step_size=0.02)
    assert left_out.with_threat(Threat("linf", 0.2)).step_size == 0.02
    assert left_out.with_threat(Threat("l2", 2.0)).step_size is None
    assert (chosen.step_size, left_out.step_size) == (0.02, 0.02)


def test_an_ensemble_without_threats_takes_a_default_that_all_work_in() -> None:
    assert Ensemble({"deepfool": DeepFool(), "pgd": PGD()}).threat == DeepFool.default_threat
    assert Ensemble({"pgd": PGD(), "deepfool": DeepFool()}).threat == PGD.default_threat
    assert Ensemble({"pgd": PGD(), "cw": CW()}).threat == CW.default_threat
