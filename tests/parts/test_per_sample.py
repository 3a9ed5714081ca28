"""The memory of one number a sample, on one rank and on two."""

import pytest
import torch
from torch import Tensor

from lightning_robust.parts.per_sample import PerSample
from tests.helpers.ddp import process_group, run_ddp

CPU = torch.device("cpu")


def memory(values: list[float]) -> PerSample:
    made = PerSample()
    made.load_state_dict({"values": torch.tensor(values)})
    made.prepare(len(values), CPU)
    return made


def test_it_begins_at_zero_and_remembers() -> None:
    made = PerSample()
    made.prepare(4, CPU)
    made[torch.tensor([2, 0])] = torch.tensor([0.5, 0.25], dtype=torch.float64)
    assert torch.equal(made.values, torch.tensor([0.25, 0.0, 0.5, 0.0]))
    assert torch.equal(made[torch.tensor([0, 0, 1])], torch.tensor([0.25, 0.25, 0.0]))


def test_it_takes_four_bytes_a_sample() -> None:
    made = PerSample()
    made.prepare(1000, CPU)
    assert made.nbytes == 4000


def test_one_rank_exchanges_nothing() -> None:
    made = memory([0.1, 0.2])
    made[torch.tensor([1])] = torch.tensor([0.7])
    before = made.values.clone()
    made.synchronise()
    assert torch.equal(made.values, before)


def test_ranks_exchange_what_each_wrote_and_average_what_several_wrote() -> None:
    def on(rank: int) -> list[Tensor]:
        with process_group():
            made = memory([1.0, 2.0, 3.0, 4.0])
            mine = {0: {0: 0.1, 3: 10.0}, 1: {2: 1 / 3, 3: 20.0}}[rank]
            made[torch.tensor(list(mine))] = torch.tensor(list(mine.values()))
            made.synchronise()
            first = made.values.clone()
            if rank == 0:  # what the last exchange told is not told again
                made[torch.tensor([3])] = torch.tensor([5.0])
            made.synchronise()
            return [first, made.values]

    for first, second in run_ddp(on):
        assert torch.equal(first, torch.tensor([0.1, 2.0, 1 / 3, 15.0]))
        assert torch.equal(second, torch.tensor([0.1, 2.0, 1 / 3, 5.0]))


def test_the_state_is_a_copy() -> None:
    source = memory([0.1, 0.2])
    target = PerSample()
    target.load_state_dict(source.state_dict())
    target.prepare(2, CPU)
    target[torch.tensor([0])] = torch.tensor([9.0])
    assert torch.equal(source.values, torch.tensor([0.1, 0.2]))
    assert torch.equal(target.values, torch.tensor([9.0, 0.2]))


def test_it_lives_where_it_is_told() -> None:
    made = PerSample()
    made.prepare(3, torch.device("meta"))
    assert made.values.device.type == "meta"


def test_another_number_of_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="remembers 2 training samples but the training set has 3"):
        memory([0.1, 0.2]).prepare(3, CPU)
