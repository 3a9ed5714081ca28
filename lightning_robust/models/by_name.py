"""Nets by one name, whichever library or file they come from."""

import re
from pathlib import Path
from typing import Any

from torch import nn

import lightning_robust.models
from lightning_robust.utils.messages import did_you_mean

LIBRARIES = {
    "timm": "TimmModel",
    "torchvision": "TorchvisionModel",
    "hf": "HuggingFaceModel",
    "robustbench": "RobustBenchModel",
}
"""The class that builds the nets of each library."""

_FILES = (".ckpt", ".pt", ".pth", ".safetensors")
_CONFIGS = (".yaml", ".yml", ".json")
_DATASETS, _THREATS = ("cifar10", "cifar100", "imagenet"), ("Linf", "L2", "corruptions")


def load_net(name: str, *, pretrained: bool | None = None, **settings: Any) -> nn.Module:
    """Build a net by its name.

    - `timm:convnext_tiny`: a net of timm, see `TimmModel`.
    - `torchvision:resnet18`: a net of torchvision, see `TorchvisionModel`.
    - `hf:google/vit-base-patch16-224`, `hf:./folder`: a net of transformers with its weights, see `HuggingFaceModel`.
    - `robustbench:Linf/Wang2020Improving`, `robustbench:cifar100/Linf/...`: a net of RobustBench, see
      `RobustBenchModel`.
    - `./folder`, `net.safetensors`, `run/best.ckpt`, `organisation/name`: an exported or trained net, see `Pretrained`.

    Args:
        name: the net's name.
        pretrained: whether it starts from pretrained weights; by default nets of timm and torchvision do not, all
            others do.
        settings: arguments of the net's class, such as num_classes, in_channels, image_size, mean and std. Nets of
            RobustBench, and exported or trained ones, are whole: they take none of these.

    Returns:
        The net: images [b c h w] in [0, 1] to logits [b k].

    Raises:
        ImportError: without the package of the library; the message says what to install.
        TypeError: for settings that the class does not have.
        ValueError: for a name that is not known (the message has the nearest), or settings of which no net can be
            built.

    Example:
        >>> import torch
        >>> net = load_net("torchvision:resnet18", num_classes=10, in_channels=1, image_size=28)
        >>> net(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    described = describe_name(name)
    kind = described["class_path"]
    if pretrained is not None and kind == "TorchvisionModel":
        settings.setdefault("weights", "DEFAULT" if pretrained else None)
    elif pretrained is not None and (kind != "Pretrained" or not pretrained):
        settings["pretrained"] = pretrained
    cls: type[nn.Module] = getattr(lightning_robust.models, kind)
    try:
        return cls(**described["init_args"], **settings)
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None or unknown[1] not in settings:
            raise
        raise TypeError(f"{name} has no setting {unknown[1]!r} ({kind}): leave it out.") from error


def is_net_name(text: Any) -> bool:
    """Return whether a text is a name for `load_net`, rather than the name of a class, a YAML file or settings.

    Example:
        >>> [is_net_name(text) for text in ("timm:resnet18", "./folder", "net.ckpt", "SmallConvNet", "net.yaml", "{}")]
        [True, True, True, False, False, False]
    """
    if not isinstance(text, str) or text.endswith(_CONFIGS) or re.search(r"[\s{}\[\]]", text):
        return False
    return ":" in text or "/" in text or text.endswith(_FILES)


def describe_name(name: str) -> dict[str, Any]:
    """Return the class that a net's name stands for, with its arguments, as configurations hold them.

    Raises:
        ValueError: for a name of another form.

    Example:
        >>> describe_name("robustbench:Linf/Wang2020Improving")
        {'class_path': 'RobustBenchModel',
         'init_args': {'name': 'Wang2020Improving', 'dataset': 'cifar10', 'threat': 'Linf'}}
    """
    library, colon, inner = name.partition(":")
    if not colon:
        if not is_net_name(name) and not Path(name).exists():
            raise ValueError(
                f"{name!r} is no name of a net: write its library in front, such as timm:{name} or torchvision:{name}, "
                "or give a file or folder (./folder)."
            )
        return {"class_path": "Pretrained", "init_args": {"source": name}}
    if library not in LIBRARIES:
        raise ValueError(f"There is no library of nets {library!r}{did_you_mean(library, LIBRARIES)}")
    settings = _in_zoo(name, inner) if library == "robustbench" else {"name": inner}
    return {"class_path": LIBRARIES[library], "init_args": settings}


def _in_zoo(name: str, inner: str) -> dict[str, str]:
    """Read the name of a net of RobustBench."""
    *dataset, threat, model = parts = inner.split("/") if "/" in inner else ["", inner]
    if len(parts) > 3 or not threat or not model:
        raise ValueError(f"{name!r} must be robustbench:<threat>/<model> or robustbench:<dataset>/<threat>/<model>.")
    for what, given, known in (("dataset", "".join(dataset) or "cifar10", _DATASETS), ("threat", threat, _THREATS)):
        if given not in known:
            raise ValueError(f"RobustBench has no {what} {given!r}{did_you_mean(given, known)}")
    return {"name": model, "dataset": "".join(dataset) or "cifar10", "threat": threat}
