"""The site that `make docs` builds with Sphinx: README, these pages, and a reference made from the code.

The source folder is the checkout itself, so that a link means the same here, in an editor and on a forge.
"""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]  # `reference` beside this; the packages

project = "GeoSURGE"
version = release = installed_version("geosurge")
copyright = "the authors of GeoSURGE; Apache License 2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "reference"]
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**", "benchmarks/results/*.md"]
exclude_patterns = [".*", "out", "build", "dist", "tests", "configs", "docs/_templates"]
# What lies below a page, by caption: the order of the sidebar. A page that is missing here ends the build.
contents = {
    "README": {
        "Use": ["docs/tutorial", "docs/how-it-works", "docs/operations", "docs/service", "docs/evaluation"],
        "Look up": ["docs/data-model", "docs/words", "docs/results", "docs/reference/index"],
        "Work on it": ["docs/architecture", "CONTRIBUTING", "CHANGELOG"],
    },
    "docs/results": {"": ["benchmarks/results/ablations"]},
}

myst_heading_anchors = 3
highlight_language = "text"  # a block that names no language is a command line or a drawing

add_module_names = False
autodoc_default_options = {"members": True, "undoc-members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = "GeoSURGE"
html_static_path = ["_static"]
html_css_files = ["site.css"]
templates_path = ["_templates"]
html_copy_source = False
html_show_sphinx = False
html_sidebars = {"**": ["pages.html"]}  # all pages, on every page
html_theme_options = {
    "navbar_center": [],
    "navbar_end": ["search-button-field", "theme-switcher"],
    "navbar_persistent": [],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": False,
    "navigation_with_keys": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
