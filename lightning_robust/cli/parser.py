"""Errors of the command line in one line: which key, what is wrong with it, and the nearest right name."""

import importlib
import inspect
import re
import sys
from typing import Any, NoReturn

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser

from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.cli.devices import rank
from lightning_robust.cli.refusals import wants_traceback
from lightning_robust.utils.messages import did_you_mean

_SECTIONS = {"trainer": Trainer, "evaluation": RobustEvaluation, "checkpoint": ModelCheckpoint}
_NOISE = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|.* a subclass of FollowsRun"
)
_CALLABLE = re.compile(r"Type [\w.]*Callable\[.*\] expects a function or a callable class: ")


class Parser(LightningArgumentParser):
    """A LightningArgumentParser that explains an error instead of printing every type it tried."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the explanation and exit with status 2; raise it where `exit_on_error` is off or a traceback is wanted.

        Of several ranks, which all parse the same, the first alone prints.
        """
        if not self.exit_on_error:
            super().error(explain(message), ex)
        if ex is not None and wants_traceback():
            raise ex
        if not rank():
            sys.stderr.write(f"error: {explain(message)}\n")
        self.exit(2)


def explain(message: str) -> str:
    """Return the deepest line of jsonargparse's tree of attempts, with the keys that lead to it and a suggestion."""
    message = _CALLABLE.sub("", message)
    lines = [(len(raw) - len(text), text) for raw in message.splitlines() if (text := raw.lstrip(" -")).strip()]
    leaves = [(indent, text) for indent, text in lines if not _NOISE.search(text)]
    if len(leaves) < 2:
        return _suggest(leaves[-1][1] if leaves else message, None)
    keys: list[tuple[int, str]] = []
    best, path, scope = (-1, message), "", None
    owner: str | None = None
    for indent, text in leaves:
        keys = [(i, key) for i, key in keys if i < indent]
        key = re.match(r'Parser key "(.+?)":\s*(.*)', text)
        known = re.match(r"Problem with given class_path '(.+)':", text)
        if key:
            keys.append((indent, key[1]))
            text = key[2]
        if known:
            owner = known[1]
        elif text and indent > best[0]:
            best, path, scope = (indent, text), ".".join(k for _, k in keys), owner
    told = _suggest(best[1], scope, lines)
    joint = "." if re.match(r"[\w.]+: ", told) else ": "  # an inner parser has named its part of the path already
    return f"{path}{joint}{told}" if path else told


def _suggest(text: str, owner: str | None, lines: list[tuple[int, str]] | None = None) -> str:
    """Return the line itself, and which name may have been meant."""
    text, _, given = text.partition(". Got value: Namespace(")
    built = re.match(r"class_path='([\w.]+)'", given)
    owner = built[1] if built else owner
    option = re.match(r"Option '(.+)' is not accepted", text)
    if option and owner:
        name = option[1].split(".")[0]
        return f"{owner.rpartition('.')[2]} has no setting {name!r}{did_you_mean(name, _settings(_load(owner)))}"
    section = re.match(r"(?:Subcommand '.+' does not accept option '|unrecognized arguments: --)(\w+)\.(\w+)", text)
    if section and section[1] in _SECTIONS:
        return f"{section[1]} has no setting {section[2]!r}{did_you_mean(section[2], _settings(_SECTIONS[section[1]]))}"
    if section and section[1] not in _SECTIONS:
        return f"there is no section {section[1]!r}{did_you_mean(section[1], [*_SECTIONS, 'model', 'data'])}"
    named = re.match(r"Expected a dot import path string: (.+)", text)
    if named:
        types = " ".join(t for _, t in lines or [] if t.startswith("Subtypes:"))
        # classes, or what a callable gives
        kinds = re.findall(r"(?:<class '|\], (?:typing\.Union\[)?)((?!typing)[\w.]+\w)", types)
        names = [kind.__name__ for path in kinds if path != "NoneType" for kind in _descendants(_load(path))]
        return f"there is no class {named[1]!r}{did_you_mean(named[1], names)}"
    return text


def _settings(cls: Any) -> list[str]:
    """Return the names of a constructor's arguments, including those that it hands on to its bases."""
    classes = inspect.getmro(cls) if inspect.isclass(cls) else (cls,)
    found = {p for c in classes if c is not object for p in inspect.signature(c).parameters}
    return sorted(found - {"self", "args", "kwargs"})


def _descendants(cls: Any) -> list[type]:
    below = [d for sub in cls.__subclasses__() for d in _descendants(sub)]
    return below if inspect.isabstract(cls) or cls.__name__.startswith("_") else [cls, *below]


def _load(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
