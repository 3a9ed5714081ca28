"""Pictures, as PNG files and in every logger that takes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Trainer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from lightning_robust.callbacks.figure_loggers import log_figure
from lightning_robust.utils.files import set_aside
from lightning_robust.utils.messages import shorten
from lightning_robust.utils.writers import write_figure


class Examples(NamedTuple):
    """A few samples under attack, to be drawn.

    Args:
        x: clean images [b c h w].
        x_adv: adversarial examples [b c h w].
        y: labels [b].
        before: classes predicted on the clean images [b].
        after: classes predicted on the examples [b].
    """

    x: Tensor
    x_adv: Tensor
    y: Tensor
    before: Tensor
    after: Tensor


def adversarial_grid(examples: Examples, title: str, names: Sequence[str] | None = None) -> Figure:
    """Return a figure with one column a sample: clean, adversarial, magnified perturbation; titles are predictions.

    Args:
        examples: what to show.
        title: above the figure.
        names: of the classes; their numbers by default.
    """
    x, x_adv, y, before, after = examples
    filled, times = magnified(x, x_adv)
    told = [f"times {factor:.3g}" if factor else "none" for factor in times]

    def name(label: Tensor) -> str:
        return str(int(label)) if names is None else names[int(label)]

    rows = [
        ("clean", x, [name(k) for k in before], before == y),
        ("adversarial", x_adv, [name(k) for k in after], after == y),
        ("perturbation", filled, told, y == y),
    ]
    figure = Figure(figsize=(1.3 * len(x) + 0.5, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for line, (kind, images, heads, right) in zip(figure.subplots(3, len(x), squeeze=False), rows, strict=True):
        line[0].set_ylabel(kind)
        for axis, image, head, good in zip(line, images, heads, right, strict=True):
            axis.imshow(displayable(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_title(shorten(head), fontsize=9, color="black" if good else "tab:red", parse_math=False)
            axis.set_xticks([])
            axis.set_yticks([])
    return figure


def save_figure(trainer: Trainer, figure: Figure, name: str, directory: Path) -> Path:
    """Write `directory/figures/<name>.png` and hand the figure to the loggers that take one (on rank 0 only).

    A link in place of `figures` is set aside and not followed.
    """
    folder = directory / "figures"
    if folder.is_symlink():
        set_aside(folder)
    path = folder / f"{name}.png"
    write_figure(figure, path)
    for logger in trainer.loggers:
        log_figure(logger, figure, name, path, trainer.global_step)
    return path


def magnified(x: Tensor, x_adv: Tensor) -> tuple[Tensor, list[float]]:
    """Return each perturbation as an image that fills the grey scale, so that it shows whatever the radius.

    Args:
        x: clean images [b c h w].
        x_adv: adversarial examples [b c h w].

    Returns:
        The images [b c h w], and by how much each is magnified; 0 where nothing was changed.

    Example:
        >>> image, times = magnified(torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.25, 0.0]]]]))
        >>> image.flatten().tolist(), times
        ([1.0, 0.5], [2.0])
    """
    delta = x_adv - x
    size = delta.flatten(1).abs().amax(1)
    filled = 0.5 + 0.5 * delta / size.clamp_min(1e-12).view(-1, 1, 1, 1)
    return filled, [0.5 / largest if largest else 0.0 for largest in size.tolist()]


def displayable(image: Tensor) -> Any:
    """Return an image [c h w] as an array [h w 3], or [h w] if it has not three channels, clipped to [0, 1]."""
    image = image.detach().float().cpu().clamp(0, 1)
    if image.shape[0] == 3:
        return image.movedim(0, -1).numpy()
    return image.mean(0).numpy() if image.shape[0] > 1 else torch.squeeze(image, 0).numpy()
