# SPDX-License-Identifier: GPL-2.0-or-later
"""Stopping a process at each entry and exit of a system call, by ptrace(2), to end it exactly there.

Everything must be done by the thread that attached.
"""

import contextlib
import ctypes
import os
import signal
import struct
import time

import harness

PTRACE_CONT = 7
PTRACE_DETACH = 17
PTRACE_SYSCALL = 24
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_GET_SYSCALL_INFO = 0x420E
PTRACE_O_TRACESYSGOOD = 1
PTRACE_O_TRACEFORK = 2
PTRACE_O_TRACEVFORK = 4
SYSCALL_STOP = signal.SIGTRAP | 0x80
WALL = 0x40000000

ENTRY, EXIT = 1, 2


def _ptrace(request, pid, address=0, data=0):
    harness.libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    harness.libc.ptrace.restype = ctypes.c_long
    if harness.libc.ptrace(request, pid, address, data) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of process {pid}")


def call_at(pid):
    """Of a process in a system call stop: (ENTRY or EXIT, the call's number; None at an exit)."""
    info = ctypes.create_string_buffer(88)
    _ptrace(PTRACE_GET_SYSCALL_INFO, pid, len(info), ctypes.addressof(info))
    return info.raw[0], struct.unpack_from("Q", info.raw, 24)[0] if info.raw[0] == ENTRY else None


def attach(pid, options=PTRACE_O_TRACESYSGOOD):
    """Attach and stop."""
    _ptrace(PTRACE_SEIZE, pid, 0, options)
    _ptrace(PTRACE_INTERRUPT, pid)
    os.waitpid(pid, WALL)


def go_on(pid, number=0):
    """From a stop to the next entry or exit; with a signal that it shall get."""
    _ptrace(PTRACE_SYSCALL, pid, 0, number)


def detach(pid):
    """Let a running process go."""
    _ptrace(PTRACE_INTERRUPT, pid)
    # Any stop will do: one that comes before the one asked for takes its place.
    _, status = os.waitpid(pid, WALL)
    if os.WIFSTOPPED(status):
        number = os.WSTOPSIG(status)
        is_signal = not status >> 16 and number not in (SYSCALL_STOP, signal.SIGTRAP)
        _ptrace(PTRACE_DETACH, pid, 0, number if is_signal else 0)


def kill(pid):
    """End it where it is and take note of it; only then its parent is told."""
    os.kill(pid, signal.SIGKILL)
    while not os.WIFSIGNALED(os.waitpid(pid, WALL)[1]):
        pass


def next_stop(pid, give_up):
    """Wait for a stop of a process. Return: its wait status; None if give_up() came first."""
    while True:
        found, status = os.waitpid(pid, WALL | os.WNOHANG)
        if found:
            return status
        if give_up():
            return None
        time.sleep(0.0001)


def kill_at_stop(pid, number, give_up):
    """Let an attached process run to its number-th system call stop and kill it there.

    Return: where that was, in words; None if give_up() came first, and then it is detached.
    """
    call = None
    go_on(pid)
    while True:
        status = next_stop(pid, give_up)
        if status is None:
            detach(pid)
            return None
        if not os.WIFSTOPPED(status):
            raise AssertionError(f"the process ended by itself with wait status {status:#x}")
        if os.WSTOPSIG(status) != SYSCALL_STOP:
            event = status >> 16
            go_on(pid, 0 if event or os.WSTOPSIG(status) == signal.SIGTRAP else os.WSTOPSIG(status))
            continue
        number -= 1
        where, what = call_at(pid)
        if where == ENTRY:
            call = what
        if number == 0:
            kill(pid)
            return f"{'entry' if where == ENTRY else 'exit'} of system call {call}"
        go_on(pid)


class Crasher:
    """Attached to a parent, it sends a signal to each child that enters one of some system calls."""

    def __init__(self, parent, child, calls, number):
        self.parent = parent
        self.calls = calls
        self.number = number
        self.sent = 0
        self.known = {parent, child}
        attach(parent, PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACESYSGOOD)
        _ptrace(PTRACE_CONT, parent)
        attach(child)
        go_on(child)

    def run(self, until):
        """Until until() says so; everything is detached then."""
        while not until():
            found = False
            for pid in list(self.known):
                with contextlib.suppress(ChildProcessError):
                    got, status = os.waitpid(pid, WALL | os.WNOHANG)
                    if got:
                        found = True
                        self.handle(got, status)
            if not found:
                self.look_for_children()
                time.sleep(0.0002)
        for pid in list(self.known):
            with contextlib.suppress(OSError):
                detach(pid)

    def look_for_children(self):
        with open(f"/proc/{self.parent}/task/{self.parent}/children") as file:
            self.known |= {int(pid) for pid in file.read().split()}

    def handle(self, pid, status):
        if not os.WIFSTOPPED(status):
            self.known.discard(pid)
            return
        number = os.WSTOPSIG(status)
        deliver = 0
        if pid == self.parent:
            _ptrace(PTRACE_CONT, pid, 0, 0 if status >> 16 or number == SYSCALL_STOP else number)
            return
        if number == SYSCALL_STOP:
            where, call = call_at(pid)
            if where == ENTRY and call in self.calls:
                self.sent += 1
                deliver = self.number
        elif not status >> 16 and number != signal.SIGTRAP:
            deliver = number
        go_on(pid, deliver)
