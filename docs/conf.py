"""Sphinx configuration: `make docs` builds the site into docs/_build/html, warnings are errors."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from arrag import __version__  # noqa: E402

project = "arrag"
author = "the arrag developers"
release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "generated",
]
exclude_patterns = ["_build", "reference/_generated"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
smartquotes = False  # options begin with two hyphens
project_copyright = "the arrag developers, Apache-2.0"
html_title = "arrag"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
