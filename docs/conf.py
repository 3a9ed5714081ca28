"""The documentation site: `pip install -e '.[docs]' && sphinx-build -W docs build/docs`."""

import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs/_extensions"))

project = "lightning_robust"
author = "The lightning_robust developers"
version = release = version_of("lightning-robust")
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "repository_links",
    "docstrings",
]
exclude_patterns = ["_extensions"]

# Names of other packages link to their documentation where the site is published. The inventories that this takes are
# fetched from the network, and one that cannot be fetched is a warning, which is an error here. A build therefore asks
# for them (DOCS_INTERSPHINX=1, as the workflow that publishes does); without, it needs no network.
intersphinx_mapping = (
    {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "lightning": ("https://lightning.ai/docs/pytorch/stable", None),
        "torchmetrics": ("https://lightning.ai/docs/torchmetrics/stable", None),
    }
    if os.environ.get("DOCS_INTERSPHINX")
    else {}
)

myst_enable_extensions = ["colon_fence", "dollarmath", "html_image"]
myst_heading_anchors = 3  # links such as evaluation.md#the-checks, as on GitHub

# Pages with code cells are run each time, so that what they show is what the package does now. DOCS_EXECUTE=off leaves
# the cells out while one writes.
nb_execution_mode = os.environ.get("DOCS_EXECUTE", "force")
suppress_warnings = [] if nb_execution_mode == "force" else ["myst-nb.lexer"]  # cells that did not run have none
nb_execution_in_temp = True
nb_execution_timeout = 900  # seconds for a cell, on a machine that has other work, too
nb_execution_raise_on_error = True
nb_output_stderr = "remove"  # Lightning's advice on workers and the like
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
default_role = "name"  # of docs/_extensions/docstrings.py
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 160
napoleon_numpy_docstring = False
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"
autosummary_generate = False  # the tables link to the pages, which describe all names of a package

html_theme = "furo"
html_title = "lightning_robust"
html_show_copyright = False
html_theme_options = {
    "source_repository": "https://github.com/lightning-robust/lightning_robust/",
    "source_branch": "main",
    "source_directory": "docs/",
}
copybutton_exclude = ".linenos, .gp, .go"
