# SPDX-License-Identifier: GPL-2.0-or-later
"""Black-box test cases on a private folder.

A case is a class derived from FolderCase. Before its first test a daemon is started on a fresh temporary directory;
every test method runs in a forked child of its own with a deadline, so that a test that hangs, or is killed, is
reported and nothing of it goes on; afterwards the folder is taken down, whatever happened, and one more result says
whether a mount, a process or a descriptor was left. Results are TAP, a line for each test.

    import harness

    class Post(harness.FolderCase):
        def test_a_posted_file_is_listed(self):
            self.assertEqual(self.cli("srv", "post", "x", "--file", "/etc/passwd").returncode, 0)
            self.assertIn("x", os.listdir(self.path("srv")))

    if __name__ == "__main__":
        harness.main()

Tests run as root; other users are uids without a passwd entry (USER_A and so on). The environment says what is
tested: KSHARED_BUILD the build directory, KSHARED_WRAPPER words put before every program of ours (valgrind),
KSHARED_TIMEOUT_SCALE a factor for every deadline, KSHARED_REPORTS where a sanitizer's reports go.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
import traceback
import unittest

import reports
from folder import BUILD, ROOT, WRAPPER, Folder, environment, mounts_below, program
from library import (
    KMEM_HUGE_1GB, KMEM_HUGE_2MB, KMEM_RESIZABLE, KMEM_SEAL_FUTURE_WRITE, KMEM_SEAL_GROW, KMEM_SEAL_SEAL,
    KMEM_SEAL_SHRINK, KMEM_SEAL_WRITE, KSRV_REOPEN, Connection, Entry, Status, library)
from processes import (
    PR_SET_CHILD_SUBREAPER, SCALE, Child, Hung, descendants, descriptors, errno_as, errno_name, errno_of, is_alive,
    libc, process_state, read_exactly, run_as, wait_until)

USER_A, USER_B, USER_C = 61001, 61002, 61003  # also their groups' numbers
GROUP_SHARED = 61100


class Interrupted(BaseException):
    """SIGINT or SIGTERM: take down what is up and end."""


class FolderCase(unittest.TestCase):
    """Tests on one folder, which they share. Class attributes say what they need.

    options: more arguments for ksharedd. timeout: seconds for one test. needs: programs that must be there, else
    the tests are skipped. descriptor_slack: how many descriptors the daemon may have more at the end than at the
    start, once every entry is removed; None: do not look. folder: the Folder.
    """

    options = []
    timeout = 30.0
    needs = []
    descriptor_slack = 0
    folder = None

    @classmethod
    def prepare(cls):
        """Called once, with the folder up and before the first test; not under a deadline."""

    def path(self, *parts):
        """A path inside the folder."""
        return os.path.join(self.folder.dir, *parts)

    def scratch(self, *parts):
        """A path in a directory on disk where everybody may write."""
        return os.path.join(self.folder.scratch, *parts)

    def cli(self, *args, **options):
        """Run the CLI on the folder; see Folder.cli()."""
        return self.folder.cli(*args, **options)

    def connect(self):
        """A library connection that ends with the test."""
        connection = Connection(self.folder.dir)
        self.addCleanup(connection.disconnect)
        return connection

    def child(self, function, *args, **options):
        """A Child that ends with the test at the latest."""
        child = Child(function, *args, **options)
        self.addCleanup(child.__exit__)
        return child

    def opened(self, path, flags, mode=0o600):
        """os.open() with the descriptor closed at the end of the test."""
        fd = os.open(path, flags, mode)
        self.addCleanup(lambda: errno_of(os.close, fd))
        return fd

    def assertErrno(self, expected, function, *args, **options):
        """function(*args) fails with the errno `expected` (0: does not fail)."""
        got = errno_of(function, *args, **options)
        self.assertEqual(errno_name(got), errno_name(expected))

    def assertErrnoAs(self, uid, expected, function, *args, **options):
        """The same in a child as another user."""
        got = errno_as(uid, function, *args, **options)
        self.assertEqual(errno_name(got), errno_name(expected))

    def assertRefused(self, done):
        """A CLI command was refused as it must be: status, a sentence on stderr, nothing on stdout."""
        self.assertGreater(done.returncode, 0, done.stderr)
        self.assertLess(done.returncode, 126, done.stderr)
        self.assertRegex(done.stderr, r"^kshared.*: \S.*\n", "a sentence says what is wrong")
        self.assertEqual(done.stdout, "")


# ---- running ----


class Tap:
    """Prints results."""

    def __init__(self, total):
        self.number = 0
        self.failed = 0
        print(f"1..{total}", flush=True)

    def result(self, good, name, text="", skip=None):
        self.number += 1
        if not good:
            self.failed += 1
        directive = f" # SKIP {skip}" if skip is not None else ""
        lines = [f"{'ok' if good else 'not ok'} {self.number} - {name}{directive}"]
        if not good:
            lines += [f"#   {line}" for line in text.rstrip().splitlines()]
        print("\n".join(lines), flush=True)


def _run_test(case):
    """In a child: run one test. Return: (status, text, how often it killed the worker)."""
    os.dup2(2, 1)  # stdout is for results
    case.folder.kills = 0
    result = unittest.TestResult()
    case.run(result)
    if result.skipped:
        return ("skip", result.skipped[0][1], case.folder.kills)
    bad = result.failures + result.errors
    if bad:
        return ("bad", "\n".join(text for _, text in bad), case.folder.kills)
    if result.unexpectedSuccesses or not result.testsRun:
        return ("bad", "did not run as expected", case.folder.kills)
    return ("good", "", case.folder.kills)


class ClassRun:
    """One class of tests from start to end."""

    def __init__(self, case_class, names, tap):
        self.case_class = case_class
        self.names = names
        self.tap = tap
        self.folder = None
        self.baseline = None
        self.restarts = 0
        self.problems = []

    def run(self):
        missing = [need for need in self.case_class.needs if not shutil.which(need)]
        if missing:
            for name in self.names:
                self.tap.result(True, self.full(name), skip=f"needs {', '.join(missing)}")
            self.tap.result(True, self.full("leaves_nothing"), skip="nothing ran")
            return
        own = descriptors()
        try:
            self.run_tests()
            self.check_descriptors()
        finally:
            # Whatever comes, also a signal, the folder goes away.
            self.take_down()
            more = {fd: what for fd, what in descriptors().items() if fd not in own and "/proc/" not in what}
            if more:
                self.problems.append(f"descriptors left open in the test's own process: {more}")
            self.tap.result(not self.problems, self.full("leaves_nothing"), "\n".join(self.problems))

    def full(self, name):
        return f"{self.case_class.__name__}.{name}"

    def start(self):
        self.folder = Folder(self.case_class.options)
        self.case_class.folder = self.folder
        self.folder.start()
        self.restarts = self.folder.status().get("restarts", 0)
        self.baseline = self.folder.descriptor_counts()
        self.case_class.prepare()

    def run_tests(self):
        broken = ""
        for name in self.names:
            if self.folder is None and not broken:
                try:
                    self.start()
                except Exception:
                    self.tap.result(False, self.full(name), "no folder:\n" + traceback.format_exc())
                    self.take_down()
                    broken = "no folder, as above"
                    continue
            if broken:
                self.tap.result(False, self.full(name), broken)
            else:
                self.run_one(name)

    def run_one(self, name):
        case = self.case_class(name)
        method = getattr(case, name)
        timeout = getattr(method, "timeout", self.case_class.timeout)
        child = Child(_run_test, case, own_group=True)
        hung = False
        try:
            kind, value = child.wait(timeout, on_hung=self.where_everybody_is)
        except Hung as error:
            kind, value = "hung", str(error)
            hung = True
        except Interrupted as interrupted:
            self.tap.result(False, self.full(name), f"{interrupted}\n{self.where_everybody_is()}\n"
                            + self.folder.log_tail())
            with contextlib.suppress(Exception):
                child.__exit__()
            raise
        if kind != "value":
            value = ("bad", f"{kind}: {value}", 0)
        status, text, kills = value
        if status == "bad" and WRAPPER and ("Function not implemented" in text or "ENOSYS" in text):
            status, text = "skip", "valgrind does not carry out pidfd_open(2) and pidfd_getfd(2)"
        if status != "skip" and not hung:
            unwanted = self.daemon_trouble(kills)
            if unwanted:
                status, text = "bad", f"{text}\n{unwanted}"
                hung = True
        if status == "skip":
            self.tap.result(True, self.full(name), skip=text)
            return
        if status == "bad":
            text += "\n" + self.folder.log_tail()
        self.tap.result(status == "good", self.full(name), text)
        if hung:
            # It cannot be trusted any more: the next test gets a new one.
            self.take_down()

    def daemon_trouble(self, kills):
        """After a test: whether the daemon is there and its worker died no more often than it was killed."""
        try:
            restarts = self.folder.status().get("restarts", 0)
        except Exception as error:
            return f"the daemon does not answer after the test: {error}"
        died = restarts - self.restarts
        self.restarts = restarts
        if died > kills:
            return f"the worker died {died - kills} times by itself"
        return ""

    def where_everybody_is(self):
        """For a hung test: what every process of it is waiting for."""
        return "\n".join(f"process {pid}: {process_state(pid)}" for pid in descendants(os.getpid()))

    def check_descriptors(self):
        slack = self.case_class.descriptor_slack
        if self.folder is None or slack is None:
            return
        counts = None

        def settled():
            nonlocal counts
            counts = self.folder.descriptor_counts()
            return counts[0] <= self.baseline[0] + slack and counts[1] <= self.baseline[1] + slack

        try:
            remover = Child(self.folder.remove_all, own_group=True)
            remover.result(30)
            wait_until(settled, "descriptors are closed", timeout=3)
        except Exception as error:
            self.problems.append(f"descriptors of (keeper, worker) at the start {self.baseline}, at the end {counts}"
                                 f": {error}")
            with contextlib.suppress(Exception):
                for title, pid in (("keeper", self.folder.keeper_pid()), ("worker", self.folder.worker_pid())):
                    self.problems.append(f"{title}: {sorted(descriptors(pid).values())[:100]}")

    def take_down(self):
        folder, self.folder = self.folder or self.case_class.folder, None
        self.case_class.folder = None
        if folder is None:
            return
        if folder.process:
            self.problems += folder.take_down()
        self.problems += end_descendants()
        self.problems += folder.force_down()
        self.problems += reports.take(folder.log, directory=os.environ.get("KSHARED_REPORTS"))
        folder.delete()


def end_descendants():
    """Kill what was started and not ended. Return: one line for each such process."""
    problems = []
    # What has just been told to end gets a moment.
    deadline = time.monotonic() + 3 * SCALE
    while descendants(os.getpid()) and time.monotonic() < deadline:
        _reap()
        time.sleep(0.01)
    for pid in descendants(os.getpid()):
        problems.append(f"process {pid} was left: {process_state(pid)}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 3
    while descendants(os.getpid()) and time.monotonic() < deadline:
        _reap()
        time.sleep(0.01)
    _reap()
    return problems


def _reap():
    """Take note of adopted children that ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def timeout(seconds):
    """Decorator: this test gets so many seconds."""
    def mark(method):
        method.timeout = seconds
        return method
    return mark


def main():
    """Run every FolderCase of the calling file; arguments: only tests whose Class.name contains one of them."""
    if os.getuid() != 0:
        print("1..0 # SKIP these tests start daemons and change users: run them as root")
        return
    # A sanitizer's run-time library is for this process, which loads libkshared; not for bash and the like.
    os.environ.pop("LD_PRELOAD", None)
    wanted = sys.argv[1:]
    runs = []
    for value in list(vars(sys.modules["__main__"]).values()):
        if isinstance(value, type) and issubclass(value, FolderCase) and value is not FolderCase:
            names = [name for name in unittest.defaultTestLoader.getTestCaseNames(value)
                     if not wanted or any(word in f"{value.__name__}.{name}" for word in wanted)]
            if names:
                runs.append((value, names))
    tap = Tap(sum(len(names) + 1 for _, names in runs))
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def interrupt(number, frame):
        # Once is enough: the taking down must not be interrupted.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Interrupted(f"signal {number}")

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    if os.path.exists(os.path.join(BUILD, "libkshared.so")):
        library()  # before any fork, and before its directory may be out of reach
    try:
        for case_class, names in runs:
            ClassRun(case_class, names, tap).run()
    except Interrupted as interrupted:
        print(f"Bail out! {interrupted}", flush=True)
        sys.exit(130)
    sys.exit(1 if tap.failed else 0)
