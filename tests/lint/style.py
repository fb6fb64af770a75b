#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What STYLE asks of every file and a program can see."""

import fnmatch
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

MAX_LINES = 700
MAX_TEST_LINES = 1200 # one file of tests for one thing, however many there are
SOURCES = tap.files("include", "src", "tests", "bench", "kernel", "scripts", "man", ".ci", endings=(
    ".c", ".cc", ".h", ".py", ".sh", ".build", ".scd", ".S", ".map"))
SCRIPTS = [path for path in tap.files("scripts", "tests", "bench", ".ci")
           if "." not in os.path.basename(path) and tap.read(path).startswith("#!")]
SOURCES = sorted(set(SOURCES + SCRIPTS))
C_FILES = [path for path in SOURCES if path.endswith((".c", ".h"))]
OURS = [path for path in C_FILES if not path.startswith(("tests/", "bench/", "kernel/"))]
HEADERS = [path for path in OURS if path.endswith(".h")]


def without_comments(text):
    """C text with comments and strings blanked, line breaks kept."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match[0])
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', blank, text, flags=re.S)


def spdx():
    for path in SOURCES:
        head = "\n".join(tap.read(path).splitlines()[:5])
        if not re.search(r"SPDX-License-Identifier: (GPL|LGPL)-2\.[01]-or-later", head):
            yield f"{path}:1: no SPDX line"
        elif path.startswith(("include/", "src/lib/")) and path.endswith((".c", ".h")) and "LGPL" not in head:
            yield f"{path}:1: the library and its headers are LGPL-2.1-or-later"


def length():
    for path in SOURCES:
        lines = tap.read(path).count("\n")
        most = MAX_TEST_LINES if path.startswith("tests/") else MAX_LINES
        if lines > most:
            yield f"{path}: {lines} lines; over {most} a file is to be divided"


def guards():
    for path in HEADERS:
        code = [line.strip() for line in without_comments(tap.read(path)).splitlines() if line.strip()]
        match = re.match(r"#\s*ifndef\s+(\w+)", code[0]) if code else None
        if not match or not re.match(rf"#\s*define\s+{match[1]}\b", code[1]) or not code[-1].startswith("#endif"):
            yield f"{path}:1: no include guard around everything"


def declarations(text):
    """Functions declared or defined in a header at file level: (line number, name)."""
    code = without_comments(text)
    code = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: re.sub(r"[^\n]", " ", m[0]), code, flags=re.M)
    code = code.replace('extern     {', '')
    found = []
    statement, depth, parens, start = "", 0, 0, 0
    for offset, char in enumerate(code):
        if char == "{":
            if depth == 0:
                found.append((start, statement, True))
            depth += 1
        elif char == "}":
            depth = max(0, depth - 1)
            if depth == 0:
                statement = ""
        elif depth == 0:
            if char == ";":
                found.append((start, statement, False))
                statement = ""
            else:
                if not statement.strip():
                    start = offset
                    statement = ""
                statement += char
    for start, statement, body in found:
        statement = re.sub(r"__attribute__\s*\(\(.*?\)\)\)?", " ", statement, flags=re.S)
        statement = re.sub(r"_Static_assert.*|static_assert.*", "", statement, flags=re.S).strip()
        if re.match(r"(typedef|extern\s+const)\b", statement) or "=" in statement.split("(")[0]:
            continue
        match = re.match(r"[\w\s*]*?[\s*](\w+)\s*\((?!\s*\*)", statement)
        if match and not re.match(r"(struct|union|enum)\s+\w+\s*$", statement):
            yield code.count("\n", 0, start) + 1, match[1]


def documented():
    """At the declaration, or at the definition in the same folder; `name_*()` stands for a family."""
    names = {}
    for path in OURS:
        found = re.findall(r"/\*\*\s*(?:\*\s*)?([\w*]+)\(\)", tap.read(path))
        names.setdefault(os.path.dirname(path), set()).update(found)
    for path in HEADERS:
        for line, name in declarations(tap.read(path)):
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in names[os.path.dirname(path)]):
                yield f"{path}:{line}: {name}() has no kernel-doc comment (/** {name}() - ...)"


def self_test():
    """The search for functions in headers sees what it must, and only that."""
    text = """
        #define twice(x) f(x)
        struct a { int (*op)(int); };
        int plain(int x);
        struct a *pointer(const char *s,
                          int n) __attribute__((format(printf, 1, 2)));
        static inline int defined(void) { return plain(2); }
        typedef int (*hook)(void);
        extern const struct a table[];
        int (*variable)(int);
        enum { A = (1) };
        _Static_assert(sizeof(struct a) == 8, "ABI");
    """
    found = [name for _, name in declarations(text)]
    return [] if found == ["plain", "pointer", "defined"] else [f"found {found}"]


def marks():
    mark = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
    for path in SOURCES:
        for number, line in enumerate(tap.read(path).splitlines(), 1):
            if mark.search(line):
                yield f"{path}:{number}: {line.strip()}"


def typedefs():
    for path in OURS:
        for number, line in enumerate(without_comments(tap.read(path)).splitlines(), 1):
            if re.match(r"\s*typedef\s+(struct|union|enum)\b", line):
                yield f"{path}:{number}: no typedef of a struct"


def whitespace():
    for path in SOURCES:
        text = tap.read(path)
        if text and not text.endswith("\n"):
            yield f"{path}: no newline at the end"
        for number, line in enumerate(text.splitlines(), 1):
            if line != line.rstrip():
                yield f"{path}:{number}: space at the end of the line"


def machine_paths():
    """Nothing of the machine it was written on: the path of this tree, or a home directory."""
    listed = subprocess.run(["git", "-C", tap.ROOT, "ls-files", "-co", "--exclude-standard"],
                            capture_output=True, text=True, check=False)
    paths = listed.stdout.split("\n") if listed.returncode == 0 else SOURCES
    words = [tap.ROOT, os.path.expanduser("~/")]
    words = [word for word in words if word.count("/") > 1]
    for path in filter(None, paths):
        if not os.path.isfile(os.path.join(tap.ROOT, path)) or path.startswith("LICENSES/"):
            continue
        for number, line in enumerate(tap.read(path).splitlines(), 1):
            for word in words:
                if re.search(re.escape(word) + r"(?![\w-])", line):
                    yield f"{path}:{number}: names a path of this machine: {word}"


checks = tap.Checks()
checks.result("every source has an SPDX line with its part's licence", spdx())
checks.result("no file is too long", length())
checks.result("every header has a guard", guards())
checks.result("functions in headers are recognised", self_test())
checks.result("every function declared in a header has a kernel-doc comment", documented())
checks.result("nothing is left to be done later", marks())
checks.result("structs are not hidden behind typedefs", typedefs())
checks.result("lines end cleanly", whitespace())
checks.result("no path of the build machine is in the tree", machine_paths())
checks.finish()
