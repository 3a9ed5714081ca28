"""Links from a page to files outside docs/ work on GitHub; on the site they lead to the repository."""

import re
from typing import Any

REPOSITORY = "https://github.com/lightning-robust/lightning_robust/blob/main/"


def to_repository(text: str) -> str:
    """Replace the targets of links that leave the folder of the documents, but not those of images.

    >>> to_repository("[a](../configs) ![b](../b.png)")
    '[a](https://github.com/lightning-robust/lightning_robust/blob/main/configs) ![b](../b.png)'
    """
    return re.sub(r"(?<!!)(\[[^\]\[]+\]\()(?:\.\./)+(?!\.)", rf"\1{REPOSITORY}", text)


def setup(app: Any) -> dict[str, bool]:
    """Have every page read with such links."""

    def read(app: Any, name: str, source: list[str]) -> None:
        if "/" not in name:  # pages in folders of docs/ link to their neighbours by `../`
            source[0] = to_repository(source[0])

    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
