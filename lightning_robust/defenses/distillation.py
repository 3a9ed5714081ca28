"""The base of methods in which a net learns from a trained teacher."""

from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from lightning_robust.defenses.base import Defense
from lightning_robust.defenses.stored_arguments import or_not_stored
from lightning_robust.parts.teacher import Teacher
from lightning_robust.runtime.precision import full_precision
from lightning_robust.types import Batch, Views


class Distillation(Defense):
    """Trains a net on the outputs of a teacher, which is frozen and in evaluation mode; see `Teacher`.

    The teacher's weights are not in checkpoints: a resumed run builds the teacher from its configuration again, and
    refuses another one. Evaluating, exporting and predicting need no teacher.

    Args:
        net: the net that learns: images [b c h w] in [0, 1] to logits [b k].
        teacher: the net that it learns from, with logits of the same classes, such as
            `Pretrained("runs/.../best.ckpt")` or `RobustBenchModel("Zhang2019Theoretically")`.
        kwargs: settings of `Defense`.

    Raises:
        ValueError: for the net itself as its teacher; when training, for a teacher of other classes; when resuming, for
            another teacher.

    Example:
        >>> from lightning_robust.losses import kl_divergence
        >>> from lightning_robust.models import SmallConvNet
        >>> from lightning_robust.types import Losses
        >>> class Matching(Distillation):
        ...     def generate(self, batch):
        ...         return self.with_teacher(batch, self.craft(batch))
        ...
        ...     def loss(self, batch, views):
        ...         logits = self.logits(views.adv)
        ...         return Losses(kl_divergence(logits, views.more["teacher"]), {}, logits)
        >>> model = Matching(SmallConvNet(), teacher=SmallConvNet(width=8))
        >>> any(name.startswith("teacher") for name in model.state_dict())
        False
    """

    needed_by_fit = (*Defense.needed_by_fit, "teacher")

    def __init__(self, net: nn.Module, teacher: nn.Module, **kwargs: Any) -> None:
        super().__init__(net, **kwargs)
        if teacher is net:
            raise ValueError("The teacher is the net that is to learn from it: give a net of its own.")
        teacher = or_not_stored("teacher", teacher)
        # no submodule: its weights would be trained, averaged and saved
        self.teacher: Any = Teacher(teacher) if isinstance(teacher, nn.Module) else teacher

    def taught(self, x: Tensor) -> Tensor:
        """Return the teacher's logits [b k] of images [b c h w], in the precision of the loss, not of the attack."""
        with full_precision(x) if self.attack_precision else nullcontext():
            logits: Tensor = self.teacher(x, self._classes)
        return logits

    def with_teacher(self, batch: Batch, x_adv: Tensor, teacher: Tensor | None = None) -> Views:
        """Return the examples together with the teacher's logits of the clean images, which `loss` may need often."""
        return Views(x_adv, more={"teacher": self.taught(batch.x) if teacher is None else teacher})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what `Defense` does, and the checksum of the teacher."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["teacher"] = getattr(self.teacher, "checksum", None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse what `Defense` does, and to train on with another teacher."""
        super().on_load_checkpoint(checkpoint)
        theirs, ours = checkpoint.get("teacher"), getattr(self.teacher, "checksum", None)
        if self._trainer is not None and self.trainer.training and theirs != ours:
            raise ValueError(
                "The checkpoint's net learnt from another teacher, or from the same class with other weights: resume "
                "with the teacher of its config.yaml, or start from its weights alone (`net: {class_path: "
                "Pretrained}`)."
            )
