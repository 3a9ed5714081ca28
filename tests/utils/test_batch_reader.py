"""Batches of other people's projects: what is read, what is put in their place, and what is refused."""

import copy
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_robust.data import Indexed
from lightning_robust.types import Batch
from lightning_robust.utils.batch_reader import BatchReader, as_batch

X, Y, INDEX = torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), torch.tensor([7, 3])
OTHER = torch.rand(2, 1, 4, 4)


class Sample(NamedTuple):
    """As torchvision's or DALI's users write them."""

    label: Tensor
    image: Tensor
    name: list[str]


@dataclass
class Plain:
    pixels: Tensor
    target: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    y: Tensor


class Features(UserDict):
    """As transformers' BatchFeature and BatchEncoding: no dict, and attributes reach the data."""

    def __getattr__(self, name: str) -> Any:
        if name == "data":
            raise AttributeError
        return self.data[name]


class Meta(Tensor):
    """As MONAI's MetaTensor: every operation gives one again, and it carries more than its values."""

    @staticmethod
    def __new__(cls, x: Tensor, **settings: Any) -> "Meta":
        return x.as_subclass(cls)

    def __init__(self, x: Tensor, meta: Any = None) -> None:
        self.meta = meta


Pair = namedtuple("Pair", ["picture", "kind"])  # without annotations, as many are

# name -> (batch, settings of the reader, where the images stand afterwards)
FORMS: dict[str, tuple[Any, dict[str, Any], Callable[[Any], Tensor]]] = {
    "tuple": ((X, Y), {}, lambda b: b[0]),
    "list with more": ([X, Y, ["a", "b"], INDEX], {}, lambda b: b[0]),
    "labels first": ((Y, X), {"image_key": 1, "label_key": 0}, lambda b: b[1]),
    "named tuple by its names": (Sample(Y, X, ["a", "b"]), {}, lambda b: b.image),
    "named tuple of other names": (Pair(X, Y), {}, lambda b: b.picture),
    "dict": ({"image": X, "label": Y, "path": ["a", "b"]}, {}, lambda b: b["image"]),
    "ordered dict": (OrderedDict(pixel_values=X, labels=Y), {}, lambda b: b["pixel_values"]),
    "dict with keys": ({"a": X, "b": Y, "c": INDEX}, {"image_key": "a", "label_key": "b"}, lambda b: b["a"]),
    "dict of a dataset": ({"image": ["png"], "x": X, "label": Y, "labels": ["a", "b"]}, {}, lambda b: b["x"]),
    "dict with two images": ({"image": X, "x": OTHER, "y": Y}, {"image_key": "image"}, lambda b: b["image"]),
    "UserDict": (Features(pixel_values=X, labels=Y), {}, lambda b: b["pixel_values"]),
    "dataclass": (Plain(X, Y), {"image_key": "pixels"}, lambda b: b.pixels),
    "frozen dataclass": (Frozen(X, Y), {}, lambda b: b.x),
    "object": (SimpleNamespace(images=X, labels=Y), {}, lambda b: b.images),
    "Batch": (Batch(X, Y), {}, lambda b: b.x),
    "several loaders": ({"a": [X, Y], "b": [OTHER, Y]}, {"image_key": "a.0", "label_key": "a.1"}, lambda b: b["a"][0]),
    "views": (((X, OTHER), Y, ["a", "b"]), {"image_key": "0.0"}, lambda b: b[0][0]),
    "a key with a dot": (
        {"image.png": X, "cls": Y},
        {"image_key": "image.png", "label_key": "cls"},
        lambda b: b["image.png"],
    ),
}
each_form = pytest.mark.parametrize(("batch", "settings", "images"), FORMS.values(), ids=FORMS)


@each_form
def test_the_very_tensors_are_read(batch: Any, settings: Any, images: Any) -> None:
    found = BatchReader(**settings)(batch)
    assert isinstance(found, Batch)
    assert found.x is X
    assert found.y is Y
    assert found.index is None


@each_form
def test_a_batch_with_other_images_is_of_the_same_type_and_the_first_is_left(
    batch: Any, settings: Any, images: Any
) -> None:
    before = copy.copy(batch)
    changed = BatchReader(**settings).replaced(batch, OTHER)
    assert type(changed) is type(batch)
    assert images(changed) is OTHER
    assert BatchReader(**settings)(changed).y is Y
    assert images(batch) is X
    assert images(BatchReader(**settings).replaced(changed, X)) is X
    assert str(before) == str(batch)  # the rest, too
    assert str(BatchReader(**settings).replaced(changed, X)) == str(batch)


def test_positions_come_from_a_key_a_batch_or_indexed_alone() -> None:
    assert as_batch((X, Y, INDEX)).index is None  # a domain, perhaps
    assert BatchReader(index_key=2)((X, Y, INDEX)).index is INDEX
    assert BatchReader(index_key="id")({"x": X, "y": Y, "id": INDEX}).index is INDEX
    assert as_batch(Batch(X, Y, INDEX)).index is INDEX
    [batch] = DataLoader(Indexed(TensorDataset(X, Y)), 2)
    assert as_batch(batch).index.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("index", "told"),
    [
        (torch.tensor([0.0, 1.0]), r"integers \[b\], got torch.float32 of shape \(2,\)"),
        (torch.tensor([1]), r"integers \[b\], got torch.int64 of shape \(1,\)"),
        (["a", "b"], r"integers \[b\], got a list of str, str"),
        (None, r"no positions at index_key=2 in a tuple of Tensor, Tensor, NoneType"),
    ],
)
def test_what_cannot_be_positions_is_refused(index: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        BatchReader(index_key=2)((X, Y, index))


@pytest.mark.parametrize(
    ("batch", "settings", "told"),
    [
        (X, {}, "a Tensor"),
        ((X,), {}, "a tuple of Tensor"),
        ([X, 3], {}, "a list of Tensor, int"),
        ({"image": X, "images": X, "y": Y}, {}, r"a dict with the keys \['image', 'images', 'y'\]"),
        ([[X, Y], [X, Y]], {}, "a list of list, list"),
        (
            {"a": (X, Y)},
            {"image_key": "a.0", "label_key": "a.2"},
            r"a dict with the keys \['a'\] by image_key='a.0', label_key='a.2'",
        ),
        ((X, Y), {"image_key": 1}, "a tuple of Tensor, Tensor by image_key=1"),
        (None, {}, "a NoneType"),
    ],
)
def test_what_is_no_batch_is_named(batch: Any, settings: Any, told: str) -> None:
    with pytest.raises(TypeError, match=f"not found in {told}: say with image_key and label_key where they stand"):
        BatchReader(**settings)(batch)


def test_a_function_reads_what_keys_cannot() -> None:
    reader = BatchReader(read=lambda batch: Batch(batch["bytes"] / 255, batch["y"], batch["id"]))
    x, y, index = reader({"bytes": X * 255, "y": Y, "id": INDEX})
    torch.testing.assert_close(x, X)
    assert y is Y
    assert index is INDEX
    with pytest.raises(TypeError, match=r"must return a lightning_robust\.types\.Batch, got a tuple of Tensor, Tensor"):
        BatchReader(read=lambda batch: (X, Y))(None)
    with pytest.raises(ValueError, match="leave label_key and index_key out"):
        BatchReader(label_key=1, read=as_batch)


def test_a_subclass_of_tensor_is_read_plain_and_put_back_as_one() -> None:
    x, y = Meta(X, meta={"spacing": 2.0}), Meta(Y)
    assert type(x + 1) is Meta
    batch = {"image": x, "label": y}
    found = as_batch(batch)
    assert type(found.x) is type(found.y) is type(found.x.new_empty(1)) is Tensor
    assert torch.equal(found.x, X)
    put = BatchReader().replaced(batch, OTHER)["image"]
    assert type(put) is Meta
    assert put.meta == {"spacing": 2.0}
    assert torch.equal(as_batch({"x": put, "y": Y}).x, OTHER)


@each_form
def test_images_are_read_with_labels_and_without(batch: Any, settings: Any, images: Any) -> None:
    assert BatchReader(**settings).images(batch) is X


@pytest.mark.parametrize(
    "batch", [X, (X,), [X], {"image": X}, {"pixel_values": X, "path": ["a"]}, SimpleNamespace(x=X)]
)
def test_images_without_labels(batch: Any) -> None:
    assert BatchReader().images(batch) is X
    assert BatchReader(read=lambda given: Batch(X, Y)).images({}) is X
    with pytest.raises(TypeError, match=r"not found in a dict with the keys \['z'\]"):
        BatchReader().images({"z": X})


@pytest.mark.parametrize("settings", [{}, {"image_key": "path"}])
def test_a_function_that_reads_does_not_say_where_to_write(settings: Any) -> None:
    reader = BatchReader(read=lambda batch: Batch(batch["views"][0], Y), **settings)
    batch = {"views": [X, OTHER], "path": ["a", "b"]}
    told = (
        r"back into a dict with the keys \['views', 'path'\], but finds no image tensor of shape .*: set image_key to"
    )
    with pytest.raises(TypeError, match=told):
        reader.replaced(batch, X)
