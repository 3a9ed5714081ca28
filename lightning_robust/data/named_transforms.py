"""Transforms of torchvision by their names, as a configuration gives them."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torchvision.transforms import v2

from lightning_robust.data.idbh import IDBH
from lightning_robust.data.random_erasing import RandomErasing
from lightning_robust.data.timm_rand_augment import TimmRandAugment
from lightning_robust.utils.messages import describe_error, did_you_mean

Augmentation: TypeAlias = dict[str, dict[str, Any] | None] | list[v2.Transform]
"""Transforms of torchvision (v2): their arguments by their names, or the transforms themselves."""

OWN = (IDBH, RandomErasing, TimmRandAugment)
"""Transforms of this package that are found by their names, too; one that torchvision has as well takes its place."""


def as_transforms(given: Augmentation | None) -> list[v2.Transform]:
    """Return the transforms that are meant by an `augmentation`; none by None.

    Example:
        >>> as_transforms({"RandomVerticalFlip": None}), as_transforms([v2.RandomGrayscale(0.2)]), as_transforms(None)
        ([RandomVerticalFlip(p=0.5)], [RandomGrayscale(p=0.2)], [])
    """
    if isinstance(given, Mapping):
        return named_transforms(given)
    return [_within_pixels(transform) for transform in given or ()]


def _within_pixels(transform: v2.Transform) -> v2.Transform:
    """Let `RandomErasing` take the place of torchvision's, also in transforms that hold others."""
    held = getattr(transform, "transforms", None)
    if isinstance(held, list):
        transform = copy.copy(transform)
        transform.transforms = [_within_pixels(each) for each in held]
    if type(transform) is not v2.RandomErasing:
        return transform
    value: float | Sequence[float] | str = "random" if transform.value is None else transform.value
    return RandomErasing(transform.p, transform.scale, transform.ratio, value)


def named_transforms(given: Mapping[str, Mapping[str, Any] | None]) -> list[v2.Transform]:
    """Build transforms of torchvision (v2) from their names and arguments, in this order.

    Args:
        given: arguments of each transform, by the name of its class in `torchvision.transforms.v2` or `OWN`. An
            `interpolation` may be given by its name, such as "bilinear".

    Raises:
        ValueError: for a name that torchvision does not have, or arguments that the class does not take.

    Example:
        >>> named_transforms({"RandomRotation": {"degrees": 10}, "RandomVerticalFlip": {}})
        [RandomRotation(degrees=[-10.0, 10.0], interpolation=..., expand=False, fill=0), RandomVerticalFlip(p=0.5)]
    """
    known = {name: kind for name, kind in vars(v2).items() if inspect.isclass(kind) and issubclass(kind, v2.Transform)}
    known |= {kind.__name__: kind for kind in OWN}
    built = []
    for name, arguments in given.items():
        if name not in known:
            raise ValueError(f"torchvision has no transform {name!r}{did_you_mean(name, known)}")
        try:
            settings = {key: _argument(key, value) for key, value in (arguments or {}).items()}
            built.append(known[name](**settings))
        except (TypeError, ValueError) as error:
            raise ValueError(f"The transform {name} does not take {arguments} ({describe_error(error)})") from error
    return built


def _argument(key: str, value: Any) -> Any:
    return v2.InterpolationMode(value) if key == "interpolation" and isinstance(value, str) else value
