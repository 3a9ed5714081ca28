"""Reading images, labels and dataset positions from any project's batches, and putting other images in their place."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_robust.types import Batch
from lightning_robust.utils.private_apis import plain_tensors

Key: TypeAlias = int | str
"""A position in a tuple or list, a key of a mapping, or the name of an attribute; "a.0" is position 0 of "a"."""

IMAGES = ("image", "images", "img", "pixel_values", "x", "input", "inputs")
"""The names under which images are found without a key."""

LABELS = ("label", "labels", "y", "target", "targets")
"""The names under which labels are found without a key."""


class BatchReader:
    """Finds the images, labels and dataset positions of a batch, and puts other images in their place.

    Without keys, a tuple or list begins with images and labels, and any other batch holds each under exactly one of the
    usual names (`IMAGES`, `LABELS`). Whatever else it holds is left alone: a third tensor is not taken for positions.
    Those come from `index_key`, or from a `Batch`, as datasets wrapped in `lightning_robust.data.Indexed` give.

    Tensors of a subclass (MONAI's MetaTensor, torchvision's Image) are read as plain tensors.

    Args:
        image_key: where the images stand, see `Key`.
        label_key: where the labels stand.
        index_key: where the samples' positions in the dataset stand, if anywhere.
        read: reads a batch instead of the keys.

    Raises:
        TypeError: when called, for a batch without such tensors.
        ValueError: for a function together with label_key or index_key.

    Example:
        >>> reader = BatchReader(label_key="species")
        >>> batch = {"image": torch.zeros(2, 1, 4, 4), "species": torch.tensor([3, 1]), "name": ["a", "b"]}
        >>> reader(batch).y
        tensor([3, 1])
        >>> changed = reader.replaced(batch, torch.ones(2, 1, 4, 4))
        >>> float(changed["image"].mean()), changed["name"], float(batch["image"].mean())
        (1.0, ['a', 'b'], 0.0)
    """

    def __init__(
        self,
        image_key: Key | None = None,
        label_key: Key | None = None,
        index_key: Key | None = None,
        read: Callable[[Any], Batch] | None = None,
    ) -> None:
        if read is not None and (label_key is not None or index_key is not None):
            raise ValueError("read_batch reads labels and positions itself: leave label_key and index_key out.")
        self.image_key = image_key
        self.label_key = label_key
        self.index_key = index_key
        self.read = read

    @property
    def names_positions(self) -> bool:
        """Whether the user says where positions stand."""
        return self.index_key is not None or self.read is not None

    def __call__(self, batch: Any) -> Batch:
        """Return the batch's images [b c h w], labels [b] and, where they are known, positions [b]."""
        if self.read is not None:
            found = self.read(batch)
            if not isinstance(found, Batch):
                raise TypeError(f"read_batch must return a lightning_robust.types.Batch, got {_described(found)}.")
            x, y, index = found
        else:
            image_key, label_key = self._keys(batch)
            x, y, index = _found(batch, image_key), _found(batch, label_key), self._index(batch)
        if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x is y:
            raise self._not_found(batch)
        if index is None:
            return Batch(plain(x), plain(y))
        if not isinstance(index, Tensor) or index.is_floating_point() or index.shape != y.shape[:1]:
            got = f"{index.dtype} of shape {tuple(index.shape)}" if isinstance(index, Tensor) else _described(index)
            raise TypeError(
                f"Positions in the dataset must be integers [b], got {got}: set index_key to where they are."
            )
        return Batch(plain(x), plain(y), plain(index))

    def images(self, batch: Any) -> Tensor:
        """Return the images [b c h w] of a batch that may have no labels, or be the images themselves."""
        if isinstance(batch, Tensor):
            return plain(batch)
        x = self.read(batch).x if self.read is not None else _found(batch, self._keys(batch)[0])
        if not isinstance(x, Tensor):
            raise self._not_found(batch)
        return plain(x)

    def replaced(self, batch: Any, x: Tensor) -> Any:
        """Return a batch of the same type in which other images stand; the batch itself is not changed.

        Args:
            batch: the batch.
            x: the images [b c h w] to put in.

        Raises:
            TypeError: if there are no images of that shape where `image_key` says, or by default at a usual place.
        """
        key = self._keys(batch)[0]
        old = _found(batch, key)
        if key is None or not isinstance(old, Tensor) or old.shape != x.shape:
            raise TypeError(
                f"AdversarialInputs must write images back into {_described(batch)}, but finds no image tensor of "
                f"shape {tuple(x.shape)} at image_key={key!r}: set image_key to where read_batch takes the images from."
            )
        return _put(batch, _path(batch, key), _like(old, x))

    def _keys(self, batch: Any) -> tuple[Key | None, Key | None]:
        """Return where images and labels stand."""
        image: Key | None = _usual(batch, IMAGES)
        label: Key | None = _usual(batch, LABELS)
        if isinstance(batch, (tuple, list)) and (image is None or label is None):
            image, label = 0, 1
        return (
            image if self.image_key is None else self.image_key,
            label if self.label_key is None else self.label_key,
        )

    def _index(self, batch: Any) -> Any:
        if self.index_key is None:
            return batch.index if isinstance(batch, Batch) else None
        found = _found(batch, self.index_key)
        if found is None:
            raise TypeError(f"There are no positions at index_key={self.index_key!r} in {_described(batch)}.")
        return found

    def _not_found(self, batch: Any) -> TypeError:
        keys = {"image_key": self.image_key, "label_key": self.label_key}
        given = ", ".join(f"{name}={key!r}" for name, key in keys.items() if key is not None)
        return TypeError(
            f"A batch must hold a tensor of images and one of labels, but they were not found in {_described(batch)}"
            f"{f' by {given}' if given else ''}: say with image_key and label_key where they stand, or read it with a "
            "function, read_batch."
        )


def as_batch(batch: Any) -> Batch:
    """Read a batch whose images and labels stand where they usually do, see `BatchReader`.

    Args:
        batch: `(x, y)` and whatever follows, a mapping or object with the usual names, or a `Batch`.

    Raises:
        TypeError: for anything else; the message says what it was.

    Example:
        >>> as_batch([torch.rand(2, 1, 4, 4), torch.tensor([3, 1])]).y
        tensor([3, 1])
    """
    return _AS_USUAL(batch)


_AS_USUAL = BatchReader()


def plain(value: Tensor) -> Tensor:
    """Return a tensor of a subclass as a plain one, which shares its memory."""
    if type(value) is Tensor:
        return value
    with plain_tensors():  # a subclass may return itself from every operation
        return value.as_subclass(Tensor)


def _like(old: Tensor, new: Tensor) -> Tensor:
    """Return `new` as the subclass that `old` is of, with what `old` carries besides its values."""
    if type(old) in (Tensor, torch.nn.Parameter):
        return new
    with plain_tensors():
        typed = new.as_subclass(type(old))
    vars(typed).update(vars(old))
    return typed


def _usual(batch: Any, names: Sequence[str]) -> str | None:
    """Return the one of these names under which a batch has a tensor, if it is one."""
    known = [name for name in names if isinstance(_found(batch, name), Tensor)]
    return known[0] if len(known) == 1 else None


def _path(batch: Any, key: Key) -> list[Key]:
    """Return the steps that lead to a key."""
    if isinstance(key, int) or (isinstance(batch, Mapping) and key in batch):
        return [key]
    return list(key.split("."))


def _found(batch: Any, key: Key | None) -> Any:
    """Return what stands at a key; None where there is nothing."""
    if key is None:
        return None
    try:
        for step in _path(batch, key):
            batch = _step(batch, step)
    except (LookupError, AttributeError, TypeError):
        return None
    return batch


def _step(batch: Any, key: Key) -> Any:
    if isinstance(batch, Mapping):
        return batch[key]
    if isinstance(batch, (tuple, list)) and (isinstance(key, int) or key.isdecimal()):
        return batch[int(key)]
    return getattr(batch, str(key))


def _put(batch: Any, path: Sequence[Key], value: Tensor) -> Any:
    """Return a batch of the same type with the value at the end of the path."""
    if not path:
        return value
    key, *rest = path
    new = _put(_step(batch, key), rest, value)
    if isinstance(batch, (tuple, list)):
        fields = getattr(batch, "_fields", ())
        place = fields.index(key) if key in fields else range(len(batch))[int(key)]
        parts = [new if i == place else part for i, part in enumerate(batch)]
        return type(batch)(*parts) if fields else type(batch)(parts)
    changed = copy.copy(batch)
    if isinstance(changed, Mapping):
        changed[key] = new  # type: ignore[index]
    elif dataclasses.is_dataclass(changed):
        object.__setattr__(changed, str(key), new)  # also of one that is frozen
    else:
        setattr(changed, str(key), new)
    return changed


def _described(batch: Any) -> str:
    """Say what a batch is, for a message."""
    told = f"a {type(batch).__name__}"
    if isinstance(batch, Mapping):
        return f"{told} with the keys {list(batch)}"
    if isinstance(batch, (tuple, list)):
        return f"{told} of {', '.join(type(part).__name__ for part in batch)}"
    return told
