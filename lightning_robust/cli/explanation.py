"""What jsonargparse refuses, in one sentence: which key, what is wrong with it, and the nearest right name."""

import importlib
import inspect
import os
import re
import types
import typing
from collections.abc import Callable as AbstractCallable
from collections.abc import Iterator
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import lightning_robust.models
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.utils.messages import did_you_mean
from lightning_robust.utils.private_apis import arguments_of, type_of_argument

_SECTIONS = {"trainer": Trainer, "evaluation": RobustEvaluation, "checkpoint": ModelCheckpoint}
_NOISE = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value|Expected a (?:<class 'NoneType'>|path but )|"
    r"Unable to load config '|.* a subclass of FollowsRun"
)
_NO_CONFIG = re.compile(r"Unable to load config \"(.+)\"$")
_CALLABLE = re.compile(r"Type [\w.]*Callable\[.*\] expects a function or a callable class: ")
_INNER = re.compile(r"Problem with given class_path '(.+)':\n\s*(.+)")
_UNKNOWN_CLASS = re.compile(
    r"(?:Expected a dot import path string: |Unexpected import path format: |Import path )(\S+)"
    r"(?: does not correspond to a subclass of (\w+))?"
)
_NOT_IMPORTED = re.compile(
    r"No module named|(?:module|type object) '[^']*' has no attribute|Expected '.+' to be|Expected an instantiatable"
)


def explain(message: str, parser: Any = None) -> str:
    """Return one sentence for a message of jsonargparse, which may be a tree of everything it tried.

    Args:
        message: what jsonargparse says.
        parser: the parser that says it; the types of its arguments tell what else could stand there.
    """
    message = _CALLABLE.sub("", message)
    key = re.match(r'Parser key "(.+?)"(?: element \d+)?:\s*(.*)', message, re.DOTALL)
    if not key:
        return _of_options(message, parser)
    told = _of_value(key[2], _typehint(parser, key[1]))
    joint = "." if re.match(r"[\w.]+: ", told) else ": "  # an inner parser has named its part of the path already
    return f"{key[1]}{joint}{told}"


def _of_options(message: str, parser: Any) -> str:
    """Explain what is wrong with the command line as a whole, or what a constructor has refused."""
    found = re.match(r"(?:Subcommand '.+' does not accept option '|unrecognized arguments: (?:--)?)([^\s'=]+)", message)
    if not found:
        leaves = [line for line in _lines(message) if not _NOISE.match(line[1])]
        return max(leaves, key=lambda line: line[0])[1] if leaves else message
    section, _, name = found[1].partition(".")
    if section in _SECTIONS and name:
        name = name.partition(".")[0]
        return f"{section} has no setting {name!r}{did_you_mean(name, _settings(_SECTIONS[section]))}"
    if message.startswith("unrecognized arguments: ") and "--" not in message:
        return f"{found[1]!r} stands alone: write settings as --name value, and a recipe as --config {found[1]}."
    if name:
        return f"there is no section {section!r}{did_you_mean(section, [*_SECTIONS, 'model', 'data'])}"
    options = {*_SECTIONS, "model", "data", "seed_everything", "ckpt_path"}
    if not message.startswith("Subcommand"):
        options = {action.dest.partition(".")[0] for action in arguments_of(parser)}
    return f"there is no option {section!r}{did_you_mean(section, options)}"


def _of_value(tree: str, typehint: Any) -> str:
    """Explain what is wrong with the value of one key, which should be of this type."""
    option = re.search(r"Option '([^'.]+)[^']*' is not accepted", tree)
    owners = re.findall(r"Problem with given class_path '([\w.]+)'|class_path='([\w.]+)'", tree)
    if option and owners:
        owner = _load(owners[-1][0] or owners[0][1])
        return f"{owner.__name__} has no setting {option[1]!r}{_meant(option[1], owner)}"
    inner = [(name, text) for name, text in _INNER.findall(tree) if not _NOISE.match(text)]
    for _, text in inner:
        if not _NOT_IMPORTED.match(text) and not _UNKNOWN_CLASS.match(text):
            return _without_settings(text)
    if inner:
        return _unknown_class(inner[0][0], typehint, "" if "subclass" in inner[0][1] else f" ({inner[0][1]})")
    if unknown := _UNKNOWN_CLASS.search(tree):
        return _unknown_class(unknown[1], typehint)
    if section := _NO_CONFIG.search(tree):
        return _no_file(section[1]) or f"expected settings, or a YAML file of them, got {section[1]!r}."
    lines = _lines(tree)
    leaves = [text for _, text in lines if not _NOISE.match(text)]
    if typehint is not None and all(re.match("Expected ", leaf) for leaf in leaves):
        return _unfitting(tree, typehint)
    return _without_settings(leaves[0] if leaves else tree)


def _without_settings(text: str) -> str:
    """Leave out the settings of a callable, all of which jsonargparse tells at the end."""
    return text.partition(". Got value: Namespace(")[0]


def _unknown_class(name: str, typehint: Any, why: str = "") -> str:
    """Say that there is no such class, or that the class cannot stand here, and which can."""
    if os.path.isfile(name):  # jsonargparse reads none for one name of a mapping
        return f"the file {name} cannot be named here on the command line: name it in a YAML file for --config."
    if told := _no_file(name):
        return told
    short = name.rpartition(".")[2]
    names = {found.__name__ for kind in _classes(typehint) for found in _choices(kind)}
    if _is_known(short) and short not in names:
        return f"{short!r} cannot stand here; there are {', '.join(sorted(names))}."
    return f"there is no class {name!r}{why}{did_you_mean(short, names)}"


def _no_file(name: str) -> str | None:
    """Say that there is no such file, if the name looks like a file's."""
    return f"there is no file {name!r}." if re.search(r"\.(ya?ml|json)$|/", name) else None


def _unfitting(tree: str, typehint: Any) -> str:
    """Say what can stand here, and what does."""
    given = re.search(r"(?:Got|Given) value: (?:NestedArg\(key='.*?', val=)?(.*?)\)?$", tree, re.MULTILINE)
    value = given[1].strip("'\"") if given else ""
    *most, last = dict.fromkeys(_alternatives(typehint))
    expected = f"{', '.join(most)} or {last}" if most else last
    return f"expected {expected}, got {value[:80]!r}."


def _typehint(parser: Any, key: str) -> Any:
    """Return the type of a parser's argument; None if it is not known."""
    actions = arguments_of(parser)
    return next((type_of_argument(action) for action in actions if action.dest == key), None)


def _lines(tree: str) -> list[tuple[int, str]]:
    """List the lines of a tree with their indentation."""
    return [(len(raw) - len(text), text) for raw in tree.splitlines() if (text := raw.lstrip(" -")).strip()]


def _alternatives(typehint: Any) -> Iterator[str]:
    """Name what a value of this type can be."""
    origin, arguments = typing.get_origin(typehint), typing.get_args(typehint)
    if origin is typing.Literal:
        yield from map(str, arguments)
    elif origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from _alternatives(argument)
    elif typehint is type(None):
        yield "null"
    elif typehint is bool:
        yield from ("true", "false")
    elif typehint in (int, float, str):
        yield {int: "an integer", float: "a number", str: "a text"}[typehint]
    elif inspect.isclass(origin or typehint) and issubclass(origin or typehint, dict):
        yield "a mapping of names to values"
    else:
        name = getattr(origin or typehint, "__name__", str(typehint))
        yield "a list" if arguments and origin is not AbstractCallable else f"a {name}"


def _classes(typehint: Any) -> Iterator[type]:
    """Find the classes in a type whose subclasses can be named, or that a callable in it returns."""
    origin, arguments = typing.get_origin(typehint), typing.get_args(typehint)
    if origin is AbstractCallable:
        yield from _classes(arguments[-1])
    elif arguments:
        for argument in arguments:
            yield from _classes(argument)
    elif inspect.isclass(typehint) and typehint.__module__ != "builtins":
        yield typehint


def _choices(kind: type) -> Iterator[type]:
    """List the classes that can be named where one of this kind is asked for; of nets, those of this package."""
    if kind is nn.Module:
        models = (getattr(lightning_robust.models, name) for name in lightning_robust.models.__all__)
        yield from (found for found in models if inspect.isclass(found) and issubclass(found, nn.Module))
        return
    if not (inspect.isabstract(kind) or kind.__name__.startswith("_") or "<locals>" in kind.__qualname__):
        yield kind
    below: list[type] = kind.__subclasses__()
    for sub in below:
        yield from _choices(sub)


def _is_known(name: str) -> bool:
    """Whether a class of this name can stand elsewhere."""
    rooms = ("attacks", "callbacks", "data", "defenses", "models", "parts")
    return any(hasattr(importlib.import_module(f"lightning_robust.{room}"), name) for room in rooms)


def _meant(name: str, owner: Any, depth: int = 2) -> str:
    """Say which setting of a class may have been meant: its own, that of a part of it, or the nearest name."""
    hints: dict[str, Any] = {}
    for cls in reversed(inspect.getmro(owner)) if inspect.isclass(owner) else ():
        try:
            hints |= typing.get_type_hints(cls.__init__)  # type: ignore[misc]
        except (AttributeError, NameError, TypeError):  # annotations that only a type checker can read
            continue
    for path, part in [(name, part) for name, hint in hints.items() for part in _classes(hint)]:
        if depth and part.__module__.startswith("lightning_robust.") and part is not owner:
            if name in _settings(part):
                return f"; did you mean '{path}.{name}'?"
            deeper = re.match(r"; did you mean '(.+\..+)'", _meant(name, part, depth - 1))
            if deeper:
                return f"; did you mean '{path}.{deeper[1]}'?"
    for keyword in ("class_path", "init_args"):
        if did_you_mean(name, [keyword]).startswith("; did"):
            return f"; did you mean {keyword!r}?"
    return did_you_mean(name, _settings(owner))


def _settings(cls: Any) -> list[str]:
    """Return the names of a constructor's arguments, including those that it hands on to its bases."""
    classes = inspect.getmro(cls) if inspect.isclass(cls) else (cls,)
    found = {p for c in classes if c is not object for p in inspect.signature(c).parameters}
    return sorted(found - {"self", "args", "kwargs"})


def _load(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
