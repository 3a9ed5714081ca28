"""YAML that means one thing: no key stands twice, and what is wrong is told with its line."""

from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from lightning_robust.cli.net_names import with_nets
from lightning_robust.cli.sub_configs import file_of

STRICT_YAML = "strict_yaml"
"""The parser mode that reads with `load`."""

DEEPEST, MOST = 100, 100_000
"""How deep settings may be nested, and how many values a text may stand for once its aliases are written out."""

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(text: str, path: str = "") -> Any:
    """Read YAML as jsonargparse does, but refuse what it would read wrongly or without end.

    Args:
        text: the YAML, or a single value of the command line.
        path: the config file that it was read from, which must hold settings; "" if it is anything else.

    Raises:
        TypeError: for a text of several lines, or a file, that is not YAML, has a key twice, or is too large; and for
            an empty file. The message is one sentence with file, line and reason.
        yaml.YAMLError: for a value of one line that is not YAML: it may be meant as a string.

    Example:
        >>> load("steps: 3\\nsteps: 4\\n", "recipe.yaml")
        Traceback (most recent call last):
        ...
        TypeError: recipe.yaml, line 2: 'steps' stands here for the second time (first on line 1): leave one out.
    """
    try:
        _weigh(yaml.compose(text, Loader=_SafeLoader), (), {})
        value = get_loader("yaml")(text)
    except yaml.YAMLError as error:
        path = path or file_of(text) or ""
        if path or "\n" in text.strip():
            raise TypeError(_sentence(error, path)) from error
        raise
    if value is None and not path:
        path = file_of(text) or ""
    if path and not isinstance(value, dict):
        what = "nothing" if value is None or not text.strip() else "a list" if isinstance(value, list) else "a value"
        raise TypeError(f"{path} holds {what}, not settings such as `seed_everything: 0`.")
    return with_nets(value)


def _weigh(node: Any, above: tuple[int, ...], known: dict[int, int]) -> int:
    """Count the values of a node, those behind its aliases as often as they stand there."""
    if id(node) in known:
        return known[id(node)]
    if id(node) in above or len(above) > DEEPEST:
        told = "is part of itself" if id(node) in above else f"is nested deeper than {DEEPEST} levels"
        raise yaml.MarkedYAMLError(problem=f"the value {told}", problem_mark=node.start_mark)
    children: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    size = 1 + sum(_weigh(child, (*above, id(node)), known) for child in children)
    if size > MOST:
        raise yaml.MarkedYAMLError(problem=f"it stands for more than {MOST} values", problem_mark=node.start_mark)
    known[id(node)] = size
    return size


def _check_keys(node: Any) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line = key.start_mark.line + 1
        if key.value in lines:
            raise yaml.MarkedYAMLError(
                problem=f"{key.value!r} stands here for the second time (first on line {lines[key.value]}): leave one "
                "out",
                problem_mark=key.start_mark,
            )
        lines[key.value] = line


def _sentence(error: yaml.YAMLError, path: str) -> str:
    mark, reason = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or reason is None:  # characters that no YAML holds
        return f"{path or 'The text'} is no YAML: {str(error).splitlines()[0]}."
    context, begun = getattr(error, "context", None), getattr(error, "context_mark", None)
    told = f" {context} that begins on line {begun.line + 1}" if context and begun and begun.line != mark.line else ""
    return f"{f'{path}, ' if path else ''}line {mark.line + 1}: {reason}{told}."


set_loader(STRICT_YAML, load, (yaml.YAMLError,))
