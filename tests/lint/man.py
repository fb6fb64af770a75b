#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Manual pages: one for every program, kind and public function, each rendering without a complaint."""

import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

PAGES = tap.files("man", endings=(".scd",))
NAMES = {os.path.basename(path)[:-len(".scd")] for path in PAGES}


def public_functions():
    for header in tap.files("include", endings=(".h",)):
        text = re.sub(r"/\*.*?\*/", "", tap.read(header), flags=re.S)
        for name in re.findall(r"^[a-z][\w\s*]*?\b(k\w+)\(", text, flags=re.M):
            yield header, name


def covered_names():
    """Every name that a page has in its NAME section, with the section's number: {"ksrv_post(3)"}."""
    names = {f"{name.rsplit('.', 1)[0]}({name.rsplit('.', 1)[1]})" for name in NAMES}
    for path in PAGES:
        section = path[:-len(".scd")].rsplit(".", 1)[1]
        match = re.search(r"^# NAME\n+(.*?)\s+-\s", tap.read(path), flags=re.M | re.S)
        if match:
            names |= {f"{name.strip()}({section})" for name in match[1].replace("\\_", "_").split(",")}
    return names


def missing_functions():
    covered = covered_names()
    for header, name in public_functions():
        if f"{name}(3)" not in covered:
            yield f"{name}() of {header}: no page in section 3 has it"


def missing_programs():
    covered = covered_names()
    for page in ("kshared(1)", "ksharedd(8)", "libkshared(3)", "mount.srvfs(8)"):
        if page not in covered:
            yield f"no page {page}"
    for source in tap.files("src/kind", endings=(".c",)):
        name = os.path.basename(source)[:-2]
        if name != "kinds" and re.search(r"\bstruct kind \w+\s*=", tap.read(source)) and \
                not any(f"{form}(7)" in covered for form in (name, f"kshared-{name}", f"kshared_{name}")):
            yield f"no page of section 7 for the kind {name}"


def missing_commands():
    """Every command that the CLI's own help lists is in kshared(1)."""
    program = os.path.join(tap.BUILD, "kshared")
    if not os.path.exists(program):
        yield "kshared is not built"
        return
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    commands = re.findall(r"^  ([a-z]+(?: [a-z]+)?)(?=  | [A-Z\[<-]|$)", done.stdout, flags=re.M)
    if done.returncode or not commands:
        yield f"kshared --help lists no commands (status {done.returncode})"
        return
    pages = "\n".join(tap.read(path) for path in PAGES if path.endswith(".1.scd")).replace("*", "").replace("_", "")
    for command in commands:
        if not re.search(rf"\b{command}\b", pages):
            yield f"kshared {command}: not in a page of section 1"


def render(path):
    done = subprocess.run(["scdoc"], input=tap.read(path), capture_output=True, text=True, check=False)
    if done.returncode or done.stderr:
        return [f"scdoc: {line}" for line in done.stderr.splitlines()] or ["scdoc failed"]
    # scdoc's own preamble is no page for mandoc's taste; what counts is warnings and worse about the text.
    lint = subprocess.run(["mandoc", "-T", "lint", "-W", "warning"], input=done.stdout,
                          capture_output=True, text=True, check=False)
    ignored = ("unknown font", "blank line in fill mode", "skipping paragraph macro", "cannot parse date",
               "missing date", "fill mode already", "redundant")
    return [line for line in lint.stdout.splitlines() if not any(word in line for word in ignored)]


checks = tap.Checks()
for path in PAGES:
    checks.result(f"{path} renders", render(path))
checks.result("every public function has a page", missing_functions())
checks.result("every program and kind has a page", missing_programs())
checks.result("every command is documented", missing_commands())
checks.finish()
