"""IDBH against what the authors' code drew, called and made of the images."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from lightning_robust.data import IDBH
from lightning_robust.data.idbh import ENHANCED, VERSIONS, color_shape, crop_shift
from lightning_robust.data.named_transforms import named_transforms
from tests.defenses.test_golden import FOLDER

MODERN: dict[str, Any] = torch.load(FOLDER / "modern.pt", weights_only=True)
FACTS = MODERN["idbh_facts"]
IMAGES = MODERN["idbh_images"]
STRENGTHS = {int(n): shares for n, shares in FACTS["crop_shift_strength_frequency"].items()}
OF_STYLE = {"color": VERSIONS["cifar10-strong"], "shape": VERSIONS["svhn"]}
OPERATIONS = {"color": "adjust_saturation", "brightness": "adjust_brightness", "contrast": "adjust_contrast"}
OPERATIONS |= {"sharpness": "adjust_sharpness", "shear": "affine"}


def on_picture(change: Any, image: Tensor) -> Tensor:
    made: Tensor = F.pil_to_tensor(change(F.to_pil_image(image)))
    return made


@pytest.mark.parametrize("name", VERSIONS)
def test_every_image_is_the_authors_to_the_bit(name: str) -> None:
    record, transform = MODERN[f"idbh_{name}"], IDBH(name)  # type: ignore[arg-type]
    for example, out in zip(record["examples"], record["out"], strict=True):
        torch.manual_seed(example["seed"])
        assert torch.equal(transform(IMAGES[example["image"]]), out)


def test_crop_shift_draws_and_gives_what_the_authors_did(monkeypatch: pytest.MonkeyPatch) -> None:
    record = MODERN["idbh_crop_shift"]
    most = max(STRENGTHS) - 1
    for example, out in zip(record["examples"], record["out"], strict=True):
        torch.manual_seed(example["seed"])
        assert torch.equal(on_picture(lambda p: crop_shift(p, most), IMAGES[example["image"]]), out)
        drawn = iter(example["draws"])  # the same from the numbers themselves
        with monkeypatch.context() as patched:
            patched.setattr("lightning_robust.data.idbh._integer", lambda low, high, drawn=drawn: int(next(drawn)))
            assert torch.equal(on_picture(lambda p: crop_shift(p, most), IMAGES[example["image"]]), out)
        assert next(drawn, None) is None


@pytest.mark.parametrize("style", OF_STYLE)
def test_color_shape_calls_and_gives_what_the_authors_did(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record = MODERN[f"idbh_color_shape_{style}"]
    called: list[Any] = []
    for name in record["ops"]:
        function = getattr(F, name)
        monkeypatch.setattr(F, name, lambda *a, f=function, n=name: called.append([n, *a[1:]]) or f(*a))
    for example, out in zip(record["examples"], record["out"], strict=True):
        torch.manual_seed(example["seed"])
        assert torch.equal(on_picture(lambda p: color_shape(p, OF_STYLE[style]), IMAGES[example["image"]]), out)
    for ours, (theirs, *_) in zip(called, (example["calls"] for example in record["examples"]), strict=True):
        assert ours[0] == theirs[0]
        for a, b in zip(ours[1:], theirs[1:], strict=False):
            assert a == pytest.approx(b, rel=1e-6)
    assert {ours[0] for ours in called} == {*record["ops"]}


@pytest.mark.parametrize("name", VERSIONS)
def test_the_settings_are_the_authors(name: str) -> None:
    theirs, ours = FACTS["versions"][name], IDBH(name)  # type: ignore[arg-type]
    settings = ours.settings
    assert [0, settings.crop] == theirs["crop_shift"]
    assert ours._flip.p == theirs["flip"]
    assert (ours._erase.p, *ours._erase.scale) == (theirs["erasing_p"], *theirs["erasing_scale"])
    assert [*ours._erase.ratio] == theirs["erasing_ratio"]
    assert ours._erase.value == [theirs["erasing_value"]]
    names = [*ENHANCED, "affine", "rotate"]
    ranges = [*ENHANCED.values(), (0.05, settings.shear), (1, settings.angle + 1)]
    end = 0.0
    for row, operation, weight, span in zip(theirs["color_shape"], names, settings.weights, ranges, strict=True):
        start, end, short, *limits = row
        assert OPERATIONS.get(short, short) == operation
        assert end - start == pytest.approx(weight)
        assert limits == ([] if span is None else pytest.approx([*span]))
    assert end == 1


@pytest.mark.parametrize("style", OF_STYLE)
def test_functions_come_as_often_and_as_strong_as_the_authors(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, n = FACTS["frequency_of_20000"][style], 6000
    seen: dict[str, list[float]] = {name: [] for name in theirs}
    for name in theirs:
        strength = {"affine": lambda a: max(map(abs, a[4])), "rotate": lambda a: abs(a[1])}.get(name, lambda a: a[-1])
        monkeypatch.setattr(F, name, lambda *a, s=strength, n=name: seen[n].append(s(a)) or a[0])
    torch.manual_seed(0)
    for _ in range(n):
        color_shape(0.0, OF_STYLE[style])
    for name, (share, low, high) in theirs.items():
        assert abs(len(seen[name]) / n - share) < 4 * (share * (1 - share) * (1 / n + 1 / 20000)) ** 0.5, name
        if low <= high:  # of those with a strength
            assert abs(min(seen[name]) - low) < 0.03 * (high - low) + 1e-6, name
            assert abs(max(seen[name]) - high) < 0.03 * (high - low) + 1e-6, name


@pytest.mark.parametrize("count", STRENGTHS)
def test_every_strength_of_crop_shift_is_as_likely(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    strength: Counter[int] = Counter()
    picture = F.to_pil_image(IMAGES[0])
    crop = F.crop
    monkeypatch.setattr(F, "crop", lambda p, *a: strength.update([sum(IMAGES.shape[2:]) - a[2] - a[3]]) or crop(p, *a))
    torch.manual_seed(1)
    for _ in range(2000):
        crop_shift(picture, count - 1)
    strength[0] -= 2000  # the second crop has the picture's size
    assert sorted(strength) == [*range(count)]
    assert all(abs(n / 2000 - 1 / count) < 0.03 for n in strength.values())
    assert len(STRENGTHS[count]) == count


def test_it_stands_in_a_configuration_and_takes_grey_and_float_images() -> None:
    (made,) = named_transforms({"IDBH": {"version": "svhn"}})
    x = made(torch.rand(1, 28, 28))
    assert x.shape == (1, 28, 28)
    assert x.dtype == torch.float32
    assert x.max() <= 1
    with pytest.raises(ValueError, match=r"IDBH does not take .*has the versions cifar10-weak, cifar10-strong, svhn"):
        named_transforms({"IDBH": {"version": "cifar"}})
    with pytest.raises(ValueError, match="IDBH cuts off up to 8 pixels, for which an image of 8 x 30 is too small"):
        made(torch.rand(3, 8, 30))
    assert made(torch.rand(3, 9, 30)).shape == (3, 9, 30)
