"""Pages: one HTML file each, with everything in it."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from lightning_robust.evaluation.provenance import versions
from lightning_robust.utils.files import atomic_write

_GENERATOR = b'<meta name="generator" content="lightning-robust'


def render(template: str, **content: Any) -> str:
    """Fill a template of this package. Text is escaped, so that nothing in a run can run in the reader's browser.

    Args:
        template: the name of a file in `templates`.
        content: the template's variables, all of them.
    """
    loader = PackageLoader("lightning_robust.publish", "templates")
    environment = Environment(
        loader=loader,
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup(loader.get_source(environment, "page.css")[0])
    return environment.get_template(template).render(version=versions()["lightning-robust"], style=style, **content)


def write_page(text: str, path: Path) -> None:
    """Write a page, in place of an earlier one of ours, but not of any other file.

    Raises:
        FileExistsError: where another file lies.
    """
    if path.exists() and _GENERATOR not in path.read_bytes()[:2000]:
        raise FileExistsError(f"{path} was not written by this command and is left as it is: give another --out.")
    with atomic_write(path) as beside:
        beside.write_text(text, encoding="utf-8")
