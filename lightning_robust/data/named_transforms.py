"""Transforms of torchvision by their names, as a configuration gives them."""

import inspect
from collections.abc import Mapping
from typing import Any

from torchvision.transforms import v2

from lightning_robust.utils.messages import describe_error, did_you_mean


def named_transforms(given: Mapping[str, Mapping[str, Any] | None]) -> list[v2.Transform]:
    """Build transforms of torchvision (v2) from their names and arguments, in this order.

    Args:
        given: arguments of each transform, by the name of its class in `torchvision.transforms.v2`.

    Raises:
        ValueError: for a name that torchvision does not have, or arguments that the class does not take.

    Example:
        >>> named_transforms({"RandomRotation": {"degrees": 10}, "RandomVerticalFlip": {}})
        [RandomRotation(degrees=[-10.0, 10.0], interpolation=..., expand=False, fill=0), RandomVerticalFlip(p=0.5)]
    """
    known = {name: kind for name, kind in vars(v2).items() if inspect.isclass(kind) and issubclass(kind, v2.Transform)}
    built = []
    for name, arguments in given.items():
        if name not in known:
            raise ValueError(f"torchvision has no transform {name!r}{did_you_mean(name, known)}")
        try:
            built.append(known[name](**(arguments or {})))
        except (TypeError, ValueError) as error:
            raise ValueError(f"The transform {name} does not take {arguments} ({describe_error(error)})") from error
    return built
