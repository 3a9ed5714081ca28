"""A trained net that another one learns from."""

import hashlib

import torch
from torch import Tensor, nn

from lightning_robust.runtime.modes import attack_mode, for_inference, logits_no_grad
from lightning_robust.runtime.outputs import logits_of


class Teacher:
    """Frozen net whose logits another net learns from: always in evaluation mode, and without gradients.

    It is no module of the defense that holds it: no optimizer, weight average or checkpoint has its weights,
    distributed training neither wraps nor synchronises it, and the defense's `train()` does not reach it. A run that is
    resumed builds it again from its configuration; `checksum` tells whether it is still the same. It follows the device
    and type of the images.

    Args:
        net: images [b c h w] in [0, 1] to logits [b k], or to what holds them; it normalises its input itself.

    Example:
        >>> teacher = Teacher(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(4, 3)).train())
        >>> logits = teacher(torch.rand(2, 1, 2, 2))
        >>> logits.shape, logits.requires_grad, teacher.net.training
        (torch.Size([2, 3]), False, False)
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = for_inference(net)
        self._checksum = ""

    def __call__(self, x: Tensor, classes: int | None = None) -> Tensor:
        """Return the teacher's logits [b k].

        Args:
            x: images [b c h w] in [0, 1].
            classes: number of classes of the net that learns, if it is known.

        Raises:
            ValueError: for a teacher of another number of classes.
        """
        self._follow(x)
        return _of_classes(logits_no_grad(self.net, x), classes)

    def with_gradient(self, x: Tensor, classes: int | None = None) -> Tensor:
        """Return the same with its gradient with respect to the images, for an attack on the teacher's answer too."""
        self._follow(x)
        with attack_mode(self.net):
            return _of_classes(logits_of(self.net(x)), classes)

    @property
    def checksum(self) -> str:
        """A checksum of its weights and statistics, as they were given, the same on every device."""
        if not self._checksum:
            digest = hashlib.sha256()
            for name, value in self.net.state_dict().items():
                digest.update(name.encode())
                if isinstance(value, Tensor):
                    digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
            self._checksum = digest.hexdigest()
        return self._checksum

    def _follow(self, x: Tensor) -> None:
        """Take the device and the type of the images."""
        held = next(self.net.parameters(), x)
        if (held.device, held.dtype) != (x.device, x.dtype):
            self._checksum = self.checksum  # before weights are rounded to another type
            self.net.to(device=x.device, dtype=x.dtype)


def _of_classes(logits: Tensor, classes: int | None) -> Tensor:
    """Return the logits, unless they are of another number of classes than the net's."""
    if classes and logits.shape[1] != classes:
        raise ValueError(
            f"The teacher gives {logits.shape[1]} logits but the net {classes}: give a teacher of the same classes."
        )
    return logits
