"""Groups of parameters that an optimizer treats differently: without weight decay, or with a smaller rate."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from lightning_robust.utils.extras import import_extra
from lightning_robust.utils.private_apis import BatchNorm

RATE = "rate_factor"
"""The key of a group under which the optimizer keeps the factor of its learning rate."""

_NORMS = (BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class ParameterGroups:
    """Which parameters have no weight decay, and how learning rates fall from the last layer to the first.

    Args:
        no_decay: parameters without weight decay. "norm_and_bias": all parameters of norms (also of other classes whose
            name ends in Norm, Norm2d or the like), and biases. "one_dimensional": all with at most one dimension, to
            which layer scales belong too. Or a list: those whose name contains one of these texts.
        layer_decay: factor, in (0, 1], by which each layer's rate is smaller than that of the layer after it, for
            fine-tuning transformers (Clark et al. 2020, arXiv 2003.10555). Layers are those of timm, whose nets alone
            it takes; in it, embeddings are the first layer.

    Raises:
        ValueError: for another rule, or a layer_decay out of range; when the optimizer is built, for a text that is in
            no name, a net without layers, or an optimizer without weight decay.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        >>> groups = ParameterGroups("norm_and_bias")(net)
        >>> [(len(group["params"]), group.get("weight_decay")) for group in groups]
        [(1, None), (3, 0.0)]
    """

    no_decay: Literal["norm_and_bias", "one_dimensional"] | list[str] | None = None
    layer_decay: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.no_decay, str) and self.no_decay not in ("norm_and_bias", "one_dimensional"):
            raise ValueError(
                f"Unknown no_decay {self.no_decay!r}: choose norm_and_bias or one_dimensional, or give a list of texts "
                "that names contain."
            )
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be in (0, 1], got {self.layer_decay}.")

    def __call__(self, module: nn.Module) -> list[dict[str, Any]]:
        """Return the groups of all parameters that train, in the order of their first parameters."""
        spared = self._without_decay(module)
        factors = {} if self.layer_decay is None else layer_factors(module, self.layer_decay)
        groups: dict[tuple[float, bool], dict[str, Any]] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            key = factors.get(id(parameter), 1.0), name in spared
            own = {RATE: key[0], **({"weight_decay": 0.0} if key[1] else {})}
            groups.setdefault(key, {"params": [], **own})["params"].append(parameter)
        return list(groups.values())

    def _without_decay(self, module: nn.Module) -> set[str]:
        named = dict(module.named_parameters())
        if self.no_decay is None:
            return set()
        if self.no_decay == "one_dimensional":
            return {name for name, parameter in named.items() if parameter.dim() <= 1}
        if self.no_decay == "norm_and_bias":
            norms = [part for part in module.modules() if _is_norm(part)]
            of_norms = {id(parameter) for norm in norms for parameter in norm.parameters(recurse=False)}
            return {name for name, p in named.items() if id(p) in of_norms or re.search(r"(^|[._])bias$", name)}
        for text in self.no_decay:
            if not any(text in name for name in named):
                raise ValueError(f"no_decay names {text!r}, which is in the name of no parameter: correct it.")
        return {name for name in named if any(text in name for text in self.no_decay)}


def build_optimizer(
    build: Callable[[Iterable[Any]], Optimizer], module: nn.Module, groups: ParameterGroups | None
) -> Optimizer:
    """Build an optimizer over the parameters that train, in groups if there are any.

    Args:
        build: from parameters, or groups of them, to the optimizer.
        module: holds the parameters.
        groups: how they are grouped; None for one group.

    Raises:
        ValueError: for groups without weight decay of an optimizer that has none.
    """
    if groups is None:
        return build(p for p in module.parameters() if p.requires_grad)
    optimizer = build(groups(module))
    if groups.no_decay is not None and "weight_decay" not in optimizer.defaults:
        raise ValueError(f"{type(optimizer).__name__} has no weight decay: leave no_decay out of parameter_groups.")
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * group[RATE]
    return optimizer


def check_groups(checkpoint: Mapping[str, Any], module: nn.Module, groups: ParameterGroups | None) -> None:
    """Refuse to resume with an optimizer whose parameters were grouped otherwise.

    Args:
        checkpoint: a Lightning checkpoint.
        module: holds the parameters.
        groups: the groups of this run.

    Raises:
        ValueError: for other groups.
    """
    count: Callable[[Sequence[Any]], list[int]] = lambda parts: [len(part["params"]) for part in parts]  # noqa: E731
    ours = [sum(p.requires_grad for p in module.parameters())] if groups is None else count(groups(module))
    for state in checkpoint.get("optimizer_states", ())[:1]:
        theirs = count(state["param_groups"])
        grouped = groups is not None or any(RATE in group for group in state["param_groups"])
        if theirs != ours and grouped:  # other callbacks may have added groups
            raise ValueError(
                f"The checkpoint's optimizer has groups of {theirs} parameters, but this run's of {ours}: resume with "
                "the parameter_groups of its config.yaml, or start from its weights alone (`net: {class_path: "
                "Pretrained}`)."
            )


def layer_factors(module: nn.Module, layer_decay: float) -> dict[int, float]:
    """Return the factor of each parameter's rate by the id of the parameter, for the timm net in a module.

    Raises:
        ImportError: without timm (the extra `zoo`).
        ValueError: where there is no such net.
    """
    nets = [part for part in module.modules() if hasattr(part, "group_matcher")]
    if not nets:
        raise ValueError(
            "layer_decay takes the order of layers from timm, but the net is none of timm's: leave it out, or use one "
            "(`net: timm:NAME`)."
        )
    grouped = import_extra("timm.optim", "zoo").param_groups_layer_decay
    groups = grouped(nets[0], layer_decay=layer_decay, weight_decay_exclude_1d=False)
    return {id(parameter): float(group["lr_scale"]) for group in groups for parameter in group["params"]}


def _is_norm(part: nn.Module) -> bool:
    return isinstance(part, _NORMS) or re.search(r"Norm([123]d)?$", type(part).__name__) is not None
