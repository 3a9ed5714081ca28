"""The corruption error against a hand computation, a definition written another way, in batches and on ranks."""

import json
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from lightning_robust.evaluation.corruption_report import corruption_report
from lightning_robust.metrics import ALEXNET_ERRORS, COMMON_CORRUPTIONS, CorruptionError
from tests.helpers.ddp import process_group, run_ddp

GROUPS = [("clean", 0), ("fog", 1), ("fog", 2), ("snow", 1), ("snow", 2)]
REFERENCE = {"fog": 0.8, "snow": 0.5, "clean": 0.4}


def answers(right: int, wrong: int) -> tuple[Tensor, Tensor]:
    """Logits and labels of so many samples of each kind."""
    y = torch.zeros(right + wrong, dtype=torch.long)
    return torch.eye(2)[torch.tensor([0] * right + [1] * wrong)], y


def sample(n: int = 97, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    y, group = torch.randint(3, (n,), generator=g), torch.randint(len(GROUPS), (n,), generator=g)
    return torch.randn(n, 3, generator=g), y, group


def by_loops(logits: Tensor, y: Tensor, group: Tensor, reference: dict[str, float]) -> dict[str, float]:
    """The definitions of the paper, one sample after the other."""
    error: dict[tuple[str, int], float] = {}
    for k, key in enumerate(GROUPS):
        rows = [i for i in range(len(y)) if int(group[i]) == k]
        error[key] = sum(int(logits[i].argmax()) != int(y[i]) for i in rows) / len(rows)
    clean, out = error["clean", 0], {"clean": error["clean", 0]}
    for c in ("fog", "snow"):
        out[c] = (error[c, 1] + error[c, 2]) / 2
    out["mean"] = (out["fog"] + out["snow"]) / 2
    out["mce"] = sum((error[c, 1] + error[c, 2]) / (2 * reference[c]) for c in ("fog", "snow")) / 2
    gaps = {c: sum(error[c, s] - clean for s in (1, 2)) for c in ("fog", "snow")}
    out["relative_mce"] = sum(gaps[c] / (2 * (reference[c] - reference["clean"])) for c in gaps) / 2
    return out


def test_by_hand() -> None:
    metric = CorruptionError(GROUPS, REFERENCE)
    metric.update(*answers(9, 1), ("clean", 0))
    metric.update(*answers(3, 1), ("fog", 1))  # more samples in one severity do not weigh more
    metric.update(*answers(1, 1), ("fog", 2))
    metric.update(*answers(8, 2), ("snow", 1))
    metric.update(*answers(2, 8), ("snow", 2))
    got = {name: float(value) for name, value in metric.compute().items()}
    fog, snow = (0.25 + 0.5) / 2, (0.2 + 0.8) / 2
    assert got == pytest.approx(
        {
            "fog": fog,
            "snow": snow,
            "mean": (fog + snow) / 2,
            "clean": 0.1,
            "mce": (fog / 0.8 + snow / 0.5) / 2,
            "relative_mce": ((fog - 0.1) / 0.4 + (snow - 0.1) / 0.1) / 2,
        }
    )
    assert metric.counts()["fog", 1] == (3, 4)
    assert metric.counts()["snow", 2] == (2, 10)


def test_uneven_batches_pickled_between_equal_the_definition() -> None:
    s, metric = sample(), CorruptionError(GROUPS, REFERENCE)
    metric.update(*(t[:60] for t in s))
    metric = pickle.loads(pickle.dumps(metric))
    metric.update(*(t[60:] for t in s))
    got = metric.compute()
    assert {k: float(v) for k, v in got.items()} == pytest.approx(by_loops(*s, REFERENCE), rel=1e-5)
    metric.reset()
    metric.update(*sample(seed=1))
    assert float(metric.compute()["mean"]) == pytest.approx(by_loops(*sample(seed=1), REFERENCE)["mean"])


def test_two_ranks_of_which_one_misses_a_group_equal_one() -> None:
    logits, y, group = sample()
    mine = [(group != 3) & (torch.arange(len(y)) % 3 > 0), (group == 3) | (torch.arange(len(y)) % 3 == 0)]

    def on(rank: int) -> Any:
        with process_group():
            metric = CorruptionError(GROUPS, REFERENCE)
            metric.update(logits[mine[rank]], y[mine[rank]], group[mine[rank]])
            return {k: float(v) for k, v in metric.compute().items()}, metric.counts()

    whole = CorruptionError(GROUPS, REFERENCE)
    whole.update(logits, y, group)
    for got, counts in run_ddp(on):
        assert got == pytest.approx(by_loops(logits, y, group, REFERENCE), rel=1e-5)
        assert counts == whole.counts()
        assert sum(n for _, n in counts.values()) == len(y)


def test_forward_gives_the_batch_and_accumulates_all() -> None:
    first, second, metric = sample(), sample(seed=1), CorruptionError(GROUPS)
    metric.update(*first)
    assert float(metric(*second)["mean"]) == pytest.approx(by_loops(*second, REFERENCE)["mean"])
    both = [torch.cat(pair) for pair in zip(first, second, strict=True)]
    assert float(metric.compute()["mean"]) == pytest.approx(by_loops(*both, REFERENCE)["mean"])


def test_what_is_known_decides_what_is_told() -> None:
    def told(*args: Any) -> set[str]:
        metric = CorruptionError(*args)
        metric.update(*answers(1, 1), ("fog", 1))
        got = metric.compute()
        assert got["snow"].isnan()  # nothing was seen of it
        assert got["mean"].isnan()
        return set(got)

    assert told(GROUPS[1:]) == {"fog", "snow", "mean"}
    assert told(GROUPS) == {"fog", "snow", "mean", "clean"}
    assert told(GROUPS, {"fog": 1.0, "snow": 1.0}) == {"fog", "snow", "mean", "clean", "mce"}
    assert told(GROUPS[1:], REFERENCE) == {"fog", "snow", "mean", "mce"}
    assert told(GROUPS, REFERENCE) == {"fog", "snow", "mean", "clean", "mce", "relative_mce"}


def test_the_reference_compared_with_itself_is_one() -> None:
    groups = [("clean", 0), *((name, s) for name in COMMON_CORRUPTIONS for s in range(1, 6))]
    metric = CorruptionError(groups, ALEXNET_ERRORS)
    for group in groups:
        wrong = round(ALEXNET_ERRORS[group[0]] * 10_000)
        metric.update(*answers(10_000 - wrong, wrong), group)
    got = metric.compute()
    assert float(got["mce"]) == pytest.approx(1, abs=1e-4)
    assert float(got["relative_mce"]) == pytest.approx(1, abs=3e-4)


def test_alexnets_errors_are_those_that_others_measured() -> None:
    """RobustBench/robustbench@78fcc9e, model_info/imagenet/corruptions: AlexNet on the first 5,000 images."""
    noise, blur = (0.8816, 0.8883, 0.9172), (0.8220, 0.8308, 0.7872, 0.7957)
    weather, digital = (0.8680, 0.8315, 0.8236, 0.5585), (0.8543, 0.6480, 0.7186, 0.6068)
    for name, error in zip(COMMON_CORRUPTIONS, noise + blur + weather + digital, strict=True):
        assert ALEXNET_ERRORS[name] == pytest.approx(error, abs=0.0065)
        images = ALEXNET_ERRORS[name] * 5 * 50_000
        assert images == pytest.approx(round(images), abs=1e-6)


def test_plots() -> None:
    import matplotlib

    matplotlib.use("agg")
    metric = CorruptionError(GROUPS, REFERENCE)
    metric.update(*sample())
    figure, _ = metric.plot()
    assert figure.get_axes()[0].has_data()
    matplotlib.pyplot.close(figure)


@pytest.mark.parametrize("groups", [[], [("clean", 0)], [("fog", 1), ("fog", 1)]])
def test_groups_that_make_no_sense_are_refused(groups: list[tuple[str, int]]) -> None:
    with pytest.raises(ValueError, match="Groups must be distinct"):
        CorruptionError(groups)


def test_a_reference_without_a_corruption_is_refused() -> None:
    with pytest.raises(ValueError, match=r"The reference has no error for snow\."):
        CorruptionError(GROUPS, {"fog": 0.5})


def test_a_group_that_was_not_announced_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\('fog', 3\) is none of the groups"):
        CorruptionError(GROUPS).update(*answers(1, 1), ("fog", 3))


def test_a_reference_without_errors_is_refused() -> None:
    with pytest.raises(ValueError, match="makes no error under fog, and mCE divides by it: leave the corruption or"):
        CorruptionError([("fog", 1), ("snow", 1)], reference={"fog": 0.0, "snow": 0.5})


def test_a_reference_no_worse_than_on_clean_images_has_no_relative_error() -> None:
    metric = CorruptionError([("clean", 0), ("fog", 1)], reference={"fog": 0.5, "clean": 0.5})
    logits, y = torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1])
    for group in metric.groups:
        metric.update(logits, y, group)
    errors = {name: float(value) for name, value in metric.compute().items()}
    report = corruption_report(metric.counts(), errors, metric.reference, {})
    assert report["relative_mce"] is None
    assert json.loads(json.dumps(report, allow_nan=False))["mce"] == 1.0


def test_groups_in_another_order_keep_their_own_counts() -> None:
    y = torch.tensor([0, 1, 1])
    logits = torch.tensor([[2.0, 1.0]] * 3)
    orders = [("fog", 1), ("snow", 1)], [("snow", 1), ("fog", 1)]
    metrics = MetricCollection({name: CorruptionError(groups) for name, groups in zip("ab", orders, strict=True)})
    for group in orders[0]:
        metrics.update(logits, y, group)
        metrics.update(logits[:1], y[:1], ("fog", 1))
    got = {name: float(value) for name, value in metrics.compute().items()}
    assert got["a_fog"] == got["b_fog"] == pytest.approx(2 / 5)
    assert got["a_snow"] == got["b_snow"] == pytest.approx(2 / 3)


def test_ignored_labels_do_not_count() -> None:
    logits, y = torch.tensor([[2.0, 1.0]] * 4), torch.tensor([0, 1, -1, -1])
    metric = CorruptionError([("fog", 1)], ignore_index=-1)
    metric.update(logits, y, ("fog", 1))
    assert metric.counts() == {("fog", 1): (1, 2)}
    assert float(metric.compute()["fog"]) == 0.5
