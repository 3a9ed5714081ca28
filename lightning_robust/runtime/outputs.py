"""Finding the logits in whatever a net returns."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lightning_robust.runtime.modules_of import modules_of
from lightning_robust.runtime.precision import explain_types
from lightning_robust.types import Net

_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")


def logits_of(output: Any) -> Tensor:
    """Return the logits in a net's output: the tensor itself, or what an object, mapping or tuple holds as logits.

    Args:
        output: a tensor; an object with an attribute `logits` (Hugging Face's `ModelOutput`, torchvision's
            `GoogLeNetOutputs`); a mapping with the key "logits"; or a tuple or list whose first element is a tensor.

    Returns:
        The logits [b k].

    Raises:
        TypeError: for anything else; the message says what it was.

    Example:
        >>> import torch
        >>> logits_of({"logits": torch.zeros(2, 3), "features": torch.ones(2, 8)}).shape
        torch.Size([2, 3])
    """
    if isinstance(output, Tensor):
        return output
    found = getattr(output, "logits", None)
    if found is None and isinstance(output, Mapping):
        found = output.get("logits")
    if found is None and isinstance(output, (tuple, list)) and output:
        found = output[0]
    if isinstance(found, Tensor):
        return found
    keys = f" with the keys {list(output)}" if isinstance(output, Mapping) else ""
    raise TypeError(
        f"The net must return logits [b k], or an object, mapping or tuple that holds them as `logits` or first, but "
        f"it returned a {type(output).__name__}{keys}: wrap it, for example in lightning_robust.NetAdapter."
    )


class LogitsNet(nn.Module):
    """Wrapper of a net that returns only the logits of its output.

    Its modules and parameters are those of the net.

    Args:
        net: images [b c h w] to anything that `logits_of` reads.

    Example:
        >>> import torch
        >>> LogitsNet(lambda x: (x.flatten(1), "features"))(torch.zeros(2, 1, 1, 3)).shape
        torch.Size([2, 3])
    """

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net
        self._differentiable = False

    def forward(self, x: Tensor) -> Tensor:
        """Return the net's logits [b k].

        Raises:
            TypeError: for images of another type than the net's weights, if it fails on them.
            ValueError: for a quantised net, if x requires a gradient.
        """
        if x.requires_grad and not self._differentiable:
            self._refuse_quantised()
            self._differentiable = True
        try:
            return logits_of(self.net(x))
        except RuntimeError as error:
            explain_types(self.net, x, error)
            raise

    def _refuse_quantised(self) -> None:
        """Refuse quantised layers: torch would give the gradient through them as zero."""
        for module in modules_of(self.net):
            if type(module).__module__.startswith(_QUANTISED):
                raise ValueError(
                    f"The net is quantised ({type(module).__name__}), and no gradient passes such layers: attack it "
                    "before it is quantised, or use Square, which takes none."
                )
