"""A short name for all that decides an evaluation: the net, the attacks and the versions."""

import functools
import hashlib
import inspect
import types
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_robust.evaluation.provenance import versions
from lightning_robust.evaluation.state_file import FORMAT

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial)

DEEPEST = 20
"""How deep the parts of settings count; what lies deeper, such as all that a function can reach, by its class alone."""


def fingerprint(net: nn.Module, settings: Mapping[str, Any]) -> str:
    """Return twelve hexadecimal digits that identify a net, the settings of an evaluation, and the versions.

    They are the same in every process: tensors count by their values, functions by their code and what they enclose,
    other objects by their class and public attributes, and nothing by its address.

    Args:
        net: counts with its structure, parameters and buffers, and its modules' plain attributes and functions.
        settings: whatever else decides the result.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> fingerprint(net, {"seed": 0}) == fingerprint(net, {"seed": 1})
        False
    """
    used = versions()
    written = _Written()
    written.add([FORMAT, used["lightning-robust"], used["torch"], settings])
    written.add_net(net)
    return written.digest.hexdigest()[:12]


class _Written:
    """Digests values, each with its type and size, so that different ones never read alike."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.above: list[int] = []  # the objects that the value is part of

    def add(self, value: Any) -> None:
        """Digest a value; one that is part of itself counts once."""
        if isinstance(value, _PLAIN):
            self._tell(type(value).__name__, repr(value))
        elif id(value) in self.above or len(self.above) > DEEPEST:
            self._tell("above", type(value).__qualname__)
        else:
            self.above.append(id(value))
            self._add_parts(value)
            self.above.pop()

    def add_net(self, net: nn.Module) -> None:
        """Digest a net: what a torchmetrics `Metric` within it has counted is no part of it."""
        left_out: tuple[str, ...] = ()
        for name, module in net.named_modules():
            if isinstance(module, Metric):
                left_out += (f"{name}.",)
            if isinstance(module, Metric) or name.startswith(left_out or ("\0",)):
                continue
            shown = {key: value for key, value in vars(module).items() if key != "training" and _decides(key, value)}
            self.add([name, type(module), shown])
        for name, value in (*net.named_parameters(), *net.named_buffers()):
            self.add([name, value])

    def _add_parts(self, value: Any) -> None:
        kind = type(value)
        if isinstance(value, Tensor):
            self.add(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy() if value.numel() else None)
            self._tell("tensor", f"{value.dtype} {tuple(value.shape)}")
        elif isinstance(value, np.ndarray) and value.dtype != object:
            self._tell("array", f"{value.dtype} {value.shape}")
            self.digest.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, Mapping):
            self._add_all("mapping", [part for pair in value.items() for part in pair])
        elif isinstance(value, (list, tuple)):
            self._add_all("sequence", value)
        elif isinstance(value, (set, frozenset)):
            self._add_all("set", sorted(_digest(part) for part in value))
        elif isinstance(value, functools.partial):
            self._add_all("partial", [value.func, value.args, value.keywords])
        elif isinstance(value, types.MethodType):
            owner = value.__self__
            self._add_all("method", [value.__func__, type(owner) if isinstance(owner, nn.Module) else owner])
        elif isinstance(value, types.FunctionType):
            enclosed = inspect.getclosurevars(value).nonlocals
            self._add_all("function", [value.__code__, value.__defaults__, value.__kwdefaults__, enclosed])
        elif isinstance(value, types.CodeType):
            self._add_all("code", [value.co_code, value.co_consts, value.co_names, value.co_varnames])
        elif isinstance(value, (type, types.BuiltinFunctionType)):
            self._tell("named", f"{value.__module__}.{value.__qualname__}")
        elif isinstance(value, nn.Module):
            self.add_net(value)
        elif hasattr(value, "__dict__"):
            public = {key: part for key, part in vars(value).items() if not key.startswith("_")}
            self._add_all("object", [kind, public])
        else:
            self._add_all("other", [kind, str(value) if isinstance(value, (torch.dtype, torch.device)) else None])

    def _add_all(self, kind: str, parts: Iterable[Any]) -> None:
        parts = list(parts)
        self._tell(kind, str(len(parts)))
        for part in parts:
            self.add(part)

    def _tell(self, kind: str, text: str) -> None:
        self.digest.update(f"{kind} {len(text)} {text};".encode())


def _digest(value: Any) -> str:
    written = _Written()
    written.add(value)
    return written.digest.hexdigest()


def _decides(name: str, value: Any) -> bool:
    """Whether a module's attribute is a setting of its forward pass, as far as can be told."""
    if name.startswith("_"):
        return False
    if isinstance(value, (list, tuple)):
        return all(isinstance(part, _PLAIN) for part in value)
    return isinstance(
        value, (*_PLAIN, types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial)
    )
