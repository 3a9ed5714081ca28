"""Splits by class, the labels they need, and the default split as it always was."""

import hashlib
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from lightning_robust.data import Digits
from lightning_robust.data.splits import Part, class_labels, describe_split, stratified_order, train_val_split
from lightning_robust.runtime.rng import derive_seed
from tests.helpers.few import Few
from tests.helpers.foreign import images

RECORDED = [0, 16, 17, 20, 21, 24, 26, 33, 34, 35]


@pytest.mark.parametrize("first", [10, 30, 100, 250])
def test_any_first_part_has_each_classs_share(first: int) -> None:
    counts = torch.tensor([20, 50, 130, 300])
    label = torch.arange(4).repeat_interleave(counts)[torch.randperm(500)]
    order = torch.randperm(500)
    found = stratified_order(order, label)
    assert sorted(found.tolist()) == list(range(500))
    share = torch.bincount(label[found[:first]], minlength=4)
    assert share.tolist() == [pytest.approx(n * first / 500, abs=1.5) for n in counts.tolist()]
    for k in range(4):  # within a class, the permutation decides
        assert found[label[found] == k].tolist() == order[label[order] == k].tolist()


def test_equal_classes_have_exactly_equal_shares_by_chance() -> None:
    label = torch.arange(1000) % 10
    first = stratified_order(torch.randperm(1000), label)[:200]
    other = stratified_order(torch.randperm(1000), label)[:200]
    assert torch.bincount(label[first]).tolist() == [20] * 10
    assert 10 < len({*first.tolist()} & {*other.tolist()}) < 80  # 40 by chance


def test_labels_are_found_where_datasets_keep_them() -> None:
    class With(Dataset[Any]):
        def __init__(self, **attributes: Any) -> None:
            self.__dict__.update(attributes)

        def __getitem__(self, i: int) -> Any:
            pytest.fail("a sample was loaded")

        def __len__(self) -> int:
            return 3

    for name in ("targets", "labels", "label"):
        assert class_labels(With(**{name: [2, 0, 1]})).tolist() == [2, 0, 1]
    tensors = TensorDataset(torch.rand(2, 1), torch.tensor([5, 6]))
    joined = ConcatDataset([With(targets=[2, 0, 1]), tensors])
    assert class_labels(Subset(joined, [3, 1, 0])).tolist() == [5, 0, 2]
    with pytest.raises(ValueError, match="stratified split needs the labels of With: give it an attribute `targets`"):
        class_labels(With())


def test_digits_split_by_class() -> None:
    data = Digits(stratified=True)
    data.setup("fit")
    part, whole = ([int(y) for _, y, _ in s] for s in (data.val_set, data.train_set))
    shares = torch.bincount(torch.tensor(part)) / (torch.bincount(torch.tensor(part + whole)) * 150 / 1347)
    assert (shares - 1).abs().max() < 0.06
    other = Digits(stratified=True, split_seed=1)
    other.setup("fit")
    assert other.val_set.dataset.indices.tolist() != data.val_set.dataset.indices.tolist()


def test_the_default_split_is_the_recorded_one() -> None:
    data = Few(n=30, val_size=10)
    data.setup("fit")
    assert data.val_set.dataset.indices.tolist() == RECORDED
    by_chance = Few(n=30, val_size=10, split_seed=1)
    by_chance.setup("fit")
    assert by_chance.val_set.dataset.indices.tolist() != RECORDED
    assert torch.equal(data.val_set[3][0], images(40).tensors[0][RECORDED[3]])


def test_positions_cost_eight_bytes_each_and_no_list_is_made() -> None:
    """What a loading process copies: of Python's integers it would be 36 bytes each, as often as it runs."""
    data = Few(n=100_000, val_size=10)
    data.setup("fit")
    part = data.train_set.dataset
    assert part.indices.nbytes == 800_000
    assert len(pickle.dumps(part.indices)) < 801_000

    class Strict(Dataset[Any]):
        def __getitem__(self, i: int) -> int:
            assert type(i) is int  # as datasets of others ask for
            return i

        def __len__(self) -> int:
            return 5

    chosen = Part(Strict(), np.array([4, 2]))
    assert [chosen[0], chosen[1]] == chosen.__getitems__([0, 1]) == [4, 2]


def test_the_split_is_that_of_lists() -> None:
    """Written with Python's lists, as it was before; checkpoints name it by this text."""
    for n, size, seed in ((30, 10, 0), (7, 1, 3), (50, 49, 9), (5, 0, 1)):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed(seed))).tolist()
        train, held = train_val_split(range(n), size, seed, stratified=False)
        assert train.tolist() == sorted(order[size:])
        assert held.tolist() == sorted(order[:size])
        digest = hashlib.sha256(repr(sorted(order[:size])).encode()).hexdigest()[:12]
        assert describe_split(held, n) == f"{size} of {n}: {digest}"
