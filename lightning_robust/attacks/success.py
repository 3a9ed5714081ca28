"""Whether the net errs on a candidate, judged in fp32 whatever precision the search runs in."""

import torch
from torch import Tensor

from lightning_robust.runtime.precision import full_precision
from lightning_robust.types import Net
from lightning_robust.utils.labels import hard_labels


@torch.no_grad()
def misclassified(net: Net, x_adv: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """Return which samples [b] the net errs on; under autocast, only those on which it errs in fp32 too.

    So a search in half precision claims no success that is not one. Logits that are NaN, where they were not refused
    (see `Attack.__call__`), count as an error, so that the example is returned and the last look at it meets them.

    Args:
        net: images to logits.
        x_adv: candidates [b c h w].
        logits: the net's logits [b k] on them, as the search computed them.
        y: labels [b] or [b k].
    """
    highest, found = logits.max(1)  # NaN is the highest of all
    y = hard_labels(y)
    wrong = (found != y) | highest.isnan()
    if torch.is_autocast_enabled(x_adv.device.type) and wrong.any():
        with full_precision(x_adv):
            wrong[wrong.clone()] = net(x_adv[wrong]).argmax(1) != y[wrong]
    return wrong
