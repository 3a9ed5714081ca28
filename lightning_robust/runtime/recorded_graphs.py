"""Nets that are recorded graphs (`torch.jit.trace`, `torch.export`, `torch.fx`), which may hold a mode for good."""

import inspect
from collections.abc import Iterable, Iterator
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from lightning_robust.utils.private_apis import argument_names

_SEEN: WeakSet[nn.Module] = WeakSet()  # graphs that were found to be good: to look takes longer than to run
_JIT = {"aten::batch_norm": 5, "aten::dropout": 2, "aten::feature_dropout": 2, "aten::alpha_dropout": 2}
"""Which argument of an operator of TorchScript says whether it is in training mode."""


def refuse_recorded_training(modules: Iterable[nn.Module]) -> None:
    """Raise if a module is a graph that was recorded in training mode, since no evaluation mode can be set on it.

    Args:
        modules: all modules of a net.

    Raises:
        ValueError: if so.

    Example:
        >>> graph = torch.fx.symbolic_trace(nn.Sequential(nn.Dropout()))
        >>> refuse_recorded_training([graph])  # the mode of its parts can be set
    """
    for module in modules:
        if isinstance(module, (torch.fx.GraphModule, torch.jit.ScriptModule)) and module not in _SEEN:
            modes = _modes_in_fx(module) if isinstance(module, torch.fx.GraphModule) else _modes_in_jit(module)
            if any(mode is True for mode in modes):
                raise ValueError(
                    f"The net ({type(module).__name__}) is a graph that was recorded in training mode, which would use "
                    "each batch's statistics and dropout: call eval() before you trace or export it."
                )
            _SEEN.add(module)


def _modes_in_fx(module: torch.fx.GraphModule) -> Iterator[Any]:
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        names = argument_names(node.target)
        if names is None:
            try:
                names = list(inspect.signature(node.target).parameters)
            except (TypeError, ValueError):  # a built-in function
                names = []
        given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
        yield given.get("training", given.get("train"))


def _modes_in_jit(module: Any) -> Iterator[Any]:
    graph: Any = getattr(module, "inlined_graph", None)
    for kind, place in _JIT.items() if graph is not None else ():
        for node in graph.findAllNodes(kind):
            yield list(node.inputs())[place].toIValue()
