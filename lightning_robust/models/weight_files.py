"""Finding files of trained weights, checking that they are whole, and reading the tensors in them."""

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_robust.utils.extras import import_extra
from lightning_robust.utils.messages import describe_error
from lightning_robust.utils.sha256 import check_sha256

WEIGHTS = "model.safetensors"
"""Name of the weights file of an exported net, in a folder or in a repository of the Hugging Face Hub."""

CONFIG = "config.json"
"""Name of the file beside it that describes the net."""


def find_weights(source: str | Path, revision: str | None = None, sha256: str | None = None) -> Path:
    """Return the path of the weights file that `source` stands for, with its SHA-256 checked.

    Args:
        source: a file, a folder written by `export_weights`, or `organisation/name` on the Hugging Face Hub. A local
            path that exists is preferred. Files of the Hub are downloaded once and work offline from then on.
        revision: branch, tag or commit on the Hub; the default branch by default.
        sha256: expected SHA-256 of the file; the one in its `config.json` is checked too.

    Raises:
        ImportError: without huggingface_hub (the extra `zoo`), for a source on the Hub.
        ValueError: if there is no such file, or it has another SHA-256.
    """
    path = Path(source).expanduser()
    if not path.exists():
        path = download(str(source), revision, [WEIGHTS, CONFIG])
    if path.is_dir():
        path = path / WEIGHTS
        if not path.is_file():
            raise ValueError(f"{str(source)!r} holds no {WEIGHTS}: it was not exported by lightning_robust.")
    recorded = (read_config(path) or {}).get("sha256") if path.name == WEIGHTS else None
    for expected in filter(None, (sha256, recorded)):
        check_sha256(path, str(expected))
    return path


def read_config(weights: Path) -> dict[str, Any] | None:
    """Read the `config.json` beside a weights file; None if there is none.

    Raises:
        ValueError: if the file is not a JSON object.
    """
    path = weights.with_name(CONFIG)
    return read_json(path) if path.is_file() else None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        ValueError: if it is anything else.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:  # includes text that is not UTF-8
        raise ValueError(f"{path} is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no description of a net: it holds a {type(content).__name__}.")
    return content


def read_description(weights: Path, pinned: bool = False) -> Any:
    """Read which net exported weights are of, from the `config.json` beside them.

    A weights file holds the same description, so that its SHA-256 stands for the net too: its normalisation and
    activation, which change what it computes, are in no weight.

    Args:
        weights: the weights file.
        pinned: whether a SHA-256 was asked for, which the description must then be part of.

    Returns:
        The description as `config.json` has it, or, without such a file, as the weights have it, for `build_net`; None
        if there is none.

    Raises:
        ImportError: without safetensors (the extra `zoo`).
        ValueError: if the two descriptions differ, or a pinned file has none.
    """
    config, told = read_config(weights), read_about(weights).get("net")
    if config is None:
        return told
    if told is None and pinned:
        raise ValueError(
            f"{weights} does not say which net it is of, so that its SHA-256 does not vouch for {CONFIG}: leave sha256 "
            "out if you trust the folder, or export the weights again."
        )
    net = config.get("net")
    if told is not None and net is not None and told != net:  # `build_net` refuses none
        raise ValueError(
            f"{weights.with_name(CONFIG)} describes another net than the one whose weights were exported: it was "
            "changed. Fetch it again and do not use this one."
        )
    return net


def about_text(**about: Any) -> dict[str, str]:
    """Return what exported weights say of themselves, as the metadata of a safetensors file.

    It is a single entry, because safetensors writes several in any order, and the file's SHA-256 would vary.

    Args:
        about: the parts, which JSON can hold.

    Example:
        >>> about_text(net={"init_args": {"width": 8}, "class_path": "SmallConvNet"})
        {'about': '{"net": {"class_path": "SmallConvNet", "init_args": {"width": 8}}}'}
    """
    return {"about": json.dumps(about, sort_keys=True)}


def read_about(path: Path) -> dict[str, Any]:
    """Return what exported weights say of themselves: "net" and "held_out"; nothing for files without it.

    Raises:
        ImportError: without safetensors (the extra `zoo`).
        ValueError: for a file that cannot be read, or whose description is no JSON.
    """
    if path.suffix != ".safetensors":
        return {}
    library = import_extra("safetensors", "zoo")
    try:
        with library.safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
    except Exception as error:  # safetensors' own exception class has no public name
        raise ValueError(f"{path} cannot be read as safetensors: {error}.") from error
    try:
        about = json.loads(texts["about"]) if "about" in texts else {}
        if "net" in texts:  # as exports were written at first
            about["net"] = json.loads(texts["net"])
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path} describes its net in no JSON: {error}.") from error
    return about if isinstance(about, dict) else {}


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the net's tensors from a safetensors file or a checkpoint, onto the CPU.

    Args:
        path: the file. From a checkpoint of this package, only the net's own tensors are returned.

    Returns:
        The tensors by their name in the net.

    Raises:
        ImportError: without safetensors (the extra `zoo`), for such a file.
        ValueError: for a file that cannot be read, or that holds anything but tensors where they are expected.
    """
    if path.suffix == ".safetensors":
        library = import_extra("safetensors.torch", "zoo")
        try:
            return dict(library.load_file(path))
        except Exception as error:  # safetensors' own exception class has no public name
            raise ValueError(f"{path} cannot be read as safetensors: {error}.") from error
    return extract_weights(read_checkpoint(path), path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a file written by `torch.save`, as tensors and plain values only; nothing in it is run.

    Raises:
        ValueError: for a file that is missing or damaged, or that holds anything else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} was not loaded: it is damaged, or holds more than tensors and plain values, which could run code."
        ) from error
    except Exception as error:  # torch raises many kinds for files that are no checkpoints
        raise ValueError(f"{path} cannot be read as a checkpoint ({describe_error(error)})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no checkpoint: it holds a {type(content).__name__}.")
    return content


def extract_weights(checkpoint: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """Return the net's weights in a checkpoint, by their name in the net.

    With Lightning's weight averaging these are the averaged ones: it stores the others as `current_model_state`.

    Args:
        checkpoint: the weights themselves, or a mapping with them under `state_dict`, `model_state_dict` or `model`.
            In a checkpoint of this package the net's weights are those whose name begins with `net.`.
        path: where it was read from, for the message.

    Raises:
        ValueError: if there are no weights.

    Example:
        >>> extract_weights({"state_dict": {"bias": torch.zeros(1)}}, "net.pt")
        {'bias': tensor([0.])}
    """
    content = next((checkpoint[key] for key in ("state_dict", "model_state_dict", "model") if key in checkpoint), None)
    found = checkpoint if content is None else content
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        found = {}
    if "defense" in checkpoint:
        found = {name.removeprefix("net."): value for name, value in found.items() if name.startswith("net.")}
    if not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} holds no weights, neither at its top nor under `state_dict`.")
    return dict(found)


def download(repo_id: str, revision: str | None, patterns: list[str]) -> Path:
    """Download files of a repository of the Hugging Face Hub once, and return their folder.

    Args:
        repo_id: `organisation/name`.
        revision: branch, tag or commit; the default branch by default.
        patterns: names of the files, with * for any part.

    Raises:
        ImportError: without huggingface_hub (the extra `zoo`).
        ValueError: for another form of name, or if the Hub does not give them.
    """
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo_id) or repo_id.endswith((".safetensors", ".pt", ".ckpt")):
        raise ValueError(f"There is no file or folder {repo_id!r}.")
    hub = import_extra("huggingface_hub", "zoo")
    try:
        return Path(hub.snapshot_download(repo_id, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the HTTP library behind it, and so its exceptions, differ between releases
        raise ValueError(
            f"{repo_id!r} is no folder here, and the Hugging Face Hub did not give it ({describe_error(error)}) "
            "Look at the name, connect once (its files then serve offline), log in with `hf auth login` if it is "
            "private, or give a folder."
        ) from error
