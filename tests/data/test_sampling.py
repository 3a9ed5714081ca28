from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from lightning_robust.data import EpochSampler, Indexed, ResumableLoader

N = 23


class Noisy(Dataset):
    """Item i is (i + random augmentation, i % 4, something else)."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return i + torch.rand(2), i % 4, "extra"


def sampler(seed=0, world_size=1, rank=0, epoch=0):
    made = EpochSampler(Noisy(), seed, world_size, rank)
    made.set_epoch(epoch)
    return made


def loader(epoch=0, workers=0, batch_size=4, **kwargs):
    made = sampler(epoch=epoch, **kwargs)
    return ResumableLoader(Indexed(Noisy()), batch_size, sampler=made, num_workers=workers)


def positions(batches):
    return [int(i) for _, _, index in batches for i in index]


def test_indexed_adds_the_position():
    data = TensorDataset(torch.rand(5, 2), torch.arange(5))
    assert len(Indexed(data)) == 5
    for i in (0, 4):
        x, y, index = Indexed(data)[i]
        assert torch.equal(x, data[i][0])
        assert (y, index) == (i, i)


def test_augmentation_depends_on_the_seed_alone_and_leaves_the_generator_alone():
    data = Indexed(Noisy())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a = data[3, 77][0]
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(data[3, 77][0], a)
    assert not torch.equal(data[3, 78][0], a)


def test_the_generator_comes_back_also_after_an_error():
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="unpack"):
        Indexed([(1,)])[0, 5]
    assert torch.equal(torch.get_rng_state(), state)


def test_an_epoch_is_a_permutation_made_of_seed_and_epoch():
    order = [i for i, _ in sampler()]
    assert sorted(order) == list(range(N))
    assert order == [i for i, _ in sampler()]
    others = [[i for i, _ in sampler(seed=1)], [i for i, _ in sampler(epoch=1)]]
    assert order not in others
    assert others[0] != others[1]
    assert len({seed for epoch in range(3) for _, seed in sampler(epoch=epoch)}) == 3 * N  # augmentation is always new


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_share_each_global_batch_without_repeating(world_size):
    ranks = [list(sampler(world_size=world_size, rank=rank, epoch=2)) for rank in range(world_size)]
    assert {len(keys) for keys in ranks} == {N // world_size} == {len(sampler(world_size=world_size))}
    dealt = [key for row in zip(*ranks, strict=True) for key in row]
    assert dealt == list(sampler(epoch=2))[: len(dealt)]  # the very order, and the very augmentation, of one process
    assert max(Counter(dealt).values()) == 1


@pytest.mark.parametrize("skipped", range(7))
def test_a_loader_goes_on_where_its_state_was_taken(skipped):
    whole = list(loader(epoch=3))
    first = loader(epoch=3)
    assert positions(islice(first, skipped)) == positions(whole[:skipped])
    state = first.state_dict()
    assert state == {"epoch": 3, "batches": min(skipped, 6)}
    second = loader(epoch=3)
    second.load_state_dict(state)
    rest = list(second)
    expected = whole[skipped:] if skipped < 6 else whole  # the state of a finished epoch is that of a fresh one
    assert positions(rest) == positions(expected)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(rest, expected, strict=True))  # augmentation included
    assert len(list(second)) == 6  # the next epoch is whole again


def test_the_state_of_another_epoch_is_ignored():
    resumed = loader(epoch=1)
    resumed.load_state_dict({"epoch": 0, "batches": 2})
    assert positions(resumed) == positions(loader(epoch=1))


def test_a_resumed_loader_reports_its_place_in_the_epoch():
    resumed = loader(epoch=1)
    resumed.load_state_dict({"epoch": 1, "batches": 2})
    assert resumed.state_dict() == {"epoch": 1, "batches": 2}  # saved again before it went on
    next(iter(resumed))
    assert resumed.state_dict() == {"epoch": 1, "batches": 3}
    assert len(list(resumed.sampler)) == N  # the sampler itself skips once only


def test_skipped_samples_are_not_loaded():
    loaded = []

    class Counting(Noisy):
        def __getitem__(self, i):
            loaded.append(i)
            return super().__getitem__(i)

    resumed = ResumableLoader(Indexed(Counting()), 4, sampler=sampler())
    resumed.load_state_dict({"epoch": 0, "batches": 5})
    assert positions(resumed) == loaded
    assert len(loaded) == N - 20


def test_worker_processes_change_nothing():
    alone, helped = list(loader(epoch=2)), list(loader(epoch=2, workers=2))
    assert all(torch.equal(a, b) for one, two in zip(alone, helped, strict=True) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("key", [np.int64(3), torch.tensor(3), -20])
def test_indexed_takes_any_integer(key):
    x, y, index = Indexed(TensorDataset(torch.arange(N), torch.arange(N)))[key]
    assert (int(x), int(y), index) == (3, 3, 3)


def test_indexed_ends():
    with pytest.raises(IndexError):
        Indexed(Noisy())[N]
    assert len(list(Indexed(TensorDataset(torch.arange(N), torch.arange(N))))) == N


@pytest.mark.parametrize(
    ("batch_size", "world_size", "left"), [(11, 1, 22), (10, 1, 23), (5, 2, 10), (1, 1, 23), (23, 1, 23)]
)
def test_a_last_batch_of_one_sample_sits_out(batch_size, world_size, left):
    """23 samples: batch norms refuse a batch of one."""
    ranks = [EpochSampler(Noisy(), 0, world_size, rank, batch_size) for rank in range(world_size)]
    assert [len(rank) for rank in ranks] == [left] * world_size
    keys = [key for rank in ranks for key, _ in rank]
    assert len(set(keys)) == len(keys) == left * world_size
    assert len(EpochSampler(TensorDataset(torch.zeros(1)), 0, 1, 0, 4)) == 1
