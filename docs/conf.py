"""Sphinx for `python -m tools.site`: its source is the staged folder of that command, not this one."""

import os
import sys
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools import site

# The one setting that names the repository: the Binder, Colab and source links follow from it.
REPOSITORY = os.environ.get("SITE_REPOSITORY", "https://github.com/beyond-the-gradient/beyond-the-gradient")
BRANCH = "main"

project = "Beyond the gradient"
author = "The authors of Beyond the Gradient"
copyright = "its authors. Code: MIT; text and figures: CC BY 4.0"
language = "en"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_static", "_templates"]
templates_path = [str(Path(__file__).with_name("_templates"))]

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
mathjax_path = "tex-svg.js"
# No menu: its entries would load scripts that this site does not hold. Screen readers get MathML all the same.
mathjax3_config = {"options": {"enableMenu": False}, "tex": {"tags": "none"}}
bibtex_bibfiles = ["references.bib"]

autodoc_member_order = "bysource"
add_module_names = False
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"

html_context = {"default_mode": "auto"}
html_theme = "sphinx_book_theme"
html_title = project
html_favicon = "_static/favicon.svg"
html_static_path = [str(site.STAGE / "_static")]  # with MathJax, which is not in docs/
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_sourcelink_suffix = ""
html_show_sphinx = False
html_theme_options = {
    "repository_url": REPOSITORY,
    "repository_branch": BRANCH,
    "path_to_docs": "",
    "use_repository_button": True,
    "use_download_button": True,
    "use_fullscreen_button": False,
    "launch_buttons": {
        "binderhub_url": "https://mybinder.org",
        "colab_url": "https://colab.research.google.com",
        "notebook_interface": "jupyterlab",
    },
    "navbar_persistent": [],
    "show_toc_level": 2,
}


def read_page(app, docname, source):
    """A page is changed as it is read, so that the copy for download stays the stored one."""
    if str(app.env.doc2path(docname)).endswith(".ipynb"):
        notebook = site.page_of(nbformat.reads(source[0], 4), Path(docname).name)
        source[0] = nbformat.writes(notebook)
    else:
        source[0] = site.led_out(source[0], f"{REPOSITORY}/blob/{BRANCH}")


def read_docstring(app, what, name, obj, options, lines):
    lines[:] = site.docstring_rst("\n".join(lines)).split("\n")


def read_signature(app, what, name, obj, options, signature, returns):
    """Array where jaxtyping prints the module that JAX keeps its arrays in."""
    return tuple(text and text.replace("jaxlib._jax.Array", "Array") for text in (signature, returns))


def only_described(app, what, name, obj, skip, options):
    """Without members that nobody described, such as the fields of a NamedTuple."""
    text = getattr(obj, "__doc__", None) or ""
    return skip or not text or text.startswith("Alias for field")


def setup(app):
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-process-signature", read_signature)
    app.connect("autodoc-skip-member", only_described)
    site.unwrap_jitted()
