"""The source of what a Linux log names, by binutils and llvm-symbolizer, not by nmiscope.

Owns: finding `func+0x14/0x90 [mod]` and addresses in a log, the symbols of a vmlinux and of modules,
and llvm-symbolizer's answers. Refuses to own: what is done with them; that is check.py, which
compares, and generate.py, which makes fixtures.
"""
import bisect
import os
import re
import subprocess
from collections import namedtuple

# A function, a file and a line; the frames of an address are innermost first.
Frame = namedtuple("Frame", "function file line")
# What a log's line names. `offset` and `size` are None for an address, which is in `name`; the size
# alone is None where a function is named without one.
Token = namedtuple("Token", "line text name offset size module exact")
# Where a token is: in `file`, whose addresses are those that llvm-symbolizer is asked for.
Place = namedtuple("Place", "file symbol address")

SYMBOL = re.compile(
    r"(?<![\w.$])(?P<name>[A-Za-z_$][\w.$]*)\+0x(?P<offset>[0-9a-f]+)/0x(?P<size>[0-9a-f]+)"
    r"(?: \[(?P<module>[\w-]+)(?: [0-9a-f]{20,40})?\])?"
)
# Kernel addresses where a trace has a name otherwise: after RIP, or alone in a line of a trace.
ADDRESS = re.compile(r"(?:RIP: [0-9a-f]{4}:|^(?:\[[^]]*\])? +(?:\? )?)(?:0x)?(?P<name>ffffffff[0-9a-f]{8})\s*$")
# The instruction itself, rather than the one behind a call: an interrupted or faulting one.
EXACT = re.compile(r"RIP: [0-9a-f]{4}:$|WARNING: .* at \S+:\d+ $|\bpc : $")
# The function of a work item.
WORK = re.compile(r"Workqueue: \S+ (?P<name>[A-Za-z_][\w.]*)(?: \[(?P<module>[\w-]+)\])?\s*$")
KERNEL_OFFSET = re.compile(r"Kernel Offset: 0x([0-9a-f]+)")


def tokens(log):
    """Everything in the text of a log that has a source line."""
    found = []
    for number, line in enumerate(log.split("\n"), 1):
        for match in SYMBOL.finditer(line):
            name, offset, size, module = match.group("name", "offset", "size", "module")
            # Without a space between: `func+0x1/0x2 [mod]` of a line that goes on is not cut.
            text = f"{name}+0x{offset}/0x{size}"
            exact = bool(EXACT.search(line[: match.start()]))
            found.append(Token(number, text, name, int(offset, 16), int(size, 16), module, exact))
        for match in WORK.finditer(line):
            found.append(Token(number, match["name"], match["name"], 0, None, match["module"], True))
        for match in ADDRESS.finditer(line):
            exact = "RIP:" in match.group(0)
            found.append(Token(number, match["name"], match["name"], None, None, None, exact))
    return found


def kernel_offset(log):
    """The offset of KASLR, in a log that has it."""
    match = KERNEL_OFFSET.search(log)
    return int(match[1], 16) if match else None


def run(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit(f"needs {command[0]}: apt-get install binutils llvm") from None
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout


def ends_in_call(place):
    """Whether the instruction before the place is a call, from its function's begin on."""
    code = run("objdump", "--disassemble", "--no-show-raw-insn", f"--start-address={place.symbol:#x}",
               f"--stop-address={place.address:#x}", place.file)  # fmt: skip
    instructions = re.findall(r"^ *[0-9a-f]+:\t(.*)$", code, re.MULTILINE)
    return bool(instructions) and re.match(r"(cs )?call", instructions[-1]) is not None


class Symbols:
    """The symbols of a linked file. Their size is what Linux prints: the way to the next symbol."""

    def __init__(self, file):
        self.file = file
        self.by_name = {}
        self.at = {}
        self.size = {}
        everything = []
        for line in run("nm", "--print-size", "--defined-only", file).splitlines():
            *numbers, kind, name = line.split()
            # Kallsyms leaves these out: see is_ignored_symbol() of its scripts/kallsyms.c.
            if name.startswith((".L", "__crc_", "__kstrtab_", "__kstrtabns_")) or kind in "aA":
                continue
            address = int(numbers[0], 16)
            everything.append(address)
            if kind in "tTwWi":
                self.by_name.setdefault(name, set()).add(address)
                self.at.setdefault(address, set()).add(name)
                if len(numbers) == 2:
                    self.size[address, name] = int(numbers[1], 16)
        self.addresses = sorted(set(everything))

    def next(self, address):
        index = bisect.bisect_right(self.addresses, address)
        return self.addresses[index] if index < len(self.addresses) else None


class Kernel(Symbols):
    def places(self, token, offset_of_kaslr):
        """All places that the token can be at."""
        if token.offset is None:
            if offset_of_kaslr is None:
                return []
            address = int(token.name, 16) - offset_of_kaslr
            index = bisect.bisect_right(self.addresses, address) - 1
            if index < 0 or address >= self.addresses[-1]:
                return []
            return [Place(self.file, self.addresses[index], address)]
        return [
            Place(self.file, symbol, symbol + token.offset)
            for symbol in sorted(self.by_name.get(token.name, ()))
            if token.size is None or (self.next(symbol) or symbol) - symbol == token.size
        ]


class Module(Symbols):
    """A .ko, linked so that each section of code has addresses of its own.

    In a relocatable file all sections begin at 0, and what is at an address cannot be asked for.
    """

    APART = 0x1000000

    def __init__(self, file, scratch):
        script = os.path.join(scratch, os.path.basename(file) + ".ld")
        linked = os.path.join(scratch, os.path.basename(file) + ".linked")
        sections = []
        for line in run("readelf", "--sections", "--wide", file).splitlines():
            fields = line[line.find("]") + 1 :].split()
            if len(fields) >= 8 and "X" in fields[6] and "A" in fields[6]:
                sections.append(fields[0])
        with open(script, "w", encoding="utf-8") as out:
            out.write("SECTIONS {\n")
            for number, section in enumerate(sections, 1):
                out.write(f"  {section} {number * self.APART:#x} : {{ *({section}) }}\n")
            out.write("}\n")
        run("ld", "-m", "elf_x86_64", "--unresolved-symbols=ignore-all", "--no-warnings",
            "--entry=0", "--script", script, "-o", linked, file)  # fmt: skip
        super().__init__(linked)
        self.section = {number * self.APART: name for number, name in enumerate(sections, 1)}

    def places(self, token, _):
        return [
            Place(self.file, symbol, symbol + token.offset)
            for symbol in sorted(self.by_name.get(token.name, ()))
            if token.size is None or self.has_size(symbol, token)
        ]

    def has_size(self, symbol, token):
        following = self.next(symbol)
        if following is None or following // self.APART != symbol // self.APART:
            # The last one of its section goes on to whatever is loaded behind it.
            return self.size.get((symbol, token.name), 0) <= token.size
        return following - symbol == token.size

    def in_section(self, address):
        """Its section and the offset in there: (".text", 0x14)."""
        base = address // self.APART * self.APART
        return self.section[base], address - base


class Symbolizer:
    """One llvm-symbolizer, which answers at once or never."""

    def __init__(self, functions="linkage"):
        try:
            self.process = subprocess.Popen(
                ["llvm-symbolizer", "--no-demangle", "--inlines", f"--functions={functions}"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
        except FileNotFoundError:
            raise SystemExit("needs llvm-symbolizer: apt-get install llvm") from None
        self.known = {}

    def frames(self, file, address):
        """Innermost first; the file is "" and the line 0 where there is none."""
        if (file, address) not in self.known:
            self.process.stdin.write(f"CODE \"{file}\" {address:#x}\n")
            self.process.stdin.flush()
            lines = []
            while line := self.process.stdout.readline().rstrip("\n"):
                lines.append(line)
            self.known[file, address] = [
                self.frame(function, place) for function, place in zip(lines[::2], lines[1::2])
            ]
        return self.known[file, address]

    @staticmethod
    def frame(function, place):
        path, line, _column = place.rsplit(":", 2)
        # Without a line, llvm-symbolizer gives the file of the symbol table's last FILE entry: a guess.
        absent = path == "??" or (line == "0" and "/" not in path)
        return Frame(function, "" if absent else os.path.normpath(path), int(line))


class Truth:
    """Answers for the tokens of a log, given its kernel and modules."""

    def __init__(self, image, modules, scratch, offset_of_kaslr=None):
        self.kernel = Kernel(image)
        self.files = modules
        self.modules = {}
        self.scratch = scratch
        self.offset_of_kaslr = offset_of_kaslr
        self.symbolizer = Symbolizer()
        self.pointers = {}

    def module(self, name):
        """The module of that name, or None. A file has dashes where its module has underscores."""
        if name not in self.modules:
            files = [f for f in self.files if os.path.basename(f).split(".ko")[0].replace("-", "_") == name]
            self.modules[name] = Module(files[0], self.scratch) if files else None
        return self.modules[name]

    def places(self, token):
        image = self.module(token.module) if token.module else self.kernel
        return image.places(token, self.offset_of_kaslr) if image else []

    def looked_up(self, token, place):
        """The address that the source line is asked for."""
        exact = token.exact or place.address == place.symbol or self.is_pointer(token, place)
        return place.address - (not exact)

    def is_pointer(self, token, place):
        """At the end of a function, and not behind a call: a pointer to the begin of the next one."""
        if token.size is None or token.offset != token.size:
            return False
        if place not in self.pointers:
            self.pointers[place] = not ends_in_call(place)
        return self.pointers[place]

    def is_full(self, token, place):
        """Whether the function itself, not padding behind it, has the byte before the place."""
        image = self.module(token.module) if token.module else self.kernel
        full = image.size.get((place.symbol, token.name)) == token.offset
        return full and not token.name.startswith("__pfx_")

    def frames(self, token, place):
        """Of the call itself, where the log has the address behind it."""
        frames = self.symbolizer.frames(place.file, self.looked_up(token, place))
        image = self.module(token.module) if token.module else self.kernel
        names = image.at.get(place.symbol, set())
        if self.is_pointer(token, place):
            return frames
        if frames and frames[-1].function in names | {"??"} and token.offset is not None:
            # Of several names for one address the log's is as good as llvm-symbolizer's.
            frames = [*frames[:-1], frames[-1]._replace(function=token.name)]
        return frames


def module_files(directories):
    """All .ko and .ko.debug below the directories."""
    return [
        os.path.join(parent, name)
        for directory in directories
        for parent, _, names in os.walk(directory)
        for name in sorted(names)
        if name.endswith((".ko", ".ko.debug"))
    ]
