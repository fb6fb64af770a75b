#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Every header compiles by itself: the public ones as C11, gnu11 and C++11, ours as gnu11."""

import os
import shlex
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

CC = os.environ.get("CC", "cc")
CXX = os.environ.get("CXX", "c++")
STRICT = ["-Wall", "-Wextra", "-Werror", "-fsyntax-only"]


def compile_alone(command, header, include_dirs):
    """Compile a file of one #include, twice over. Return: the compiler's complaints."""
    name = header.split("/", 1)[1]
    text = f'#include "{name}"\n#include "{name}"\n'
    flags = [f"-I{os.path.join(tap.ROOT, place)}" for place in include_dirs]
    done = subprocess.run(command + flags + ["-"], input=text, capture_output=True, text=True, check=False)
    return done.stderr.splitlines()[:20] if done.returncode else []


checks = tap.Checks()
libraries = subprocess.run(["pkg-config", "--cflags", "libsystemd", "jansson", "libcap-ng", "liburing"],
                           capture_output=True, text=True, check=False).stdout
for header in tap.files("include", endings=(".h",)):
    for title, command in (("C11", [CC, "-std=c11", "-D_POSIX_C_SOURCE=200809L", "-pedantic", "-x", "c"]),
                           ("gnu11", [CC, "-std=gnu11", "-x", "c"]),
                           ("C++11", [CXX, "-std=c++11", "-pedantic", "-x", "c++"])):
        checks.result(f"{header} as {title}", compile_alone(command + STRICT, header, ["include"]))
for header in tap.files("src", endings=(".h",)):
    command = [CC, "-std=gnu11", "-D_GNU_SOURCE", "-x", "c", "-Wno-unused-parameter"] + shlex.split(libraries)
    checks.result(f"{header} alone", compile_alone(command + STRICT + ["-Wno-unused-parameter"], header,
                                                   ["src", "include"]))
checks.finish()
