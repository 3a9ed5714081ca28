"""Finding the linear layer that gives a net's logits, for nets that put another in its place."""

from torch import nn


def last_linear(net: nn.Module, wanted_by: str) -> tuple[str, nn.Linear]:
    """Return the path and the module of a net's last linear layer: the one that was registered last.

    Args:
        net: the net; it is not a linear layer itself, which could not be replaced inside it.
        wanted_by: name of the class that replaces the layer, for the message.

    Raises:
        ValueError: for a net without a linear layer.

    Example:
        >>> last_linear(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2)), "Hypersphere")
        ('2', Linear(in_features=3, out_features=2, bias=True))
    """
    heads = [(path, module) for path, module in net.named_modules() if isinstance(module, nn.Linear) and path]
    if not heads:
        raise ValueError(
            f"{wanted_by} replaces a net's last linear layer, but {type(net).__name__} has none: take another net."
        )
    return heads[-1]
