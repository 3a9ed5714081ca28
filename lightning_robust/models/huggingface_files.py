"""What a folder of Hugging Face's transformers says of a net: its configuration, statistics and weights.

Nothing in it is run: of the configuration plain settings are taken, of the weights tensors.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_robust.models.weight_files import CONFIG, download, read_json, read_weights

PREPROCESSOR = "preprocessor_config.json"
"""Name of the file that says how images are normalised."""

_REFUSED = ("auto_map", "attn_implementation", "dtype", "quantization_config", "torch_dtype")
"""Settings that name code of the repository or of the Hub, or that change in which numbers the net computes."""


def find_files(name: str, revision: str | None, weights: bool) -> Path:
    """Return the folder that a name stands for, downloaded from the Hugging Face Hub if it is no path here.

    Args:
        name: a folder, or `organisation/name` on the Hub.
        revision: branch, tag or commit on the Hub.
        weights: whether the weights are needed too.

    Raises:
        ValueError: if there is no such folder, or it lacks `config.json` or safetensors that are needed.
    """
    folder = Path(name).expanduser()
    if not folder.exists():
        folder = download(name, revision, [CONFIG, PREPROCESSOR, *(["model*.safetensors"] if weights else [])])
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{name!r} holds no {CONFIG}: it is no folder of transformers.")
    if weights and not any(folder.glob("model*.safetensors")):
        raise ValueError(
            f"{name!r} holds no model.safetensors, and weights in other formats are not loaded: they could run code. "
            f"Set pretrained to false to build the net from {CONFIG} alone."
        )
    return folder


def plain_config(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of which a net is built: those of `config.json` without what names code or a precision.

    Args:
        name: where they come from, for the message.
        config: the settings.

    Returns:
        The settings with a `model_type` and the number of classes, `num_labels`, but without the classes' names.

    Raises:
        ValueError: for settings without a `model_type`.
    """
    if not isinstance(config.get("model_type"), str):
        also = f": it is an export of lightning_robust, so give the folder {name} itself" if "net" in config else ""
        raise ValueError(
            f"The {CONFIG} of {name!r} names no model_type{also or ', by which transformers builds a net'}."
        )
    labels = config.get("id2label")
    classes = len(labels) if isinstance(labels, Mapping) else config.get("num_labels", 2)
    left_out = (*_REFUSED, "id2label", "label2id")
    kept = {key: value for key, value in config.items() if key not in left_out and not key.startswith("_")}
    return {**kept, "num_labels": classes}


def statistics(folder: Path) -> tuple[Sequence[float], Sequence[float]] | None:
    """Return mean and std of the images that the weights in a folder take; None if they are not normalised.

    Raises:
        ValueError: if the folder does not say.
    """
    path = folder / PREPROCESSOR
    settings = read_json(path) if path.is_file() else {}
    if settings.get("do_normalize") is False:
        return None
    if not isinstance(settings.get("image_mean"), list) or not isinstance(settings.get("image_std"), list):
        raise ValueError(f"{folder} does not say how its images are normalised (no {PREPROCESSOR}): give mean and std.")
    return settings["image_mean"], settings["image_std"]


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the weights in a folder: those of `model.safetensors`, or else of the numbered files of one net."""
    whole = folder / "model.safetensors"
    paths = [whole] if whole.is_file() else sorted(folder.glob("model-[0-9]*-of-[0-9]*.safetensors"))
    return {key: value for path in paths for key, value in read_weights(path).items()}
