"""An unfinished evaluation on disk, so that one that is killed goes on where it was."""

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.verdicts import Verdicts
from lightning_robust.utils.files import atomic_write


class State:
    """A folder with one file for each process, replaced atomically after each batch.

    A row of it counts only for the very sample it was written for (its index, the checksum of its image and label, and
    the class predicted on it), whichever rank holds that sample now.

    Args:
        folder: of this evaluation alone: its name holds what must not change, see `fingerprint`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own = folder / f"{os.getpid()}.pt"
        self._files = {self._own}

    def restore(self, samples: Samples) -> list[dict[str, Any]]:
        """Take what the attacks had found of these samples; returns what else was saved, where it is of use."""
        extras: list[dict[str, Any]] = []
        restored: set[int] = set()
        keys = _keys(samples)
        for path in sorted(self.folder.glob("*.pt")):
            self._files.add(path)
            if (content := _read(path)) is None:
                continue
            saved, extra = content
            extras.append(extra)
            row_of = {key: row for row, key in enumerate(_keys(saved))}
            rows = [(row, row_of[key]) for row, key in enumerate(keys) if key in row_of]
            here, there = torch.tensor(rows, dtype=torch.int64).view(-1, 2).unbind(1)
            restored.update(samples.index[here].tolist())
            further = saved.stages_done()[there] > samples.stages_done()[here]
            for name, verdicts in samples.verdicts.items():
                verdicts[here[further]] = saved.verdicts[name][there[further]]
        return [_useful(extra, restored) for extra in extras] if restored else []

    def save(self, samples: Samples, extra: Mapping[str, Any]) -> None:
        """Replace this process's file."""
        verdicts = {name: vars(found) for name, found in samples.verdicts.items()}
        content = {"samples": {**vars(samples.light()), "verdicts": verdicts}, "extra": dict(extra)}
        try:
            self._write(content)
        except FileNotFoundError:  # another process of the same command has finished and removed the folder
            self._write(content)

    def discard(self) -> None:
        """Remove what was read and written: the results stand elsewhere."""
        for path in self._files:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else's files are there
            self.folder.rmdir()

    def _write(self, content: Mapping[str, Any]) -> None:
        with atomic_write(self._own) as beside, beside.open("wb") as file:
            torch.save(content, file)


def checksums(x: Tensor, y: Tensor) -> Tensor:
    """A 64-bit number [b] for each image and its label."""
    bits = x.detach().cpu().double().contiguous().flatten(1).view(torch.int64)
    place = torch.arange(bits.shape[1], dtype=torch.int64) * 2 + 1
    mixed: Tensor = ((bits ^ (bits >> 29)) * (place * 0x5851F42D4C957F2D)).sum(1) + y.cpu() * 0x14057B7EF767814F
    return mixed


def fingerprint(net: nn.Module, settings: Mapping[str, Any]) -> str:
    """Twelve digits for the net (its structure, parameters and buffers) and whatever else decides a result."""
    digest = hashlib.sha256((json.dumps(settings, default=str) + repr(net)).encode())
    for name, value in chain(net.named_parameters(), net.named_buffers()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _keys(samples: Samples) -> list[tuple[int, int, int]]:
    """What a saved row must have in common with a sample."""
    return list(zip(samples.index.tolist(), samples.checksum.tolist(), samples.clean.tolist(), strict=True))


def _useful(extra: Mapping[str, Any], restored: set[int]) -> dict[str, Any]:
    """The examples of samples that were restored, and the rest."""
    examples = {
        name: {index: pair for index, pair in pairs.items() if index in restored}
        for name, pairs in extra["examples"].items()
    }
    return {**extra, "examples": examples}


def _read(path: Path) -> tuple[Samples, dict[str, Any]] | None:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        samples = Samples(**content["samples"])
        samples.verdicts = {name: Verdicts(**columns) for name, columns in content["samples"]["verdicts"].items()}
        return samples, content["extra"]
    except Exception:  # what is damaged makes the reader fail in any way
        warnings.warn(f"{path} cannot be read: what it held of an unfinished evaluation is done again.", stacklevel=2)
        return None
