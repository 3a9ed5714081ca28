"""The base of callbacks that work on any LightningModule and any batches."""

from collections.abc import Callable
from typing import Any

from lightning import Callback

from lightning_robust.types import Batch
from lightning_robust.utils.batch_reader import BatchReader, Key


class AnyModule(Callback):
    """Reads the batches of any LightningModule.

    A key is a position in a tuple or list, a key of a mapping, or the name of an attribute; "a.0" is position 0 of "a".
    Without keys, a tuple or list begins with images and labels, and any other batch has one of the usual names of each,
    such as "image" and "label", or "pixel_values" and "labels".

    Args:
        image_key: where a batch holds its images.
        label_key: where it holds its labels.
        index_key: where it holds the samples' positions in the dataset, if anywhere. Datasets wrapped in
            `lightning_robust.data.Indexed` need none.
        read_batch: a function from a batch to a `lightning_robust.types.Batch`, instead of the keys.
    """

    def __init__(
        self,
        image_key: Key | None = None,
        label_key: Key | None = None,
        index_key: Key | None = None,
        read_batch: Callable[[Any], Batch] | None = None,
    ) -> None:
        super().__init__()
        self.reader = BatchReader(image_key, label_key, index_key, read_batch)
