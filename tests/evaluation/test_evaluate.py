"""The same verdicts whatever the batches, the ranks and the interruptions, and those of the attacks alone."""

import multiprocessing
import os
import signal
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

from lightning_robust.attacks import APGD, FAB, PGD, Ensemble, Square
from lightning_robust.evaluation.checksums import checksums
from lightning_robust.evaluation.dealing import deal, moves
from lightning_robust.evaluation.evaluate import Evaluation
from lightning_robust.evaluation.fingerprint import fingerprint
from lightning_robust.evaluation.image_store import ImageStore
from lightning_robust.evaluation.images import Images
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.stages import named_stages
from lightning_robust.evaluation.state import State
from lightning_robust.evaluation.verdicts import Verdicts
from lightning_robust.models import SmallConvNet
from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.threat import Threat
from tests.helpers.ddp import process_group, run_ddp
from tests.helpers.trained import EPS, held_out, trained_net

N = 60
CPU = torch.device("cpu")
THREAT = Threat("linf", EPS["linf"])


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


def attacks():
    """AutoAttack's stages, shortened; an attack of its own; and one that looks for the nearest example."""
    parts = {
        "apgd-ce": APGD(THREAT, steps=5),
        "apgd-t": APGD(THREAT, steps=5, targets=2),
        "fab-t": FAB(THREAT, steps=5, targets=2),
        "square": Square(THREAT, queries=40),
    }
    return {"auto": Ensemble(parts), "pgd": PGD(THREAT, steps=3), "fab": FAB(Threat("l2", 0.6), steps=5)}


def collect(rows):
    """These of the held-out samples, in batches of 7."""
    batches, net = [], trained_net()
    x, y = held_out(N)
    for some in torch.split(rows, 7) if len(rows) else ():
        clean = net(x[some]).argmax(1)
        images = Images.of(x[some].detach())
        batches.append(Samples(some, y[some], clean, checksums(x[some], y[some]), some, some < 2, images))
    return Samples.collect(batches)


def evaluated(rows, batch_size=16, save=None, folder=None, **settings):
    """What is found of these samples: by this rank, and by all."""
    samples, run = collect(rows), Evaluation(attacks(), batch_size=batch_size, **settings)
    run.prepare(samples)
    if folder is not None:
        state = State(folder)
        run.seconds = state.restore(samples, run.attacks, 10)
        inner = save or (lambda: None)
        save = lambda: (state.save(samples, run.seconds), inner())  # noqa: E731
    run.run(trained_net(), samples, CPU, save or (lambda: None))
    return samples, run


class Whole(NamedTuple):
    """An evaluation from beginning to end: what it found, how many batches it took, and the state it last saved."""

    samples: Samples
    run: Evaluation
    batches: int
    state: bytes


@cache
def whole():
    count = []
    with tempfile.TemporaryDirectory() as folder:
        samples, run = evaluated(torch.arange(N), folder=Path(folder), save=lambda: count.append(1))
        [file] = Path(folder).iterdir()
        return Whole(samples, run, len(count), file.read_bytes())


@cache
def found():
    return whole().samples.gather()


def assert_same(samples):
    for name in ("index", "y", "clean", "checksum", "shown"):
        assert torch.equal(getattr(samples, name), getattr(found(), name)), name
    assert list(samples.verdicts) == list(attacks())
    for name, expected in found().verdicts.items():
        verdicts = samples.verdicts[name]
        torch.testing.assert_close(verdicts.size, expected.size, rtol=1e-3, atol=1e-5)
        for column in ("done", "broken", "predicted"):
            assert torch.equal(getattr(verdicts, column), getattr(expected, column)), (name, column)


@pytest.mark.slow
def test_the_verdicts_are_those_of_the_attacks_alone():
    net, (x, y), verdicts = trained_net(), held_out(N), found().verdicts
    right = net(x).argmax(1) == y
    assert right.sum() > 40
    for name, attack in attacks().items():
        x_adv = attack(net, x, y, rng=SampleRNG(0, torch.arange(N)))
        stands = right & (net(x_adv).argmax(1) == y)
        assert 5 < stands.sum() < right.sum()
        assert torch.equal(right & verdicts[name].standing, stands)
        assert torch.equal(found().robust([name]), stands)
        broken = verdicts[name].broken >= 0
        assert (verdicts[name].predicted[broken] != y[broken]).all()
    both = torch.stack([right, *(verdicts[name].broken < 0 for name in attacks())]).all(0)
    assert torch.equal(found().robust(), both)


def test_each_stage_breaks_what_it_should():
    net, (x, y), broken = trained_net(), held_out(N), found().verdicts["auto"].broken
    left = torch.nonzero(net(x).argmax(1) == y)[:, 0]
    for number, attack in enumerate(attacks()["auto"].stages.values()):
        x_adv = attack(net, x[left], y[left], rng=SampleRNG(0, left).fork(number))
        wrong = net(x_adv).argmax(1) != y[left]
        assert torch.equal(torch.isin(left[wrong], torch.nonzero(broken == number)[:, 0]), wrong[wrong])
        assert int((broken == number).sum()) == int(wrong.sum())
        left = left[~wrong]


def test_a_nearest_example_counts_within_the_radius_and_is_kept_beyond():
    size, broken = found().verdicts["fab"].size, found().verdicts["fab"].broken
    right = found().clean == found().y
    assert torch.equal(broken >= 0, right & (size <= 0.6))
    assert (size[right] > 0.6).sum() > 3
    assert (size[~right] == 0).all()


@pytest.mark.parametrize("batch_size", [1, 7, N])
@pytest.mark.slow
def test_the_batch_size_does_not_matter(batch_size):
    assert_same(evaluated(torch.arange(N), batch_size)[0].gather())


def test_the_order_does_not_matter():
    assert_same(evaluated(torch.arange(N - 1, -1, -1))[0].gather())


def test_the_seed_does():
    """A short step from a random start: the size shows the start."""
    sizes = []
    for seed in (0, 0, 1):
        samples = collect(torch.arange(N))
        run = Evaluation({"noise": PGD(Threat("l2", 0.8), steps=1, step_size=0.01)}, seed)
        run.prepare(samples)
        run.run(trained_net(), samples, CPU)
        sizes.append(samples.verdicts["noise"].size)
    assert torch.equal(sizes[0], sizes[1])
    assert not torch.equal(sizes[0], sizes[2])


@pytest.mark.parametrize("shares", [slow((0.5, 0.5)), slow((0.1, 0.9)), (0.0, 1.0), slow((0.3, 0.0, 0.7))])
def test_the_ranks_do_not_matter(shares):
    """Whoever holds how many to begin with, also none."""
    trained_net(), found()
    cuts = torch.tensor([0.0, *shares]).cumsum(0).mul(N).round().long().tolist()

    def on(rank):
        torch.set_num_threads(1)
        with process_group():
            samples, run = evaluated(torch.arange(cuts[rank], cuts[rank + 1]))
            return samples.gather(), len(samples), run.seconds

    told = run_ddp(on, ranks=len(shares))
    names = {stage.name for name, attack in attacks().items() for stage in named_stages(name, attack)}
    for samples, _, seconds in told:
        assert_same(samples)
        assert set(seconds) == names
    assert sum(n for _, n, _ in told) == N


def test_survivors_are_dealt_out_evenly():
    """Images move with all that is known of them; nothing is lost or doubled."""

    def on(rank):
        with process_group():
            samples = collect(torch.arange(N) if rank == 0 else torch.arange(0))
            samples.verdicts["pgd"] = Verdicts.initial(-samples.index)
            deal(samples, samples.index % 3 == 0, CPU)
            marked = int((samples.index % 3 == 0).sum())
            whole = torch.equal(samples.x[:], held_out(N)[0][samples.index])
            known = torch.equal(samples.verdicts["pgd"].predicted, -samples.index)
            return marked, whole and known, samples.gather().index

    for marked, whole, index in run_ddp(on, ranks=3):
        assert marked in (6, 7)
        assert whole
        assert torch.equal(index, torch.arange(N))


def test_images_are_let_go_when_nobody_needs_them():
    """Of two ranks, and from a file; those wanted at the end stay, and those that only Square broke, for the checks."""
    stages = attacks()["auto"].stages
    shuffled = {"auto": Ensemble({name: stages[name] for name in ("square", "apgd-ce", "apgd-t", "fab-t")})}
    wanted = torch.tensor([3, 40, 41, 59])

    def run(rows, store, wanted=None):
        samples, evaluation = collect(rows), Evaluation(shuffled, batch_size=16)
        samples.x = Images.of(samples.x[:], store)
        evaluation.prepare(samples)
        evaluation.run(trained_net(), samples, CPU, wanted=wanted)
        return samples

    def on(rank):
        torch.set_num_threads(1)
        with process_group():
            samples = run(torch.arange(40) if rank == 0 else torch.arange(40, N), ImageStore(memory=1000), wanted)
            kept = samples.x.place[:, 0] >= 0
            assert torch.equal(samples.x[kept], held_out(N)[0][samples.index[kept]])
            return samples.gather().verdicts["auto"].broken, samples.index[kept]

    alone = run(torch.arange(N), ImageStore())
    right, broken = alone.right, alone.verdicts["auto"].broken
    assert {int(number) for number in broken} >= {-1, 0, 1}  # also by Square and by APGD
    assert torch.equal(alone.x[:], held_out(N)[0])
    told = run_ddp(on)
    assert all(torch.equal(there, broken) for there, _ in told)
    kept = torch.isin(torch.arange(N), torch.cat([index for _, index in told]))
    needed = torch.isin(alone.index, wanted) | (right & ((broken < 0) | (broken == 0)))
    last = broken == 3  # after it none is let go
    assert torch.equal(kept & ~last, needed & ~last)


@pytest.mark.parametrize("marked", [[0], [5], [9, 0], [0, 0, 7], [3, 3, 3], [10, 2, 0, 1], [1, 0, 0, 0]])
def test_moves_even_out_with_the_fewest_rows(marked):
    after = list(marked)
    moved = list(moves(marked))
    for source, target, number in moved:
        after[source] -= number
        after[target] += number
    assert max(after) - min(after) <= 1
    assert sum(after) == sum(marked)
    share = sum(marked) / len(marked)
    assert sum(number for *_, number in moved) <= sum(max(m - share, 0) for m in marked) + len(marked)


class TestInterrupted:
    @pytest.mark.parametrize("after", [slow(1), 6, slow(11), 17])
    def test_it_goes_on_where_it_was_killed(self, after, tmp_path):
        """In the first stage, in later ones, in another attack: by SIGKILL, after so many batches."""
        trained_net(), found()
        child = multiprocessing.get_context("fork").Process(target=self.killed, args=(after, tmp_path))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        [saved] = [torch.load(path, weights_only=True) for path in tmp_path.glob("*.pt")]
        assert any(verdicts["done"].any() for verdicts in saved["samples"]["verdicts"].values())
        again = []
        samples, _ = evaluated(torch.arange(N), folder=tmp_path, save=lambda: again.append(1))
        assert_same(samples.gather())
        assert len(again) < whole().batches
        assert set(samples.examples["auto"]) == {0, 1}

    @staticmethod
    def killed(after, folder):
        torch.set_num_threads(1)
        left = [after]

        def save():
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        evaluated(torch.arange(N), folder=folder, save=save)

    def test_those_are_several_places(self):
        assert whole().batches > 17

    @pytest.mark.slow
    def test_on_another_number_of_ranks(self, tmp_path):
        trained_net(), found()

        def stopped(rank):
            torch.set_num_threads(1)
            left = [4]

            def save():
                left[0] -= 1
                if not left[0]:
                    raise KeyboardInterrupt

            with process_group():
                try:
                    evaluated(torch.arange(rank, N, 2), 5, folder=tmp_path, save=save)
                except KeyboardInterrupt:
                    return "stopped"

        assert run_ddp(stopped) == ["stopped"] * 2
        assert len(list(tmp_path.glob("*.pt"))) == 2
        again = []
        samples, _ = evaluated(torch.arange(N), 5, folder=tmp_path, save=lambda: again.append(1))
        assert_same(samples.gather())
        every = []
        evaluated(torch.arange(N), 5, save=lambda: every.append(1))
        assert len(again) < len(every) - 4

    def test_what_was_found_of_another_image_does_not_count(self, tmp_path):
        (tmp_path / "saved.pt").write_bytes(whole().state)
        state, fresh = State(tmp_path), collect(torch.arange(N))
        Evaluation(attacks()).prepare(fresh)
        fresh.checksum[:10] += 1
        state.restore(fresh, attacks())
        assert not fresh.verdicts["auto"].done[:10].any()
        assert torch.equal(fresh.verdicts["auto"].done[10:], whole().samples.verdicts["auto"].done[10:])
        state.discard()
        assert not tmp_path.exists()

    def test_half_a_file_is_never_seen(self, tmp_path):
        samples = collect(torch.arange(N))
        state = State(tmp_path)
        state.save(samples, {})
        [file] = tmp_path.iterdir()
        before = file.read_bytes()
        with pytest.raises(Exception, match="pickle"):
            state.save(samples, {"stage": lambda: None})
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]
        assert len(before) < 60 * 200  # of the images nothing is written

    def test_a_file_that_cannot_be_read_counts_as_none(self, tmp_path):
        (tmp_path / "saved.pt").write_bytes(whole().state[:100])
        samples = collect(torch.arange(N))
        Evaluation(attacks()).prepare(samples)
        with pytest.warns(UserWarning, match="Cannot read"):
            assert State(tmp_path).restore(samples, attacks()) == {}
        assert not samples.verdicts["auto"].done.any()

    def test_another_process_may_finish_first(self, tmp_path):
        """It removes what it knows, not what somebody else is writing."""
        samples, folder = collect(torch.arange(N)), tmp_path / "state"
        Evaluation(attacks()).prepare(samples)
        one, other = State(folder), State(folder)
        other._own = folder / "other.pt"
        other._files = {other._own}
        one.save(samples, {})
        other.save(samples, {})
        one.discard()
        assert [path.name for path in folder.iterdir()] == ["other.pt"]
        other.discard()
        assert not folder.exists()
        one.save(samples, {})
        one.discard()
        assert not folder.exists()

    def test_another_clean_prediction_is_another_net(self, tmp_path):
        (tmp_path / "saved.pt").write_bytes(whole().state)
        fresh = collect(torch.arange(N))
        Evaluation(attacks()).prepare(fresh)
        fresh.clean[:10] = (fresh.clean[:10] + 1) % 10
        expected = fresh.clean.clone()
        assert State(tmp_path).restore(fresh, attacks()).keys() == whole().run.seconds.keys()
        assert torch.equal(fresh.clean, expected)
        assert not fresh.verdicts["auto"].done[:10].any()
        x, _ = held_out(N)
        for i, pair in fresh.examples["auto"].items():  # those shown are 0 and 1
            assert torch.equal(pair, torch.stack([x[i], x[i]]))


def test_checksums_tell_images_and_labels_apart():
    x, y = held_out(N)
    told = checksums(x, y)
    assert len(set(told.tolist())) == N
    assert torch.equal(checksums(x[5:9], y[5:9]), told[5:9])
    assert not (checksums(x, y + 1) == told).any()
    nudged = x.clone()
    nudged[:, 0, 0, 0] += 1e-6
    swapped = x.flip(3)
    assert not (checksums(nudged, y) == told).any()
    assert not (checksums(swapped, y) == told).any()


def test_a_fingerprint_is_of_weights_and_settings():
    net, other = trained_net(), trained_net(robust=False)
    nets = [net, other, SmallConvNet(width=8, mean=[0.1], std=[0.5]), nn.Sequential(net, nn.ReLU())]
    nets[2].load_state_dict(net.state_dict())  # its mean is not in there
    settings = [{"a": 0, "b": 1}, {"b": 1, "a": 0}, {"a": 1, "b": 1}]  # an ensemble's order decides, too
    names = {fingerprint(n, {"seed": 0}) for n in nets} | {fingerprint(net, s) for s in settings}
    assert len(names) == 7
    assert fingerprint(net, {"seed": 0}) in names


def test_a_search_in_bf16_claims_nothing_that_fp32_denies():
    samples, _ = evaluated(torch.arange(N), precision="bf16")
    gaps = [int((samples.verdicts[k].standing != v.standing).sum()) for k, v in found().verdicts.items()]
    assert max(gaps) <= 6
    ours, fp32 = ({k: torch.stack(list(v.values())) for k, v in r.examples.items()} for r in (samples, whole().samples))
    assert not torch.equal(ours["pgd"], fp32["pgd"])  # it was another search
    assert torch.equal(ours["fab"], fp32["fab"])  # which searches in fp32 all the same


class Cheat(PGD):
    def __call__(self, net, x, target, **settings):
        return (x + 0.2).clamp(0, 1)


def test_an_attack_that_leaves_its_threat_model_is_refused():
    samples, run = collect(torch.arange(N)), Evaluation({"cheat": Cheat(THREAT)})
    run.prepare(samples)
    with pytest.raises(ValueError, match=r"'cheat' left its threat model: a perturbation of linf size 0\.2"):
        run.run(trained_net(), samples, CPU)


def test_an_example_comes_from_the_rank_that_holds_the_sample():
    alone = whole().samples.examples

    def on(rank):
        torch.set_num_threads(1)
        with process_group():
            samples, _ = evaluated(torch.arange(0, 2) if rank == 0 else torch.arange(2, N))
            assert all(set(pairs) <= set(samples.index.tolist()) for pairs in samples.examples.values())
            return samples.gather().examples

    for examples in run_ddp(on):
        for name in attacks():
            assert set(examples[name]) == {0, 1}
            for index, pair in examples[name].items():
                torch.testing.assert_close(pair, alone[name][index], rtol=0, atol=1e-5)
