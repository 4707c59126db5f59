"""``python -m docs.make``: write generated parts and the benchmark book, then build the site into ``site/``."""

from __future__ import annotations

import argparse
import sys

from docs.make.parts import ROOT, write
from docs.make.site import build


def main() -> int:
    """Write the parts, and build unless only they are asked for."""
    parser = argparse.ArgumentParser(prog="python -m docs.make", description=__doc__)
    parser.add_argument("--parts", action="store_true", help="write the generated parts, and build nothing")
    only_parts = parser.parse_args().parts
    sys.path.append(str(ROOT / "benchmarks"))  # whose scripts import each other by their names
    import book  # type: ignore[import-not-found]

    for page in [*write(), *book.write()]:
        print(f"{page}: written anew")
    if only_parts:
        return 0
    if said := build():
        print(said, file=sys.stderr)
        return 1
    print("built: open site/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
