#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What compiled programs rely on stays: the library's symbols and its structs' layout.

    abi.py LIBRARY LAYOUT_PROGRAM            compare with symbols.txt and layout.txt
    abi.py --write LIBRARY LAYOUT_PROGRAM    write these files: only for a change that is meant
"""

import difflib
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def exported(library):
    """Symbols that the library exports, with their version node: "ksrv_post@@KSHARED_0"."""
    names = [line.split()[0] for line in output("nm", "-D", "-P", "--defined-only", library).splitlines()
             if line.split()[1] != "A"]
    return sorted(names)


def mapped():
    """The symbols that the map names, without comments, in the same form."""
    text = re.sub(r"/\*.*?\*/|#[^\n]*", "", tap.read("src/lib/libkshared.map"), flags=re.S)
    names = []
    for node, body in re.findall(r"([\w.]+)\s*\{(.*?)\}", text, flags=re.S):
        public = body.split("local:")[0]
        names += [f"{name}@@{node}" for name in re.findall(r"(\w+)\s*;", public)]
    return sorted(names)


def declared():
    """Functions that the public headers declare."""
    names = set()
    for header in tap.files("include", endings=(".h",)):
        text = re.sub(r"/\*.*?\*/", "", tap.read(header), flags=re.S)
        names |= set(re.findall(r"^[a-z][\w\s*]*?\b(k\w+)\(", text, flags=re.M))
    return sorted(names)


def differences(old, new):
    return [line.rstrip() for line in difflib.unified_diff(old, new, "expected", "found", lineterm="", n=0)]


def main():
    arguments = sys.argv[1:]
    write = arguments[:1] == ["--write"]
    library, layout_program = arguments[write:]
    symbols = exported(library)
    layout = output(layout_program).splitlines()
    for name, lines in (("symbols.txt", symbols), ("layout.txt", layout)):
        if write:
            with open(os.path.join(tap.ROOT, "tests/abi", name), "w") as file:
                file.write("\n".join(lines) + "\n")
    checks = tap.Checks()
    checks.result("the exported symbols are those of the map", differences(mapped(), symbols))
    checks.result("every declared function is exported, and nothing else",
                  differences(declared(), [symbol.split("@")[0] for symbol in symbols]))
    checks.result("the exported symbols are those of symbols.txt",
                  differences(tap.read("tests/abi/symbols.txt").splitlines(), symbols))
    checks.result("sizes, places and constants are those of layout.txt",
                  differences(tap.read("tests/abi/layout.txt").splitlines(), layout))
    checks.finish()


main()
