"""Classification nets of Hugging Face's transformers, by their name on the Hub or from a folder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_robust.models.first_convolution import set_in_channels
from lightning_robust.models.huggingface_files import find_files, plain_config, read_tensors, statistics
from lightning_robust.models.image_size import Resize, Resizing, fit_to_images
from lightning_robust.models.normalize import average_channels, make_normalize
from lightning_robust.models.weight_files import CONFIG, read_json
from lightning_robust.runtime.outputs import logits_of
from lightning_robust.utils.extras import import_extra
from lightning_robust.utils.messages import describe_error, did_you_mean


class HuggingFaceModel(nn.Module):
    """A net for image classification of Hugging Face's transformers, with normalisation inside.

    Only its configuration and safetensors are read: code that a repository brings is never run, and files that would
    have to be unpickled are not loaded.

    Args:
        name: `organisation/name` on the Hugging Face Hub, or a folder with `config.json` and, for the weights,
            `model.safetensors`. A local path that exists is preferred. Files of the Hub are downloaded once.
        num_classes: number of logits; None for that of `config.json`. The last layer is initialised anew if the weights
            have another number.
        pretrained: start from the weights; otherwise build the net from `config.json` alone.
        in_channels: channels of the images; None for that of `config.json`. Pretrained weights for another number are
            summed or repeated as by timm.
        mean: mean of each channel, in pixels in [0, 1], for the normalisation inside the net; None, together with std
            None, for that of the weights' `preprocessor_config.json` (averaged over its channels for another number),
            or none without weights.
        std: standard deviation of each channel, > 0.
        image_size: height and width of the images in pixels. With it, images of another size than the `image_size` of
            `config.json` are resized to that inside the net; without one there, images of up to 64 pixels to 224. None
            leaves the net as it is.
        resize: height and width in pixels to which images are resized inside the net, by linear interpolation; "auto"
            for what `image_size` says, None for never.
        revision: branch, tag or commit on the Hub.
        config: settings in place of those of `config.json`, such as {image_size: 32, patch_size: 4}. With a
            `model_type` among them, and without weights, no files are read.

    Raises:
        ImportError: without the package transformers (the extra `hf`).
        ValueError: if there are no such files, weights of another kind than safetensors, a configuration of which no
            classifier of images can be built, or statistics that do not fit the channels.

    Example:
        >>> import torch
        >>> sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
        >>> config = {"model_type": "vit", "image_size": 8, "patch_size": 4, **sizes}
        >>> net = HuggingFaceModel("tiny", num_classes=10, pretrained=False, in_channels=1, config=config)
        >>> net(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        name: str,
        num_classes: int | None = None,
        pretrained: bool = True,
        in_channels: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        image_size: int | None = None,
        resize: Resizing = "auto",
        revision: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        import_extra("transformers", "hf")
        folder = None
        if pretrained or "model_type" not in (config or {}):
            folder = find_files(name, revision, pretrained)
            config = {**read_json(folder / CONFIG), **(config or {})}
        theirs = plain_config(name, config or {})
        changed = {"num_labels": num_classes, "num_channels": in_channels}
        self.net = _build(name, theirs | {key: value for key, value in changed.items() if value is not None})
        channels: int = self.net.config.num_channels
        if pretrained and folder is not None:
            _load(self.net, name, folder, theirs, new_head=num_classes is not None)
            if mean is None and std is None and (found := statistics(folder)) is not None:
                mean, std = (average_channels(values, channels) for values in found)
        size = getattr(self.net.config, "image_size", None)
        fit = fit_to_images(
            name,
            image_size,
            None,
            resize,
            resnet=False,
            trained=pretrained,
            made_for=(size if isinstance(size, int) else size[0]) if size else 224,
            fixed=size is not None,
        )
        self.adapted = {"resize": fit.resize}
        """What was decided by `image_size`, as the arguments that say so."""
        self.normalize = make_normalize(channels, mean, std)
        self.resize = Resize(fit.resize) if fit.resize else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k] for images [b c h w] in [0, 1]."""
        return logits_of(self.net(self.resize(self.normalize(x))))


def _build(name: str, settings: dict[str, Any]) -> Any:
    """Build the net that settings with a `model_type` describe, with new weights in float32."""
    auto = import_extra("transformers.models.auto.modeling_auto", "hf")
    configs = import_extra("transformers", "hf").AutoConfig
    kind = settings["model_type"]
    known = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    if kind not in known:
        raise ValueError(f"transformers has no classifier of images of the type {kind!r}{did_you_mean(kind, known)}")
    try:
        config = configs.for_model(**settings)
        if not hasattr(config, "num_channels"):  # timm's nets, and those that take text or patches
            raise ValueError("it does not say how many channels its images have")
        return auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)](config)
    except Exception as error:  # transformers checks settings by several libraries
        raise ValueError(f"transformers could not build {name!r} ({describe_error(error)})") from error


def _load(net: Any, name: str, folder: Path, theirs: dict[str, Any], new_head: bool) -> None:
    """Load trained weights into a net that may have another number of channels and classes."""
    trained = _build(name, theirs)
    head = [path for path, module in trained.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]
    with _quiet():  # their own loading, which knows the older names of their weights
        trained, told = type(trained).from_pretrained(
            None, config=trained.config, state_dict=read_tensors(folder), output_loading_info=True
        )
    missing = sorted(key for key in told["missing_keys"] if not (new_head and key.startswith(f"{head}.")))
    faults = [*missing, *map(str, told["mismatched_keys"]), *told["error_msgs"]]
    if faults:
        more = " Give num_classes, and the last layer is initialised anew." if missing else ""
        raise ValueError(f"The weights of {name!r} do not fit their configuration ({', '.join(faults[:3])}).{more}")
    set_in_channels(trained, net.config.num_channels, trained=True)
    own = net.state_dict()
    net.load_state_dict({k: v for k, v in trained.state_dict().items() if v.shape == own[k].shape}, strict=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Let transformers load weights without a bar and a table: what matters in them is an error here."""
    logging = import_extra("transformers.utils.logging", "hf")
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
