#!/usr/bin/env python3
"""Makes fixtures of what make.sh made: pieces of the logs, small files to symbolize them with.

    generate.py WORK OUT

For each kernel of WORK (61, 612), OUT receives

    61/SCENARIO.log         50 to 80 lines of the console
    61/SCENARIO.expected    for each place in code that those lines name, what there is: a JSON
                            object a line, as `nmiscope symbolize --json` prints them
    61/vmlinux.elf          a kernel of just the symbols and lines that those pieces need
    61/modules/NAME.ko      modules of the same kind, relocatable

No byte of a kernel or of a module is in there: names, addresses, sizes, files and lines are facts
that nm, readelf and llvm-symbolizer tell about the real files, and the code has no contents at all.
Each symbol stands between its real neighbours, as the size that Linux prints is the way to the next
symbol. The lines around each address are the real ones too, so that one byte more or less shows.

In .expected, a pointer to a function (offset equal to size, no call before it) is not said to be exact
or not. It has `needs_code` where the function before fills its size, so that only its last instruction
tells whether a call was there: the made files have no instructions.

At the end everything is looked up again in what was made, and has to be as in the real files.
"""
import json
import os
import re
import sys
import tempfile

sys.dont_write_bytecode = True
# pylint: disable=wrong-import-position
import elf
import truth

# From a line to the next one that ends it, for each scenario in turn.
EXCERPTS = {
    "sysrql": [
        (r"sysrq: Show backtrace", r"</TASK>"),
        (r"NMI backtrace for cpu 2", r"</TASK>"),
    ],
    "sysrqt": [
        (r"sysrq: Show State", r"sysrq: Show State"),
        (r"task:kthreadd", r"</TASK>"),
        (r"task:ksoftirqd/0", r"</TASK>"),
        (r"task:kpktgend_0", r"</TASK>"),
        (r"task:logmod-sleep/0", r"</TASK>"),
    ],
    "warn": [(r"cut here", r"end trace")],
    "oops": [(r"BUG: kernel NULL", r"Kernel Offset")],
    "jump": [(r"BUG: kernel NULL", r"Kernel Offset")],
    "noreturn": [(r"Kernel panic - not syncing: logmod", r"Kernel Offset")],
    "panic": [(r"Kernel panic - not syncing: softlockup", r"Kernel Offset")],
    "softlockup": [(r"BUG: soft lockup", r"</TASK>")],
}
# With the line ends of the serial port; the others have those of a log on disk.
AS_SENT = {"softlockup"}
# Where the kernel is, which the log of a panic is told against.
LANDMARKS = ["_text", "_stext", "_etext"]
# Parts that GCC makes of a function: their name is in the symbol table, not in DWARF.
PART = re.compile(r"(\.(cold|part|isra|constprop)(\.\d+)*)+$")


def excerpt(log, ranges):
    lines = log.replace("\r\n", "\n").split("\n")
    out, position = [], 0
    for start, end in ranges:
        while not re.search(start, lines[position]):
            position += 1
        first = position
        while not re.search(end, lines[position]):
            position += 1
        position += 1
        out += lines[first:position]
    return "\n".join(out) + "\n"


class Original:
    """A real file, linked: its sections of code, and the symbols as its symbol table has them."""

    def __init__(self, symbols):
        self.symbols = symbols
        self.code = []
        by_index = {}
        for line in truth.run("readelf", "--sections", "--wide", symbols.file).splitlines():
            match = re.match(r" *\[ *(\d+)\] (\S+) +\S+ +([0-9a-f]{16}) [0-9a-f]+ ([0-9a-f]+) \S+ +(\S*X\S*) ", line)
            if match and "A" in match[5]:
                by_index[match[1]] = len(self.code)
                self.code.append(elf.Code(match[2], int(match[3], 16), int(match[4], 16)))
        self.at = {}
        bindings, types = {"LOCAL": 0, "GLOBAL": 1, "WEAK": 2}, {"NOTYPE": 0, "OBJECT": 1, "FUNC": 2}
        for line in truth.run("readelf", "--symbols", "--wide", symbols.file).splitlines():
            fields = line.split()
            if len(fields) == 8 and fields[4] in bindings and fields[3] in types and fields[6] in by_index:
                value, size = int(fields[1], 16), int(fields[2], 0)
                symbol = elf.Symbol(fields[7], value, size, bindings[fields[4]], types[fields[3]], by_index[fields[6]])
                self.at.setdefault(value, []).append(symbol)
        self.addresses = sorted(self.at)

    def with_neighbours(self, names):
        """All symbols of these names, and those next to them."""
        wanted = set()
        for name in names:
            for address in self.symbols.by_name.get(name, ()):
                index = self.addresses.index(address)
                wanted.update(self.addresses[max(index - 1, 0) : index + 2])
        return [symbol for address in sorted(wanted) for symbol in self.at[address]]


class Made:
    """What is to be made of one real file."""

    def __init__(self, original, relocatable):
        self.original = original
        self.relocatable = relocatable
        self.names = set()
        self.points = {}

    def want(self, token, place, looked_up):
        self.names.add(token.name)
        owner = place.symbol
        if looked_up >= (self.original.symbols.next(owner) or looked_up + 1):
            # A pointer to the next function, which this one's padding ends before.
            owner = looked_up
            self.names.update(self.original.symbols.at[owner])
        self.points.setdefault(owner, set()).update({looked_up - 1, looked_up, looked_up + 1})

    def units(self, symbolizer, names_in_dwarf):
        for symbol, points in sorted(self.points.items()):
            known = self.original.at[symbol]
            end = self.original.symbols.next(symbol) or symbol + known[0].size
            # An assembler's label has no size; it goes on to the next.
            high = min(symbol + max(s.size for s in known), end) if any(s.size for s in known) else end
            rows = []
            for point in sorted({symbol, *points}):
                if symbol <= point < end:
                    frames = symbolizer.frames(self.original.symbols.file, point)
                    rows.append(elf.Row(point, frames if all(frame.file for frame in frames) else []))
            if any(row.frames for row in rows):
                outer = names_in_dwarf.frames(self.original.symbols.file, symbol)[-1].function
                function = None if outer == "??" else PART.sub("", outer)
                yield elf.Unit(function, symbol, high, end, known[0].section, rows)

    def build(self, symbolizer, names_in_dwarf):
        symbols = self.original.with_neighbours(self.names)
        units = list(self.units(symbolizer, names_in_dwarf))
        used = sorted({entry.section for entry in [*symbols, *units]})
        base = {section: self.original.code[section].address if self.relocatable else 0 for section in used}
        code = [self.original.code[section] for section in used]
        if self.relocatable:
            code = [section._replace(address=0) for section in code]
        symbols = [
            symbol._replace(value=symbol.value - base[symbol.section], section=used.index(symbol.section))
            for symbol in symbols
        ]
        units = [moved(unit, base[unit.section], used.index(unit.section)) for unit in units]
        return elf.build(code, symbols, units, self.relocatable)


def moved(unit, by, section):
    rows = [row._replace(address=row.address - by) for row in unit.rows]
    return unit._replace(low=unit.low - by, high=unit.high - by, end=unit.end - by, section=section, rows=rows)


def expected(known, token):
    """As nmiscope prints it. Where a module lies depends on what loaded it: its addresses are left out."""
    answer = {"line": token.line, "text": token.text}
    if token.module:
        answer["module"] = token.module
    places = known.places(token)
    if not any(known.is_pointer(token, place) for place in places):
        answer["exact"] = token.exact
    elif any(known.is_full(token, place) for place in places):
        answer["needs_code"] = True
    answer["candidates"] = []
    for place in places:
        frames = known.frames(token, place)
        listed = []
        for index, frame in enumerate(frames):
            listed.append({"name": frame.function})
            if frame.file:
                listed[-1].update(file=frame.file, line=frame.line)
            listed[-1]["inlined"] = index < len(frames) - 1
        candidate = {} if token.module else {"address": f"{place.address:x}"}
        answer["candidates"].append({**candidate, "frames": listed})
    return answer


def write(path, contents):
    with open(path, "wb") as file:
        file.write(contents if isinstance(contents, bytes) else contents.encode())


def generate(work, out, kernel, scratch):
    debug = os.path.join(work, f"k{kernel}", "usr/lib/debug/boot")
    image = os.path.join(debug, next(name for name in os.listdir(debug) if name.startswith("vmlinux-")))
    known = truth.Truth(image, truth.module_files([os.path.join(work, f"mod{kernel}")]), scratch)
    names_in_dwarf = truth.Symbolizer("short")
    os.makedirs(os.path.join(out, kernel, "modules"), exist_ok=True)
    made = {}

    def of(module):
        if module not in made:
            original = Original(known.module(module) if module else known.kernel)
            made[module] = Made(original, relocatable=bool(module))
        return made[module]

    of(None).names.update(LANDMARKS)
    answers = {}
    for scenario, ranges in EXCERPTS.items():
        with open(os.path.join(work, "logs", f"{kernel}-{scenario}.log"), encoding="utf-8", newline="\n") as file:
            log = excerpt(file.read(), ranges)
        answers[scenario] = (log, [expected(known, token) for token in truth.tokens(log)])
        for token in truth.tokens(log):
            for place in known.places(token):
                of(token.module).want(token, place, known.looked_up(token, place))
        write(os.path.join(out, kernel, f"{scenario}.log"), log.replace("\n", "\r\n") if scenario in AS_SENT else log)
        lines = "".join(json.dumps(answer) + "\n" for answer in answers[scenario][1])
        write(os.path.join(out, kernel, f"{scenario}.expected"), lines)
    for module, file in made.items():
        name = f"modules/{module}.ko" if module else "vmlinux.elf"
        write(os.path.join(out, kernel, name), file.build(known.symbolizer, names_in_dwarf))
    return answers


class Again(truth.Truth):
    """Of files without code, where nobody sees what is a call: as decided before."""

    def is_pointer(self, token, place):
        return "exact" not in self.decided


def verify(out, kernel, answers, scratch):
    """The same answers, of what was made."""
    here = os.path.join(out, kernel)
    scratch = os.path.join(scratch, "again")
    os.makedirs(scratch, exist_ok=True)
    known = Again(os.path.join(here, "vmlinux.elf"), truth.module_files([here]), scratch)
    places = 0
    for scenario, (log, wanted) in answers.items():
        for token, answer in zip(truth.tokens(log), wanted):
            known.decided = answer
            again = expected(known, token)
            if again != answer:
                raise SystemExit(f"{kernel} {scenario} line {token.line}: made {again}, of {answer}")
            places += 1
    print(f"{kernel}: {places} places in code, the same in what was made")


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    work, out = sys.argv[1:]
    for kernel in ("61", "612"):
        with tempfile.TemporaryDirectory() as scratch:
            answers = generate(work, out, kernel, scratch)
            verify(out, kernel, answers, scratch)


if __name__ == "__main__":
    main()
