"""Modules of cloned repositories, which are no packages."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def from_clone(folder: Path, name: str, *needs: str) -> ModuleType:
    """Import a module from a folder that is not on Python's path.

    Args:
        folder: where the module's file lies.
        name: of the module.
        needs: modules of the same folder that it imports, in the order in which they can be. They bear common names,
            such as utils, hence Python knows them under these names only until the module itself is imported.

    Returns:
        The module.

    Raises:
        FileNotFoundError: a file is missing.
    """
    names = (*needs, name)
    before = {known: sys.modules[known] for known in names if known in sys.modules}
    try:
        for each in names:
            module = _execute(folder / f"{each}.py", each)
        return module
    finally:
        for each in names:
            sys.modules.pop(each, None)
        sys.modules.update(before)


def _execute(file: Path, name: str) -> ModuleType:
    spec = spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
