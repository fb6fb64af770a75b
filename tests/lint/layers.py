#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""No folder of src/ includes what lies above it.

MAY is the table of docs/DESIGN.md; "engine" stands for every engine, "engine/usage" for that one. Every #include that names a file of ours is resolved to its folder, whatever
way it is written.
"""

import os
import re
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

ALL = {"base", "wire", "core", "engine", "kind", "io", "daemon"}
MAY = {
    "base": set(),
    "wire": {"base"},
    "core": {"wire", "base"},
    "engine": {"wire", "base"},
    "kind": {"core", "engine", "wire", "base"},
    "io": {"core", "wire", "base"},
    "daemon": ALL,
    "lib": {"wire", "base", "include", "engine/merge"},
    "cli": {"include", "base", "engine/usage"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')


def folder_of(path, top):
    """The folder that a file is in: "core", "engine/relay", "include"; None if it is none of ours."""
    parts = os.path.relpath(path, top).split(os.sep)
    if parts[0] == "include":
        return "include"
    if parts[0] != "src" or len(parts) < 3:
        return None
    return "/".join(parts[1:3]) if parts[1] == "engine" and len(parts) > 3 else parts[1]


def resolve(name, quoted, path, top):
    """The file of ours that an #include means, or None."""
    places = ([os.path.dirname(path)] if quoted else []) + [os.path.join(top, "src"), os.path.join(top, "include")]
    for place in places:
        candidate = os.path.normpath(os.path.join(place, name))
        if os.path.isfile(candidate):
            return candidate
    # A header that the build makes stands where its folder's own files do.
    if os.path.isfile(os.path.join(tap.BUILD, "src", name)):
        return os.path.join(top, "src", name)
    return None


def check(top):
    """Every forbidden #include below top/src, as lines "file:line: what"."""
    problems = []
    for parent, _, names in os.walk(os.path.join(top, "src")):
        for name in sorted(names):
            if not name.endswith((".c", ".h")):
                continue
            path = os.path.join(parent, name)
            problems += check_file(path, top)
    return problems


def check_file(path, top):
    problems = []
    own = folder_of(path, top)
    where = os.path.relpath(path, top)
    may = MAY.get((own or "").split("/")[0])
    if may is None:
        return [f"{where}:1: the folder is not in the table of folders"]
    with open(path, errors="replace") as file:
        for number, line in enumerate(file, 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            quoted = match[1] == '"'
            target = resolve(match[2], quoted, path, top)
            if target is None:
                if quoted:
                    problems.append(f"{where}:{number}: no file of ours: {match[2]}")
                continue
            folder = folder_of(target, top)
            upper = (folder or "").split("/")[0]
            if folder == own or folder in may or upper in may and upper != own:
                continue
            problems.append(f"{where}:{number}: {own} may not include {folder} ({match[2]})")
    return problems


def self_test():
    """A planted violation of each sort is found, and nothing else is."""
    sources = {
        "src/base/list.h": "",
        "src/core/tree.h": '#include "base/list.h"\n',
        "src/core/tree.c": '#include "core/tree.h"\n#include "tree.h"\n#include <stdio.h>\n',
        "src/base/bad.c": '\n#include "core/tree.h"\n',
        "src/engine/a/a.h": '#include "base/list.h"\n',
        "src/engine/b/b.c": '#include "engine/a/a.h"\n',
        "src/io/way.c": '#include "../core/tree.h"\n#include "../kind/mem.h"\n',
        "src/kind/mem.h": '#  include <engine/a/a.h>\n',
        "src/cli/main.c": '#include <kshared.h>\n#include "lib/conn.h"\n',
        "src/cli/top.c": '#include <engine/usage/usage.h>\n#include <engine/a/a.h>\n',
        "src/engine/usage/usage.h": '#include "base/list.h"\n',
        "src/lib/conn.h": "#include <kshared.h>\n",
        "src/daemon/main.c": '#include "lib/conn.h"\n#include "io/gone.h"\n',
        "include/kshared.h": "",
    }
    expected = {"src/base/bad.c:2", "src/engine/b/b.c:1", "src/io/way.c:2", "src/cli/main.c:2", "src/cli/top.c:2",
                "src/daemon/main.c:1", "src/daemon/main.c:2"}
    with tempfile.TemporaryDirectory() as top:
        for name, text in sources.items():
            path = os.path.join(top, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(text)
        found = {":".join(problem.split(":")[:2]) for problem in check(top)}
    return [f"not found: {place}" for place in sorted(expected - found)] + \
        [f"found wrongly: {place}" for place in sorted(found - expected)]


checks = tap.Checks()
checks.result("planted violations are found", self_test())
checks.result("no folder includes what lies above it", check(tap.ROOT))
checks.finish()
