"""Where a run on a GPU takes place, and the lines that it leaves, each as soon as it is measured."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch

from benchmarks.common.runs import append, read

Part: TypeAlias = Literal["smoke", "throughput", "autoattack", "recipe", "fashion"]
PARTS: tuple[Part, ...] = get_args(Part)
"""In the order of their worth: the later ones take what time the earlier ones leave."""

OUT_OF_TIME, BROKE = "out of time", "the process broke down in it"
Status: TypeAlias = Literal["ok", "failed", "not applicable", "left out"]


class OutOfTimeError(BaseException):
    """The part's time is over; no exception in the sense that a library may catch it and go on."""


class InapplicableError(Exception):
    """There is nothing to measure here, for the reason given."""


@dataclass(frozen=True)
class Line:
    """What became of one measurement; `values` is JSON, and `note` says why there are none."""

    device: str
    torch: str
    size: str
    part: str
    case: str
    status: str
    note: str
    values: str

    @property
    def told(self) -> str:
        """In words."""
        return f"{self.part}: {self.case}: {self.status}" + (f": {self.note}" if self.note else "")

    @property
    def found(self) -> dict[str, Any]:
        """What was measured, by name."""
        values: dict[str, Any] = json.loads(self.values)
        return values


@dataclass(frozen=True)
class Setup:
    """Where a run takes place, and how large it is.

    Args:
        device: "cuda" or "cpu".
        toy: whether nets and images are tiny, to see that everything runs.
        results: folder of the tables.
        data: folder of Fashion-MNIST's files.
        authors: folder with clones of the authors' repositories, if there is one.
    """

    device: str
    toy: bool
    results: Path
    data: Path
    authors: Path | None = None

    @cached_property
    def name(self) -> str:
        """What the device is called."""
        return torch.cuda.get_device_name() if self.device == "cuda" else self.device

    @property
    def label(self) -> str:
        """The device and the size, as they stand in the tables' names."""
        return re.sub(r"\W+", "_", self.name.lower()) + ("_toy" if self.toy else "")

    @property
    def path(self) -> Path:
        """The file of all lines."""
        return self.results / "gpu_lines.csv"

    def lines(self, part: str) -> dict[str, Line]:
        """The newest line of each case of a part, as far as it was measured here with this version of torch."""
        here = (self.name, torch.__version__, self._size, part)
        lines = [line for line in read(self.path, Line) if (line.device, line.torch, line.size, line.part) == here]
        return {line.case: line for line in lines}

    def add(
        self, part: str, case: str, status: Status, note: str = "", values: Mapping[str, Any] | None = None
    ) -> Line:
        """Keep a line."""
        note = " ".join(note.split())
        text = json.dumps(values or {})
        line = Line(self.name, torch.__version__, self._size, part, case, status, note, text)
        append(self.path, line)
        return line

    @property
    def _size(self) -> str:
        return "toy" if self.toy else "full"
