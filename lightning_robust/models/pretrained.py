"""Nets with trained weights from a folder, a file or the Hugging Face Hub."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from lightning_robust.models.net_config import BUILD_IT_YOURSELF, build_net
from lightning_robust.models.standalone import trained_net
from lightning_robust.models.weight_files import (
    extract_weights,
    find_weights,
    read_checkpoint,
    read_description,
    read_weights,
)
from lightning_robust.runtime.modes import for_inference


class Pretrained(nn.Module):
    """A net that starts from exported weights, for use in a recipe.

    In YAML: `net: {class_path: Pretrained, init_args: {source: <folder>}}`.

    Args:
        source: where the weights are, as for `load_weights`.
        sha256: expected SHA-256 of the weights file, which pins the net too where it is built by its description.
        revision: branch, tag or commit on the Hub.
        net: the net to load the weights into; by default the one that the weights come with (see `from_pretrained`).

    Raises:
        ImportError: without safetensors or huggingface_hub (the extra `zoo`).
        ValueError: as for `from_pretrained`.

    Example:
        >>> import tempfile, torch
        >>> from lightning_robust.models import SmallConvNet
        >>> file = Path(tempfile.mkdtemp(), "net.pt")
        >>> torch.save(SmallConvNet(width=8).state_dict(), file)
        >>> net = Pretrained(str(file), net=SmallConvNet(width=8))
        >>> net(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, source: str, sha256: str | None = None, revision: str | None = None, net: nn.Module | None = None
    ) -> None:
        super().__init__()
        if net is None:
            self.net = _build_and_load(source, revision, sha256)
        else:
            self.net = load_weights(net, source, revision, sha256)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k] for images [b c h w] in [0, 1]."""
        logits: Tensor = self.net(x)
        return logits


def from_pretrained(source: str | Path, revision: str | None = None, sha256: str | None = None) -> nn.Module:
    """Build an exported or trained net and load its weights.

    Its description, which may be untrusted, can only choose a net of `lightning_robust.models` (including those of
    torchvision and timm by name) and its plain settings. Nothing else is imported, run or downloaded for it.

    Args:
        source: a folder written by `export_weights`, or `organisation/name` on the Hugging Face Hub; a `.safetensors`
            file of such a folder, also alone; or a checkpoint of a training from the command line.
        revision: branch, tag or commit on the Hub.
        sha256: expected SHA-256 of `model.safetensors`, which pins the weights and the net; the one in `config.json`
            is always checked.

    Returns:
        The net in evaluation mode: images [b c h w] in [0, 1] to logits [b k].

    Raises:
        ImportError: without safetensors, huggingface_hub or timm (the extra `zoo`) where they are needed.
        ValueError: if there is nothing to load, the file is damaged or has another SHA-256, or the net is a class of
            another package.

    Example:
        >>> import json, tempfile
        >>> from safetensors.torch import save_file
        >>> from lightning_robust.models import SmallConvNet
        >>> folder = Path(tempfile.mkdtemp())
        >>> save_file(SmallConvNet(width=8).state_dict(), folder / "model.safetensors")
        >>> config = {"net": {"class_path": "SmallConvNet", "init_args": {"width": 8}}}
        >>> _ = (folder / "config.json").write_text(json.dumps(config))
        >>> net = from_pretrained(folder)
        >>> type(net).__name__, net.training
        ('SmallConvNet', False)
    """
    return for_inference(_build_and_load(source, revision, sha256))


def load_weights(
    net: nn.Module, source: str | Path, revision: str | None = None, sha256: str | None = None
) -> nn.Module:
    """Load weights into a net, all of them or none.

    Only tensors and plain values are read from the file; nothing in it is run.

    Args:
        net: a net of any class.
        source: a folder written by `export_weights`, `organisation/name` on the Hugging Face Hub, a safetensors file,
            or a checkpoint: of this package, of RobustBench (`.pt`), or any other whose weights have the net's names,
            with or without the prefix `module.`, `model.` or `net.`.
        revision: branch, tag or commit on the Hub.
        sha256: expected SHA-256 of the weights file; the one in `config.json` is always checked.

    Returns:
        The net itself, in the mode that it was in.

    Raises:
        ImportError: without safetensors or huggingface_hub (the extra `zoo`) where they are needed.
        ValueError: if there is nothing to load, the file is damaged or has another SHA-256, or the weights do not fit.

    Example:
        >>> import tempfile, torch
        >>> file = Path(tempfile.mkdtemp(), "net.pt")
        >>> torch.save({"module.weight": torch.ones(1, 2), "module.bias": torch.zeros(1)}, file)
        >>> load_weights(nn.Linear(2, 1), file).weight.detach()
        tensor([[1., 1.]])
    """
    path = find_weights(source, revision, sha256)
    return load_named_weights(net, read_weights(path), str(path))


def load_named_weights(net: nn.Module, weights: Mapping[str, Tensor], source: str) -> nn.Module:
    """Load tensors into a net by name, all of them or none.

    Args:
        net: a net of any class.
        weights: tensors by their name in the net, or all behind `module.`, `model.` or `net.`.
        source: where the weights come from, for the message.

    Returns:
        The net itself.

    Raises:
        ValueError: if names or shapes differ from the net's.
    """
    own = net.state_dict()
    for prefix in ("module.", "model.", "net."):  # wrappers such as DataParallel put these before every name
        if not own.keys() & weights.keys() and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    shapes = [
        f"{name} is {list(weights[name].shape)}, the net's {list(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    kinds = {"missing": own.keys() - weights.keys(), "not in the net": weights.keys() - own.keys(), "shapes": shapes}
    faults = [f"{kind}: {_first_few(names)}" for kind, names in kinds.items() if names]
    if faults:
        raise ValueError(f"The weights of {source} do not fit {type(net).__name__} ({'; '.join(faults)}).")
    net.load_state_dict(weights)
    return net


def _build_and_load(source: str | Path, revision: str | None, sha256: str | None) -> nn.Module:
    path = find_weights(source, revision, sha256)
    checkpoint = {} if path.suffix == ".safetensors" else read_checkpoint(path)
    if "defense" in checkpoint:
        described, prefix = trained_net(checkpoint)
        weights = {key.removeprefix(prefix): value for key, value in extract_weights(checkpoint, path).items()}
    else:
        described, weights = read_description(path, pinned=sha256 is not None), read_weights(path)
    if described is None:
        raise ValueError(f"{str(source)!r} describes no net: {BUILD_IT_YOURSELF}.")
    return load_named_weights(build_net(described), weights, str(path))


def _first_few(names: Iterable[str], most: int = 3) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
