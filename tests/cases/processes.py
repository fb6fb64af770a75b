# SPDX-License-Identifier: GPL-2.0-or-later
"""Other processes: functions in forked children as any user, waiting with deadlines, looking into /proc."""

import contextlib
import ctypes
import errno
import os
import pickle
import select
import signal
import struct
import sys
import time
import traceback

SCALE = float(os.environ.get("KSHARED_TIMEOUT_SCALE", "1"))

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWPID = 0x20000000

libc = ctypes.CDLL(None, use_errno=True)


class Hung(AssertionError):
    """Something did not end before its deadline."""


def wait_until(condition, what, timeout=5.0):
    """Wait until condition() is true and return its value; fail with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout * SCALE
    pause = 0.001
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Hung(f"not within {timeout * SCALE:g} s: {what}")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def read_exactly(fd, length, timeout=5.0):
    """Read `length` bytes from fd; at the end of file, fewer."""
    data = b""
    deadline = time.monotonic() + timeout * SCALE
    while len(data) < length:
        ready, _, _ = select.select([fd], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise Hung(f"only {len(data)} of {length} bytes within {timeout * SCALE:g} s")
        part = os.read(fd, length - len(data))
        if not part:
            break
        data += part
    return data


def _report(fd, outcome):
    """In a child: hand its outcome to the parent, length first."""
    try:
        data = pickle.dumps(outcome)
    except Exception:
        # An open file, say: that it came to it is all that can be told.
        data = pickle.dumps((outcome[0], repr(outcome[1])))
    data = struct.pack("=Q", len(data)) + data
    while data:
        data = data[os.write(fd, data):]


class Child:
    """A Python function running in a forked child.

    uid, gid, groups: whom it runs as. new_pid_namespace: it is process 1 of a new pid namespace. own_group: it leads
    a process group, which is killed with it. result() gives what the function returned, or raises what it raised;
    an OSError keeps its errno.
    """

    def __init__(self, function, *args, uid=None, gid=None, groups=(), new_pid_namespace=False, own_group=False):
        reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.name = getattr(function, "__name__", "function")
        self.outcome = None
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(reader)
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_DFL)
                if own_group:
                    os.setpgid(0, 0)
                outcome = _become_and_call(function, args, uid, gid, groups, new_pid_namespace)
                _report(writer, outcome)
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        if own_group:
            with contextlib.suppress(OSError):
                os.setpgid(self.pid, self.pid)  # whichever of the two comes first
        self.own_group = own_group
        self.reader = reader
        self.pidfd = os.pidfd_open(self.pid)

    def result(self, timeout=10.0):
        """What the function returned; the child is gone afterwards."""
        kind, value = self.wait(timeout)
        if kind == "value":
            return value
        if kind == "oserror":
            raise OSError(value[0], os.strerror(value[0]), value[1])
        raise AssertionError(f"{self.name} in a child: {value}")

    def wait(self, timeout=10.0, on_hung=lambda: ""):
        """Wait for the outcome as a pair: what it is and the value. The child is gone afterwards.

        on_hung: called before a child that is late is killed; returns text for the message.
        """
        if self.outcome is not None:
            return self.outcome
        try:
            data = self._receive(time.monotonic() + timeout * SCALE)
        except Hung:
            self.outcome = ("hung", f"no answer within {timeout * SCALE:g} s\n{on_hung()}".rstrip())
            self.kill()
            raise Hung(f"{self.name}: {self.outcome[1]}") from None
        status = self.kill()
        if data is not None:
            self.outcome = pickle.loads(data)
        elif os.WIFSIGNALED(status):
            self.outcome = ("killed", f"killed by signal {os.WTERMSIG(status)}")
        else:
            self.outcome = ("error", f"ended with status {os.waitstatus_to_exitcode(status)} and no answer")
        return self.outcome

    def _receive(self, deadline):
        data = b""
        while True:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.reader, self.pidfd], [], [], max(0, left))
            if self.reader in ready:
                part = os.read(self.reader, 65536)
                data += part
                if len(data) >= 8 and len(data) - 8 >= struct.unpack("=Q", data[:8])[0]:
                    return data[8:]
                if not part:
                    # The other end is closed: dead, or about to be.
                    return None
            elif self.pidfd in ready:
                return None
            elif left <= 0:
                raise Hung()

    def signal(self, number):
        """Send a signal to the child, which must still be there."""
        signal.pidfd_send_signal(self.pidfd, number)

    def kill(self):
        """Make sure that the child (and its process group) is gone. Return: its wait status."""
        if self.pid is None:
            return 0
        if self.own_group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            # A child that has answered ends by itself.
            if not select.select([self.pidfd], [], [], 0.5)[0]:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        if not select.select([self.pidfd], [], [], 5 * SCALE)[0]:
            raise Hung(f"process {self.pid} cannot be killed: {process_state(self.pid)}")
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        os.close(self.reader)
        self.pid = None
        return status

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.pid is not None:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self.kill()


def _become_and_call(function, args, uid, gid, groups, new_pid_namespace):
    """In a child: become somebody else, call, and say how it went."""
    try:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if new_pid_namespace:
            if libc.unshare(CLONE_NEWPID):
                raise OSError(ctypes.get_errno(), "unshare")
            inner = Child(function, *args, uid=uid, gid=gid, groups=groups)
            return inner.wait(timeout=3600)  # the deadline is the outer one's
        if uid is not None:
            os.setgroups(list(groups))
            os.setresgid(*[uid if gid is None else gid] * 3)
            os.setresuid(uid, uid, uid)
            # As after an exec: other processes of this user may look into it.
            libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # setuid() took it back
        return ("value", function(*args))
    except OSError as error:
        if error.errno is None:  # a socket's timeout
            return ("error", traceback.format_exc())
        return ("oserror", (error.errno, error.filename or str(error)))
    except BaseException:
        return ("error", traceback.format_exc())


def run_as(uid, function, *args, gid=None, groups=(), timeout=10.0, new_pid_namespace=False):
    """Call function(*args) in a forked child as uid (None: as root). Return what it returns; raise what it raises."""
    child = Child(function, *args, uid=uid, gid=gid, groups=groups, new_pid_namespace=new_pid_namespace)
    return child.result(timeout)


def errno_as(uid, function, *args, **options):
    """As run_as(), but return 0 if it went well, and else the errno that it failed with."""
    try:
        run_as(uid, function, *args, **options)
        return 0
    except OSError as error:
        return error.errno


def errno_of(function, *args, **options):
    """Call here. Return 0 if it went well, and else the errno that it failed with."""
    try:
        function(*args, **options)
        return 0
    except OSError as error:
        return error.errno


def errno_name(number):
    """EACCES for 13; "success" for 0."""
    return "success" if number == 0 else errno.errorcode.get(number, str(number))


def process_state(pid):
    """One line on a process: state, name and where it waits in the kernel; "gone" if it is."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            name, rest = file.read().split("(", 1)[1].rsplit(")", 1)
        with open(f"/proc/{pid}/wchan") as file:
            return f"{name} {rest.split()[0]} {file.read()}"
    except OSError:
        return "gone"


def is_alive(pid):
    """Whether the process is there and no zombie."""
    state = process_state(pid)
    return state != "gone" and state.rsplit(" ", 2)[1] not in ("Z", "X")


def descendants(pid):
    """Every living process below pid, by number."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                with open(f"/proc/{entry}/stat") as file:
                    rest = file.read().rsplit(")", 1)[1].split()
                if rest[0] not in ("Z", "X"):
                    children.setdefault(int(rest[1]), []).append(int(entry))
    found = []
    todo = [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def descriptors(pid="self"):
    """The open descriptors of a process: {number: what it refers to}."""
    found = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found[int(number)] = os.readlink(f"/proc/{pid}/fd/{number}")
    return found
