"""Further transforms of training images: for all data modules, after crop and flip, and reproducible."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torchvision.transforms import v2

from lightning_robust.cli.main import main
from lightning_robust.data import (
    CIFAR10,
    IDBH,
    MNIST,
    SVHN,
    Arrays,
    Digits,
    ImageNet,
    Indexed,
    SemiSupervised,
    TinyImageNet,
    augmented_dataset,
)
from lightning_robust.data.augmented_dataset import Augmented
from lightning_robust.data.data_module import RobustDataModule
from lightning_robust.data.named_transforms import as_transforms, named_transforms
from lightning_robust.data.random_erasing import RandomErasing
from tests.helpers.few import Few
from tests.helpers.files import (
    checksums_of,
    write_cifar10,
    write_imagenet,
    write_mnist,
    write_svhn,
    write_tiny_imagenet,
)

DATASETS: dict[str, tuple[Callable[[Path], Any], Callable[..., RobustDataModule]]] = {
    "Digits": (lambda root: None, lambda root, **s: Digits(**s)),
    "MNIST": (write_mnist, lambda root, **s: MNIST(str(root), **s)),
    "SVHN": (write_svhn, lambda root, **s: SVHN(str(root), **s)),
    "CIFAR10": (write_cifar10, lambda root, **s: CIFAR10(str(root), **s)),
    "TinyImageNet": (write_tiny_imagenet, lambda root, **s: TinyImageNet(str(root), **s)),
    "ImageNet": (write_imagenet, lambda root, **s: ImageNet(str(root), size=8, resize=9, num_classes=3, **s)),
}


def first_batch(data: RobustDataModule, root: Path) -> Any:
    with checksums_of(root):
        data.setup("fit")
    return next(iter(data.train_dataloader()))


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_module_takes_them_after_crop_and_flip(name: str, tmp_path: Path) -> None:
    write, make = DATASETS[name]
    write(tmp_path)
    settings: dict[str, Any] = {"batch_size": 4, "val_size": 2, "seed": 3}
    plain = first_batch(make(tmp_path, **settings), tmp_path)
    turned = make(tmp_path, **settings, augmentation={"RandomVerticalFlip": {"p": 1.0}})
    augmented = first_batch(turned, tmp_path)
    assert torch.equal(augmented.x, plain.x.flip(2))  # the very crops
    assert not torch.equal(augmented.x, plain.x)
    assert torch.equal(augmented.index, plain.index)
    bare = make(tmp_path, **settings)
    with checksums_of(tmp_path):
        bare.setup(), turned.setup()
    assert torch.equal(turned.val_set[0].x, bare.val_set[0].x)
    assert torch.equal(turned.test_set[0].x, bare.test_set[0].x)


class FromEverywhere:
    """Adds numbers of three generators to an image."""

    def __call__(self, x: Tensor) -> Tensor:
        noise = [float(torch.rand(())), random.random(), float(np.random.rand())]  # noqa: NPY002
        return (x + torch.tensor(noise)[:, None, None].expand(3, *x.shape[1:]).sum(0)) % 1


WITHIN: dict[str, Callable[[], Any]] = {
    "alone": FromEverywhere,
    "a lambda": lambda: v2.Lambda(FromEverywhere()),
    "a container": lambda: v2.RandomApply([FromEverywhere()], p=0.9),
    "a list of lists": lambda: v2.Compose([v2.RandomVerticalFlip(), v2.RandomOrder([FromEverywhere()])]),
}


def by_position(batches: Any) -> dict[int, Tensor]:
    return {int(i): x for batch in batches for x, i in zip(batch.x, batch.index, strict=True)}


def few(within: str = "alone", **settings: Any) -> Few:
    data = Few(12, augmentation=[v2.RandomHorizontalFlip(), WITHIN[within]()], seed=5, **settings)
    data.setup("fit")
    return data


@pytest.mark.parametrize("within", WITHIN)
def test_what_a_sample_receives_depends_on_seed_epoch_and_position_alone(within: str) -> None:
    whole = by_position(few(within).train_dataloader())
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    ranks = [few(within).train_sampler(5, 2, rank) for rank in (0, 1)]
    shared = {key[0]: few(within).train_set[key].x for sampler in ranks for key in sampler}
    assert (random.getstate(), str(np.random.get_state())) == states[:2]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    random.seed(77), np.random.seed(77), torch.manual_seed(77)  # noqa: NPY002
    for other in (
        shared,
        by_position(few(within, num_workers=2).train_dataloader()),
        by_position(few(within, batch_size=3).train_dataloader()),
    ):
        assert other.keys() == whole.keys()
        assert all(torch.equal(other[i], whole[i]) for i in whole)
    loader = few(within).train_dataloader()
    loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
    assert not any(torch.equal(x, whole[i]) for i, x in by_position(loader).items())


class Derived(v2.RandomErasing):  # type: ignore[misc]
    """A transform of somebody else's, whatever it derives from."""


@pytest.mark.parametrize(
    ("transform", "seeded"),
    [(v2.RandAugment(), 0), (RandomErasing(), 0), (IDBH(), 0), (v2.Compose([v2.RandAugment()]), 1), (Derived(), 1)],
)
def test_other_generators_are_seeded_only_where_they_may_be_drawn_from(
    transform: Any, seeded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their seeding takes as long as a transform."""
    seeds: list[int] = []
    original = augmented_dataset.other_generators_seeded
    monkeypatch.setattr(augmented_dataset, "other_generators_seeded", lambda s: seeds.append(s) or original(s))
    data = Indexed(Augmented([(torch.rand(3, 32, 32), 0)], [transform]))
    data[0, 1], data[0, 2]
    assert len({*seeds}) == 2 * seeded


def test_images_of_bytes_arrive_as_bytes_and_others_as_they_are() -> None:
    seen = []
    data = Few(12, augmentation=[lambda x: seen.append(x.dtype) or x], seed=0)
    data.setup("fit")
    assert torch.equal(data.train_set[3].x, Few(12).train_data(True)[data.train_set.dataset.dataset.indices[3]][0])
    data.train_data = lambda augment: torch.utils.data.TensorDataset(torch.ones(9, 1, 4, 4) / 5, torch.arange(9) % 3)  # type: ignore[method-assign]
    data.setup("fit")
    data.train_set[0]
    assert seen == [torch.float32, torch.uint8]


def test_a_transform_must_keep_the_shape() -> None:
    data = Few(12, augmentation={"Resize": {"size": 2}})
    data.setup("fit")
    with pytest.raises(ValueError, match=r"Resize.* changed an image of shape \[1, 4, 4\] to \[1, 2, 2\]: name only"):
        data.train_set[0]


def test_images_on_the_device_refuse_them() -> None:
    data = Digits(on_device=True, augmentation={"RandomErasing": {}})
    data.setup("fit")
    with pytest.raises(ValueError, match="cropped and flipped at most"):
        data.train_dataloader()


def test_a_mix_of_labelled_and_generated_images_is_augmented_as_the_labelled_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "more.npz", image=np.arange(160, dtype=np.uint8).reshape(10, 4, 4), label=np.arange(10) % 3)
    turned, mirrored = {"RandomVerticalFlip": {"p": 1.0}}, {"RandomHorizontalFlip": {"p": 1.0}}

    def made(inner: Any, outer: Any) -> list[Tensor]:
        data = SemiSupervised(
            Few(12, augmentation=inner), str(tmp_path / "more.npz"), batch_size=4, val_size=4, augmentation=outer
        )
        data.setup("fit")
        return [data.train_set[i].x for i in range(22)]

    for x, y, z in zip(made(None, None), made(turned, None), made(turned, mirrored), strict=True):
        assert torch.equal(y, x.flip(1))
        assert torch.equal(z, x.flip(1, 2))


def test_a_random_part_of_the_image_is_taken_before_it_is_resized(tmp_path: Path) -> None:
    corner = np.zeros((60, 16, 16), np.uint8)
    corner[:, 8:, 8:] = 255
    np.savez(tmp_path / "a.npz", images=corner, labels=np.arange(60) % 4)
    data = Arrays(str(tmp_path / "a.npz"), size=8, crop_scale=(0.05, 0.1), seed=0)
    data.setup("fit")
    shares = [float(data.train_set[i].x.mean()) for i in range(30)]
    assert data.train_set[0].x.shape == (1, 8, 8)
    assert min(shares) == 0
    assert max(shares) == 1  # parts of a tenth lie within one of the quarters, the whole never does
    assert all(abs(float(data.val_set[i].x.mean()) - 0.25) < 0.05 for i in range(4))


# ------------------------------------------------------------------------------------------------------ random erasing


@pytest.mark.parametrize("value", [0.0, 0.6, "random", [0.2, 0.4, 1.0]])
def test_erased_bytes_and_floats_are_the_same(value: Any) -> None:
    as_bytes = torch.randint(256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    erasing, theirs = RandomErasing(1.0, value=value), v2.RandomErasing(1.0, value=value)
    torch.manual_seed(1)
    a = erasing(as_bytes)
    torch.manual_seed(1)
    b = erasing(as_bytes.float() / 255)
    torch.manual_seed(1)
    c = theirs(as_bytes.float() / 255)
    assert a.dtype == torch.uint8
    assert (a.float() / 255 - b).abs().max() <= 0.5 / 255 + 1e-6
    changed = (b - as_bytes.float() / 255).abs().sum(0) > 0
    assert 0.02 * 256 * 0.7 < changed.sum() < 0.33 * 256 * 1.3
    expected = (0.5 + c / 4).clamp(0, 1) if value == "random" else c  # torchvision's own place and draws
    assert torch.equal(b[:, changed], expected[:, changed])


def test_noise_is_within_the_pixels_and_may_travel_as_bytes(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    erasing = {"RandomErasing": {"p": 1.0, "scale": [0.3, 0.33], "value": "random"}}
    for transfer in (False, True):
        data = CIFAR10(str(tmp_path), batch_size=16, val_size=2, seed=0, augmentation=erasing, uint8_transfer=transfer)
        x = first_batch(data, tmp_path).x
        x = x.float() / 255 if transfer else x
        assert x.min() >= 0
        assert x.max() <= 1
    with pytest.raises(ValueError, match=r"RandomErasing does not take .*writes a value in \[0, 1\]"):
        named_transforms({"RandomErasing": {"value": 255}})


@pytest.mark.parametrize(
    "holder", [v2.Compose, v2.RandomChoice, v2.RandomOrder, lambda held: v2.RandomApply(held, 1.0)]
)
def test_erasing_within_other_transforms_stays_in_range(holder: Any) -> None:
    given = holder([v2.Compose([v2.RandomErasing(1.0, value=1.0)])])
    white = Augmented([(torch.zeros(1, 8, 8), 0)], as_transforms([given]))[0][0]
    assert white.unique().tolist() == [0, 1]
    assert type(given.transforms[0].transforms[0]) is v2.RandomErasing  # it is left as it was given


def test_torchvisions_own_erasing_is_brought_into_the_range_too() -> None:
    (made,) = as_transforms([v2.RandomErasing(0.3, (0.1, 0.2), (0.5, 2.0), "random")])
    assert isinstance(made, RandomErasing)
    assert (made.p, made.scale, made.ratio, made.value) == (0.3, (0.1, 0.2), (0.5, 2.0), None)


# ---------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "given",
    [
        {"RandAugment": {"num_ops": 2, "magnitude": 9, "interpolation": "bilinear"}},
        {"TrivialAugmentWide": None},
        {"AugMix": {}},
        {"AutoAugment": {}},
        {"ColorJitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}, "RandomErasing": {"p": 0.25}},
        {"GaussianBlur": {"kernel_size": 3}},
    ],
)
def test_usual_ones_work_by_name_on_every_kind_of_image(given: Any) -> None:
    for x in (torch.rand(1, 8, 8), torch.rand(3, 32, 32).mul(255).round().div(255)):
        data = Few(12, augmentation=given, seed=0)
        data.train_data = lambda augment, x=x: torch.utils.data.TensorDataset(
            x[None].repeat(9, 1, 1, 1), torch.arange(9) % 3
        )  # type: ignore[misc]
        data.setup("fit")
        made = torch.stack([data.train_set[0, seed].x for seed in range(20)])
        assert made.shape[1:] == x.shape
        assert made.dtype == torch.float32
        assert made.min() >= 0
        assert made.max() <= 1
        assert len({str(image.tolist()) for image in made}) > 3


def test_timms_texts_give_what_timm_gives() -> None:
    timm = pytest.importorskip("timm.data.auto_augment")
    image = torch.randint(256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (ours,) = named_transforms({"TimmRandAugment": {"config": "rand-m9-mstd0.5-inc1"}})
    theirs = timm.rand_augment_transform(
        "rand-m9-mstd0.5-inc1", {"translate_const": int(32 * 0.45), "img_mean": (124, 116, 104)}
    )
    changed = 0
    for seed in range(20):
        random.seed(seed), np.random.seed(seed)  # noqa: NPY002
        a = ours(image)
        random.seed(seed), np.random.seed(seed)  # noqa: NPY002
        b = torch.from_numpy(np.array(theirs(v2.functional.to_pil_image(image)))).movedim(2, 0)
        assert torch.equal(a, b)
        changed += not torch.equal(a, image)
    assert changed > 5
    grey = image[:1].float() / 255
    assert ours(grey).shape == (1, 32, 32)
    with pytest.raises(ValueError, match="timm has no RandAugment 'rand-x9'"):
        named_transforms({"TimmRandAugment": {"config": "rand-x9"}})


@pytest.mark.parametrize("increasing", [0, 1])
@pytest.mark.parametrize("magnitude", [0, 10])
def test_timms_operations_run_at_the_ends_of_their_ranges(magnitude: int, increasing: int) -> None:
    """Full posterisation keeps no bit of a pixel: the image is black, which Pillow since 13 refuses to make."""
    timm = pytest.importorskip("timm.data.auto_augment")
    image = torch.randint(1, 256, (3, 32, 32), dtype=torch.uint8)
    text = f"rand-m{magnitude}-inc{increasing}-n1-p1"
    (ours,) = named_transforms({"TimmRandAugment": {"config": text}})
    chosen = set()
    for seed in range(120):
        np.random.seed(seed)  # noqa: NPY002
        name = str(np.random.choice([op.name for op in timm.rand_augment_transform(text, {}).ops]))  # noqa: NPY002
        random.seed(seed), np.random.seed(seed)  # noqa: NPY002
        made = ours(image)
        chosen.add(name)
        if name.startswith("Posterize"):
            kept = int(magnitude / 10 * 4)
            kept = 4 - kept if increasing else kept
            assert torch.equal(made, image & (256 - 2 ** (8 - kept)))
    assert len(chosen) > 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        {"RandAugment": {"magnitude": 9}, "RandomErasing": {"p": 0.25, "value": "random"}},
        [{"class_path": "torchvision.transforms.v2.RandomErasing", "init_args": {"p": 1.0}}],
    ],
)
def test_a_recipe_names_them(given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIGHTNING_ROBUST_RUN", raising=False)
    Path("more.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"augmentation": given}}}))
    quick = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.enable_progress_bar=false"]
    main(["fit", "--config", "digits/at", "--config", "more.yaml", "--trainer.accelerator=cpu", *quick])
    (config,) = tmp_path.glob("runs/*/*/*/config.yaml")
    assert yaml.safe_load(config.read_text())["data"]["init_args"]["augmentation"]
