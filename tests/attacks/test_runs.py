"""Runs side by side: in which batches, and that what is found does not depend on them."""

import pytest
import torch
from torch import nn

from lightning_robust.attacks import progress
from lightning_robust.attacks.apgd import APGD
from lightning_robust.attacks.fab import FAB
from lightning_robust.attacks.progress import room_for
from lightning_robust.attacks.runs import Runs
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from tests.helpers.toys import conv_net

X = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def rows(runs, settle=()):
    """The batches, as lists of (sample, run); `settle` is done after the first."""
    out = []
    for row, run in runs:
        out.append(list(zip(row.tolist(), run.tolist(), strict=True)))
        if len(out) == 1:
            for sample, number in settle:
                runs.settle(torch.tensor([sample]), torch.tensor([number]))
    return out


def test_there_is_room_for_the_batch_or_for_more():
    needed = torch.tensor([False, True, True])
    assert rows(Runs(needed, 3)) == [[(1, 0), (2, 0), (1, 1)], [(2, 1), (1, 2), (2, 2)]]
    with room_for(5):
        assert rows(Runs(needed, 3)) == [[(1, 0), (2, 0), (1, 1), (2, 1), (1, 2)], [(2, 2)]]
    with room_for(1):
        assert rows(Runs(needed, 1)) == [[(1, 0), (2, 0)]]
    for b in (3, 0):
        assert rows(Runs(torch.zeros(b, dtype=torch.bool), 3)) == []


def test_a_settled_sample_is_not_run_again():
    assert rows(Runs(torch.ones(2, dtype=torch.bool), 3), settle=[(1, 0)]) == [[(0, 0), (1, 0)], [(0, 1), (0, 2)]]


def test_the_first_run_that_succeeds_counts():
    runs = Runs(torch.ones(2, dtype=torch.bool), 5)
    row, run = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 2, 4, 1, 3])
    runs.settle(row[[2, 4]], run[[2, 4]])
    assert runs.open(row, run).tolist() == [True, True, False, True, False]
    runs.settle(row[[1, 2]], run[[1, 2]])
    assert runs.first.tolist() == [2, 3]
    assert runs.open(row, run).tolist() == [True, False, False, True, False]


def test_whoever_watches_sees_one_count_of_all_batches():
    heard = []
    with progress.listen(lambda done, total: heard.append(done / total)):
        for _ in Runs(torch.ones(4, dtype=torch.bool), 3):
            list(progress.steps(2))
    assert heard == pytest.approx([k / 6 for k in range(1, 7)])


class RowByRow(nn.Module):
    """A net that takes one image at a time: what it says of an image has the same bits in any batch."""

    def __init__(self):
        super().__init__()
        self.net, self.seen = conv_net(8).eval(), []

    def forward(self, x):
        self.seen.append(len(x))
        return torch.cat([self.net(z[None]) for z in x]) if len(x) else self.net(x)


@pytest.fixture(scope="module")
def net():
    return RowByRow()


ATTACKS = {
    **{f"apgd-t {norm}": APGD(Threat(norm, eps), 15, targets=7) for norm, eps in (("linf", 0.01), ("l2", 0.12))},
    "apgd-t l1": APGD(Threat("l1", 1.0), 15, targets=7),
    "apgd-ce restarts": APGD(Threat("linf", 0.012), steps=10, restarts=4),
    "apgd-t restarts": APGD(Threat("linf", 0.01), steps=10, restarts=2, targets=3),
    **{f"fab-t {norm}": FAB(Threat(norm, eps), 15, targets=7) for norm, eps in (("linf", 0.01), ("l2", 0.12))},
    "fab-t restarts": FAB(Threat("linf", 0.01), steps=8, restarts=2, targets=7),
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.slow
def test_what_is_found_does_not_depend_on_the_room(net, name):
    """Bit by bit, with samples that are broken by their first runs, by later ones, and by none."""
    attack, y = ATTACKS[name], net(X).argmax(1)
    found = {}
    for room in (1, 20, 1000):
        with room_for(room):
            found[room] = attack(net, X, y, rng=SampleRNG(0, torch.arange(12)))
    with room_for(1):
        alone = [attack(net, X[i : i + 1], y[i : i + 1], rng=SampleRNG(0, torch.tensor([i]))) for i in range(12)]
    assert 0 < (net(found[1]).argmax(1) != y).sum() < 12  # some are broken, some are not
    for other in (found[20], found[1000], torch.cat(alone)):
        assert torch.equal(found[1], other)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name.startswith("fab")])
def test_neither_do_the_nearest_examples(net, name):
    attack, x, found = ATTACKS[name], X[:6], []
    y = net(x).argmax(1)
    for room in (1, 1000):
        with room_for(room):
            found.append(attack.nearest(net, x, y, rng=SampleRNG(0, torch.arange(6)), enough=0.01))
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_empty_batch_gives_an_empty_batch(net, name):
    assert ATTACKS[name](net, X[:0], torch.zeros(0, dtype=torch.long)).shape == (0, 3, 8, 8)


def test_the_batches_are_full(net):
    """Two samples that nothing breaks, seven targets each, three steps: 1 + 4 passes in one batch of 14 rows."""
    y = net(X).argmax(1)
    net.seen.clear()
    with room_for(14):
        APGD(Threat("linf", 1e-6), steps=3, targets=7)(net, X[:2], y[:2])
    assert net.seen == [2] + [14] * 4
