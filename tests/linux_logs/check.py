#!/usr/bin/env python3
"""Compares `nmiscope symbolize --json` with llvm-symbolizer on real Linux logs.

    check.py [--modules DIR]... [--nmiscope PROGRAM | --json FILE] --image VMLINUX LOG...

Each function with an offset and a size, and each address of a trace, is looked up by nm (name and
size, where the size is the way to the next symbol) and llvm-symbolizer; minus one byte where it is
the address behind a call. nmiscope has to give the same frames: function, file, line, whether
inlined. Where several functions have the name and the size, it has to give them all.

Prints how many are equal and each that is not. Exit status: 0 when all are, 1 when one is not, 2
for wrong arguments.

make.sh makes the logs, the kernels and the module. --json reads what nmiscope printed for a single
log.
"""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter

sys.dont_write_bytecode = True
# pylint: disable=wrong-import-position
import truth


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--image", required=True, metavar="VMLINUX", help="the kernel, with debug information")
    parser.add_argument("--modules", action="append", default=[], metavar="DIR", help="has .ko with debug information")
    parser.add_argument("--nmiscope", default="nmiscope", metavar="PROGRAM", help="the nmiscope to run (default: that in PATH)")
    parser.add_argument("--json", metavar="FILE", help="what nmiscope printed, rather than to run it")
    parser.add_argument("--list", action="store_true", help="print what is expected, and compare nothing")
    parser.add_argument("logs", nargs="+", metavar="LOG")
    given = parser.parse_args()
    if given.json and len(given.logs) != 1:
        parser.error("--json is for a single log")
    return given


def answers(given, log):
    """What nmiscope printed, an object a line."""
    if given.json:
        with open(given.json, encoding="utf-8") as file:
            text = file.read()
    else:
        command = [given.nmiscope, "symbolize", "--json", "--image", given.image]
        for directory in given.modules:
            command += ["--modules", directory]
        with open(log, "rb") as file:
            done = subprocess.run(command, stdin=file, capture_output=True, check=False)
        if done.returncode:
            raise SystemExit(f"{given.nmiscope} failed: {done.stderr.decode(errors='replace')}")
        text = done.stdout.decode()
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def described(frames):
    return " < ".join(f"{frame.function} {frame.file}:{frame.line}" for frame in frames)


def given_frames(candidate):
    """An answer's frames as the truth has them: a path without `..`, "" and 0 for what is absent."""
    return [
        truth.Frame(
            frame.get("name") or "??",
            os.path.normpath(frame["file"]) if frame.get("file") else "",
            frame.get("line") or 0,
        )
        for frame in candidate.get("frames", [])
    ]


def without_line(frames):
    """Where there is no line, there is nothing to compare: padding between functions, mostly."""
    return all(not frame.file for frame in frames)


class Check:
    def __init__(self, known):
        self.known = known
        self.counts = Counter()
        self.differences = []

    def token(self, token, answer):
        places = self.known.places(token)
        expected = {place: self.known.frames(token, place) for place in places}
        self.counts["looked up"] += 1
        if not places:
            kind = "absent" if answer is None or answer.get("missing") or not answer.get("candidates") else "made up"
            self.settle(token, kind, "equal: no symbol" if kind == "absent" else None, expected, answer)
            return
        if answer is None:
            self.settle(token, "unanswered", None, expected, answer)
            return
        candidates = answer.get("candidates", [])
        given = [given_frames(candidate) for candidate in candidates]
        wanted = list(expected.values())
        if all(without_line(frames) for frames in wanted):
            good = all(without_line(frames) for frames in given)
            self.settle(token, "a line made up", "equal: no line" if good else None, expected, answer)
        elif answer.get("exact", token.exact) != token.exact and not self.are_pointers(token, places):
            self.settle(token, "exact or behind a call", None, expected, answer)
        elif sorted(given) != sorted(wanted):
            self.settle(token, "frames", None, expected, answer)
        elif not self.addresses_agree(token, places, candidates):
            self.settle(token, "addresses", None, expected, answer)
        elif not all(self.marks_inlined(candidate) for candidate in candidates):
            self.settle(token, "inlined", None, expected, answer)
        else:
            ambiguous = "equal: ambiguous" if len(places) > 1 else "equal"
            self.settle(token, "", ambiguous, expected, answer)
            self.counts["with inlined frames"] += any(len(frames) > 1 for frames in wanted)

    def are_pointers(self, token, places):
        """Whether to call a pointer to a function exact is a matter of taste."""
        return all(self.known.is_pointer(token, place) for place in places)

    @staticmethod
    def addresses_agree(token, places, candidates):
        """For the kernel; addresses in a module depend on how it is laid out."""
        if token.module:
            return True
        given = sorted(int(c["address"], 16) for c in candidates if c.get("address"))
        return not given or given == sorted(place.address for place in places)

    @staticmethod
    def marks_inlined(candidate):
        frames = candidate.get("frames", [])
        marks = [bool(frame.get("inlined")) for frame in frames]
        return marks == [True] * (len(frames) - 1) + [False] * bool(frames)

    def settle(self, token, difference, equal, expected, answer):
        if equal:
            self.counts[equal] += 1
            return
        self.counts[f"different: {difference}"] += 1
        self.differences.append((token, difference, expected, answer))

    def print(self, log):
        total = self.counts["looked up"]
        equal = sum(count for name, count in self.counts.items() if name.startswith("equal"))
        print(f"{log}: {equal} of {total} equal")
        for name, count in sorted(self.counts.items()):
            if count and name not in ("looked up", "equal"):
                print(f"  {count:6} {name}")
        for token, difference, expected, answer in self.differences:
            module = f" [{token.module}]" if token.module else ""
            print(f"  line {token.line}: {token.text}{module}: {difference}")
            for place, frames in expected.items():
                print(f"    expected {place.address:x} {described(frames)}")
            if answer is None:
                print("    nmiscope says nothing")
                continue
            if answer.get("missing"):
                print(f"    nmiscope: {answer['missing']}")
            for candidate in answer.get("candidates", []):
                print(f"    nmiscope {candidate.get('address', '-')} {described(given_frames(candidate))}")


def check(given, known, path, log):
    asked = truth.tokens(log)
    # By line and text: the same text may be in a line twice.
    waiting = {}
    for answer in answers(given, path):
        waiting.setdefault((answer["line"], bare(answer["text"])), []).append(answer)
    result = Check(known)
    for token in asked:
        found = waiting.get((token.line, bare(token.text)))
        result.token(token, found.pop(0) if found else None)
    rest = [answer for left in waiting.values() for answer in left]
    # Addresses elsewhere, such as in registers, may well be annotated: nobody says whether they are
    # exact, so there is nothing to compare.
    wrong = [answer for answer in rest if "+" in answer["text"]]
    result.counts["addresses elsewhere, not compared"] += len(rest) - len(wrong)
    result.print(path)
    for answer in wrong:
        print(f"  line {answer['line']}: {answer['text']}: nmiscope annotates what is no place in code")
    return not result.differences and not wrong


def bare(text):
    """Without a module, without 0x: however an answer repeats what the log has."""
    return re.sub(r" \[.*|^0x", "", text)


def expectations(known, log):
    for token in truth.tokens(log):
        places = known.places(token)
        print(f"{token.line}: {token.text}{' [' + token.module + ']' if token.module else ''}")
        for place in places:
            print(f"    {described(known.frames(token, place))}")
        if not places:
            print("    no symbol")


def main():
    # `check.py ... | head` is no error.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    given = arguments()
    modules = truth.module_files(given.modules)
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        known = truth.Truth(given.image, modules, scratch)
        for path in given.logs:
            with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
                log = file.read()
            known.offset_of_kaslr = truth.kernel_offset(log)
            if given.list:
                expectations(known, log)
            else:
                good = check(given, known, path, log) and good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
