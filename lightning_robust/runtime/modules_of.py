"""The modules that a callable runs, found by looking into it."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lightning_robust.utils.private_apis import module_of_script_method

_LIBRARIES = ("torch", "torchvision", "numpy")  # their functions hold no user's net
_LARGEST = 1000  # elements of a container that is looked through; larger ones hold data


def modules_of(net: Any) -> list[nn.Module]:
    """Return all modules that a net runs, as far as they can be found.

    Those of an `nn.Module` are its own. Other callables are looked into: the object of a bound method, the function and
    the arguments of a `functools.partial`, what a function closes over or names among its globals, the attributes of an
    object. So a module may be found that does not run, and one that is hidden deeper is not found.

    Args:
        net: an `nn.Module` or any other callable.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2))
        >>> len(modules_of(net)), len(modules_of(net.forward)), len(modules_of(lambda x: net(x).exp()))
        (2, 2, 2)
    """
    return [part for part in parts_of(net) if isinstance(part, nn.Module)]


def names_of(net: Any, modules: Iterable[nn.Module]) -> list[str]:
    """Return what each of these modules is called in a net: its path, or its class if the net is no module.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2))
        >>> names_of(net, [net[0], net]), names_of(net.forward, [net[0]])
        (['0', 'the net itself'], ['Linear'])
    """
    names = {id(module): name for name, module in net.named_modules()} if isinstance(net, nn.Module) else {}
    return [names.get(id(module), type(module).__name__) or "the net itself" for module in modules]


def parts_of(net: Any) -> list[Any]:
    """Return the modules that a net runs, and the callables and objects in which they were found.

    Args:
        net: an `nn.Module` or any other callable.
    """
    parts: dict[int, Any] = {}  # by identity; held, so that no identity is given away again
    left: list[tuple[Any, frozenset[str]]] = [(net, frozenset())]
    while left:
        part, names = left.pop()
        if id(part) in parts:
            continue
        if isinstance(part, nn.Module):
            modules = list(part.modules())
            parts |= {id(module): module for module in modules}
            # a wrapper's net that is no module itself is found under this name
            left += [(module.__dict__["net"], names) for module in modules if "net" in module.__dict__]
        else:
            parts[id(part)] = part
            left += _inside(part, names)
    return list(parts.values())


def _inside(part: Any, names: frozenset[str]) -> Iterator[tuple[Any, frozenset[str]]]:
    """Yield what may run inside a part, with the names that the code which led there uses."""
    found: Iterable[Any] = ()
    if isinstance(part, MethodType):
        names = _names(part.__func__)
        found = (part.__self__, part.__func__)
    elif isinstance(part, torch.ScriptMethod):
        found = (module_of_script_method(part),)
    elif isinstance(part, functools.partial):
        found = (part.func, *part.args, *part.keywords.values())
    elif isinstance(part, FunctionType):
        names = _names(part)
        found = _of_function(part, names)
    elif isinstance(part, (Mapping, list, tuple, set, frozenset)):
        found = _elements(part)
    elif isinstance(part, ModuleType):
        found = (value for name in names if isinstance(value := vars(part).get(name), nn.Module))
    elif hasattr(part, "__dict__") and not isinstance(part, (type, Tensor)):
        names |= _names(type(part).__call__) if callable(part) else frozenset()
        found = _of_object(part, names)
    yield from ((value, names) for value in found)


def _of_function(function: FunctionType, names: frozenset[str]) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from vars(function).values()  # what decorators leave, such as `__wrapped__`
    for value in (function.__globals__[name] for name in names if name in function.__globals__):
        if str(getattr(value, "__module__", "")).partition(".")[0] not in _LIBRARIES or isinstance(value, nn.Module):
            yield value


def _of_object(part: Any, names: frozenset[str]) -> Iterator[Any]:
    for name, value in vars(part).items():
        if name in names or _runs(value):
            yield value
        elif isinstance(value, (Mapping, list, tuple)):
            yield from _elements(value)


def _elements(container: Any) -> list[Any]:
    values = container.values() if isinstance(container, Mapping) else container
    return [value for value in values if _runs(value)] if len(container) <= _LARGEST else []


def _runs(value: Any) -> bool:
    return callable(value) and not isinstance(value, (type, Tensor))


def _names(function: Any) -> frozenset[str]:
    """Return the names of globals and attributes that a function's code uses, also in functions inside it."""
    codes, names = [getattr(function, "__code__", None)], set()
    for code in codes:
        if code is not None:
            names.update(code.co_names)
            codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return frozenset(names)
