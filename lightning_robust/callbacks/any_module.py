"""The base of callbacks that work on any LightningModule and any batches."""

import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

from lightning import Callback
from torch import Tensor, nn

from lightning_robust.metrics.settings import not_ignored
from lightning_robust.runtime.adapter import NetAdapter
from lightning_robust.types import Batch
from lightning_robust.utils.batch_reader import BatchReader, Key
from lightning_robust.utils.images import check_images
from lightning_robust.utils.labels import check_label_type, check_labels, hard_labels, is_soft
from lightning_robust.utils.messages import describe_error


class AnyModule(Callback):
    """Reads the batches of any LightningModule and calls its net, on pixels in [0, 1] whatever the batches hold.

    A key is a position in a tuple or list, a key of a mapping, or the name of an attribute; "a.0" is position 0 of "a".
    Without keys, a tuple or list begins with images and labels, and any other batch has one of the usual names of each,
    such as "image" and "label", or "pixel_values" and "labels".

    Args:
        image_key: where a batch holds its images.
        label_key: where it holds its labels.
        index_key: where it holds the samples' positions in the dataset, if anywhere. Datasets wrapped in
            `lightning_robust.data.Indexed` need none.
        read_batch: a function from a batch to a `lightning_robust.types.Batch`, instead of the keys.
        forward: how the module gives logits: a function from (module, images) to logits, or a string; by default the
            module is called itself. A string is first looked up as a method of the module ("classify",
            "model.classify"), then imported as a function ("package.module.function").
        mean: mean of each channel, in pixels in [0, 1], if images arrive normalised by `(x - mean) / std`; one value
            for each channel, or a single one for all, such as [0.5]. The module is called on such images; radii and
            figures stay in pixels.
        std: standard deviation of each channel, > 0, as many as `mean`.
        ignore_index: label of samples that are left out; by default none are.

    Raises:
        TypeError: in the loop, for an unreadable batch, or a `forward` that is neither a function nor the name of one.
        ValueError: for only one of `mean` and `std`, or a std that is not > 0; for `read_batch` with `label_key` or
            `index_key`.
    """

    def __init__(
        self,
        image_key: Key | None = None,
        label_key: Key | None = None,
        index_key: Key | None = None,
        read_batch: Callable[[Any], Batch] | None = None,
        forward: str | Callable[[nn.Module, Tensor], Any] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        self.reader = BatchReader(image_key, label_key, index_key, read_batch)
        self.forward, self.mean, self.std, self.ignore_index = forward, mean, std, ignore_index
        NetAdapter(nn.Identity(), mean=mean, std=std)  # refuses what cannot be
        self._adapter: NetAdapter | None = None

    @property
    def calls_as_is(self) -> bool:
        """Whether the module itself goes from pixels to logits."""
        return self.forward is None and self.mean is None

    def net(self, module: nn.Module) -> nn.Module:
        """Return the net from pixels to logits that the module holds."""
        if self.calls_as_is:
            return module
        if self._adapter is None or self._adapter.module is not module:
            self._adapter = NetAdapter(module, _function(module, self.forward), self.mean, self.std)
        self._adapter.training = module.training
        return self._adapter

    def read(self, module: nn.Module, batch: Any, soft: bool = False) -> Batch:
        """Return a batch with its images in pixels, and labels that are class numbers [b]; with `soft`, as they are.

        Of soft labels [b k] the most probable class is taken.
        """
        given = self.reader(batch)
        check_label_type(given.y, len(given.x))
        if is_soft(given.y) and not soft:
            check_labels(given.y)
            given = given._replace(y=hard_labels(given.y))
        net = self.net(module)
        return given._replace(x=net.to_pixels(given.x)) if isinstance(net, NetAdapter) else given

    def replaced(self, module: nn.Module, batch: Any, x: Tensor) -> Any:
        """Return a batch of the same type with other images, which are given in pixels."""
        net = self.net(module)
        return self.reader.replaced(batch, net.from_pixels(x) if isinstance(net, NetAdapter) else x)

    def way_of_reading(self) -> dict[str, Any]:
        """Return what decides how a module is called and which samples count, as plain data."""
        settings = {name: getattr(self, name) for name in ("mean", "std", "ignore_index")}
        return {**settings, "forward": getattr(self.forward, "__qualname__", self.forward)}

    def counts(self, y: Tensor) -> Tensor:
        """Mark the samples [b] that are not to be left out."""
        return not_ignored(hard_labels(y), self.ignore_index)

    def check_pixels(self, x: Tensor, lower: float, upper: float) -> None:
        """Raise unless images are pixels in the box, and name the settings for those that are normalised."""
        try:
            check_images(x, lower, upper)
        except ValueError as error:
            if "must lie in" not in str(error):
                raise
            give = f"give {type(self).__name__} the mean and std by which the data were normalised"
            told = f"{str(error).removesuffix('.')}, or {give}."
            if self.mean:
                told = f"{told.partition(':')[0].replace(' but', ' after undoing mean and std, but')}: {give}."
            raise ValueError(told) from None


def _function(module: nn.Module, forward: Any) -> Any:
    """Return the function whose import path a string is; leave the name of a method as it is."""
    if not isinstance(forward, str) or "." not in forward or hasattr(module, forward.partition(".")[0]):
        return forward
    try:
        return pkgutil.resolve_name(forward)
    except (ImportError, AttributeError, ValueError) as error:
        raise TypeError(
            f"forward={forward!r} is neither a method of {type(module).__name__} nor a function that can be imported "
            f"({describe_error(error).removesuffix('.')}): correct the name."
        ) from error


def select(batch: Batch, which: Tensor) -> Batch:
    """Return some of the samples of a batch, by a mask or by positions in it."""
    return Batch(*(None if part is None else part[which] for part in batch))  # type: ignore[arg-type]
