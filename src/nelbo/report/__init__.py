"""The report: one self-contained html page of what a folder holds, and pictures of examples.

`write(folder, out)` makes the page, `grid(images, low, high)` a PNG of many examples. jinja2 and matplotlib are
imported when a page is written, not before.
"""

from nelbo.report.page import write
from nelbo.report.pictures import grid

__all__ = ["grid", "write"]
