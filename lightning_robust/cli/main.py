"""The command line's door: `lightning-robust COMMAND ...`, which imports no more than the command needs."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_robust.cli.busy_machine import share_cores
from lightning_robust.cli.help_pages import asks_for_help, show_help
from lightning_robust.cli.usage import COMMANDS, help_text, version_text
from lightning_robust.utils.messages import did_you_mean

if TYPE_CHECKING:
    from lightning_robust.publish.robustness_report import RobustnessReport

    Result = dict[str, float] | RobustnessReport | None


def console() -> None:
    """Run `lightning-robust` for a shell, which would take what `main` returns for an exit status."""
    share_cores()
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # such as of `lightning-robust recipes | head`: whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        sys.exit(1)


def main(args: Sequence[str] | None = None) -> "Result":
    """Run the command line `lightning-robust`.

    What is refused is told in one sentence, with exit status 2; a bug shows its traceback, with status 1. A check of
    the evaluation that does not pass under `--evaluation.strict true` ends with status 3. `--traceback` anywhere on the
    command line, or LIGHTNING_ROBUST_TRACEBACK=1 in the environment, shows the traceback of a refusal too.

    Args:
        args: the words after the command's name; by default the process's own.

    Returns:
        Of `fit`, `validate` and `test` the trainer's metrics, such as `{"test/worst_acc": 0.81, ...}`; after `fit` they
        are the last epoch's, and `best/val/worst_acc` is what the best checkpoint was chosen by. Of `evaluate` its
        report. None of any other command.
    """
    argv, environment = sys.argv, os.environ.get("LIGHTNING_ROBUST_TRACEBACK")
    given = argv[1:] if args is None else list(args)
    words = [word for word in given if word != "--traceback"]
    # Lightning warns of arguments that stand both here and in the call, and starts other ranks by those that stand here
    sys.argv = [*argv[:1], *(words if args is None else ())]
    # a config may name classes of one's own; behind all else, so that a file there hides no package
    path, sys.path = sys.path, [*sys.path, os.getcwd()]
    if len(words) < len(given):
        os.environ["LIGHTNING_ROBUST_TRACEBACK"] = "1"  # in the environment, for the ranks that a strategy launches
    try:
        return _run(words, None if args is None else words)
    finally:
        sys.argv, sys.path = argv, path
        os.environ.pop("LIGHTNING_ROBUST_TRACEBACK", None)
        if environment is not None:
            os.environ["LIGHTNING_ROBUST_TRACEBACK"] = environment


def _run(words: list[str], args: list[str] | None) -> "Result":
    """Answer what needs no net, or hand over to the command and return what it found."""
    command = words[0] if words else ""
    if command in ("", "-h", "--help"):
        print(help_text(), end="")
        sys.exit(0 if command else 2)
    if command == "--version":
        print(version_text())
        return None
    if asks_for_help(command, words):
        show_help(command)
    if command == "recipes":
        _list_recipes(words[1:])
        return None
    if command not in COMMANDS and not command.startswith("-"):
        _refuse(f"There is no command {command!r}{did_you_mean(command, COMMANDS)}")
    from lightning_robust.cli.refusals import told_in_one_sentence

    with told_in_one_sentence():
        if command in ("export", "push", "leaderboard"):
            from lightning_robust.cli.publishing import publish

            publish(command, words[1:])
        elif command == "completion":
            from lightning_robust.cli.completion import completion

            completion(words[1:])
        elif command == "evaluate":
            from lightning_robust.cli.evaluation import evaluation

            return evaluation(words[1:])
        elif command in ("report", "compare"):
            from lightning_robust.cli import pages

            (pages.report if command == "report" else pages.comparison)(words[1:])
        else:
            from lightning_robust.cli.trainer_commands import run

            return run(args)
    return None


def _list_recipes(words: list[str]) -> None:
    from lightning_robust.cli.recipe_list import recipe_list

    try:
        recipe_list(words)
    except ValueError as error:
        _refuse(str(error))


def _refuse(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)
