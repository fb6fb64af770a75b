# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory objects: what the tests of mem have in common."""

import ctypes
import mmap
import os
import subprocess

import harness

F_GET_SEALS, F_ADD_SEALS = 1034, 1033
PUNCH_HOLE_KEEP_SIZE, KEEP_SIZE, COLLAPSE_RANGE = 3, 1, 8
RW = mmap.PROT_READ | mmap.PROT_WRITE
MIB = 1 << 20
HUGE = 2 * MIB


def fallocate(fd, mode, offset, length):
    if harness.libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")


def page_frames(address, length):
    """The physical pages behind a mapping of this process."""
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        data = os.pread(file.fileno(), length // 4096 * 8, address // 4096 * 8)
    return [word & (1 << 55) - 1 for word in memoryview(data).cast("Q")]


def address_of(mapping):
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


def address_of_read_only(mapping):
    """A read-only mapping's address: ctypes wants a writable one, so it is looked up."""
    size = len(mapping)
    with open("/proc/self/maps") as file:
        for line in file:
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            if end - start == size and line.split()[1] == "r--s":
                return start
    raise AssertionError("no such mapping")


class MemCase(harness.FolderCase):
    def name(self, suffix=""):
        return self._testMethodName + suffix

    def mem(self, suffix=""):
        return self.path("mem", self.name(suffix))

    def create(self, size=0, suffix="", **options):
        """A new object by the library: its descriptor."""
        fd = self.connect().mem_create(self.name(suffix), size, **options)
        self.addCleanup(lambda: harness.errno_of(os.close, fd))
        return fd

    def program(self, *command, **options):
        """Run a program that knows nothing of us; it must succeed. Return: what it printed."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * harness.SCALE, **options)
        self.assertEqual(done.returncode, 0, f"{command[0]}: {done.stdout}{done.stderr}")
        return done.stdout
