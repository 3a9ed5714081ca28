"""What a result was measured on: the stage, the checkpoint and the versions."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lightning_robust.utils.sha256 import file_sha256

PACKAGES = ("lightning-robust", "lightning", "torch", "torchvision", "torchmetrics")


def evaluated_in(trainer: Any) -> dict[str, Any]:
    """Return the stage, the epoch and the checkpoint that a Lightning trainer is evaluating."""
    return {
        "stage": str(trainer.state.fn.value) if trainer.state.fn else None,
        "epoch": trainer.current_epoch,
        "checkpoint": checkpoint_identity(trainer.ckpt_path if trainer.state.fn != "fit" else None),
    }


def checkpoint_identity(path: str | Path | None) -> dict[str, str] | None:
    """Return the path and the SHA-256 of a checkpoint; the path alone if it is no local file, None without one."""
    if not path:
        return None
    if not Path(path).is_file():  # a checkpoint that is sharded or remote
        return {"path": str(path)}
    return {"path": str(path), "sha256": file_sha256(path)}


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that a result depends on; None for one not installed."""
    return {**{name: _version(name) for name in PACKAGES}, "python": platform.python_version()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # used from a source tree
        return None
