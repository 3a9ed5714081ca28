"""AdversarialInputs on a foreign module: the same as an adversarial training step written by hand."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import AdversarialInputs, AttackStrength
from lightning_robust.runtime.rng import derive_seed
from lightning_robust.schedules import Linear, PiecewiseConstant
from lightning_robust.threat import Threat
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.foreign import ForeignModule, images, loader

ATTACK = PGD(Threat(eps=0.1), steps=2, start="none")  # no randomness, so that it can be written by hand


class Pair(NamedTuple):
    image: Tensor
    label: Tensor


class ByHand(ForeignModule):
    """The foreign module, rewritten by its author to train on PGD examples of radius 0.1."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        self.eval()
        x_adv = x.clone()
        for _ in range(2):
            x_adv.requires_grad_()
            loss = nn.functional.cross_entropy(self(x_adv), y, reduction="sum")
            grad = torch.autograd.grad(loss, x_adv)[0]
            x_adv = (x_adv.detach() + 0.125 * grad.sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
        self.train()
        return super().training_step((x_adv, y), batch_idx)


class AnyBatch(ForeignModule):
    """Takes any container."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.kind = type(batch)
        x, y = (batch["pixels"], batch["class"]) if isinstance(batch, dict) else (batch[0], batch[1])
        if isinstance(batch, dict):
            assert batch["name"] == ["a"] * len(x)  # the rest travels along
        return super().training_step((x, y), batch_idx)


def weights(module: LightningModule) -> list[Tensor]:
    return [value.clone() for value in module.state_dict().values()]


def trained(module: LightningModule, data: Any, callbacks: Any = (), **settings: Any) -> list[Tensor]:
    torch.manual_seed(0)  # of dropout
    quiet_trainer(max_epochs=2, callbacks=[*callbacks], **settings).fit(module, data)
    return weights(module)


def test_the_callback_equals_a_training_step_written_by_hand() -> None:
    got = trained(ForeignModule(), loader(12), [AdversarialInputs(ATTACK)])
    torch.testing.assert_close(got, trained(ByHand(), loader(12)), rtol=0, atol=0)
    clean = trained(ForeignModule(), loader(12))
    assert not torch.allclose(got[0], clean[0], atol=1e-3)


@pytest.mark.parametrize("bn", ["eval", "batch", "train"])
def test_attack_bn_decides_how_often_the_running_statistics_move(bn: Any) -> None:
    module = ForeignModule()
    trained(module, loader(12), [AdversarialInputs(ATTACK, attack_bn=bn)])
    steps = 2 * 3  # epochs, batches
    assert int(module.body[1].num_batches_tracked) == steps * (1 + 2 * (bn == "train"))


def test_accumulated_gradients_are_not_touched_by_the_attack() -> None:
    settings = {"accumulate_grad_batches": 3}
    got = trained(ForeignModule(), loader(12), [AdversarialInputs(ATTACK)], **settings)
    torch.testing.assert_close(got, trained(ByHand(), loader(12), **settings), rtol=0, atol=0)


def test_the_datasets_memory_is_never_written_even_through_views() -> None:
    data = images(12)
    x, y = data.tensors
    before = x.clone()
    views = [(x[i : i + 4], y[i : i + 4]) for i in range(0, 12, 4)]  # no copy between the dataset and the step
    trained(ForeignModule(), DataLoader(views, batch_size=None), [AdversarialInputs(ATTACK)])
    assert torch.equal(x, before)
    assert not x.requires_grad


def collate(kind: str) -> Callable[[list[Any]], Any]:
    def together(samples: list[Any]) -> Any:
        x, y = torch.stack([s[0] for s in samples]), torch.stack([s[1] for s in samples])
        if kind == "dict":
            return {"pixels": x, "class": y, "name": ["a"] * len(samples)}
        return {"tuple": tuple, "list": list}[kind]((x, y)) if kind != "named tuple" else Pair(x, y)

    return together


@pytest.mark.parametrize("kind", ["tuple", "list", "named tuple", "dict"])
def test_every_kind_of_batch(kind: str) -> None:
    keys = {"image_key": "pixels", "label_key": "class"} if kind == "dict" else {}
    module = AnyBatch()
    data = DataLoader(images(12), 4, collate_fn=collate(kind))
    got = trained(module, data, [AdversarialInputs(ATTACK, **keys)])
    assert module.kind is {"tuple": tuple, "list": list, "named tuple": Pair, "dict": dict}[kind]
    torch.testing.assert_close(got, trained(ByHand(), loader(12)), rtol=0, atol=0)


def test_the_training_step_is_the_modules_own_again_after_fit() -> None:
    module = ForeignModule()
    trained(module, loader(4), [AdversarialInputs(ATTACK)])
    assert "training_step" not in vars(module)
    assert module.training_step.__func__ is ForeignModule.training_step
    torch.manual_seed(0)
    again, other = trained(module, loader(4)), ForeignModule()
    trained(other, loader(4), [AdversarialInputs(ATTACK)])
    torch.testing.assert_close(again, trained(other, loader(4)), rtol=0, atol=0)


def test_the_training_step_is_the_modules_own_again_after_an_exception() -> None:
    class Failing(PGD):
        def __call__(self, *args: Any, **settings: Any) -> Tensor:
            super().__call__(*args, **settings)
            raise RuntimeError("in the midst of a step")

    module = ForeignModule()
    before = weights(module)
    with pytest.raises(RuntimeError, match="in the midst"):
        trained(module, loader(4), [AdversarialInputs(Failing(steps=1))])
    assert module.training_step.__func__ is ForeignModule.training_step
    assert all(m.training for m in module.modules())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    torch.testing.assert_close(weights(module), before, rtol=0, atol=0)


def test_a_step_of_the_modules_instance_comes_back_too() -> None:
    module = ForeignModule()
    own = module.training_step
    module.training_step = lambda batch, batch_idx: own(batch, batch_idx)  # set on the instance, not the class
    theirs = module.training_step
    trained(module, loader(4), [AdversarialInputs(ATTACK)])
    assert module.training_step is theirs
    quiet_trainer(callbacks=[AdversarialInputs(ATTACK)]).validate(module, loader(4), verbose=False)
    assert module.training_step is theirs


def test_two_ranks_train_as_written_by_hand() -> None:
    def on(rank: int) -> Any:
        out = []
        for module, callbacks in ((ForeignModule(), [AdversarialInputs(ATTACK)]), (ByHand(), [])):
            module.body[4].p = 0.0
            ddp_trainer(max_epochs=2, callbacks=callbacks).fit(module, loader(12, 3))
            out.append(weights(module))
        return out

    (callback0, hand0), (callback1, _) = run_ddp(on)
    torch.testing.assert_close(callback0, hand0, rtol=0, atol=0)
    parameters = slice(0, 2)  # buffers are those of the rank's own last batch
    torch.testing.assert_close(callback0[parameters], callback1[parameters], rtol=0, atol=0)


def test_lightnings_own_fork_strategy_works() -> None:
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo", static_graph=True)
    module = ForeignModule()
    before = weights(module)
    trainer = quiet_trainer(max_epochs=1, devices=2, strategy=strategy, callbacks=[AdversarialInputs(ATTACK)])
    trainer.fit(module, loader(8, 2))
    assert not torch.equal(weights(module)[0], before[0])


def test_random_starts_differ_between_ranks_epochs_batches_and_samples() -> None:
    class Noise(ForeignModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.seen = [*getattr(self, "seen", []), *(batch[0] - 0.5).flatten(1)]
            return super().training_step(batch, batch_idx)

    grey: Dataset[Any] = torch.utils.data.TensorDataset(torch.full((8, 1, 4, 4), 0.5), torch.zeros(8, dtype=torch.long))

    def on(rank: int) -> list[Tensor]:
        torch.manual_seed(0)  # as `seed_everything` does on every rank
        module = Noise()
        callback = AdversarialInputs(PGD(Threat(eps=0.1), steps=0))
        ddp_trainer(max_epochs=2, callbacks=[callback]).fit(module, DataLoader(grey, 2))
        return module.seen

    first, second = run_ddp(on)
    noise = torch.stack([*first, *second])
    assert noise.shape == (16, 16)
    nearest = torch.cdist(noise, noise).fill_diagonal_(torch.inf).min()
    assert nearest > 0.05  # of two independent ones: sqrt(16 * 0.1 ** 2 * 2 / 3) = 0.33
    again = run_ddp(on)
    torch.testing.assert_close(again[1], second, rtol=0, atol=0)
    assert derive_seed(0, 1) != derive_seed(1, 0)


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        ("dict", {}, r"not found in a dict with the keys \['pixels', 'class', 'name'\]: say with image_key"),
        ("dict", {"image_key": "pixels", "label_key": "name"}, "by image_key='pixels', label_key='name'"),
        ("tuple", {"label_key": 2}, "not found in a tuple of Tensor, Tensor by label_key=2: say"),
        ("tuple", {"image_key": "pixels"}, "not found in a tuple of Tensor, Tensor by image_key='pixels'"),
        ("tuple", {"image_key": 1}, "not found in a tuple of Tensor, Tensor by image_key=1"),
    ],
)
def test_a_batch_without_images_or_labels_is_refused(kind: str, keys: dict[str, Any], message: str) -> None:
    data = DataLoader(images(4), 4, collate_fn=collate(kind))
    # Lightning cannot tell the batch size from the list of names first:
    with pytest.raises(TypeError, match=message):
        trained(AnyBatch(), data, [AdversarialInputs(ATTACK, **keys)])


def test_images_outside_the_box_are_refused() -> None:
    x, y = images(4).tensors
    data = DataLoader(torch.utils.data.TensorDataset(x * 255, y), 4)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\] but range over"):
        trained(ForeignModule(), data, [AdversarialInputs(ATTACK)])


def test_a_net_without_logits_is_refused() -> None:
    module = ForeignModule()
    module.head = nn.Identity()
    module.body = nn.Sequential(nn.Conv2d(1, 3, 3))
    with pytest.raises(ValueError, match=r"must give logits \[b k\] for 4 images, got shape \(4, 3, 2, 2\)"):
        trained(module, loader(4), [AdversarialInputs(ATTACK)])


def test_a_step_without_batch_index_meets_new_noise_at_each_batch() -> None:
    class NoIndex(ForeignModule):
        def training_step(self, batch: Any) -> Tensor:  # type: ignore[override]
            noise.append(batch[0] - x)
            return super().training_step(batch, 0)

    noise: list[Tensor] = []
    x = torch.stack([image for image, _ in images(4)]).clamp(0.2, 0.8)
    data = DataLoader([(x[i], torch.tensor(0)) for i in range(4)] * 2, batch_size=4)
    trainer = quiet_trainer(max_epochs=1, callbacks=[AdversarialInputs(PGD(Threat(eps=0.1), steps=0))])
    trainer.fit(NoIndex(), data)
    assert len(noise) == 2
    assert not torch.equal(*noise)


def test_samples_of_one_domain_start_from_different_noise() -> None:
    class Noise(ForeignModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            seen.extend((batch[0] - 0.5).flatten(1))
            return super().training_step(batch[:2], batch_idx)

    seen: list[Tensor] = []
    grey = torch.full((4, 1, 4, 4), 0.5)
    data = torch.utils.data.TensorDataset(grey, torch.arange(4) % 3, torch.zeros(4, dtype=torch.long))  # the domain
    quiet_trainer(max_epochs=1, callbacks=[AdversarialInputs(PGD(Threat(eps=0.1), steps=0))]).fit(
        Noise(), DataLoader(data, 4)
    )
    noise = torch.stack(seen)
    assert torch.cdist(noise, noise).fill_diagonal_(torch.inf).min() > 0.05


class Recorder(ForeignModule):
    """Keeps the images that it trains on, and leaves out the label -1."""

    def __init__(self) -> None:
        super().__init__()
        self.body[4].p = 0.0
        self.seen: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append(batch[0])
        return nn.functional.cross_entropy(self(batch[0]), batch[1], ignore_index=-1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize(("share", "ignored"), [(0.5, 0), (0.3, 0), (1.0, 5), (0.5, 5), (0.01, 0), (1.0, 20)])
def test_a_share_of_each_batch_and_no_ignored_sample_becomes_adversarial(share: float, ignored: int) -> None:
    x, y = images(20).tensors
    y[:ignored] = -1
    module = Recorder()
    callback = AdversarialInputs(ATTACK, share=share, ignore_index=-1 if ignored else None)
    data = DataLoader(torch.utils.data.TensorDataset(x, y), 10)
    quiet_trainer(max_epochs=2, callbacks=[callback]).fit(module, data)

    reference = Recorder()
    chosen = []
    for seen, rows in zip(module.seen, [slice(10), slice(10, 20)] * 2, strict=True):
        kept = y[rows] != -1
        changed = (seen != x[rows]).flatten(1).any(1)
        mean = share * int(kept.sum())
        assert math.floor(mean) <= int(changed.sum()) <= math.ceil(mean)
        assert not changed[~kept].any()
        if changed.any():  # in evaluation mode a sample's example does not depend on the others
            expected = ATTACK(reference, x[rows][changed], y[rows][changed])
            torch.testing.assert_close(seen[changed], expected, rtol=0, atol=1e-6)
        reference.train()(seen)  # moves the running statistics, as the step did
        chosen.append(changed.tolist())
    if 0.1 < share < 1:
        assert len({tuple(rows) for rows in chosen}) > 1


@pytest.mark.parametrize(("share", "size", "ignored"), [(0.5, 1, 0), (0.5, 3, 0), (0.1, 4, 1), (0.25, 2, 0)])
@pytest.mark.slow
def test_small_batches_have_the_share_on_average(share: float, size: int, ignored: int) -> None:
    x, y = images(200 * size).tensors
    y.view(-1, size)[:, :ignored] = -1
    module, callback = Recorder(), AdversarialInputs(ATTACK, share=share, ignore_index=-1 if ignored else None)
    data = DataLoader(torch.utils.data.TensorDataset(x, y), size)
    quiet_trainer(max_epochs=1, callbacks=[callback]).fit(module, data)
    changed = (torch.cat(module.seen) != x).flatten(1).any(1).view(-1, size).sum(1)
    mean = share * (size - ignored)
    assert set(changed.tolist()) <= {math.floor(mean), math.ceil(mean)}
    fraction = mean - math.floor(mean)
    assert float(changed.float().mean()) == pytest.approx(mean, abs=4 * math.sqrt(fraction * (1 - fraction) / 200))


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\], got"):
        AdversarialInputs(ATTACK, share=share)


@pytest.mark.parametrize("first", ["strength", "inputs"])
def test_attack_strength_sets_its_attack(first: str) -> None:
    inputs = AdversarialInputs(PGD(Threat(eps=0.2), steps=4, start="none"))
    strength = AttackStrength(Linear(0.0, 0.2, 2), PiecewiseConstant([1, 4], [1]))
    module = Recorder()
    x = images(8).tensors[0]
    trainer = quiet_trainer(max_epochs=3, callbacks=[strength, inputs] if first == "strength" else [inputs, strength])
    trainer.fit(module, loader(8, 8))
    moved = [float((seen - x).abs().max()) for seen in module.seen]
    assert moved == pytest.approx([0.0, 0.1, 0.2], abs=1e-6)
    assert (inputs.attack.threat.eps, inputs.attack.steps) == (0.2, 4)
    assert "attack" not in vars(module)
