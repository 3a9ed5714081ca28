"""Commands that do not train, which need no teacher."""

import pydoc

from jsonargparse import Namespace


def without_teacher(model: Namespace) -> None:
    """Put a net of no layers in the place of a teacher that a fit alone needs, whose file may be gone by now.

    A teacher that is trained along is left as it is.

    Args:
        model: the config of the model, with `class_path` and `init_args`, which is changed.
    """
    if isinstance(model.get("init_args.teacher"), Namespace):
        kind = pydoc.locate(model.class_path)
        if "teacher" in getattr(kind, "needed_by_fit", ()):
            model.init_args.teacher = Namespace(class_path="torch.nn.Identity", init_args=Namespace())  # type: ignore[no-untyped-call]
