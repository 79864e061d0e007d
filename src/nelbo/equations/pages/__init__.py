"""The catalogue as a static site: `build(out)` writes pages that work from the file system, without a network.

jinja2 and pygments are imported when a site is built, not before.
"""

from nelbo.equations.pages.build import Built, build

__all__ = ["Built", "build"]
