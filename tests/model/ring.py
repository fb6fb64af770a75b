#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The protocol of rings by spin: ring.pml has no error, and has one as soon as a fence, a barrier or a step is left out."""

import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import tap

PARTS = {
    "SLEEP": ["NO_WRITER_FENCE", "NO_MEMBARRIER", "NO_BARRIER_AFTER_ASKING"],
    "LANE": ["NO_RELEASE_COMMIT", "NO_ACQUIRE", "NO_RELEASE_HEAD", "NO_WIPE"],
    "CAST": ["NO_RELEASE_FENCE", "NO_ACQUIRE_FENCE"],
}
DEPTH = 100000


def verify(*macros):
    """Return: how many errors spin found, and what it said."""
    with tempfile.TemporaryDirectory() as place:
        for command in (["spin", "-a", *(f"-D{macro}" for macro in macros), os.path.join(HERE, "ring.pml")],
                        ["cc", "-O2", "-w", "-DSAFETY", "-o", "pan", "pan.c"],
                        ["./pan", f"-m{DEPTH}"]):
            done = subprocess.run(command, cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, timeout=300, check=False)
            if done.returncode and command[0] != "./pan":
                return None, done.stdout.splitlines()
    lines = done.stdout.splitlines()
    errors = [int(line.split("errors:")[1]) for line in lines if "errors:" in line]
    if not errors or "max search depth too small" in done.stdout or "Search not completed" in done.stdout and not errors[0]:
        return None, lines
    return errors[0], lines


if not shutil.which("spin"):
    print("1..0 # SKIP spin is not installed")
    sys.exit(0)
checks = tap.Checks()
for part, faults in PARTS.items():
    errors, lines = verify(part)
    checks.result(f"{part}: every interleaving is right", [] if errors == 0 else lines)
    for fault in faults:
        errors, lines = verify(part, fault)
        checks.result(f"{part} {fault}: the error is found", [] if errors else lines or ["nothing was found"])
checks.finish()
