import itertools

import pytest
import torch
from scipy.stats import kstest

from lightning_robust.runtime.rng import SampleRNG, derive_seed, training_rng
from lightning_robust.types import Batch

KEY = torch.tensor([11, 3, 8, 40_000_000_000, 5])
LIKE = torch.empty(5, 3, 4, 4)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
@pytest.mark.parametrize("part", [[0], [4, 2, 0], [3, 1, 2, 4, 0]])
def test_a_sample_gets_the_same_numbers_in_any_batch(kind, part):
    whole, some = SampleRNG(7, KEY), SampleRNG(7, KEY[part])
    for _ in range(3):
        assert torch.equal(getattr(whole, kind)(LIKE)[part], getattr(some, kind)(LIKE[part]))


def test_selecting_samples_keeps_their_streams_and_position():
    mask = torch.tensor([True, False, True, True, False])
    rng, reference = SampleRNG(7, KEY), SampleRNG(7, KEY)
    rng.uniform(LIKE)
    reference.uniform(LIKE)
    by_mask, by_index = rng[mask].uniform(LIKE[mask]), rng[torch.tensor([0, 2, 3])].uniform(LIKE[:3])
    expected = reference.uniform(LIKE)
    assert torch.equal(by_mask, expected[mask])
    assert torch.equal(by_index, expected[mask])
    assert torch.equal(rng.uniform(LIKE), expected)  # drawing for a part does not advance the whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_have_the_right_law(dtype):
    """The p-values of many tests are themselves uniform: within streams, and across them."""
    like, rng = torch.empty(60, 60, dtype=dtype), SampleRNG(1, torch.arange(60))
    u, z = rng.uniform(like), rng.normal(like)
    assert u.dtype == z.dtype == dtype
    assert u.min() >= 0
    assert u.max() < 1
    for numbers, law in ((u, "uniform"), (u.T, "uniform"), (z, "norm"), (z.T, "norm")):
        p_values = [kstest(row.double(), law).pvalue for row in numbers]
        assert kstest(p_values, "uniform").pvalue > 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_numbers_are_finite_and_below_one(dtype):
    like, rng = torch.empty(50, 400, dtype=dtype), SampleRNG(1, torch.arange(50))
    u, z = rng.uniform(like), rng.normal(like)
    assert u.dtype == z.dtype == dtype
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.double().mean() - 0.5) < 0.01
    assert torch.isfinite(z).all()
    assert abs(z.double().std() - 1) < 0.02


def test_streams_are_independent():
    """Across neighbouring samples, draws, seeds and pixels the correlation is that of chance."""
    n, like = 100, torch.empty(100, 1000)
    first = SampleRNG(0, torch.arange(n))
    u = first.uniform(like)
    others = {
        "next sample": u.roll(1, dims=0),
        "next pixel": u.roll(1, dims=1),
        "sample and pixel swapped": u.roll((1, -1), dims=(0, 1)),
        "next draw": first.uniform(like),
        "next seed": SampleRNG(1, torch.arange(n)).uniform(like),
        "next draw of the next sample": SampleRNG(0, torch.arange(n) + 1).uniform(like),
    }
    for name, v in others.items():
        correlation = torch.corrcoef(torch.stack([u.flatten(), v.flatten()]))[0, 1]
        shifted = name == "next draw of the next sample"
        same = torch.equal(u[1:], v[:-1]) if shifted else (u == v).float().mean() > 1e-3
        assert same == shifted, name  # the only one that must coincide: it is the same stream
        assert abs(correlation) < 4 / (like.numel() ** 0.5), name


def test_memory_format_and_key_type_do_not_matter():
    expected = SampleRNG(7, KEY % 100).uniform(LIKE)
    assert torch.equal(SampleRNG(7, (KEY % 100).int()).uniform(LIKE), expected)
    assert torch.equal(SampleRNG(7, KEY % 100).uniform(LIKE.to(memory_format=torch.channels_last)), expected)


def test_from_global_seed_follows_torchs_seed():
    def drawn(seed):
        torch.manual_seed(seed)
        return [SampleRNG.from_global_seed(LIKE).uniform(LIKE) for _ in range(2)]

    a, b = drawn(3), drawn(4)
    assert torch.equal(torch.stack(a), torch.stack(drawn(3)))
    assert not torch.equal(a[0], a[1])  # a second attack draws anew
    assert not torch.equal(a[0], b[0])


def test_training_draws_without_index_differ_between_seeds_epochs_batches_and_ranks():
    batch = Batch(LIKE, torch.zeros(5, dtype=torch.long))
    places = list(itertools.product((0, 1), repeat=4))  # seed, epoch, batch, rank
    numbers = [training_rng(*place, batch).uniform(LIKE) for place in places]
    assert len({tuple(u.flatten().tolist()) for u in numbers}) == len(places)
    assert torch.equal(numbers[0], training_rng(*places[0], batch).uniform(LIKE))


def test_training_draws_with_index_follow_the_sample_to_another_rank():
    y = torch.zeros(5, dtype=torch.long)
    here = training_rng(0, 1, 2, 0, Batch(LIKE, y, KEY)).uniform(LIKE)
    there = training_rng(0, 1, 2, 1, Batch(LIKE[:2], y[:2], KEY[[3, 1]])).uniform(LIKE[:2])
    assert torch.equal(here[[3, 1]], there)
    for seed, epoch, batch_idx in ((1, 1, 2), (0, 0, 2), (0, 1, 3)):
        assert not torch.equal(here, training_rng(seed, epoch, batch_idx, 0, Batch(LIKE, y, KEY)).uniform(LIKE))


def test_derived_seeds_are_distinct_and_valid_for_torch():
    parts = [*itertools.product(range(6), repeat=3), *itertools.product(range(6), repeat=2), (12, 3), (1, 23)]
    seeds = {derive_seed(*part) for part in parts}
    assert len(seeds) == len(set(parts))
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_what_a_batch_shares_is_uniform_and_the_same_on_all_ranks():
    batch = Batch(LIKE, KEY)
    drawn = []
    for step in range(400):
        on_ranks = [training_rng(1, 0, step, rank, batch) for rank in (0, 1)]
        assert on_ranks[0].shared_uniform() == on_ranks[1].shared_uniform() == on_ranks[0][KEY > 5].shared_uniform()
        assert on_ranks[0].fork(2).shared_uniform() == on_ranks[1].fork(2).shared_uniform()
        drawn.append([on_ranks[0].shared_uniform(), on_ranks[0].fork(2).shared_uniform()])
    both = torch.tensor(drawn, dtype=torch.float64)
    assert kstest(both[:, 0], "uniform").pvalue > 0.01
    assert abs(torch.corrcoef(both.T)[0, 1]) < 0.15
