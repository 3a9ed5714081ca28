"""Every metric against a definition written another way, in batches, on ranks, pickled and reset."""

import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lightning_robust.metrics import AttackSuccessRate, EffectiveMargin, PerturbationNorm, RobustAccuracy
from tests.helpers.ddp import process_group, run_ddp
from tests.helpers.toys import linear_net


def fixed_net() -> nn.Module:
    return linear_net(
        torch.randn(4, 12, generator=torch.Generator().manual_seed(3)), torch.tensor([0.1, 0.0, 0.2, -0.1])
    )


def sample(n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, 2, 2, generator=g)
    return {
        "x": x,
        "x_adv": (x + 0.2 * torch.rand(n, 3, 2, 2, generator=g) - 0.1).clamp(0, 1),
        "y": torch.randint(4, (n,), generator=g),
        "logits": torch.randn(n, 4, generator=g),
        "a": torch.randn(n, 4, generator=g),
        "b": torch.randn(n, 4, generator=g),
    }


NORMS = ("linf", "l2", "l1")

# name -> (metric, how a batch is handed to it)
CASES: dict[str, tuple[Callable[[], Metric], Callable[[Any, dict[str, torch.Tensor]], None]]] = {
    "robust_accuracy": (
        lambda: RobustAccuracy(["a", "b"]),
        lambda m, s: m.update(s["logits"], {"a": s["a"], "b": s["b"]}, s["y"]),
    ),
    "attack_success_rate": (AttackSuccessRate, lambda m, s: m.update(s["logits"], s["a"], s["y"])),
    "perturbation_norm": (lambda: PerturbationNorm("l2"), lambda m, s: m.update(s["x_adv"], s["x"])),
    "effective_margin": (EffectiveMargin, lambda m, s: m.update(fixed_net(), s["x"], s["y"])),
}
every_metric = pytest.mark.parametrize(("make", "feed"), CASES.values(), ids=CASES)


def part(s: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
    return {k: v[rows] for k, v in s.items()}


def whole(make: Any, feed: Any, s: dict[str, torch.Tensor]) -> Any:
    metric = make()
    feed(metric, s)
    return metric.compute()


@every_metric
def test_in_uneven_batches_pickled_between_equals_all_at_once(make: Any, feed: Any) -> None:
    s, metric = sample(11), make()
    feed(metric, part(s, slice(7)))
    metric = pickle.loads(pickle.dumps(metric))
    feed(metric, part(s, slice(7, 11)))
    torch.testing.assert_close(metric.compute(), whole(make, feed, s))


@every_metric
def test_two_ranks_with_an_odd_number_of_samples_equal_one(make: Any, feed: Any) -> None:
    s = sample(11)

    def on(rank: int) -> Any:
        with process_group():
            metric = make()
            feed(metric, part(s, slice(rank, None, 2)))  # 6 and 5 samples
            return metric.compute()

    for got in run_ddp(on):
        torch.testing.assert_close(got, whole(make, feed, s))


@every_metric
def test_reset_forgets(make: Any, feed: Any) -> None:
    metric = make()
    feed(metric, sample(5, seed=1))
    metric.reset()
    feed(metric, sample(11))
    torch.testing.assert_close(metric.compute(), whole(make, feed, sample(11)))


@every_metric
def test_forward_gives_the_batch_and_accumulates_all(make: Any, feed: Any) -> None:
    first, second, metric = sample(5, seed=1), sample(11), make()
    feed(metric, first)

    def forward(m: Any) -> Any:
        class Caller:
            def update(self, *args: Any) -> None:
                self.value = m(*args)

        caller = Caller()
        feed(caller, second)
        return caller.value

    torch.testing.assert_close(forward(metric), whole(make, feed, second))
    both = {k: torch.cat([first[k], second[k]]) for k in first}
    torch.testing.assert_close(metric.compute(), whole(make, feed, both))


@every_metric
def test_plots(make: Any, feed: Any) -> None:
    import matplotlib

    matplotlib.use("agg")
    metric = make()
    feed(metric, sample(11))
    figure, _ = metric.plot()
    assert figure.get_axes()[0].has_data()
    matplotlib.pyplot.close(figure)


def test_robust_accuracy_agrees_with_torchmetrics_and_its_worst_case_is_per_sample() -> None:
    s = sample(200)
    got = whole(*CASES["robust_accuracy"], s)
    for name, logits in {"clean": s["logits"], "a": s["a"], "b": s["b"]}.items():
        accuracy = MulticlassAccuracy(4, average="micro")
        assert got[name] == accuracy(logits, s["y"])
    right = [all(int(s[k][i].argmax()) == int(s["y"][i]) for k in ("logits", "a", "b")) for i in range(200)]
    assert float(got["worst"]) == pytest.approx(sum(right) / 200)
    assert got["worst"] < min(got["clean"], got["a"], got["b"])  # not the least of the accuracies


def test_robust_accuracy_counts_are_whole_numbers_over_all_ranks() -> None:
    y = torch.zeros(7, dtype=torch.long)
    right, wrong = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    clean = torch.stack([right, right, right, right, right, wrong, wrong])
    a = torch.stack([right, right, wrong, wrong, wrong, wrong, right])

    def on(rank: int) -> Any:
        with process_group():
            metric, mine = RobustAccuracy(["a"]), slice(rank, None, 2)
            metric.update(clean[mine], {"a": a[mine]}, y[mine])
            before = metric.counts(), metric.counts()  # asking does not change what is counted
            return before, {k: float(v) for k, v in metric.compute().items()}

    for (counts, again), accuracies in run_ddp(on):
        assert counts == again == {"clean": 5, "a": 3, "worst": 2, "n": 7}
        assert accuracies == pytest.approx({"clean": 5 / 7, "a": 3 / 7, "worst": 2 / 7})


def test_robust_accuracy_counts_past_the_whole_numbers_of_float32() -> None:
    metric = RobustAccuracy(["a"])
    metric.correct += 2**24
    metric.total += 2**24
    logits, y = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    metric.update(logits, {"a": logits}, y)
    assert metric.counts()["n"] == 2**24 + 1  # a float32 counter stays at 2**24


@pytest.mark.parametrize("names", [["clean"], ["worst"], ["n"], ["a", "a"]])
def test_robust_accuracy_refuses_names_that_clash(names: list[str]) -> None:
    with pytest.raises(ValueError, match="distinct names"):
        RobustAccuracy(names)


def test_robust_accuracy_refuses_other_attacks_than_announced() -> None:
    s = sample(3)
    with pytest.raises(ValueError, match=r"attacks \['a', 'b'\], got \['a'\]"):
        RobustAccuracy(["a", "b"]).update(s["logits"], {"a": s["a"]}, s["y"])


def test_attack_success_rate_counts_only_samples_right_before() -> None:
    y = torch.zeros(5, dtype=torch.long)
    right, wrong = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    metric = AttackSuccessRate()
    metric.update(torch.stack([right, right, right, wrong, wrong]), torch.stack([right, wrong, wrong, wrong, right]), y)
    assert float(metric.compute()) == pytest.approx(2 / 3)


def test_attack_success_rate_without_a_right_answer_is_nan() -> None:
    metric = AttackSuccessRate()
    metric.update(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
    assert metric.compute().isnan()


@pytest.mark.parametrize(("norm", "sizes"), [("linf", [0.5, 0.1]), ("l2", [0.5**0.5, 0.2]), ("l1", [1.0, 0.4])])
def test_perturbation_norm_by_hand(norm: Any, sizes: list[float]) -> None:
    x = torch.full((2, 1, 2, 2), 0.4)
    x_adv = x + torch.tensor([[0.5, -0.5, 0.0, 0.0], [0.1, 0.1, -0.1, 0.1]]).view(2, 1, 2, 2)
    metric = PerturbationNorm(norm)
    metric.update(x_adv, x)
    got = metric.compute()
    assert float(got["mean"]) == pytest.approx(sum(sizes) / 2)
    assert float(got["max"]) == pytest.approx(max(sizes))


def test_no_two_metrics_of_a_collection_share_what_they_count() -> None:
    """Pairs of one metric with other settings, which agree on the first batch, against each alone."""
    s = sample(11)
    first = {**part(s, slice(3)), "x_adv": s["x"][:3]}  # no perturbation, and the clean logits under every attack
    first["a"] = first["b"] = first["logits"]
    first["y"] = first["logits"].argmax(1)
    makers: dict[str, tuple[Callable[[], Metric], Callable[[Any, dict[str, torch.Tensor]], None]]] = {
        **{f"norm {norm}": (lambda norm=norm: PerturbationNorm(norm), CASES["perturbation_norm"][1]) for norm in NORMS},
        **{
            f"{name} {ignored}": (lambda kind=kind, ignored=ignored: kind(ignore_index=ignored), feed)
            for ignored in (None, -1, 2)
            for name, kind, feed in (
                ("rate", AttackSuccessRate, CASES["attack_success_rate"][1]),
                ("accuracy", lambda **given: RobustAccuracy(["a", "b"], **given), CASES["robust_accuracy"][1]),
                ("margin", EffectiveMargin, CASES["effective_margin"][1]),
                ("margin of one", lambda **given: EffectiveMargin(1, **given), CASES["effective_margin"][1]),
            )
        },
    }
    for one, other in itertools.combinations(makers, 2):
        (make, feed), (make_other, feed_other) = makers[one], makers[other]
        if feed is not feed_other:
            continue  # not updated with the same arguments
        together = MetricCollection({"one": make(), "other": make_other()})
        for part_of in (first, s):
            feed(together, part_of)
        alone = {}
        for name, maker in {"one": make, "other": make_other}.items():
            metric = maker()
            for part_of in (first, s):
                feed(metric, part_of)
            alone[name] = metric.compute()
        flat = {
            f"{name}{f'_{key}' if key else ''}": value
            for name, values in alone.items()
            for key, value in (values if isinstance(values, dict) else {"": values}).items()
        }
        got = {name: float(value) for name, value in together.compute().items()}
        assert got == pytest.approx({name: float(value) for name, value in flat.items()}, nan_ok=True), (one, other)


@every_metric
def test_an_empty_batch_changes_nothing(make: Any, feed: Any) -> None:
    s, metric = sample(11), make()
    feed(metric, part(s, slice(0)))
    feed(metric, s)
    feed(metric, part(s, slice(0)))
    torch.testing.assert_close(metric.compute(), whole(make, feed, s))


@every_metric
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")  # torchmetrics says so
@pytest.mark.parametrize("empty", [False, True])
def test_what_no_sample_tells_is_nan(make: Any, feed: Any, empty: bool) -> None:
    metric = make()
    if empty:
        feed(metric, part(sample(3), slice(0)))
    value = metric.compute()
    assert all(v.isnan() for v in (value.values() if isinstance(value, dict) else [value]))


@pytest.mark.parametrize("name", ["robust_accuracy", "attack_success_rate", "effective_margin"])
@pytest.mark.parametrize(
    "change", [lambda y: y[:, None], lambda y: nn.functional.one_hot(y, 4), lambda y: y[1:], lambda y: y.float()]
)
def test_labels_of_another_shape_are_refused(name: str, change: Any) -> None:
    make, feed = CASES[name]
    s = sample(5)
    with pytest.raises(ValueError, match=r"Labels must be class numbers or .* of 5 samples, got .*: squeeze them"):
        feed(make(), {**s, "y": change(s["y"])})


@pytest.mark.parametrize("ignored", [2, -100])
def test_ignored_labels_do_not_count(ignored: int) -> None:
    s = sample(40)
    s["y"][::3] = ignored
    counts = s["y"] != ignored
    rest = {name: value[counts] for name, value in s.items()}
    for kind, name in (
        (lambda **given: RobustAccuracy(["a", "b"], **given), "robust_accuracy"),
        (AttackSuccessRate, "attack_success_rate"),
        (EffectiveMargin, "effective_margin"),
    ):
        feed = CASES[name][1]
        torch.testing.assert_close(
            whole(lambda kind=kind: kind(ignore_index=ignored), feed, s), whole(kind, feed, rest)
        )
