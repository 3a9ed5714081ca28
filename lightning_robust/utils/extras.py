"""Imports of packages that an optional extra of this package installs."""

import importlib
from typing import Any


def import_extra(module: str, extra: str, package: str | None = None) -> Any:
    """Import a module that may not be installed, or say which extra installs it.

    Args:
        module: the module's full name, such as "safetensors.torch".
        extra: the extra of this package that installs it, such as "zoo".
        package: the name under which it is installed; the first part of `module` by default.

    Returns:
        The module.

    Raises:
        ImportError: if the module cannot be imported; the message names the package and the extra.

    Example:
        >>> import_extra("json", "zoo").dumps([1])
        '[1]'
        >>> import_extra("no_such_module.part", "zoo")
        Traceback (most recent call last):
        ...
        ImportError: This needs the package no_such_module: pip install 'lightning-robust[zoo]' (No module named ...).
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = package or module.partition(".")[0]
        raise ImportError(
            f"This needs the package {package}: pip install 'lightning-robust[{extra}]' ({error})."
        ) from error
