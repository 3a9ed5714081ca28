"""The package's docstrings are plain text; this tells Sphinx what their conventions mean.

Words in backquotes are code, and link to what the reference describes under that name. Indented lines after a colon and
an empty line are formulas, rows of `|` are tables. `Paper`, `Reference` and `Deviates` are fields, as `Args` is.
"""

import inspect
import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.util.inspect import signature, stringify_signature

from lightning_robust.defenses import Defense
from lightning_robust.defenses.stored_arguments import KeepsArguments

NAME = re.compile(r"(lightning_robust(\.\w+)+|(lr\.)?[A-Z]\w+(\.\w+)?)$")
FIELD = re.compile(r"(Paper|Reference|Deviates): (.*)")


def linked(text: str) -> str:
    """Link papers on arXiv and commits of the authors' code.

    >>> linked("a 2020 (arXiv 1706.06083)")
    'a 2020 (`arXiv 1706.06083 <https://arxiv.org/abs/1706.06083>`__)'
    >>> linked("b/c@1a2b3c4")
    '`b/c@1a2b3c4 <https://github.com/b/c/tree/1a2b3c4>`__'
    """
    text = re.sub(r"arXiv (\d{4}\.\d{5})", r"`arXiv \1 <https://arxiv.org/abs/\1>`__", text)
    return re.sub(r"\b([\w-]+/[\w.-]+)@([0-9a-f]{7})\b", r"`\1@\2 <https://github.com/\1/tree/\2>`__", text)


def as_fields(lines: list[str]) -> list[str]:
    """Write `Paper: ...` and the like as fields, with the lines that go on from them indented.

    >>> as_fields(["Paper: A 2020,", "equation 1.", "Reference: b/c@1.", "", "More."])
    [':Paper: A 2020,', '    equation 1.', ':Reference: b/c@1.', '', 'More.']
    """
    out: list[str] = []
    inside = False
    for line in lines:
        field = FIELD.match(line)
        inside = bool(field) or (inside and bool(line.strip()))
        if field:
            out.append(f":{field[1]}: {field[2]}")
        else:
            out.append(f"    {line.strip()}" if inside else line)
    return out


def as_formulas(lines: list[str]) -> list[str]:
    """Keep the lines of an indented block that follows a colon and an empty line as they are.

    >>> as_formulas(["It is:", "", "    a = b", "    c"])
    ['It is::', '', '    a = b', '    c']
    """
    out = list(lines)
    for i in range(len(lines) - 2):
        line, after = lines[i], lines[i + 2]
        indented = len(after) - len(after.lstrip()) > len(line) - len(line.lstrip())
        if line.endswith(":") and not lines[i + 1].strip() and indented and not after.lstrip().startswith(">>>"):
            out[i] = f"{line}:"
    return out


def as_tables(lines: list[str]) -> list[str]:
    """Write tables as reStructuredText.

    >>> as_tables(["| a | b |", "|---|---|", "| 1 | 2 |"])[-4:]
    ['    * - a', '      - b', '    * - 1', '      - 2']
    """
    out: list[str] = []
    for before, line in zip(["", *lines], lines, strict=False):
        if not line.startswith("|"):
            out.append(line)
        elif not re.fullmatch(r"[|:-]+", line):
            first, *others = (cell.strip() for cell in line.strip("|").split("|"))
            out += [] if before.startswith("|") else ["", ".. list-table::", "    :header-rows: 1", ""]
            out += [f"    * - {first}", *(f"      - {cell}" for cell in others)]
    return out


def code(name: str, rawtext: str, text: str, lineno: int, inliner: Any, *_: Any, **__: Any) -> Any:
    """Read words in backquotes: code, which links to the class or function of that name if there is one."""
    word = rawtext.strip("`")
    literal = nodes.literal(rawtext, word, classes=["code"])
    if not NAME.match(word):
        return [literal], []
    document = inliner.document.settings.env.docname
    target = word.removeprefix("lr.")
    link = pending_xref("", refdomain="py", reftype="obj", reftarget=target, refdoc=document, refspecific=True)
    link += literal
    return [link], []


class Default:
    """Stands for a default that is a function."""

    def __repr__(self) -> str:
        return "..."


def of_defense(defense: type) -> str:
    """Return the signature of a defense's constructor, which autodoc looks for in a `__new__` that takes anything."""
    if defense is not Defense and "__init__" not in vars(defense):
        return "(net: Module, **kwargs: Any)"
    found = signature(defense.__init__, bound_method=True)
    parameters = [
        p.replace(default=Default()) if callable(p.default) and p.default is not p.empty else p
        for p in found.parameters.values()
    ]
    found = found.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
    return str(stringify_signature(found, unqualified_typehints=True))


def setup(app: Any) -> dict[str, bool]:
    """Have autodoc read docstrings so, before napoleon reads their sections."""

    def read(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        lines[:] = [linked(line) for line in as_fields(as_tables(as_formulas(lines)))]

    def read_signature(app: Any, what: str, name: str, obj: Any, options: Any, args: str, returns: str) -> Any:
        return (of_defense(obj), returns) if inspect.isclass(obj) and issubclass(obj, KeepsArguments) else None

    app.connect("autodoc-process-signature", read_signature)
    app.connect("autodoc-process-docstring", read, priority=400)
    app.add_role("name", code)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
