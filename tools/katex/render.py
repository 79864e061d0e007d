"""Set every formula of the catalogue with KaTeX and write the fragments, stylesheet and fonts that the package ships.

Run it with `make katex`, which installs KaTeX beside this file first. It needs node.
"""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

from nelbo.equations.pages import typeset
from nelbo.equations.pages.build import asked
from nelbo.files import write_atomic

HERE = Path(__file__).parent
DIST = HERE / "node_modules" / "katex" / "dist"


def main() -> int:
    wanted = {kind: sorted(formulas) for kind, formulas in asked().items()}
    done = subprocess.run(
        ["node", str(HERE / "render.mjs")], input=json.dumps(wanted), stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        print("error: these formulas do not set strictly; nothing was written", file=sys.stderr)
        return done.returncode
    rendered = json.loads(done.stdout)
    table = {
        kind: {typeset.key(latex): html for latex, html in sorted(rendered[kind].items())} for kind in typeset.KINDS
    }
    text = json.dumps({"katex": rendered["version"], **table}, ensure_ascii=False, sort_keys=True)
    write_atomic(typeset.PATH, gzip.compress(text.encode(), 9, mtime=0))
    write_atomic(typeset.FOLDER / "katex.min.css", (DIST / "katex.min.css").read_bytes())
    write_atomic(typeset.FOLDER / "LICENSE", (DIST.parent / "LICENSE").read_bytes())
    fonts = typeset.FOLDER / "fonts"
    shutil.rmtree(fonts, ignore_errors=True)
    for font in sorted((DIST / "fonts").glob("*.woff2")):
        write_atomic(fonts / font.name, font.read_bytes())
    counts = ", ".join(f"{len(table[kind])} {kind}" for kind in typeset.KINDS)
    unset = sum(html is None for kind in typeset.KINDS for html in table[kind].values())
    size = typeset.PATH.stat().st_size
    print(f"KaTeX {rendered['version']}: {counts} ({unset} do not parse and are shown as code); {size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
