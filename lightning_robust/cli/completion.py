"""`lightning-robust completion bash|zsh`: a script for tab completion of commands, recipes and settings.

jsonargparse writes such scripts too, but lists the settings of every class in torch, which takes more than ten minutes
for this command line. This script lists those of this package, of torch's optimizers and of Lightning.
"""

import argparse
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import shtab

import lightning_robust.attacks
import lightning_robust.models  # noqa: F401  (imported, so that short class names resolve)
from lightning_robust.cli.choices import annotations_of, choices_of, classes_in
from lightning_robust.cli.evaluation import evaluation_parser
from lightning_robust.cli.explanation import SECTIONS
from lightning_robust.cli.plan import RobustTrainer
from lightning_robust.cli.publishing import PUBLISHING, publishing_parser
from lightning_robust.cli.recipes import recipes
from lightning_robust.cli.settings import SETTINGS
from lightning_robust.cli.short_parsers import SHORT_PARSERS, completion_parser
from lightning_robust.cli.usage import COMMANDS
from lightning_robust.data import RobustDataModule
from lightning_robust.defenses import Defense
from lightning_robust.utils.private_apis import arguments_of, type_of_argument

DEEPEST = 3
"""Depth down to which nested settings are listed: `--model.attack.threat.eps` has depth 3."""

_FILES = {"ckpt_path", "root", "default_root_dir", "out", "folder", "report", "state_dir", "source", "evaluation"}
_RECIPES = """\
_lightning_robust_recipes() {{
  {command}
}}"""
_COMMANDS = {
    "bash": 'compgen -W \'{names}\' -- "$1"; compgen -f -- "$1"',
    "zsh": "compadd -- {names}; _files",
}


def completion(args: Sequence[str]) -> None:
    """Run `lightning-robust completion SHELL`, and print the script."""
    print(script(completion_parser().parse_args(args).shell))


def script(shell: str) -> str:
    """Write the script for a shell.

    Args:
        shell: "bash" or "zsh".
    """
    root = argparse.ArgumentParser("lightning-robust", allow_abbrev=False)
    root.add_argument("--version", action="store_true", help="the version")
    commands = root.add_subparsers()
    for name, does in COMMANDS.items():
        if name in SHORT_PARSERS:
            commands.add_parser(name, help=does, parents=[SHORT_PARSERS[name](False)])
        else:
            _add_settings(commands.add_parser(name, help=does), _settings(name), shell)
    named = _RECIPES.format(command=_COMMANDS[shell].format(names=" ".join(recipes())))
    return shtab.complete(root, shell, preamble=named)


def _add_settings(parser: Any, settings: Iterator[tuple[str, Any]], shell: str) -> None:
    """Add each setting once, with the values that it can have."""
    values: dict[str, list[str]] = {}
    for name, typehint in settings:
        values.setdefault(name, []).extend(_values(typehint))
    parser.add_argument("-c", "--config").complete = {shell: "_lightning_robust_recipes"}
    parser.add_argument("--help-all", action="store_true")
    parser.add_argument("--print_config", action="store_true")
    for name, choices in values.items():
        argument = parser.add_argument(f"--{name}", choices=list(dict.fromkeys(choices)) or None)
        if name.rpartition(".")[2] in _FILES and not choices:
            argument.complete = shtab.FILE


def _settings(command: str) -> Iterator[tuple[str, Any]]:
    """Yield the names and types of a command's settings."""
    if command == "evaluate" or command in PUBLISHING:
        parser = evaluation_parser() if command == "evaluate" else publishing_parser(command)
        for argument in arguments_of(parser):
            if argument.dest.endswith(".help"):
                yield argument.dest, type_of_argument(argument)
            elif (typehint := type_of_argument(argument)) is not None:
                yield argument.dest, typehint
                yield from _nested(argument.dest, typehint, 2)
        return
    for section, owner in SECTIONS.items():
        yield from ((f"{section}.{name}", hint) for name, hint in annotations_of(owner).items())
    for name, base in {"model": Defense, "data": RobustDataModule}.items():
        yield name, base
        yield f"{name}.help", base
        yield from _nested(name, base, DEEPEST)
    shown = {each.option.removeprefix("--") for each in SETTINGS[command]}
    hints = _annotations_of_method(getattr(RobustTrainer, command))
    taken = {"self", "model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders", "return"}
    yield from ((name, hint) for name, hint in hints.items() if name not in taken)
    yield from ((name, Any) for name in shown - {"config"})


def _annotations_of_method(function: Any) -> dict[str, Any]:
    """Return the types of a function's arguments, as far as they can be resolved."""
    try:
        return typing.get_type_hints(function)
    except (AttributeError, NameError, TypeError):
        return dict.fromkeys(function.__annotations__, Any)


def _nested(prefix: str, typehint: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the settings of the classes that a type allows, and of their parts."""
    found: dict[str, Any] = {}
    for kind in dict.fromkeys(choice for base in classes_in(typehint) for choice in choices_of(base)):
        if kind.__module__.startswith(("lightning_robust.", "torch.optim.")):
            for name, hint in annotations_of(kind).items():
                found.setdefault(name, []).append(hint)
    for name, hints in found.items():
        for hint in {str(hint): hint for hint in hints}.values():  # some types cannot be hashed
            yield f"{prefix}.{name}", hint
            if depth > 1:
                yield from _nested(f"{prefix}.{name}", hint, depth - 1)


def _values(typehint: Any) -> list[str]:
    """List the values of a type that can be listed: true and false, literals, names of classes."""
    if typehint is bool:
        return ["true", "false"]
    if typing.get_origin(typehint) is typing.Literal:
        return [str(value) for value in typing.get_args(typehint)]
    if typing.get_origin(typehint) in (typing.Union, types.UnionType):
        return [value for part in typing.get_args(typehint) for value in _values(part)]
    classes = dict.fromkeys(choice for base in classes_in(typehint) for choice in choices_of(base))
    rooms = ("lightning_robust.", "torch.optim.", "lightning.")
    return [
        choice.__name__
        for choice in classes
        if choice.__module__.startswith(rooms) and not choice.__name__.startswith("_")
    ]
