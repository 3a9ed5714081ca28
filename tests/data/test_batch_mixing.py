"""MixUp and CutMix of training batches: the authors' numbers, what is drawn, and where it acts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import yaml
from lightning.pytorch import Callback
from torch import Tensor, nn
from torchvision.transforms import v2

from lightning_robust.attacks import PGD
from lightning_robust.cli.main import main
from lightning_robust.data import CIFAR10, BatchMixing
from lightning_robust.defenses import AT, IAAT, MART, ST, TRADES, Standard
from lightning_robust.utils.batch_reader import as_batch
from tests.defenses.test_golden import FOLDER, GOLDEN
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, plain_net
from tests.helpers.files import checksums_of, write_cifar10
from tests.helpers.foreign import ForeignModule

MODERN: dict[str, Any] = torch.load(FOLDER / "modern.pt", weights_only=True)
TARGETS: dict[str, Any] = MODERN["singh_targets"]
X, Y = (MODERN.get(name, GOLDEN[name]) for name in ("x", "y"))
K = TARGETS["soft_mixup"].shape[1]


def batch(b: int = 6, k: int = 5, c: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(b)
    return torch.rand(b, c, 8, 10, generator=generator), torch.arange(b) % k


# ----------------------------------------------------------------------------------------------------- the authors' own


def recorded_share(soft: Tensor, own: int, other: int) -> float:
    """Lambda, which a smoothed and mixed label of two classes tells."""
    high, low = float(soft[own]), float(soft[other])
    rest = TARGETS["label_smoothing"] / K
    return (high - rest) / (high + low - 2 * rest)


def pairs() -> list[tuple[int, int]]:
    """Samples and their partners, timm's: the batch in reverse order."""
    n = len(TARGETS["soft_mixup"])
    found = [(i, n - 1 - i) for i in range(n)]
    assert any(Y[i] != Y[j] for i, j in found)
    return found


def test_mixup_gives_the_images_and_labels_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = [recorded_share(TARGETS["soft_mixup"][i], int(Y[i]), int(Y[j])) for i, j in pairs() if Y[i] != Y[j]]
    assert max(shares) - min(shares) < 1e-6  # one for the batch
    monkeypatch.setattr(v2.MixUp, "make_params", lambda self, images: {"lam": shares[0]})
    mixing = BatchMixing(TARGETS["mixup_alpha"], 0, label_smoothing=TARGETS["label_smoothing"])
    for i, j in pairs():
        x, y = mixing(X[[i, j]], Y[[i, j]], num_classes=K)  # each is the other's neighbour
        torch.testing.assert_close(x[0], TARGETS["x_mixup"][i], rtol=0, atol=1e-6)
        torch.testing.assert_close(y[0], TARGETS["soft_mixup"][i], rtol=0, atol=1e-6)


def test_cutmix_gives_the_images_and_labels_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = (TARGETS["x_cutmix"] != X[: len(TARGETS["x_cutmix"])]).any(0).any(0).nonzero()
    (top, left), (bottom, right) = changed.amin(0).tolist(), (changed.amax(0) + 1).tolist()
    share = 1 - (bottom - top) * (right - left) / (X.shape[2] * X.shape[3])
    given = {"box": (left, top, right, bottom), "lam_adjusted": share}
    monkeypatch.setattr(v2.CutMix, "make_params", lambda self, images: given)
    mixing = BatchMixing(0, TARGETS["cutmix_alpha"], label_smoothing=TARGETS["label_smoothing"])
    for i, j in pairs():
        x, y = mixing(X[[i, j]], Y[[i, j]], num_classes=K)
        torch.testing.assert_close(x[0], TARGETS["x_cutmix"][i], rtol=0, atol=0)
        torch.testing.assert_close(y[0], TARGETS["soft_cutmix"][i], rtol=0, atol=1e-6)


# -------------------------------------------------------------------------------------------------------- what is drawn


def share_of(y: Tensor) -> float:
    return float(y[1, 1])


def test_mixup_is_a_convex_combination_whose_share_is_distributed_as_beta() -> None:
    x, y = torch.rand(3, 1, 2, 2, dtype=torch.float64), torch.arange(3)
    shares = []
    for seed in range(3000):
        mixed, soft = BatchMixing(0.8, 0)(x, y, num_classes=3, seed=seed)
        share = share_of(soft)
        assert (mixed - share * x - (1 - share) * x.roll(1, 0)).abs().max() < 1e-12
        shares.append(share)
    assert scipy.stats.kstest(shares, scipy.stats.beta(0.8, 0.8).cdf).pvalue > 0.01
    assert scipy.stats.kstest(shares, scipy.stats.beta(1.0, 1.0).cdf).pvalue < 1e-3  # it tells one alpha from the next


def test_cutmix_puts_in_a_box_of_the_share_in_the_label() -> None:
    x, y = torch.rand(6, 1, 40, 30), torch.arange(6)
    shares = []
    for seed in range(1000):
        mixed, soft = BatchMixing(0, 1)(x, y, num_classes=6, seed=seed)
        inside = (mixed != x).any(1)
        assert torch.equal(inside, inside[:1].expand_as(inside))  # one box for all
        assert torch.equal(mixed, torch.where(inside[:, None], x.roll(1, 0), x))
        assert share_of(soft) == pytest.approx(1 - float(inside[0].float().mean()), abs=1e-6)
        rows, columns = inside[0].any(1).sum(), inside[0].any(0).sum()
        assert inside[0].sum() == rows * columns
        shares.append(share_of(soft))
    timm = pytest.importorskip("timm.data.mixup")
    np.random.seed(0)  # noqa: NPY002  # timm draws from the global generator
    lams = np.random.beta(1, 1, 4000)  # noqa: NPY002
    theirs = [timm.cutmix_bbox_and_lam(x.shape, lam)[1] for lam in lams]
    assert scipy.stats.ks_2samp(shares, theirs).pvalue > 0.01


def test_how_often_which_of_them_is_drawn() -> None:
    x, y = batch()
    mixing = BatchMixing(1.0, 1.0, prob=0.6, switch_prob=0.25)
    count = {"none": 0, "cut": 0, "up": 0}
    for seed in range(400):
        mixed, soft = mixing(x, y, num_classes=6, seed=seed)
        if torch.equal(soft, torch.eye(6)[y]):
            count["none"] += 1
            assert torch.equal(mixed, x)
        else:
            count["cut" if ((mixed == x) | (mixed == x.roll(1, 0))).all() else "up"] += 1
    for name, share in {"none": 0.4, "cut": 0.15, "up": 0.45}.items():
        slack = 0.04 if name != "up" else 0  # boxes of no pixel count as none
        low, high = scipy.stats.binom(400, share).ppf([0.001, 0.999]) / 400
        assert low - slack <= count[name] / 400 <= high + slack, count


def test_the_seed_decides_and_the_generator_stays() -> None:
    x, y = batch()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    a, b = (BatchMixing()(x, y, num_classes=6, seed=8)[0] for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)
    c = BatchMixing()(x, y, num_classes=6)[0]
    torch.manual_seed(3)
    assert torch.equal(c, BatchMixing()(x, y, num_classes=6)[0])
    assert not torch.equal(a, c)


# --------------------------------------------------------------------------------------------------------------- labels


def test_labels_are_smoothed_before_and_soft_ones_are_mixed_too() -> None:
    x, y = batch()
    soft = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)).softmax(1)
    _, found = BatchMixing(1.0, 0, label_smoothing=0.2)(x, soft, seed=1)
    share = float(BatchMixing(1.0, 0)(x, torch.arange(6), num_classes=6, seed=1)[1][0, 0])
    smooth = 0.8 * soft + 0.2 / 5
    torch.testing.assert_close(found, share * smooth + (1 - share) * smooth.roll(1, 0), rtol=0, atol=1e-6)
    alone = BatchMixing(0, 0, label_smoothing=0.3)(x, y, num_classes=5, seed=0)
    assert torch.equal(alone[0], x)
    torch.testing.assert_close(alone[1], 0.7 * torch.eye(5)[y] + 0.3 / 5)
    assert BatchMixing()(x.double(), y, num_classes=5)[1].dtype == torch.float64


@pytest.mark.parametrize("b", [1, 2, 3, 7])
@pytest.mark.parametrize("alphas", [(1.0, 0.0), (0.0, 1.0)])
def test_batches_of_any_size(b: int, alphas: tuple[float, float]) -> None:
    x, y = batch(b)
    mixed, soft = BatchMixing(*alphas)(x, y, num_classes=5, seed=4)
    assert soft.shape == (b, 5)
    torch.testing.assert_close(soft.sum(1), torch.ones(b))
    if b == 1:  # it is its own partner
        torch.testing.assert_close(mixed, x)
        torch.testing.assert_close(soft, torch.eye(5)[y])


@pytest.mark.parametrize(
    ("settings", "call", "told"),
    [
        ({}, {}, "the number of classes is not known: give `num_classes`"),
        ({}, {"num_classes": 3}, r"range over \[0, 4\]"),
        ({"mixup_alpha": -1.0}, None, "Mixing needs alphas >= 0"),
        ({"prob": 1.5}, None, "probabilities in"),
        ({"label_smoothing": 1.0}, None, "label_smoothing in"),
    ],
)
def test_what_cannot_be_is_refused(settings: Any, call: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        BatchMixing(**settings)(*batch(), **call)


# ------------------------------------------------------------------------------------------------------------- training


class Recorder(Standard):
    """Keeps what it is given to train and validate on."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []
        self.validated: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, index = as_batch(batch)
        self.seen.append((x.clone(), y.clone(), index.clone()))
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.validated.append(as_batch(batch).y)
        super().validation_step(batch, batch_idx)


def mixed_few(**settings: Any) -> Few:
    return Few(14, seed=1, mixing=BatchMixing(0.8, 1.0, label_smoothing=0.1), **settings)


def fit(data: Few, trainer: Any = quiet_trainer, **settings: Any) -> Recorder:
    module = Recorder(plain_net())
    trainer(max_epochs=2, **settings).fit(module, data)
    return module


def test_training_batches_alone_are_mixed_and_keep_their_positions() -> None:
    mixed, plain = fit(mixed_few()), fit(Few(14, seed=1))
    assert [len(x) for x, _, _ in mixed.seen] == [4, 4, 4, 2] * 2  # the last batch is short
    for (x, y, index), (x_plain, y_plain, index_plain) in zip(mixed.seen, plain.seen, strict=True):
        assert torch.equal(index, index_plain)
        assert y.shape == (len(x), 3)
        torch.testing.assert_close(y.sum(1), torch.ones(len(x)))
        assert y_plain.shape == (len(x),)
        # a box may be smaller than a pixel
        assert not torch.equal(x, x_plain) or torch.allclose(y.sort(1).values, torch.tensor([1, 1, 28]) / 30)
    assert sum(not torch.equal(x, plain.seen[i][0]) for i, (x, *_) in enumerate(mixed.seen)) > len(mixed.seen) / 2
    assert all(y.dtype == torch.int64 for y in mixed.validated)
    assert not torch.equal(mixed.seen[0][1], mixed.seen[1][1])


def test_a_batch_is_mixed_by_other_numbers_than_its_samples_are_augmented_by(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[Any] = []
    mix = BatchMixing.__call__
    monkeypatch.setattr(
        BatchMixing, "__call__", lambda self, x, y, k, seed: seeds.append(seed) or mix(self, x, y, k, seed)
    )
    data = mixed_few()
    fit(data)
    sampler = data.train_dataloader().sampler
    augmented = set()
    for epoch in range(2):
        sampler.set_epoch(epoch)
        augmented |= {seed for _, seed in sampler}
    assert len(seeds) == len({*seeds}) == 8
    assert not augmented & {*seeds}


@pytest.mark.parametrize("stopped", [1, 3, 5])
def test_a_run_resumed_within_an_epoch_sees_what_it_would_have(stopped: int, tmp_path: Path) -> None:
    whole = fit(mixed_few()).seen
    file = tmp_path / "middle.ckpt"

    class Save(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == stopped:
                trainer.save_checkpoint(file)

    first, second = fit(mixed_few(), callbacks=[Save()]), Recorder(plain_net())
    quiet_trainer(max_epochs=2).fit(second, mixed_few(), ckpt_path=file, weights_only=False)
    got = [*first.seen[:stopped], *second.seen]
    assert len(got) == len(whole)
    assert all(torch.equal(a, b) for one, two in zip(got, whole, strict=True) for a, b in zip(one, two, strict=True))


def test_all_ranks_mix_by_the_same_share_each_with_its_own_images() -> None:
    def on(rank: int) -> Any:
        return fit(Few(16, batch_size=2, seed=1, mixing=BatchMixing(0.8, 0)), ddp_trainer).seen

    plain = Few(16)
    plain.setup("fit")
    for one, two in zip(*run_ddp(on), strict=True):
        shares = []
        for x, _, index in (one, two):
            x0, x1 = (plain.train_set[int(i)].x for i in index)
            shares.append(float(((x[0] - x1) * (x0 - x1)).sum() / (x0 - x1).square().sum()))
        assert shares[0] == pytest.approx(shares[1], abs=1e-5)
        assert {*one[2].tolist()}.isdisjoint(two[2].tolist())


@pytest.mark.parametrize("settings", [{"on_device": True}, {"uint8_transfer": True}, {"num_workers": 2}])
def test_however_the_images_travel_the_batches_are_the_same(settings: Any, tmp_path: Path) -> None:
    write_cifar10(tmp_path)

    def seen(**settings: Any) -> Any:
        data = CIFAR10(str(tmp_path), batch_size=16, val_size=20, seed=3, mixing=BatchMixing(), **settings)
        module = Recorder(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)))
        with checksums_of(tmp_path):
            quiet_trainer(max_epochs=1).fit(module, data)
        return module.seen

    for a, b in zip(seen(), seen(**settings), strict=True):
        assert all(map(torch.equal, a, b))


@pytest.mark.parametrize("defense", [AT, TRADES, MART, ST, IAAT, Standard])
def test_every_kind_of_defense_trains_on_mixed_batches(defense: Any) -> None:
    settings = {} if defense is Standard else {"attack": PGD(steps=2)}
    module = defense(plain_net(), **settings, **({"warmup": 0} if defense is IAAT else {}))
    quiet_trainer(max_epochs=1).fit(module, mixed_few())
    assert not torch.equal(module.net[0].weight, plain_net()[0].weight)


def test_modules_of_other_projects_receive_them_too() -> None:
    class Watch(ForeignModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            assert batch[1].shape == (len(batch[0]), 3)
            return super().training_step(batch[:2], batch_idx)

    quiet_trainer(max_epochs=1).fit(Watch(), mixed_few())


def test_data_without_a_number_of_classes_are_told() -> None:
    class Unknown(Few):
        num_classes = None  # type: ignore[assignment]

    with pytest.raises(ValueError, match="number of classes is not known: give `num_classes`, which is an attribute"):
        quiet_trainer(max_epochs=1).fit(ForeignModule(), Unknown(14, mixing=BatchMixing()))


@pytest.mark.slow
def test_a_recipe_mixes_and_smooths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIGHTNING_ROBUST_RUN", raising=False)
    mixing = {"mixup_alpha": 0.4, "label_smoothing": 0.1}
    Path("more.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"mixing": mixing}}}))
    quick = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.enable_progress_bar=false"]
    main(["fit", "--config", "digits/at", "--config", "more.yaml", "--trainer.accelerator=cpu", *quick])
    (config,) = tmp_path.glob("runs/*/*/*/config.yaml")
    written = yaml.safe_load(config.read_text())["data"]["init_args"]["mixing"]
    assert written == {**mixing, "cutmix_alpha": 1.0, "prob": 1.0, "switch_prob": 0.5}
    options = ["--data.mixing.mixup_alpha=0", "--data.mixing.prob=0.5", *quick]
    main(["fit", "--config", "digits/at", "--trainer.accelerator=cpu", *options])
