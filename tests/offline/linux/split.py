#!/usr/bin/env python3
"""Splits the cores of one kernel into the pages that all of them have and the pages that each has alone.

    split.py CORES TARGET

CORES has files MOMENT.core. TARGET receives tables.pages, which is the common pages one after another, and
MOMENT.pages for each core: the number of its pages, a number for each page, then the pages that it has alone. All
numbers are little-endian and have 32 bits: 0 is a page of zeros, 1 the next of its own pages, and n + 2 is page n of
tables.pages.
"""
import struct
import sys
from pathlib import Path

PAGE = 4096
ZEROS = bytes(PAGE)


def pages(path):
    core = path.read_bytes()
    if len(core) % PAGE:
        sys.exit(f"split.py: {path} is not made of whole pages")
    return [core[at : at + PAGE] for at in range(0, len(core), PAGE)]


cores, target = Path(sys.argv[1]), Path(sys.argv[2])
moments = {path.stem: pages(path) for path in sorted(cores.glob("*.core"))}
if len(moments) < 2:
    sys.exit(f"split.py: {cores} has fewer than two cores")
common = set.intersection(*map(set, moments.values())) - {ZEROS}
# In the order of a core, so that neighbours stay neighbours.
order = list(dict.fromkeys(page for page in next(iter(moments.values())) if page in common))
number = {page: at + 2 for at, page in enumerate(order)} | {ZEROS: 0}
(target / "tables.pages").write_bytes(b"".join(order))
for name, core in moments.items():
    numbers = [number.get(page, 1) for page in core]
    own = [page for page in core if page not in number]
    header = struct.pack(f"<{len(core) + 1}I", len(core), *numbers)
    (target / f"{name}.pages").write_bytes(header + b"".join(own))
