"""Each check of an evaluation speaks up on a net built to trip it, and is silent on sound ones."""

import re
from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_robust.attacks import APGD, FAB, PGD, AutoAttack, Square
from lightning_robust.attacks.base import Attack
from lightning_robust.evaluation import gradient_checks, soundness, strength
from lightning_robust.evaluation.check import Check
from lightning_robust.evaluation.evaluate import Evaluation
from lightning_robust.evaluation.gradient_checks import STEPS, more_steps, zero_gradients
from lightning_robust.evaluation.images import Images
from lightning_robust.evaluation.probe import Probe
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.soundness import examine, examine_all
from lightning_robust.evaluation.verdicts import Verdicts
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Norm, Threat
from tests.helpers.evaluated import evaluated, verdicts
from tests.helpers.spread import spread
from tests.helpers.trained import EPS, distilled_net, held_out, trained_net

N = 64
THREAT = Threat("linf", EPS["linf"])
SILENT = dict.fromkeys(
    [
        *("evaluation_mode", "deterministic", "independent", "logits", "inputs", "gradients"),
        *("more_steps", "huge_radius", "layers", "strength", "black_box"),
    ],
    "pass",
)


class Wrapped(nn.Module):
    """A net with something done to the images before it and to the logits after it."""

    def __init__(
        self, net: nn.Module, before: Callable[[Tensor], Tensor] | None, after: Callable[[Tensor], Tensor] | None
    ) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before or torch.clone, after or torch.clone

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


class Shattered(torch.autograd.Function):
    """Signs of the gradient that mean nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * torch.sin(1e4 * torch.arange(grad.numel())).view_as(grad).sign()


class Turned(torch.autograd.Function):
    """A gradient that leads back, away from the boundary, once the two largest logits come close."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        ctx.save_for_backward(logits)
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        first, second = ctx.saved_tensors[0].topk(2, dim=1).values.split(1, dim=1)
        return torch.where(first - second > 2, grad, -grad)


def wrapped(
    before: Callable[[Tensor], Tensor] | None = None, after: Callable[[Tensor], Tensor] | None = None
) -> nn.Module:
    return Wrapped(trained_net(robust=False), before, after).eval()


def found(net: Any, norm: Norm = "linf", n: int = N, attack: Attack | None = None, **settings: Any) -> list[Check]:
    """What is said of an evaluation by a short APGD."""
    x, y = held_out(n)
    attack = attack or APGD(Threat(norm, EPS[norm]), steps=50)
    standing = net(attack(net, x, y, rng=SampleRNG(1, torch.arange(n)))).argmax(1) == y
    return examine(net, x, y, {"attack": attack}, None, standing, SampleRNG(0, torch.arange(n)), **settings)


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a test asks only for checks that these attacks do not decide."""
    monkeypatch.setattr(gradient_checks, "STEPS", 5)
    monkeypatch.setattr(soundness, "QUERIES", 5)
    monkeypatch.setattr(soundness, "reference", lambda threat, steps=2: strength.reference(threat, 2))


def statuses(checks: list[Check]) -> dict[str, str]:
    assert len({check.name for check in checks}) == len(checks)
    assert all(check.sentence.endswith((".", "?")) for check in checks)
    return {check.name: check.status for check in checks}


@pytest.mark.parametrize(("robust", "norm"), spread([False, True], EPS, one_in=2))
@pytest.mark.slow
def test_silent_on_sound_nets(robust: bool, norm: Norm) -> None:
    assert statuses(found(trained_net(robust), norm, attack=AutoAttack(Threat(norm, EPS[norm]), "rapid"))) == SILENT


def scaled(factor: float) -> nn.Module:
    return wrapped(after=lambda logits: factor * logits)


@pytest.mark.parametrize("scale", [0.02, pytest.param(30.0, marks=pytest.mark.slow), 1e4])
def test_silent_whatever_the_nets_confidence(scale: float) -> None:
    assert statuses(found(scaled(scale), n=16, attack=APGD(THREAT, steps=20, targets=9))) == SILENT


@lru_cache
def truly_standing() -> Tensor:
    """By AutoAttack, at the one scale at which no loss saturates; which class is the highest no scale changes."""
    x, y = held_out(N)
    net, attack = trained_net(robust=False), AutoAttack(THREAT, "rapid")
    return net(attack(net, x, y, rng=SampleRNG(7, torch.arange(N)))).argmax(1) == y


EVALUATIONS: dict[str, Attack] = {
    "pgd": PGD(THREAT, steps=50),
    "margin": PGD(THREAT, steps=50, loss="margin"),
    "apgd": APGD(THREAT, steps=50),
    "short steps": PGD(THREAT, steps=50, step_size=1e-3),
    "rapid": AutoAttack(THREAT, "rapid"),
}


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        pytest.param(name, scale, marks=() if (name, scale) == ("pgd", 8.0) else pytest.mark.slow)
        for name, scale in spread(EVALUATIONS, (8.0, 1.0, 1e-3, 30.0, 1e4), one_in=2)
    ],
)
def test_flagged_where_the_accuracy_is_too_high_and_nowhere_else(name: str, scale: float) -> None:
    """Whatever the scale of the logits."""
    x, y = held_out(N)
    net, attack = scaled(scale), EVALUATIONS[name]
    standing = net(attack(net, x, y, rng=SampleRNG(1, torch.arange(N)))).argmax(1) == y
    gap = float((standing & ~truly_standing()).sum()) / N
    told = statuses(examine(net, x, y, {"attack": attack}, None, standing, SampleRNG(0, torch.arange(N))))
    assert (set(told.values()) != {"pass"}) == (gap > 0.1)


NO_GAIN = {"gradients": "fail", "more_steps": "fail", "huge_radius": "fail"}


@pytest.mark.parametrize(
    ("net", "norm", "attack"),
    spread(
        [trained_net, distilled_net],
        EPS,
        [PGD(steps=50), APGD(steps=50, loss="dlr"), AutoAttack(version="rapid")],
        one_in=3,
    ),
    ids=lambda value: getattr(value, "__name__", type(value).__name__ if isinstance(value, Attack) else value),
)
@pytest.mark.slow
def test_so_too_in_other_norms_and_on_distilled_nets(net: Callable[[], nn.Module], norm: Norm, attack: Attack) -> None:
    threat, (x, y), keys = Threat(norm, EPS[norm]), held_out(N), torch.arange(N)

    def standing(attack: Attack, seed: int) -> Tensor:
        return net()(attack(net(), x, y, rng=SampleRNG(seed, keys))).argmax(1) == y

    left = standing(attack.with_threat(threat), 1)
    gap = float((left & ~standing(AutoAttack(threat, "rapid"), 7)).sum()) / N
    told = statuses(examine(net(), x, y, {"attack": attack.with_threat(threat)}, None, left, SampleRNG(0, keys)))
    flagged = set(told.values()) != {"pass"}
    # the net, and so the gap, differs from processor to processor: between the two either is right
    sure, none = {"linf": (0.12, 0.1), "l2": (0.12, 0.1), "l1": (0.25, 0.15)}[norm]
    assert flagged if gap > sure else not flagged if gap <= none else True


BEFORE_ATTACKS = ["evaluation_mode", "deterministic", "independent", "logits", "inputs"]
BLIND = {**NO_GAIN, "black_box": "fail"}


@pytest.mark.parametrize(
    ("net", "tripped"),
    [
        pytest.param(lambda: scaled(1e7), {**NO_GAIN, "strength": "fail"}, id="saturated head"),
        pytest.param(
            lambda: wrapped(lambda x: (8 * x).round() / 8), BLIND, id="quantised input", marks=pytest.mark.slow
        ),
        pytest.param(
            lambda: wrapped(after=Turned.apply),
            {"more_steps": "fail", "huge_radius": "fail"},
            id="gradients turn back",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: wrapped(after=lambda z: z.softmax(1)),
            {"logits": "fail"},
            id="softmax",
            marks=pytest.mark.filterwarnings("ignore:The net's outputs look like probabilities"),  # attacks say so too
        ),
        pytest.param(
            lambda: deepcopy(trained_net()).train(),
            {"evaluation_mode": "warn"},
            id="training mode",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_tripped(net: Callable[[], nn.Module], tripped: dict[str, str]) -> None:
    """And nothing else is: a check tells of one fault alone."""
    assert statuses(found(net())) == {**SILENT, **tripped}


def test_a_sample_that_a_random_start_breaks_is_no_gain() -> None:
    """On a saturated head such a sample's loss rises, and with it the mean of all."""
    x, y = held_out(200)
    probe = Probe(scaled(1e7), x, y, Threat(eps=0.24), SampleRNG(0, torch.arange(200)), batch_size=200)
    told = more_steps(probe, "ce")
    begin, last = (float(told.sentence.split(what)[0].split()[-1]) for what in (" there", f" after {STEPS}"))
    assert last > begin > 0
    assert (told.name, told.status) == ("more_steps", "fail")


@pytest.mark.slow
def test_gradients_that_mislead_are_not_zero() -> None:
    told = statuses(found(wrapped(Shattered.apply)))
    assert (told["black_box"], told["gradients"]) == ("fail", "pass")
    assert told["strength"] != "fail"  # it warns or not, by the net that this processor trains


@pytest.mark.usefixtures("quick_probes")
def test_one_pixel_without_a_finite_gradient() -> None:
    """The slope of the root is infinite at the digits' black pixels: no attack can move them."""
    told = {check.name: check for check in found(wrapped(torch.sqrt), n=8)}["gradients"]
    assert told.status == "fail"
    assert "the cross-entropy and the margin and the difference of logits ratio" in told.sentence


@pytest.mark.usefixtures("quick_probes")
def test_a_sigmoid_is_a_warning() -> None:
    assert statuses(found(wrapped(after=torch.sigmoid), n=8))["logits"] == "warn"


@pytest.mark.slow
def test_no_random_image_helps_at_a_huge_radius() -> None:
    """A net without gradients errs on most random images, which says nothing of the attack."""
    (told,) = [check for check in found(wrapped(lambda x: (8 * x).round() / 8), n=8) if check.name == "huge_radius"]
    assert re.match(r"(\d+) of \1 samples withstand", told.sentence)


def test_a_net_that_passes_on_no_gradient_at_all() -> None:
    """Its black-box evaluation ends well, so its checks must not end with an error."""
    net = wrapped(after=torch.detach)
    assert statuses(found(net, n=16, attack=PGD(Threat(eps=0.12), steps=0))) == {**SILENT, **BLIND}


@pytest.mark.slow
def test_gradients_that_vanish_on_few_samples_are_a_warning() -> None:
    """The few are those of which the net is most certain."""
    net = wrapped()
    certain = net(held_out(N)[0]).amax(1).sort().values[-4]
    net = wrapped(after=lambda z: torch.where(z.amax(1, keepdim=True) >= certain, z.detach(), z))
    (told,) = [check for check in found(net) if check.name == "gradients"]
    assert told.status == "warn"
    assert re.search(r"exactly zero or not finite on 4 of \d+ samples", told.sentence)


@pytest.mark.usefixtures("quick_probes")
@pytest.mark.parametrize("net", ["dropout", "noise"])
def test_dropout_left_on_and_noise_on_the_images(net: str) -> None:
    """However small the noise is."""
    dropout = wrapped(after=lambda z: nn.functional.dropout(z, 0.3, training=True))
    noise = wrapped(lambda x: x + 0.003 * torch.rand_like(x))
    assert statuses(found({"dropout": dropout, "noise": noise}[net], n=8))["deterministic"] == "fail"


@pytest.mark.usefixtures("quick_probes")
def test_randomness_is_a_warning_where_gradients_are_averaged_over_it() -> None:
    net, (x, y) = wrapped(lambda x: x + 0.05 * torch.rand_like(x)), held_out(8)
    for version, status in (("rand", "warn"), ("rapid", "fail")):
        told = examine(net, x, y, {"aa": AutoAttack(Threat(eps=0.12), version)})
        assert statuses(told)["deterministic"] == status


@pytest.mark.usefixtures("quick_probes")
@pytest.mark.parametrize(("factor", "status"), [(255.0, "fail"), (1.0, "pass"), (1 / 255, "warn")])
def test_images_outside_the_box_or_in_a_corner_of_it(factor: float, status: str) -> None:
    x, y = held_out(8)
    attacks = {"pgd": PGD(Threat(eps=0.1))}
    told = examine(wrapped(lambda x: x / factor), factor * x, y, attacks)
    assert statuses(told)["inputs"] == status


@pytest.mark.usefixtures("quick_probes")
def test_negative_images() -> None:
    x, y = held_out(8)
    negative = examine(trained_net(), x - 0.5, y, {"pgd": PGD(Threat(eps=0.1))})
    assert list(statuses(negative)) == BEFORE_ATTACKS
    assert statuses(negative)["inputs"] == "fail"


@pytest.mark.parametrize(
    ("eps", "steps", "status"),
    [(0.12, 0, "fail"), (0.06, 0, "warn"), pytest.param(0.06, 50, "pass", marks=pytest.mark.slow)],
)
def test_an_attack_that_leaves_much_to_others(eps: float, steps: int, status: str) -> None:
    net = trained_net(robust=False)
    assert statuses(found(net, attack=PGD(Threat(eps=eps), steps=steps))) == {
        **SILENT,
        "strength": status,
    }


def by_hand(**broken: list[int]) -> Samples:
    """An evaluation in which every sample is right to begin with, and these stages broke them."""
    y = torch.zeros(len(next(iter(broken.values()))), dtype=torch.int64)
    return evaluated(y, y, {name: verdicts(torch.tensor(stages)) for name, stages in broken.items()})


@pytest.mark.usefixtures("quick_probes")
@pytest.mark.parametrize(
    ("black", "n", "status"),
    [(1, 10, "pass"), (2, 1000, "pass"), (3, 1000, "warn"), (20, 1000, "warn"), (21, 1000, "fail")],
)
def test_what_the_evaluations_own_black_box_attack_broke_alone(black: int, n: int, status: str) -> None:
    """Square is AutoAttack's stage 3; what another attack's gradients broke too does not count."""
    t = Threat(eps=0.12)
    samples = by_hand(aa=[3] * (black + 2) + [0] * 3 + [-1] * (n - black - 5), pgd=[-1] * n)
    samples.verdicts["pgd"].broken[black : black + 2] = 0
    x, y = held_out(8)
    (*_, told) = examine(trained_net(), x, y, {"aa": AutoAttack(t), "pgd": PGD(t)}, samples)
    assert (told.name, told.status) == ("black_box", status)
    assert f"broke {black} of {n} samples" in told.sentence


def evaluated_by(net: nn.Module, attacks: dict[str, Attack]) -> dict[str, str]:
    """What is said of a real evaluation of 32 samples."""
    x, y = held_out(32)
    index, clean = torch.arange(32), net(x).argmax(1)
    samples = Samples(index, y, clean, index, index, index < 0, Images.of(x))
    run = Evaluation(attacks)
    run.prepare(samples)
    run.run(net, samples, x.device)
    return statuses(examine_all(net, samples, samples, attacks, 32, 0, 32, x.device, here=True))


@pytest.mark.parametrize(("masked", "status"), [(False, "pass"), (True, "fail")])
@pytest.mark.slow
def test_gradients_are_blamed_only_if_no_strong_attack_breaks_what_square_did(masked: bool, status: str) -> None:
    """Of a net with sound gradients Square breaks what a single step does not."""
    net = wrapped((lambda x: (8 * x).round() / 8) if masked else None)
    attacks: dict[str, Attack] = {"fgsm": PGD(THREAT, steps=0), "square": Square(THREAT, queries=200)}
    assert evaluated_by(net, attacks)["black_box"] == status


def straight_through_nothing(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x.clone()


@pytest.mark.parametrize(
    "net",
    [
        pytest.param(lambda: wrapped(after=torch.detach), id="detach"),
        pytest.param(lambda: wrapped(before=straight_through_nothing), id="no_grad"),
        pytest.param(
            lambda: wrapped(after=lambda z: nn.functional.one_hot(z.argmax(1), 10).float() - 0.5), id="argmax"
        ),
    ],
)
@pytest.mark.parametrize("attack", [PGD(THREAT, steps=2), APGD(THREAT, steps=2), FAB(THREAT, steps=2)])
@pytest.mark.usefixtures("quick_probes")
def test_an_evaluation_of_a_net_without_any_gradient_ends_and_fails(
    net: Callable[[], nn.Module], attack: Attack
) -> None:
    with pytest.warns(UserWarning, match="passes on no gradient to its input"):
        told = evaluated_by(net(), {"attack": attack})
    assert {told[name] for name in ("gradients", "more_steps", "huge_radius")} == {"fail"}


def test_other_errors_of_an_attack_are_not_taken_for_a_missing_gradient() -> None:
    class Broken(PGD):
        def _perturb(self, *_: Any) -> Tensor:
            raise RuntimeError("a fault of its own")

    with pytest.raises(RuntimeError, match="a fault of its own"):
        evaluated_by(wrapped(), {"broken": Broken(THREAT)})


def bytes_kept(run: Callable[[], Any]) -> int:
    """How many bytes are kept for backward passes."""
    kept = []

    def pack(x: Tensor) -> Tensor:
        kept.append(x.nbytes)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    return sum(kept)


def test_the_check_of_gradients_keeps_no_more_than_a_step_of_an_attack() -> None:
    x, y = held_out(8)
    probe = Probe(trained_net(), x, y, THREAT, SampleRNG(0, torch.arange(8)), batch_size=8)
    step = bytes_kept(lambda: PGD(THREAT, steps=1)(trained_net(), x, y))
    assert 0 < bytes_kept(lambda: zero_gradients(probe, ["ce"])) <= step


def behind(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer, trained_net(robust=False)).eval()


@pytest.mark.usefixtures("quick_probes")
@pytest.mark.parametrize(
    ("net", "status"),
    [
        (lambda: behind(nn.BatchNorm2d(1, track_running_stats=False)), "warn"),
        (lambda: wrapped(lambda x: x - x.mean(0)), "warn"),
        (lambda: wrapped(after=lambda z: z / z.norm()), "warn"),
        (lambda: behind(nn.InstanceNorm2d(1)), "pass"),
        (lambda: behind(nn.BatchNorm2d(1)), "pass"),
    ],
    ids=["batch norm", "centred images", "scaled logits", "instance norm", "running statistics"],
)
@pytest.mark.parametrize("batch_size", [2, 8])
def test_samples_that_depend_on_their_batch(net: Callable[[], nn.Module], status: str, batch_size: int) -> None:
    x, y = held_out(8)
    told = examine(net(), x, y, {"pgd": PGD(THREAT)}, batch_size=batch_size)
    assert statuses(told)["independent"] == status


def test_the_samples_probed_are_spread_over_the_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    probed = []
    monkeypatch.setattr(soundness, "examine", lambda net, x, *_: probed.append(x[:, 0].tolist()))
    index = torch.arange(100).flip(0)
    samples = Samples(index, index, index, index, index, index < 0, Images.of(index[:, None].float()))
    found = samples[index]
    attacks: dict[str, Attack] = {"pgd": PGD(THREAT)}
    for whole in (samples, found):
        whole.verdicts["pgd"] = Verdicts.initial(whole.clean)
    examine_all(nn.Identity(), samples, found, attacks, 4, 0, 32, index.device, here=True)
    assert probed == [[0, 33, 66, 99]]


@pytest.mark.usefixtures("quick_probes")
@pytest.mark.parametrize("shape", [(64,), (4, 16), (1, 4, 4, 4)], ids=["vectors", "series", "volumes"])
def test_input_of_any_shape_is_checked_as_images_with_the_same_values(shape: tuple[int, ...]) -> None:
    (x, y), rng = held_out(8), SampleRNG(0, torch.arange(8))
    net = wrapped(lambda x: x.reshape(-1, 1, 8, 8))
    as_images, told = (examine(net, values, y, {"pgd": PGD(THREAT)}, rng=rng) for values in (x, x.reshape(-1, *shape)))
    assert told[:-1] == as_images[:-1]
    assert (told[-1].name, told[-1].status) == ("black_box", as_images[-1].status)


def test_an_evaluation_by_black_box_attacks_alone_is_not_held_against_gradients() -> None:
    x, y = held_out(N)
    attacks = {"square": Square(Threat(eps=0.12))}
    told = examine(trained_net(), x, y, attacks, by_hand(square=[0] * N), rng=SampleRNG(0, torch.arange(N)))
    assert statuses(told)["black_box"] == "pass"


def test_with_nothing_to_probe() -> None:
    net, (x, y) = trained_net(), held_out(8)
    attacks = {"pgd": PGD(Threat(eps=0.1))}
    wrong = (net(x).argmax(1) + 1) % 10
    assert list(statuses(examine(net, x, wrong, attacks))) == BEFORE_ATTACKS
    assert examine(net, x[:0], y[:0], attacks) == []
    none_left = examine(net, x, y, attacks, standing=torch.zeros(8, dtype=torch.bool))
    assert statuses(none_left) == SILENT
    assert statuses(examine(net, x, y, {"pgd": PGD(Threat(eps=0.0))})) == SILENT


@pytest.mark.usefixtures("quick_probes")
def test_the_batch_size_changes_nothing() -> None:
    net = wrapped(lambda x: (8 * x).round() / 8)
    assert found(net, n=6, batch_size=4) == found(net, n=6)


@pytest.mark.usefixtures("quick_probes")
def test_the_net_is_left_as_it_was() -> None:
    net = deepcopy(trained_net())
    net.train()
    next(net.parameters()).requires_grad_(False)
    before = deepcopy(net.state_dict())
    with torch.no_grad():
        examine(net, *held_out(8), {"pgd": PGD(Threat(eps=0.1))})
    assert all(module.training for module in net.modules())
    assert [p.requires_grad for p in net.parameters()].count(False) == 1
    assert all(p.grad is None for p in net.parameters())
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
