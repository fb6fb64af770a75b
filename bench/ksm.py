# SPDX-License-Identifier: GPL-2.0-or-later
"""The question "ksm" of bench/run: merging equal pages, beside the kernel's own KSM on the same data. bench-ksm measures.

It needs no folder: it is about the engine. Sizes are chosen by the memory that is free, since each measurement holds its data
twice for a moment.
"""

import os
import re
import signal
import subprocess

from folder import BUILD, environment

ROUNDS = 7
MIB, GROWTH = 1024, (1024, 2048, 4096, 8192)
QUICK_MIB = 128
ROOM = 1.4 # of the data's size must be free
TIMEOUT = 3000


class Failed(Exception):
    """There are no figures, and why."""


def sizes(quick):
    """How much is done."""
    return {"rounds": 2 if quick else ROUNDS, "mib": QUICK_MIB if quick else MIB}


def available_mib():
    with open("/proc/meminfo") as file:
        return int(re.search(r"MemAvailable:\s+(\d+) kB", file.read())[1]) >> 10


def measure(quick):
    """Return: (measurements, remarks)."""
    if os.getuid() != 0:
        raise Failed("only root may use the kernel's KSM")
    room = available_mib() / ROOM
    much = sizes(quick)
    growth = [] if quick else [size for size in GROWTH if size <= room]
    if much["mib"] > room:
        raise Failed(f"{much['mib'] * ROOM:.0f} MiB of free memory are needed")
    # bench-ksm puts the kernel's KSM back also if it is killed; asked to end, it is quicker.
    with subprocess.Popen([os.path.join(BUILD, "bench", "bench-ksm")] + [str(part) for part in (much["rounds"], much["mib"], *growth)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            output = process.communicate(timeout=TIMEOUT)[0]
        except BaseException as reason:
            process.send_signal(signal.SIGTERM)
            if isinstance(reason, subprocess.TimeoutExpired):
                raise Failed(f"it did not end within {TIMEOUT} s") from None
            raise
    if process.returncode:
        raise Failed(f"bench-ksm ended with status {process.returncode}")
    found, remarks = [], []
    for line in output.splitlines():
        if line.startswith("# "):
            remarks.append(line[2:])
        else:
            group, lane, number, value = line.split("\t")
            found.append((group, lane, int(number), float(value)))
    if not quick and len(growth) < len(GROWTH):
        remarks.append(f"growth was measured up to {growth[-1] >> 10} GiB: there was no more free memory")
    return found, remarks


def is_speed(group):
    """The ratio is that of speeds: turned round."""
    return group.startswith(("time for 1 GiB", "CPU time for"))


def rate(group, ns):
    """What a time for 1 GiB is in GB/s; "" for other groups."""
    return f" ({2**30 / ns:.2g} GB/s)" if group.startswith(("time for 1 GiB", "time for each GiB")) else ""
