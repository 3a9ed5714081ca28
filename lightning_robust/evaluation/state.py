"""An unfinished evaluation on disk, so that one that is killed goes on where it was."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_robust.evaluation.samples import Samples


class State:
    """A folder with one file for each rank, replaced atomically after each batch.

    A row of it counts only for the very sample it was written for (its index and the checksum of its image and label),
    whichever rank holds that sample now.

    Args:
        folder: of this evaluation alone: its name holds what must not change, see `fingerprint`.
        rank: whose file to write.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank

    def restore(self, samples: Samples) -> list[dict[str, Any]]:
        """Take what is known of the samples; returns what else each rank had saved."""
        known: dict[tuple[int, int], tuple[int, dict[str, Tensor], int]] = {}
        extras: list[dict[str, Any]] = []
        for path in sorted(self.folder.glob("rank*.pt")):
            saved = torch.load(path, map_location="cpu", weights_only=True)
            extras.append(saved["extra"])
            columns = saved["columns"]
            far = progress(columns)
            for row, key in enumerate(zip(columns["index"].tolist(), columns["checksum"].tolist(), strict=True)):
                if key not in known or known[key][0] < int(far[row]):
                    known[key] = (int(far[row]), columns, row)
        for i, key in enumerate(zip(samples["index"].tolist(), samples["checksum"].tolist(), strict=True)):
            if key in known:
                _, columns, row = known[key]
                for name, value in samples.light().items():
                    value[i] = columns[name][row]
        return extras

    def save(self, samples: Samples, extra: Mapping[str, Any]) -> None:
        """Replace this rank's file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("wb", dir=self.folder, suffix=".tmp", delete=False) as file:
            torch.save({"columns": samples.light(), "extra": dict(extra)}, file)
        os.replace(file.name, self.folder / f"rank{self.rank}.pt")

    def discard(self) -> None:
        """Remove the folder: the results are written elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)


def progress(columns: Mapping[str, Tensor]) -> Tensor:
    """How many stages each sample [n] has been through, all attacks together."""
    done = [value.long() for name, value in columns.items() if name.endswith("/done")]
    return torch.stack(done).sum(0)


def checksums(x: Tensor, y: Tensor) -> Tensor:
    """A 63-bit number [b] for each image and its label."""
    bits = x.detach().cpu().double().contiguous().flatten(1).view(torch.int64)
    place = torch.arange(bits.shape[1], dtype=torch.int64) * 2 + 1
    mixed: Tensor = ((bits ^ (bits >> 29)) * (place * 0x5851F42D4C957F2D)).sum(1) + y.cpu() * 0x14057B7EF767814F
    return mixed


def fingerprint(net: nn.Module, settings: Mapping[str, Any]) -> str:
    """Twelve digits for the net's weights and whatever else decides a result."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
