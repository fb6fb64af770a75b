# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of merging real programs have in common: kshared at work on them, frames, the kernel's own KSM."""

import contextlib
import ctypes
import json
import mmap
import os
import re
import signal
import struct
import sys

from folder import ROOT
from processes import descendants, libc

sys.path.insert(0, os.path.join(ROOT, "scripts"))
import guest

PAGE = 4096
KSM = "/sys/kernel/mm/ksm"
PR_SET_PDEATHSIG = 1


def die_with_parent():
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Merger:
    """kshared ksm, on a folder. A partition is made when it is first named."""

    def __init__(self, folder):
        self.folder = folder
        self.names = set()

    @property
    def pid(self):
        """Of the merger; 0: it has not been needed yet."""
        keeper = self.folder.status()["keeper_pid"]
        return next((pid for pid in descendants(keeper) if "--merger" in command_of(pid)), 0)

    def __call__(self, verb, name, pids, *options):
        """Return: what it says of each process, as a dictionary; a refusal fails, with what was said."""
        done = self.refused(verb, name, pids, *options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["processes"] if verb == "merge" else None

    def refused(self, verb, name, pids, *options):
        """Return: how the command ended."""
        if name not in self.names:
            assert self.folder.cli("ksm", "create", name).returncode == 0
            self.names.add(name)
        words = [word for pid in pids for word in ("--pid", str(pid))] + (["--json"] if verb == "merge" else [])
        return self.folder.cli("ksm", verb, name, *words, *options, timeout=120)

    def forget(self):
        for name in self.names:
            assert self.folder.cli("ksm", "rm", name).returncode == 0


def command_of(pid):
    with open(f"/proc/{pid}/cmdline") as file:
        return file.read()


def pss_kib(pid):
    """Pss of all of a process."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return int(re.search(r"^Pss:\s+(\d+)", file.read(), flags=re.M)[1])


def frames(pid, address, nr_pages):
    """The page frames of that many pages, as /proc/PID/pagemap has them; 0: none."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
        entries = struct.unpack(f"{nr_pages}Q", os.pread(file.fileno(), 8 * nr_pages, address // PAGE * 8))
    return [entry & ((1 << 55) - 1) if entry >> 63 else 0 for entry in entries]


def zero_frame():
    """The frame that every page is in that was read and never written."""
    page = mmap.mmap(-1, PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    assert page[0] == 0
    return frames(os.getpid(), ctypes.addressof(ctypes.c_char.from_buffer(page)), 1)[0]


# ---- the kernel's own ----


def ksm_get(name):
    with open(os.path.join(KSM, name)) as file:
        return int(file.read())


def ksm_set(name, value):
    with open(os.path.join(KSM, name), "w") as file:
        file.write(str(value))


@contextlib.contextmanager
def kernel_ksm():
    """The kernel's KSM, at full speed; put back as it was, by another process if this one is killed."""
    before = {name: ksm_get(name) for name in ("run", "sleep_millisecs", "pages_to_scan")}
    ours, theirs = os.pipe()
    guard = os.fork()
    if guard == 0:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.close(theirs)
        os.read(ours, 1)
        for name, value in before.items():
            ksm_set(name, value)
        os._exit(0)
    os.close(ours)
    try:
        ksm_set("sleep_millisecs", 0)
        ksm_set("pages_to_scan", 10000)
        ksm_set("run", 1)
        yield
    finally:
        os.close(theirs)
        os.waitpid(guard, 0)
