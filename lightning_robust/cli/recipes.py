"""The recipes that come with the package: found by name from any folder, listed, and printed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_robust.utils.messages import did_you_mean

PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """Folder of the recipes: inside an installed package, or at the root of the source tree."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def recipes() -> dict[str, Path]:
    """Map each recipe's name, such as "digits/at", to its file.

    Example:
        >>> recipes()["digits/at"].name
        'at.yaml'
    """
    root = folder()
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.glob("*/*.yaml"))}


def find_config(asked: str) -> str:
    """Turn what `--config` was given into the path of a file; YAML text and URLs are left as they are.

    A file that exists wins. Otherwise "digits/at", "digits/at.yaml" and "configs/digits/at.yaml" name a recipe.

    Args:
        asked: a path, the name of a recipe, a URL, or YAML text.

    Raises:
        ValueError: if there is neither a file nor a recipe of that name.

    Example:
        >>> find_config("digits/at") == find_config("digits/at.yaml") == str(recipes()["digits/at"])
        True
    """
    is_text = any(mark in asked for mark in ("\n", "{", ": ", "://"))
    if is_text or Path(asked).expanduser().is_file():
        return asked
    known = recipes()
    name = re.sub(r"\.ya?ml$", "", asked).removeprefix("./").removeprefix("configs/")
    if name not in known:
        raise ValueError(f"There is no config file or recipe {asked!r}{_nearest(name, known)}")
    return str(known[name])


class Recipe(NamedTuple):
    """What a recipe is about: its paper, data and net.

    Args:
        name: the name under which `--config` finds it, such as "digits/at".
        paper: authors and year, or "" where none is named.
        data: class of the data module.
        net: the net as papers write it, such as WRN-34-10.
    """

    name: str
    paper: str
    data: str
    net: str

    @classmethod
    def read(cls, name: str, path: Path) -> "Recipe":
        """Read a recipe: the paper stands in the comment at its head, data and net in its settings."""
        text = path.read_text()
        title = text.split("\nseed_everything")[0].split("# Hyper-parameters")[0].replace("\n# ", " ")
        paper = re.search(r"\(([^()]*?\b(?:19|20)\d\d)\b[^()]*\)", title)
        settings: Mapping[str, Any] = yaml.safe_load(text)
        net = settings["model"]["init_args"]["net"] if "model" in settings else None
        return cls(name, paper[1] if paper else "", _data(settings.get("data")), _net(net))


def search(words: str = "") -> list[Recipe]:
    """List the recipes in whose name, paper, data or net each of these words occurs, in any case; by default all.

    Raises:
        ValueError: if there are none.

    Example:
        >>> [recipe.name for recipe in search("digits madry")]
        ['digits/at']
    """
    known = recipes()
    read = (Recipe.read(name, path) for name, path in known.items())
    found = [recipe for recipe in read if all(word in " ".join(recipe).lower() for word in words.lower().split())]
    if not found:
        raise ValueError(f"There is no recipe {words!r}{_nearest(words, known)}")
    return found


def _data(data: Mapping[str, Any] | None) -> str:
    if data is None:
        return ""
    labelled = data.get("init_args", {}).get("labelled")
    return f"{labelled['class_path']} + more" if labelled else str(data["class_path"])


def _net(net: Mapping[str, Any] | None) -> str:
    """The net as papers write it, such as WRN-34-10, or its name in a collection of nets."""
    if net is None:
        return ""
    settings = net.get("init_args", {})
    if isinstance(settings.get("net"), Mapping):  # around another net
        return _net(settings["net"])
    if "name" in settings:
        return str(settings["name"])
    sizes = [str(settings[key]) for key in ("depth", "widen_factor") if key in settings]
    return "-".join(["WRN" if net["class_path"] == "WideResNet" else net["class_path"], *sizes])


def _nearest(name: str, known: Mapping[str, Path]) -> str:
    close = did_you_mean(name, known)
    return close if close.startswith("; did you mean") else "; `lightning-robust recipes` lists them all."
