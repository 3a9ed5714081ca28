"""Which samples the checks of an evaluation probe, and gathering them from the ranks that hold them."""

import torch
from torch import Tensor

from lightning_robust.evaluation.samples import Samples
from lightning_robust.runtime.ranks import gather_objects


def evenly_spaced(n: int, count: int) -> Tensor:
    """Return the positions of `count` of n things, or all if there are fewer, from the first to the last.

    The first ones would not do: a data set is often in the order of its classes.

    Example:
        >>> evenly_spaced(10, 4).tolist(), evenly_spaced(2, 4).tolist()
        ([0, 3, 6, 9], [0, 1])
    """
    return torch.linspace(0, n - 1, min(n, count), dtype=torch.float64).round().long()


def indices(samples: Samples) -> Tensor:
    """Gather the indices [n] of all ranks' samples, sorted; all ranks call it together."""
    return torch.cat(gather_objects(samples.index)).sort().values


def probed(index: Tensor, count: int) -> Tensor:
    """Return the indices of the samples that are probed: `count` at most, spaced evenly over the sorted indices [n]."""
    return index[evenly_spaced(len(index), count)]


def gathered(samples: Samples, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Gather the images of the samples with these indices from all ranks, in the order of their index, on each.

    All ranks call it together.

    Args:
        samples: this rank's samples, with their images.
        index: positions in the dataset of the samples wanted.
        device: where to put them.

    Returns:
        Images [m ...], labels [m] and indices [m].
    """
    rows = torch.nonzero(torch.isin(samples.index, index))[:, 0]
    parts = gather_objects((samples.x[rows], samples.y[rows], samples.index[rows]))
    x, y, found = (torch.cat([part[i] for part in parts]) for i in range(3))
    order = found.argsort()
    return x[order].to(device), y[order].to(device), found[order].to(device)
