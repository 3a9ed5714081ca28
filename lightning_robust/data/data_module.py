"""The base class of all data modules: what they hold, and what is held out for validation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import Dataset

from lightning_robust.data.augmented_dataset import Augmented
from lightning_robust.data.batch_mixing import BatchMixing
from lightning_robust.data.indexed_dataset import Indexed
from lightning_robust.data.loaders import Loaders
from lightning_robust.data.named_transforms import Augmentation, as_transforms
from lightning_robust.data.splits import Part, describe_split, train_val_split
from lightning_robust.data.validation_switch import ValidationSwitch
from lightning_robust.schedules import Schedule
from lightning_robust.utils.private_apis import source_of


class RobustDataModule(Loaders, ABC):
    """Base class of data modules: batches of images in [0, 1], labels and dataset positions.

    Validation samples are held out of the training set by a permutation that depends only on `split_seed`; the test set
    is never used for selection. Evaluation counts each sample exactly once on any number of ranks. Training batches
    depend on (seed, epoch) only.

    Args:
        batch_size: training samples of a step on each device.
        eval_batch_size: evaluation samples of a step on each device; `batch_size` by default.
        val_size: number of training samples held out for validation, or their share (a float below 1). With 0 there is
            no validation, and the last epoch's weights are what a training gives.
        num_workers: number of loading processes for each device.
        seed: seed of the training order and augmentation; by default that of `seed_everything`.
        split_seed: seed of the validation split.
        stratified: whether every class gives the same share of its samples for validation.
        resolution: height and width of the training images in pixels, by epoch, rounded. Images are resized on the
            device; small ones train faster (Tan & Le 2021, arXiv 2104.00298). By default they keep their size.
        augmentation: further transforms of training images, torchvision's (v2), `IDBH` or `TimmRandAugment`: a mapping
            from their names to their arguments, such as {RandAugment: {magnitude: 9}, RandomErasing: {p: 0.25}}, or a
            list of transforms. They come after the crop and flip, on bytes [c h w] of the final size, which they must
            keep.
        on_device: keep the training images on each device and augment them there, a batch at a time. The images are the
            same to the bit. For datasets that fit into the device's memory.
        uint8_transfer: send images to the device as bytes, a quarter of the volume, and scale them there. The images
            are the same to the bit.
        mixing: MixUp and CutMix of the training batches, and label smoothing: see `BatchMixing`. Labels are then
            probabilities [b k].

    Raises:
        ValueError: in `setup`, for an empty dataset, a split that leaves nothing, or a stratified one without labels;
            for fewer samples to evaluate than there are devices;
            in training, for `on_device` or `uint8_transfer` with images that do not allow it; on resuming, for a
            checkpoint whose run held out other samples.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> class Noise(RobustDataModule):
        ...     num_classes = 2
        ...     def train_data(self, augment):
        ...         return TensorDataset(torch.rand(20, 1, 4, 4), torch.arange(20) % 2)
        ...     def test_data(self):
        ...         return self.train_data(False)
        >>> data = Noise(batch_size=8, val_size=4, seed=0)
        >>> data.setup()
        >>> x, y, index = next(iter(data.train_dataloader()))
        >>> x.shape, y.shape, index.shape
        (torch.Size([8, 1, 4, 4]), torch.Size([8]), torch.Size([8]))
    """

    num_classes: int
    class_names: Sequence[str] | None = None
    """Names of the classes, for figures."""
    in_channels: int | None = None
    """Channels of the images."""
    image_size: tuple[int, int] | None = None
    """Height and width of the images in pixels."""
    mean: Sequence[float] | None = None
    """Mean of each channel, which the command line gives to a net that has none; None leaves it without."""
    std: Sequence[float] | None = None
    """Standard deviation of each channel, likewise."""

    def __init__(
        self,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        val_size: int | float = 1000,
        num_workers: int = 0,
        seed: int | None = None,
        split_seed: int = 0,
        stratified: bool = False,
        resolution: Schedule | None = None,
        augmentation: Augmentation | None = None,
        on_device: bool = False,
        uint8_transfer: bool = False,
        mixing: BatchMixing | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, seed, resolution, on_device, uint8_transfer, mixing)
        self.val_size = val_size
        self.split_seed = split_seed
        self.stratified = stratified
        self.augmentation = as_transforms(augmentation)
        self._split_id: str | None = None
        self._validation = ValidationSwitch()

    @abstractmethod
    def train_data(self, augment: bool) -> Dataset[Any]:
        """Return the whole training set as (image [c h w] in [0, 1], label), with or without augmentation."""

    @abstractmethod
    def test_data(self) -> Dataset[Any]:
        """Return the test set as (image [c h w] in [0, 1], label)."""

    def val_data(self) -> Dataset[Any] | None:
        """Return the validation set, without augmentation; None holds it out of the training set."""
        return None

    def transform(self, augment: bool) -> Callable[[Any], Any] | None:
        """Return the transform from a stored image of bytes [h w] or [h w c] to [c h w] in [0, 1].

        None stands for scaling only.
        """
        return None

    def further_transforms(self) -> list[Callable[[Any], Any]]:
        """Return the transforms of `augmentation`, which follow those of `transform`."""
        return [*self.augmentation]

    def train_samples(self, labelled: Part) -> Dataset[Any]:
        """Return the samples to train on, before the transforms of `augmentation`: by default the labelled ones.

        Args:
            labelled: the training set without the samples that are held out.
        """
        return labelled

    def unlabelled_data(self, labelled: Dataset[Any]) -> Dataset[Any]:
        """Return further images with pseudo-labels made from the labelled ones, if the dataset has any.

        Raises:
            ValueError: if it has none.
        """
        raise ValueError(f"{type(self).__name__} has no unlabelled images of its own: give SemiSupervised a file.")

    def setup(self, stage: str | None = None) -> None:
        """Split the training set for "fit" and "validate", read the test set for "test" and "predict"."""
        self._on_device_images = None
        if stage in (None, "fit", "validate"):
            augmented = self.train_data(augment=True)
            plain = self.train_data(augment=False)
            _check_not_empty(plain, "training")
            own = self.val_data()
            val_size = self.val_size if own is None else 0
            train, validation = train_val_split(plain, val_size, self.split_seed, self.stratified)
            self._split_id = describe_split(validation, len(train) + len(validation))
            self.val_set = Indexed(Part(plain, validation) if own is None else own)
            labelled = Part(augmented, train)
            samples = labelled if stage == "validate" else self.train_samples(labelled)
            further = self.further_transforms()
            self.train_set = Indexed(Augmented(samples, further) if further else samples)
            self._validation.on(self.trainer)
            if not len(self.val_set) and self.trainer is not None and not self._other_validates():
                if self.trainer.state.fn == TrainerFn.VALIDATING:
                    raise ValueError(
                        "There is nothing to validate on because val_size is 0: set val_size to the value used in "
                        "training, or use `test`."
                    )
                self._validation.off(self.trainer)
        if stage in (None, "test", "predict"):
            self.test_set = Indexed(self.test_data())
            _check_not_empty(self.test_set, "test")

    def teardown(self, stage: str) -> None:
        """Let the trainer validate on other data again."""
        self._validation.on(self.trainer)

    def on_exception(self, exception: BaseException) -> None:
        """Do the same where a run ends early."""
        self._validation.on(self.trainer)

    def _other_validates(self) -> bool:
        """Return whether `validate` was given loaders, for which the last data module is set up too."""
        if self.trainer is None or self.trainer.state.fn != TrainerFn.VALIDATING:
            return False
        return source_of(self.trainer.validate_loop) is not self

    def state_dict(self) -> dict[str, Any]:
        """Return a description of the validation split, which checkpoints keep."""
        return {"split": self._split_id} if self._split_id else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume or validate if the checkpoint's run held out other samples.

        Raises:
            ValueError: if the checkpoint's split is another one.
        """
        theirs = state_dict.get("split")
        running = self.trainer.state.fn if self.trainer is not None else None
        if running in (TrainerFn.FITTING, TrainerFn.VALIDATING) and theirs not in (None, self._split_id):
            raise ValueError(
                f"The checkpoint held out other samples for validation ({theirs}) than these data ({self._split_id}): "
                "use the val_size, split_seed and stratified of its config.yaml. To train its net on other data, start "
                "from its weights (`net: {class_path: Pretrained}`)."
            )


def _check_not_empty(dataset: Any, name: str) -> None:
    if not len(dataset):
        raise ValueError(f"The {name} set is empty: check the data module's root folder.")
