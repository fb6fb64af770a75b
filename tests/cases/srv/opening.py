# SPDX-License-Identifier: GPL-2.0-or-later
"""Posting descriptors and opening them again: what the tests of srv have in common."""

import ctypes
import mmap
import os
import select
import socket
import struct

import harness

KCMP_FILE = 0
SYS_KCMP = 312  # x86-64


def eventfd(count=0):
    return harness.libc.eventfd(count, os.O_NONBLOCK)


def timerfd(seconds):
    fd = harness.libc.timerfd_create(1, os.O_NONBLOCK)
    spec = struct.pack("=4q", 0, 0, int(seconds), int(seconds % 1 * 1e9))
    harness.libc.timerfd_settime(fd, 0, spec, None)
    return fd


def same_open_file(fd, other):
    """Whether two descriptors of this process are of one open file."""
    result = harness.libc.syscall(SYS_KCMP, os.getpid(), os.getpid(), KCMP_FILE, fd, other)
    if result < 0:
        raise OSError(ctypes.get_errno(), "kcmp")
    return result == 0


def map_shared(fd, length, protection):
    """mmap(2) itself: Python's looks at the size first."""
    harness.libc.mmap.restype = ctypes.c_void_p
    harness.libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                                  ctypes.c_long]
    address = harness.libc.mmap(None, length, protection, mmap.MAP_SHARED, fd, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")


class OpenCase(harness.FolderCase):
    def name(self, suffix=""):
        return self._testMethodName + suffix

    def srv(self, suffix=""):
        return self.path("srv", self.name(suffix))

    def post(self, fd, suffix="", mode=0o600):
        """Post a descriptor of this process. Return: the entry's path."""
        self.connect().srv_post(self.name(suffix), fd, mode)
        return self.srv(suffix)

    def kept(self, *fds):
        """Descriptors that are closed at the end of the test. Return: them, or the one."""
        for fd in fds:
            self.addCleanup(lambda fd=fd: harness.errno_of(os.close, fd))
        return fds if len(fds) > 1 else fds[0]

    def pipe(self):
        return self.kept(*os.pipe())

    def socketpair(self, kind=socket.SOCK_STREAM):
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        return ours, theirs

    def file(self, content=b"", suffix="", flags=os.O_RDWR, mode=0o600):
        """A file on disk: its descriptor and its path."""
        path = self.scratch(self.name(suffix))
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, mode)
        return self.opened(path, flags), path

    def memfd(self, content=b""):
        fd = self.kept(os.memfd_create("posted"))
        os.write(fd, content)
        return fd

    def open(self, path, flags=os.O_RDWR):
        return self.opened(path, flags)

    def ready(self, fd, events=select.POLLIN | select.POLLOUT, timeout=0):
        """What poll(2) says of a descriptor."""
        poller = select.poll()
        poller.register(fd, events)
        found = poller.poll(timeout * 1000 * harness.SCALE)
        return found[0][1] if found else 0

    def assertBlocked(self, child):
        """A child is asleep, and stays so: it waits in the kernel for somebody else."""
        harness.wait_until(lambda: harness.process_state(child.pid).endswith(" S request_wait_answer"),
                           "it waits in a call on the mount")

    def fill(self, fd):
        """Write to a pipe until it is full. Return: how much that was."""
        written = 0
        os.set_blocking(fd, False)
        try:
            while True:
                written += os.write(fd, b"-" * 4096)
        except BlockingIOError:
            os.set_blocking(fd, True)
            return written
