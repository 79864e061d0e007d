"""Sphinx configuration: furo, MyST notebooks, the reference from the docstrings."""

import atexit
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.errors import ExtensionError

sys.path.insert(0, str(Path(__file__).parent))
import parameters

import nelbo

# The kernels that run the pages: no progress, and warnings without the path of a temporary file.
os.environ["NELBO_PROGRESS"] = "0"
os.environ["IPYTHONDIR"] = tempfile.mkdtemp(prefix="nelbo-docs-")
atexit.register(shutil.rmtree, os.environ["IPYTHONDIR"], ignore_errors=True)
_startup = Path(os.environ["IPYTHONDIR"], "profile_default", "startup", "warnings.py")
_startup.parent.mkdir(parents=True)
_startup.write_text("import warnings\nwarnings.formatwarning = lambda text, kind, *_: f'{kind.__name__}: {text}\\n'\n")

project = "nelbo"
author = "The nelbo contributors"
copyright = author
version = release = nelbo.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3  # links to sections of other pages
nb_execution_mode = "cache"
nb_execution_in_temp = True  # cells may write files, which stay out of docs/
nb_execution_timeout = -1  # a cell takes as long as it takes: the machine may be busy
nb_execution_raise_on_error = True
nb_merge_streams = True

html_theme = "furo"
html_title = f"nelbo {release}"
# No math extension: MathJax would be fetched, and pages must work without a network. Formulas stand as text here, and
# rendered in the catalogue of equations, which carries its own KaTeX.

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": False}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88


_CODE = re.compile(r"(`[^`]+`)")
_MARKUP = re.compile(r"[*|\\]|(?<=\w)_(?!\w)")


def _plain(line):
    """`names` are code, and no other character is markup."""
    parts = _CODE.split(line)
    plain = [_MARKUP.sub(lambda m: "\\" + m[0], part) for part in parts[::2]]
    return "".join(a + b for a, b in zip(plain, [*(f"`{part}`" for part in parts[1::2]), ""], strict=True))


def _as_text(app, what, name, obj, options, lines):
    """Docstrings are plain text with indented formulas; what they say of parameters is made a list."""
    text = parameters.documented(obj, lines, _plain) if what in ("function", "method", "class") else lines
    shown, formula, entries = [], False, False
    for line in text:
        entries = line == ".. rubric:: Parameters" or (entries and (line.startswith("- ``") or not line))
        if entries:
            shown.append(line)
            continue
        indented = line.startswith(" ")
        if indented and not formula and line.strip() and (not shown or not shown[-1].strip()):
            shown += ["::", ""]
            formula = True
        elif line.strip() and not indented:
            formula = False
        if formula or line.lstrip().startswith((">>>", "...")):
            shown.append(line)
            continue
        shown.append(_plain(line))
    lines[:] = shown


def machine_paths(folder):
    """Paths of this machine in the pages of a built folder, as `page: path`."""
    places = {Path.home(), Path(tempfile.gettempdir()), Path(__file__).resolve().parents[1], Path(sys.prefix)}
    shown = re.compile("|".join(re.escape(str(place)) + r"/[^\s<\"']*" for place in places if len(place.parts) > 1))
    pages = (page for page in Path(folder).rglob("*.html") if "_modules" not in page.parts)
    return [f"{page}: {found[0]}" for page in pages for found in [shown.search(page.read_text("utf-8"))] if found]


def _check(app, exception):
    if exception is None and app.builder.format == "html" and (found := machine_paths(app.outdir)):
        raise ExtensionError("pages show paths of this machine:\n" + "\n".join(found))


def setup(app):
    """Called by Sphinx."""
    app.connect("build-finished", _check, priority=900)  # the theme writes its styles first
    app.connect("autodoc-process-docstring", _as_text)
