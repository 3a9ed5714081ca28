"""The state of an unfinished evaluation on disk, so that one that is killed resumes where it was."""

import contextlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.verdicts import Verdicts
from lightning_robust.utils.files import atomic_write, unique_name

FORMAT = 2
"""Version of the file format; files of another version are not read."""


class State:
    """Keeps what an evaluation has found so far in a folder, one file for each process, replaced after each batch.

    What was saved of a sample is restored only for the same sample: one with the same index, the same checksum of image
    and label, and the same clean prediction. Which rank holds it, and how many ranks there are, may change.

    Args:
        folder: a folder of this evaluation's own. Its name should contain the `fingerprint` of all that must not
            change in between. What others have put there is left alone.

    Raises:
        ValueError: for a folder that is a link.

    Example:
        >>> import tempfile, torch
        >>> from lightning_robust.evaluation.verdicts import Verdicts
        >>> index, label = torch.arange(2), torch.tensor([3, 1])
        >>> samples = Samples(index, label, label, index, index < 0, torch.rand(2, 1, 8, 8))
        >>> samples.verdicts["pgd"] = Verdicts.initial(label)
        >>> folder = Path(tempfile.mkdtemp(), "unfinished")
        >>> samples.verdicts["pgd"].done[0] = 1
        >>> State(folder).save(samples, {"examples": {}, "seconds": {}})
        >>> samples.verdicts["pgd"].done[0] = 0
        >>> state = State(folder)
        >>> state.restore(samples)
        [{'examples': {}, 'seconds': {}}]
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

    def restore(self, samples: Samples) -> list[dict[str, Any]]:
        """Restore the verdicts that were saved for these samples.

        Args:
            samples: this rank's samples with initial verdicts, which are changed in place.

        Returns:
            The `extra` of each file that was read; none if no sample was known.

        Warns:
            UserWarning: for a file that cannot be read, which is left where it is.
        """
        extras: list[dict[str, Any]] = []
        restored: set[int] = set()
        keys = _keys(samples)
        for path in sorted(self.folder.glob("*.pt")):
            if (content := _read(path, samples)) is None:
                continue
            self._files.add(path)
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
        """Replace this process's file atomically.

        Args:
            samples: this rank's samples; their images are not saved.
            extra: plain data to save with them, with the entries "examples" and "seconds".
        """
        verdicts = {name: vars(found) for name, found in samples.verdicts.items()}
        saved = {**vars(samples.light()), "verdicts": verdicts}
        content = {"format": FORMAT, "samples": saved, "extra": dict(extra)}
        try:
            self._write(content)
        except FileNotFoundError:  # another process of the same command has finished and removed the folder
            self._write(content)

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


def _keys(samples: Samples) -> list[tuple[int, int, int]]:
    """List what a saved sample must have in common with one to be restored."""
    return list(zip(samples.index.tolist(), samples.checksum.tolist(), samples.clean.tolist(), strict=True))


def _useful(extra: Mapping[str, Any], restored: set[int]) -> dict[str, Any]:
    """Leave out the examples of samples that were not restored."""
    examples = {
        name: {index: pair for index, pair in pairs.items() if index in restored}
        for name, pairs in extra["examples"].items()
    }
    return {**extra, "examples": examples}


def _read(path: Path, samples: Samples) -> tuple[Samples, dict[str, Any]] | None:
    """Read a file whose layout is that of `samples` and of what `Evaluation.extra` returns; None for any other."""
    try:
        if path.is_symlink():
            raise ValueError("a link")
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT:
            raise ValueError("another format")
        saved = Samples(**{**content["samples"], "verdicts": {}})
        found = content["samples"]["verdicts"]
        saved.verdicts = {name: Verdicts(**found[name]) for name in samples.verdicts}
        _check_columns(saved, samples)
        return saved, _checked_extra(content["extra"], samples)
    except Exception:  # a damaged or foreign file can make the reader raise anything
        warnings.warn(
            f"Cannot read {path}: results stored there are computed again. The file is kept; delete it if you do not "
            "need it.",
            stacklevel=3,
        )
        return None


def _check_columns(saved: Samples, samples: Samples) -> None:
    """Raise unless each column has one value for each sample, of the type that it should have."""
    for theirs, ours in zip(saved.light().tensors(), samples.light().tensors(), strict=True):
        if theirs.dtype != ours.dtype or theirs.shape[:1] != saved.index.shape or theirs.dim() != ours.dim():
            raise ValueError("a column of another type or length")
    if any((verdicts.broken >= verdicts.done.clamp_min(0)).any() for verdicts in saved.verdicts.values()):
        raise ValueError("a sample broken by a stage that it was not through")


def _checked_extra(extra: Any, samples: Samples) -> dict[str, Any]:
    """Return the seconds by stage, and the examples by attack and index, or raise."""
    seconds = {str(stage): float(value) for stage, value in extra["seconds"].items()}
    examples = {name: dict(extra["examples"][name]) for name in extra["examples"]}
    if not examples.keys() <= samples.verdicts.keys():
        raise ValueError("examples of another attack")
    for pairs in examples.values():
        for index, pair in pairs.items():
            if not isinstance(index, int) or len(pair) != 2 or pair.shape[1:] != samples.x.shape[1:]:
                raise ValueError("an example of another size")
    return {"examples": examples, "seconds": seconds}
