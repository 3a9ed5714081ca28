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

from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.cli.choices import annotations_of, choices_of, classes_in, settings_of
from lightning_robust.cli.other_names import other_name
from lightning_robust.cli.usage import COMMANDS
from lightning_robust.utils.messages import did_you_mean
from lightning_robust.utils.private_apis import arguments_of, type_of_argument

SECTIONS = {"trainer": Trainer, "evaluation": RobustEvaluation, "checkpoint": ModelCheckpoint}
_NOISE = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value|Expected a (?:<class 'NoneType'>|path but )|"
    r"Unable to load config '|.* a subclass of FollowsRun"
)
_FORMS = re.compile(r"Not a valid subclass of|Subclass types expect|a class path \(str\)|a dict with")
_NO_CONFIG = re.compile(r"Unable to load config \"(.+)\"$")
_CALLABLE = re.compile(r"Type [\w.]*Callable\[.*\] expects a function or a callable class: ")
_REQUIRED = re.compile(r"(?:([\w.]+): )?the following arguments are required: ([\w., -]+)")
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
        return _missing_as_typed(_of_options(message, parser))
    told = _of_value(key[2], _typehint(parser, key[1]))
    joint = "." if re.match(r"[\w.]+: ", told) else ": "  # an inner parser has named its part of the path already
    return _missing_as_typed(f"{key[1]}{joint}{told}")


def _missing_as_typed(told: str) -> str:
    """Name settings that are missing as the command line takes them, without the command in front."""
    found = _REQUIRED.fullmatch(told)
    if not found:
        return told
    names = [re.sub(rf"^--|^({'|'.join(COMMANDS)})\.", "", name) for name in found[2].split(", ")]  # -- of inner parts
    if found[1] in ("evaluation.attacks", "evaluation.fit_attacks"):  # it is not told which of them
        return f"{found[1]}: the following arguments are required: {', '.join(names)}"
    within = f"--{found[1]}." if found[1] else "--"
    return f"the following arguments are required: {', '.join(within + name for name in names)}"


def _of_options(message: str, parser: Any) -> str:
    """Explain what is wrong with the command line as a whole, or what a constructor has refused."""
    found = re.match(r"(?:Subcommand '.+' does not accept option '|unrecognized arguments: (?:--)?)([^\s'=]+)", message)
    if not found:
        leaves = [line for line in _lines(message) if not _NOISE.match(line[1])]
        leaves = [line for line in leaves if not _FORMS.match(line[1])] or leaves
        return max(leaves, key=lambda line: line[0])[1] if leaves else message
    section, _, name = found[1].partition(".")
    known = set() if message.startswith("Subcommand") else _options(parser)
    if other := other_name(found[1], known):
        return f"there is no option {found[1]!r}; did you mean '--{other}'?"
    own = section not in SECTIONS and any(option.partition(".")[0] == section for option in known)
    if "net" in known and name and not own:
        begun = f"{section}."
        if inside := {option.removeprefix(begun) for option in known if option.startswith(begun)}:
            return f"{section} has no setting {name!r} here{did_you_mean(name, inside)}"
        return f"there is no option {found[1]!r}{did_you_mean(found[1], known)}"
    if section in SECTIONS and name:
        name = name.partition(".")[0]
        return f"{section} has no setting {name!r}{did_you_mean(name, settings_of(SECTIONS[section]))}"
    if message.startswith("unrecognized arguments: ") and "--" not in message:
        return f"{found[1]!r} stands alone: write settings as --name value, and a recipe as --config {found[1]}."
    if name:
        return f"there is no section {section!r}{did_you_mean(section, [*SECTIONS, 'model', 'data'])}"
    options = {*SECTIONS, "model", "data", "seed_everything", "ckpt_path"}
    if not message.startswith("Subcommand"):
        options = {name.partition(".")[0] for name in known}
    return f"there is no option {section!r}{did_you_mean(section, options)}"


def _options(parser: Any) -> set[str]:
    return {action.dest for action in arguments_of(parser) if "help" not in action.dest}


def _of_value(tree: str, typehint: Any) -> str:
    """Explain what is wrong with the value of one key, which should be of this type."""
    option = re.search(r"Option '([^'.]+)[^']*' is not accepted", tree)
    owners = re.findall(r"Problem with given class_path '([\w.]+)'|class_path='([\w.]+)'", tree)
    inner = [(name, text) for name, text in _INNER.findall(tree) if not _NOISE.match(text)]
    told = [text for _, text in inner if not (_NOT_IMPORTED.match(text) or _UNKNOWN_CLASS.match(text))]
    # where the class that was given refuses a value, its base class, tried next, refuses the setting altogether
    values = [text for text in told if not text.startswith("Option '")]
    if option and owners and not values:
        owner = _load(owners[-1][0] or owners[0][1])
        return f"{owner.__name__} has no setting {option[1]!r}{_meant(option[1], owner)}"
    if told:
        return _without_settings((values or told)[0])
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
    names = {found.__name__ for kind in classes_in(typehint) for found in choices_of(kind)}
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


def _is_known(name: str) -> bool:
    """Whether a class of this name can stand elsewhere."""
    rooms = ("attacks", "callbacks", "data", "defenses", "models", "parts")
    return any(hasattr(importlib.import_module(f"lightning_robust.{room}"), name) for room in rooms)


def _meant(name: str, owner: Any, depth: int = 2) -> str:
    """Say which setting of a class may have been meant: its own, that of a part of it, or the nearest name."""
    hints = annotations_of(owner)
    for path, part in [(name, part) for name, hint in hints.items() for part in classes_in(hint)]:
        if depth and part.__module__.startswith("lightning_robust.") and part is not owner:
            if name in settings_of(part):
                return f"; did you mean '{path}.{name}'?"
            deeper = re.match(r"; did you mean '(.+\..+)'", _meant(name, part, depth - 1))
            if deeper:
                return f"; did you mean '{path}.{deeper[1]}'?"
    for keyword in ("class_path", "init_args"):
        if did_you_mean(name, [keyword]).startswith("; did"):
            return f"; did you mean {keyword!r}?"
    return did_you_mean(name, settings_of(owner))


def _load(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
