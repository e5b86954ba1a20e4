"""A small ELF with symbols and line numbers, and no code: what generate.py makes of a kernel.

Owns: the bytes of the ELF file and of its DWARF 5. Refuses to own: what the file says; that comes
from truth.py by way of generate.py.

All code is SHT_NOBITS: it has addresses and a size, and nothing in the file. A relocatable file (a
module) has relocations for what is debug information of addresses, as Linux's .ko files do.
"""
import os
import struct
from collections import namedtuple

# Of a section of code: for a relocatable file all addresses are 0.
Code = namedtuple("Code", "name address size")
# `binding` and `type` as in ELF; the value counts from 0 in all files, the section is an index into the code.
Symbol = namedtuple("Symbol", "name value size binding type section")
# `function` is None where there is no DIE; `rows` are of Row, in order. The function ends at `high`, and
# its lines at `end`: padding behind a function often has a line.
Unit = namedtuple("Unit", "function low high end section rows")
# The frames innermost first, as truth.Frame; the last one is the unit's function itself. None: no line.
Row = namedtuple("Row", "address frames")

R_X86_64_64, R_X86_64_32 = 1, 10
STT_SECTION = 3
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS = 1, 2, 3, 4, 8
SHF_ALLOC, SHF_EXECINSTR, SHF_INFO_LINK = 2, 4, 0x40
ET_REL, ET_EXEC = 1, 2
VIRTUAL_MINUS_PHYSICAL = 0xFFFFFFFF80000000

# DWARF's numbers, by the names of the standard.
DW_TAG_compile_unit, DW_TAG_subprogram, DW_TAG_inlined_subroutine = 0x11, 0x2E, 0x1D
DW_AT_name, DW_AT_stmt_list, DW_AT_low_pc, DW_AT_high_pc, DW_AT_language = 0x03, 0x10, 0x11, 0x12, 0x13
DW_AT_comp_dir, DW_AT_inline, DW_AT_producer, DW_AT_abstract_origin = 0x1B, 0x20, 0x25, 0x31
DW_AT_call_file, DW_AT_call_line = 0x58, 0x59
DW_FORM_addr, DW_FORM_data8, DW_FORM_data1, DW_FORM_strp = 0x01, 0x07, 0x0B, 0x0E
DW_FORM_string, DW_FORM_udata, DW_FORM_ref4, DW_FORM_sec_offset = 0x08, 0x0F, 0x13, 0x17
DW_LANG_C11, DW_INL_inlined, DW_UT_compile = 0x1D, 1, 1
DW_LNCT_path, DW_LNCT_directory_index = 1, 2
DW_LNS_copy, DW_LNS_advance_pc, DW_LNS_advance_line, DW_LNS_set_file = 1, 2, 3, 4
DW_LNE_end_sequence, DW_LNE_set_address = 1, 2

# Code, tag, and attributes with their forms; all have children, and so a 0 behind them.
COMPILE_UNIT, FUNCTION, ABSTRACT, INLINED = 1, 2, 3, 4
ABBREVIATIONS = {
    COMPILE_UNIT: (DW_TAG_compile_unit, [
        (DW_AT_producer, DW_FORM_strp), (DW_AT_language, DW_FORM_data1), (DW_AT_name, DW_FORM_strp),
        (DW_AT_comp_dir, DW_FORM_strp), (DW_AT_stmt_list, DW_FORM_sec_offset),
        (DW_AT_low_pc, DW_FORM_addr), (DW_AT_high_pc, DW_FORM_data8)]),
    FUNCTION: (DW_TAG_subprogram, [
        (DW_AT_name, DW_FORM_strp), (DW_AT_low_pc, DW_FORM_addr), (DW_AT_high_pc, DW_FORM_data8)]),
    ABSTRACT: (DW_TAG_subprogram, [(DW_AT_name, DW_FORM_strp), (DW_AT_inline, DW_FORM_data1)]),
    INLINED: (DW_TAG_inlined_subroutine, [
        (DW_AT_abstract_origin, DW_FORM_ref4), (DW_AT_low_pc, DW_FORM_addr), (DW_AT_high_pc, DW_FORM_data8),
        (DW_AT_call_file, DW_FORM_udata), (DW_AT_call_line, DW_FORM_udata)]),
}  # fmt: skip


def uleb(value):
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


def sleb(value):
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        done = value == (-1 if byte & 0x40 else 0)
        out.append(byte | (0 if done else 0x80))
        if done:
            return bytes(out)


class Strings:
    def __init__(self):
        self.bytes = bytearray(b"\0")
        self.known = {"": 0}

    def add(self, text):
        if text not in self.known:
            self.known[text] = len(self.bytes)
            self.bytes += text.encode() + b"\0"
        return self.known[text]


class Contents:
    """The bytes of a section, and what in them is relocated: (offset, kind, target, addend).

    A target is the index of a section of code, or the name of another section. `resolve` gives the
    value where there are no relocations; it is None in a relocatable file.
    """

    def __init__(self, resolve):
        self.bytes = bytearray()
        self.relocations = []
        self.resolve = resolve

    def relocated(self, kind, target, addend):
        size = 8 if kind == R_X86_64_64 else 4
        if self.resolve:
            value = self.resolve(target) + addend
        else:
            self.relocations.append((len(self.bytes), kind, target, addend))
            value = 0
        self.bytes += value.to_bytes(size, "little")


class Files:
    """The directories and files of a unit's line table."""

    def __init__(self, paths):
        paths = sorted(set(paths))
        parents = [os.path.dirname(path) for path in paths]
        if len({path.startswith("/") for path in paths}) > 1:
            raise SystemExit(f"absolute and relative paths in a unit: {paths}")
        # Above all of them: readers disagree on files right in directory 0 where that one is relative.
        self.directory = os.path.dirname(os.path.commonpath(parents))
        below = [os.path.relpath(parent, self.directory) for parent in parents]
        self.directories = [self.directory, *sorted(set(below))]
        self.paths = paths
        self.entries = [
            (os.path.basename(path), self.directories.index(parent)) for path, parent in zip(paths, below)
        ]

    def index(self, path):
        # As of DWARF 5, file 0 is the unit's own; GCC repeats it as file 1, and so do we.
        return self.paths.index(path) + 1

    def header(self):
        out = bytes([1]) + uleb(DW_LNCT_path) + uleb(DW_FORM_string) + uleb(len(self.directories))
        out += b"".join(directory.encode() + b"\0" for directory in self.directories)
        out += bytes([2]) + uleb(DW_LNCT_path) + uleb(DW_FORM_string)
        out += uleb(DW_LNCT_directory_index) + uleb(DW_FORM_udata)
        entries = [self.entries[0], *self.entries]
        out += uleb(len(entries))
        return out + b"".join(name.encode() + b"\0" + uleb(index) for name, index in entries)


class Dwarf:
    def __init__(self, resolve):
        self.info, self.line, self.abbrev = Contents(resolve), Contents(resolve), Contents(resolve)
        self.strings = Strings()
        for code, (tag, attributes) in ABBREVIATIONS.items():
            self.abbrev.bytes += uleb(code) + uleb(tag) + b"\1"
            for attribute, form in attributes:
                self.abbrev.bytes += uleb(attribute) + uleb(form)
            self.abbrev.bytes += b"\0\0"
        self.abbrev.bytes += b"\0"

    def add(self, unit):
        files = Files(frame.file for row in unit.rows for frame in row.frames)
        table = len(self.line.bytes)
        self.add_lines(unit, files)
        self.add_entries(unit, files, table)

    def add_lines(self, unit, files):
        line = self.line
        start = len(line.bytes)
        header = struct.pack("<BBBbBB", 1, 1, 1, -5, 14, 13) + bytes([0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1])
        header += files.header()
        line.bytes += struct.pack("<IHBBI", 0, 5, 8, 0, len(header)) + header
        address, number = None, 1
        for row in [*unit.rows, Row(unit.end, [])]:
            if address is not None:
                line.bytes += bytes([DW_LNS_advance_pc]) + uleb(row.address - address)
                address = row.address
            if row.frames:
                if address is None:
                    line.bytes += b"\0" + uleb(9) + bytes([DW_LNE_set_address])
                    line.relocated(R_X86_64_64, unit.section, row.address)
                    address, number = row.address, 1
                inner = row.frames[0]
                line.bytes += bytes([DW_LNS_set_file]) + uleb(files.index(inner.file))
                line.bytes += bytes([DW_LNS_advance_line]) + sleb(inner.line - number) + bytes([DW_LNS_copy])
                number = inner.line
            elif address is not None:
                line.bytes += b"\0" + uleb(1) + bytes([DW_LNE_end_sequence])
                address = None
        struct.pack_into("<I", line.bytes, start, len(line.bytes) - start - 4)

    def add_entries(self, unit, files, table):
        info = self.info
        start = len(info.bytes)
        info.bytes += struct.pack("<IHBB", 0, 5, DW_UT_compile, 8)
        info.relocated(R_X86_64_32, ".debug_abbrev", 0)
        info.bytes += uleb(COMPILE_UNIT)
        self.string("generate.py")
        info.bytes += bytes([DW_LANG_C11])
        outermost = next(row.frames[-1] for row in unit.rows if row.frames)
        self.string(os.path.relpath(outermost.file, files.directory))
        self.string(files.directory)
        info.relocated(R_X86_64_32, ".debug_line", table)
        self.range(unit.section, unit.low, unit.end)
        abstract = {}
        for name in sorted({frame.function for row in unit.rows for frame in row.frames[:-1]}):
            abstract[name] = len(info.bytes) - start
            info.bytes += uleb(ABSTRACT)
            self.string(name)
            info.bytes += bytes([DW_INL_inlined]) + b"\0"
        if unit.function:
            info.bytes += uleb(FUNCTION)
            self.string(unit.function)
            self.range(unit.section, unit.low, unit.high)
            for row in unit.rows:
                self.add_inlined(unit.section, row, files, abstract)
            info.bytes += b"\0"
        info.bytes += b"\0"
        struct.pack_into("<I", info.bytes, start, len(info.bytes) - start - 4)

    def add_inlined(self, section, row, files, abstract):
        """One within the other, each for the row's address alone."""
        calls = list(zip(row.frames, row.frames[1:]))
        for callee, caller in reversed(calls):
            self.info.bytes += uleb(INLINED) + struct.pack("<I", abstract[callee.function])
            self.range(section, row.address, row.address + 1)
            self.info.bytes += uleb(files.index(caller.file)) + uleb(caller.line)
        self.info.bytes += b"\0" * len(calls)

    def string(self, text):
        self.info.relocated(R_X86_64_32, ".debug_str", self.strings.add(text))

    def range(self, section, low, high):
        self.info.relocated(R_X86_64_64, section, low)
        self.info.bytes += struct.pack("<Q", high - low)


class Writer:
    """Puts the sections behind each other, then their headers."""

    def __init__(self, kind):
        self.kind = kind
        self.bytes = bytearray(64)
        self.headers = [bytes(64)]
        self.names = Strings()

    def section(self, name, kind, contents=b"", **fields):
        align = fields.get("align", 1)
        self.bytes += bytes(-len(self.bytes) % align)
        self.headers.append(struct.pack(
            "<IIQQQQIIQQ", self.names.add(name), kind, fields.get("flags", 0), fields.get("address", 0),
            len(self.bytes), fields.get("size", len(contents)), fields.get("link", 0), fields.get("info", 0),
            align, fields.get("entry", 0)))  # fmt: skip
        self.bytes += contents
        return len(self.headers) - 1

    def finish(self, code):
        names = len(self.headers)
        self.names.add(".shstrtab")
        self.section(".shstrtab", SHT_STRTAB, bytes(self.names.bytes))
        programs = code if self.kind == ET_EXEC else []
        self.bytes += bytes(-len(self.bytes) % 8)
        program_offset = len(self.bytes) if programs else 0
        for section in programs:
            self.bytes += struct.pack("<IIQQQQQQ", 1, 5, 0, section.address,
                                      section.address - VIRTUAL_MINUS_PHYSICAL, 0, section.size, 0x1000)  # fmt: skip
        section_offset = len(self.bytes)
        self.bytes += b"".join(self.headers)
        identification = b"\x7fELF\2\1\1" + bytes(9)
        struct.pack_into("<16sHHIQQQIHHHHHH", self.bytes, 0, identification, self.kind, 62, 1, 0, program_offset,
                         section_offset, 0, 64, 56, len(programs), 64, len(self.headers), names)  # fmt: skip
        return bytes(self.bytes)


def symbol_table(symbols, strings, first_code):
    """Locals first, as ELF wants it; the sections' own symbols are the first of them."""
    out = bytearray(24)
    ordered = sorted(symbols, key=lambda s: (s.binding != 0, s.type != STT_SECTION))
    for symbol in ordered:
        out += struct.pack("<IBBHQQ", strings.add(symbol.name), symbol.binding << 4 | symbol.type, 0,
                           first_code + symbol.section, symbol.value, symbol.size)  # fmt: skip
    return bytes(out), 1 + sum(symbol.binding == 0 for symbol in ordered)


def build(code, symbols, units, relocatable):
    """The bytes of the file. Addresses in a relocatable file count from their section's begin."""
    debug = [".debug_abbrev", ".debug_info", ".debug_line", ".debug_str"]
    # Units name their section of code by its index; debug sections are at 0 by their name.
    dwarf = Dwarf(None if relocatable else lambda target: 0)
    for unit in units:
        dwarf.add(unit)
    writer = Writer(ET_REL if relocatable else ET_EXEC)
    for section in code:
        writer.section(section.name, SHT_NOBITS, flags=SHF_ALLOC | SHF_EXECINSTR, align=16,
                       address=section.address, size=section.size)  # fmt: skip
    contents = dict(zip(debug, [dwarf.abbrev, dwarf.info, dwarf.line, None]))
    for name in debug:
        data = contents[name].bytes if contents[name] else dwarf.strings.bytes
        merged = {"flags": 0x30, "entry": 1} if name == ".debug_str" else {}
        writer.section(name, SHT_PROGBITS, bytes(data), **merged)
    if relocatable:
        symbols = [
            Symbol("", 0, 0, 0, STT_SECTION, index) for index in range(len(code) + len(debug))
        ] + list(symbols)
    strings = Strings()
    table, first_global = symbol_table(symbols, strings, 1)
    index = writer.section(".symtab", SHT_SYMTAB, table, align=8, entry=24, link=len(writer.headers) + 1,
                           info=first_global)  # fmt: skip
    writer.section(".strtab", SHT_STRTAB, bytes(strings.bytes))
    for position, name in enumerate(debug):
        relocations = contents[name].relocations if contents[name] else []
        if relocations:
            out = b"".join(
                # The symbol of section n of our own counting is the symbol n + 1.
                struct.pack("<QQq", offset, (section_of(target, code, debug) + 1) << 32 | kind, addend)
                for offset, kind, target, addend in relocations
            )
            writer.section(f".rela{name}", SHT_RELA, out, align=8, entry=24, link=index, flags=SHF_INFO_LINK,
                           info=1 + len(code) + position)  # fmt: skip
    return writer.finish(code)


def section_of(target, code, debug):
    return len(code) + debug.index(target) if isinstance(target, str) else target
