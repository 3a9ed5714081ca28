"""Files of weights: where they lie, whether they are whole, and the tensors in them."""

import importlib
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_robust.utils.checks import check_sha256
from lightning_robust.utils.messages import first_line

WEIGHTS, CONFIG = "model.safetensors", "config.json"
"""The files of an exported net, in a folder or in a repository of the Hugging Face Hub."""


def find_weights(source: str | Path, revision: str | None = None, sha256: str | None = None) -> Path:
    """The file of weights that `source` means, checked against each SHA-256 that is known of it.

    Args:
        source: a file, a folder of `export_weights`, or `organisation/name` on the Hugging Face Hub. What exists here
            comes first. Files of the Hub are downloaded once, and used without a connection from then on.
        revision: on the Hub: a branch, a tag or a commit; its newest state by default.
        sha256: of the file; what its `config.json` says is checked too.

    Raises:
        ImportError: without huggingface_hub (the extra `zoo`), for a source on the Hub.
        ValueError: if there is no such file, or it is not the one that was meant.
    """
    path = Path(source).expanduser()
    if not path.exists():
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(source)) or path.suffix in (".safetensors", ".pt", ".ckpt"):
            raise ValueError(f"There is no file or folder {str(source)!r}.")
        path = _pull(str(source), revision)
    if path.is_dir():
        path = path / WEIGHTS
        if not path.is_file():
            raise ValueError(f"{str(source)!r} holds no {WEIGHTS}: it was not exported by lightning_robust.")
    recorded = (read_config(path) or {}).get("sha256") if path.name == WEIGHTS else None
    for expected in filter(None, (sha256, recorded)):
        check_sha256(path, str(expected))
    return path


def read_config(weights: Path) -> dict[str, Any] | None:
    """The `config.json` beside a file of weights; None if there is none.

    Raises:
        ValueError: for one that is not an object of JSON.
    """
    path = weights.with_name(CONFIG)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
    except ValueError as error:  # text that is not UTF-8 included
        raise ValueError(f"{path} is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no description of a net: it holds a {type(content).__name__}.")
    return content


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a checkpoint, on the CPU; a defense's checkpoint gives its net's.

    Raises:
        ImportError: without safetensors (the extra `zoo`), for such a file.
        ValueError: for a file that cannot be read, or that holds anything but tensors where they are expected.
    """
    if path.suffix == ".safetensors":
        library = zoo_package("safetensors.torch")
        try:
            return dict(library.load_file(path))
        except Exception as error:  # its own class of errors has no public name
            raise ValueError(f"{path} cannot be read as safetensors: {error}.") from error
    return tensors(read_checkpoint(path), path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a file of `torch.save`: tensors and plain values alone, nothing in it is ever run.

    Raises:
        ValueError: for a file that is not there, is not whole, or holds anything else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} was not loaded: it is damaged, or holds more than tensors and plain values, which could run code."
        ) from error
    except Exception as error:  # what is no checkpoint at all makes the reader fail in any way
        raise ValueError(f"{path} cannot be read as a checkpoint ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no checkpoint: it holds a {type(content).__name__}.")
    return content


def tensors(checkpoint: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The weights in a checkpoint, under the names of the net: of a defense's those below `net.`.

    With Lightning's weight averaging these are the averaged ones: it stores the others as `current_model_state`.

    Raises:
        ValueError: if there are none.
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


def zoo_package(name: str) -> Any:
    """A module of the optional extra `zoo`.

    Raises:
        ImportError: that names the extra.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(
            f"This needs the package {package}: pip install 'lightning-robust[zoo]' ({error})."
        ) from error


def _pull(repo_id: str, revision: str | None) -> Path:
    hub = zoo_package("huggingface_hub")
    try:
        return Path(hub.snapshot_download(repo_id, revision=revision, allow_patterns=[WEIGHTS, CONFIG]))
    except Exception as error:  # its releases raise what requests, httpx and their successors do
        raise ValueError(
            f"{repo_id!r} is no folder here, and the Hugging Face Hub did not give it ({first_line(error)}) Look at "
            "the name, connect once (its files then serve offline), log in with `hf auth login` if it is private, or "
            "give a folder."
        ) from error
