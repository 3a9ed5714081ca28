"""The state of an unfinished evaluation on disk, so that one that is killed resumes where it was."""

import contextlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_robust.attacks.base import Attack
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.state_file import content, read
from lightning_robust.utils.files import atomic_write, unique_name


class State:
    """Keeps what an evaluation has found so far in a folder, one file for each process, replaced after each batch.

    What was saved of a sample is restored only for the same sample: one with the same index, label, clean prediction,
    and checksum of image and label. Which rank holds it, and how many ranks there are, may change.

    Args:
        folder: a folder of this evaluation's own. Its name should contain the `fingerprint` of all that must not
            change in between. What others have put there is left alone.

    Raises:
        ValueError: for a folder that is a link.

    Example:
        >>> import tempfile, torch
        >>> from lightning_robust.attacks import PGD
        >>> from lightning_robust.evaluation.images import Images
        >>> from lightning_robust.evaluation.verdicts import Verdicts
        >>> index, label = torch.arange(2), torch.tensor([3, 1])
        >>> images = Images.of(torch.rand(2, 1, 8, 8))
        >>> samples = Samples(index, label, label, index, index, index < 0, images)
        >>> samples.verdicts["pgd"], samples.examples["pgd"] = Verdicts.initial(label), {}
        >>> folder = Path(tempfile.mkdtemp(), "unfinished")
        >>> samples.verdicts["pgd"].done[0] = 1
        >>> State(folder).save(samples, {"pgd": 2.5})
        >>> samples.verdicts["pgd"].done[0] = 0
        >>> state = State(folder)
        >>> state.restore(samples, {"pgd": PGD()})
        {'pgd': 2.5}
        >>> samples.verdicts["pgd"].done.tolist()
        [1, 0]
        >>> state.discard()
        >>> folder.exists()
        False
    """

    def __init__(self, folder: Path) -> None:
        if folder.is_symlink():
            raise ValueError(
                f"{folder} is a link, but an unfinished evaluation is kept in a folder of its own: remove it, or give "
                "another state_dir."
            )
        self.folder = folder
        self._own = folder / f"{unique_name()}.pt"
        self._files = {self._own}

    def restore(self, samples: Samples, attacks: Mapping[str, Attack], classes: int | None = None) -> dict[str, float]:
        """Restore what was saved of these samples: their verdicts and examples.

        Args:
            samples: this rank's samples with initial verdicts, which are changed in place.
            attacks: the attacks by name, under which a file's values must be possible.
            classes: number of classes that the net tells apart; None if it is not known.

        Returns:
            The seconds that each stage took so far, by its name; none if no sample was known.

        Warns:
            UserWarning: for a file that cannot be read, which is left where it is.
        """
        seconds: dict[str, float] = {}
        known = False
        keys = _keys(samples)
        self._files.update(self.folder.glob(".*.pt.*.tmp"))  # those of processes that were killed while they wrote
        for path in sorted(self.folder.glob("*.pt")):
            try:
                saved, took = read(path, samples, attacks, classes)
            except Exception:  # a damaged or foreign file can make the reader raise anything
                warnings.warn(
                    f"Cannot read {path}: results stored there are computed again. The file is kept; delete it if you "
                    "do not need it.",
                    stacklevel=2,
                )
                continue
            self._files.add(path)
            row_of = {key: row for row, key in enumerate(_keys(saved))}
            rows = [(row, row_of[key]) for row, key in enumerate(keys) if key in row_of]
            here, there = torch.tensor(rows, dtype=torch.int64).view(-1, 2).unbind(1)
            known = known or bool(rows)
            further = saved.stages_done()[there] > samples.stages_done()[here]
            here, there = here[further], there[further]
            shown = samples.index[here[samples.shown[here]]].tolist()
            for name, verdicts in samples.verdicts.items():
                verdicts[here] = saved.verdicts[name][there]
                for i in shown:  # one that was not drawn before has no example
                    samples.examples[name].pop(i, None)
                samples.examples[name].update({i: saved.examples[name][i] for i in shown if i in saved.examples[name]})
            for stage, value in took.items():
                seconds[stage] = max(value, seconds.get(stage, 0.0))
        return seconds if known else {}

    def save(self, samples: Samples, seconds: Mapping[str, float]) -> None:
        """Replace this process's file atomically.

        Args:
            samples: this rank's samples; their images are not saved.
            seconds: the time that each stage took on this rank, by its name.
        """
        plain = content(samples, seconds)
        try:
            self._write(plain)
        except FileNotFoundError:  # another process of the same command has finished and removed the folder
            self._write(plain)

    def discard(self) -> None:
        """Remove the files that were read and written, and the folder if nothing else lies in it."""
        for path in self._files:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another process's files lie there
            self.folder.rmdir()

    def _write(self, content: Mapping[str, Any]) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_write(self._own, mode=0o600) as beside, beside.open("wb") as file:
            torch.save(content, file)


def _keys(samples: Samples) -> list[tuple[int, ...]]:
    """List what a saved sample must have in common with one to be restored."""
    columns = (samples.index, samples.checksum, samples.y, samples.clean)
    return list(zip(*(column.tolist() for column in columns), strict=True))
