"""Sphinx configuration: furo, MyST notebooks, the reference from the docstrings."""

import atexit
import os
import re
import shutil
import tempfile
from pathlib import Path

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
nb_execution_mode = "cache"
nb_execution_timeout = 300
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


_CODE = re.compile(r"(`[^`]+`)")
_MARKUP = re.compile(r"[*|\\]|(?<=\w)_(?!\w)")


def _as_text(app, what, name, obj, options, lines):
    """Docstrings are plain text: `names` are code, indented lines are formulas, and no other character is markup."""
    shown, formula = [], False
    for line in lines:
        indented = line.startswith(" ")
        if indented and not formula and line.strip() and (not shown or not shown[-1].strip()):
            shown += ["::", ""]
            formula = True
        elif line.strip() and not indented:
            formula = False
        if formula or line.lstrip().startswith((">>>", "...")):
            shown.append(line)
            continue
        parts = _CODE.split(line)
        plain = [_MARKUP.sub(lambda m: "\\" + m[0], part) for part in parts[::2]]
        code = [f"`{part}`" for part in parts[1::2]]
        shown.append("".join(a + b for a, b in zip(plain, [*code, ""], strict=True)))
    lines[:] = shown


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _as_text)
