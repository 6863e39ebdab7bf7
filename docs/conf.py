"""The site: `make docs` builds it, without a network, and nothing in it asks for one."""

import importlib.metadata
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "tests")]

project = "keras_dropouts"
author = "The keras_dropouts founders"
version = release = importlib.metadata.version("keras-dropouts")

# `pages` writes the pages of what is public, `mathml` sets equations as browsers draw them themselves.
extensions = ["myst_nb", "pages", "mathml"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

# A notebook that has run runs again when its own code has changed. `-D nb_execution_mode=off` leaves outputs out.
nb_execution_mode = "cache"
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_merge_streams = True
# What the backends say of the machine.
nb_output_stderr = "remove"

toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = "keras_dropouts"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "show_toc_level": 2,
    "header_links_before_dropdown": 8,
    "footer_start": [],
    "footer_end": [],
    "back_to_top_button": False,
}
# These have no pages below them.
html_sidebars = {name: [] for name in ("index", "start", "choosing")}
