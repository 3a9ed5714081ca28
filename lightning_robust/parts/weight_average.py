"""A running average of a module's weights, beside the weights that train."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lightning_robust.runtime.ranks import world_size
from lightning_robust.utils.private_apis import BatchNorm


class WeightAverage:
    """Averages the parameters of a module over time: `average <- d average + (1 - d) parameters`.

    It begins with the parameters as they are. All other tensors of the module, such as counters and the memory of a
    method, are never averaged. Half-precision parameters are averaged in single precision.

    Args:
        module: the module.
        decay: from the number of earlier updates to d, in [0, 1].
        statistics: what becomes of the running statistics of batch norms: "average" averages them too, "recompute"
            keeps statistics that `store` has measured, "alias" leaves the averaged weights those of the module.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(net.weight)
        >>> average = WeightAverage(net, lambda n: 0.75)
        >>> _ = nn.init.constant_(net.weight, 5.0)
        >>> average.update_parameters(net)
        >>> average.tensors["weight"].item(), net.weight.item()
        (2.0, 5.0)
        >>> average.put_in(net)
        >>> net.weight.item()
        2.0
        >>> average.take_out(net)
        >>> net.weight.item()
        5.0
    """

    def __init__(self, module: nn.Module, decay: Callable[[int], float], statistics: str = "average") -> None:
        self.decay, self.statistics = decay, statistics
        self.count = 0
        """How often it was updated."""
        self.tensors = {name: _held(live) for name, live in self._live(module).items()}
        """The averages by their name in the module's `state_dict`."""
        self.replaced: dict[str, Tensor] | None = None
        """The module's own tensors, while the averages stand in their place."""

    def update_parameters(self, module: nn.Module) -> None:
        """Take the module's present weights into the average."""
        live = {**_parameters(module), **(_statistics(module) if self.statistics == "average" else {})}
        held = [self.tensors[name] for name in live]
        new = [tensor.detach().to(average) for tensor, average in zip(live.values(), held, strict=True)]
        get_ema_multi_avg_fn(self.decay(self.count))(held, new, self.count)  # type: ignore[no-untyped-call]
        self.count += 1

    @torch.no_grad()
    def put_in(self, module: nn.Module) -> None:
        """Put the averages in the place of the module's own tensors, which are kept; all ranks call it together."""
        if self.replaced is None:
            if world_size() > 1:  # each rank's batch norms have seen its own samples: those of rank 0 are saved
                for name in filter(self.tensors.__contains__, _statistics(module)):
                    torch.distributed.broadcast(self.tensors[name], 0)
            self.replaced = {name: tensor.detach().clone() for name, tensor in self._touched(module).items()}
            _copy(self.tensors, self._live(module))

    @torch.no_grad()
    def take_out(self, module: nn.Module) -> None:
        """Give the module its own tensors back."""
        if self.replaced is not None:
            _copy(self.replaced, self._touched(module))
            self.replaced = None

    @torch.no_grad()
    def store(self, module: nn.Module, reduce: Callable[[Tensor], Tensor]) -> None:
        """Keep the statistics that batch norms have measured while the averages stand in the module.

        Args:
            module: the module, which afterwards has the reduced statistics too.
            reduce: gives the mean of a tensor over all ranks.
        """
        for name, tensor in _statistics(module).items():
            self.tensors[name].copy_(reduce(tensor.detach().to(self.tensors[name])))
            tensor.copy_(self.tensors[name])

    def states(self, module: nn.Module, measured: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the module's `state_dict` with the averages in it, which keep their precision, and its own one.

        Args:
            module: the module.
            measured: whether `store` has kept the statistics of the present average, where it should; of another one
                they would be worse than the module's own, which then stand in.
        """
        name_of = {id(tensor): name for name, tensor in self._touched(module).items()}  # tied weights have two names
        stale = set() if measured or self.statistics != "recompute" else {*_statistics(module)}
        averaged, own = dict[str, Any](), dict[str, Any]()
        for name, value in module.state_dict(keep_vars=True).items():
            stored, held = value.detach() if isinstance(value, Tensor) else value, name_of.get(id(value), "")
            own[name] = (self.replaced or {}).get(held, stored)
            averaged[name] = own[name] if held in stale else self.tensors.get(held, own[name])
        return averaged, own

    def load(self, averaged: Mapping[str, Tensor], count: int) -> None:
        """Go on from an average that was saved.

        Args:
            averaged: a `state_dict` with the averages in it.
            count: how often it had been updated.
        """
        _copy(averaged, self.tensors)
        self.count = count

    def to(self, device: torch.device) -> None:
        """Move the averages to a device."""
        self.tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        if self.replaced is not None:
            self.replaced = {name: tensor.to(device) for name, tensor in self.replaced.items()}

    def _live(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the module's tensors that there are averages of. Buffers are other tensors after each move."""
        return {**_parameters(module), **({} if self.statistics == "alias" else _statistics(module))}

    def _touched(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the tensors of `_live` and the counters of batches, which measuring statistics changes."""
        counters = _statistics(module, ("num_batches_tracked",)) if self.statistics == "recompute" else {}
        return {**self._live(module), **counters}


def _held(live: Tensor) -> Tensor:
    return live.detach().clone().to(torch.promote_types(live.dtype, torch.float32))


def _parameters(module: nn.Module) -> dict[str, Tensor]:
    """Return all parameters, those that are frozen at present too: later ones may train them."""
    return {name: p for name, p in module.named_parameters() if p.is_floating_point()}


def _statistics(module: nn.Module, names: tuple[str, ...] = ("running_mean", "running_var")) -> dict[str, Tensor]:
    norms = {path: part for path, part in module.named_modules() if isinstance(part, BatchNorm)}
    found = {f"{path}.{name}".lstrip("."): getattr(norm, name) for path, norm in norms.items() for name in names}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
