# SPDX-License-Identifier: GPL-2.0-or-later
"""The worker dies at every entry and exit of a system call that it makes for an operation; its caller sees nothing.

Each operation is done again and again, with the worker killed at its first stop, its second, and so on, until one
round goes through without a kill: every point of it has then been tried.
"""

import mmap
import os
import platform
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import threading
import time

import harness
import tracer

UNDER_VALGRIND = False
FILE_TIMEOUT = 400

STOPS_MAX = 600
CONTENT = bytes(range(256)) * 64
LONG = b"".join(struct.pack("I", word) for word in range(50000))

# asm/unistd_64.h and asm-generic/unistd.h
CALLS = {"x86_64": {"ftruncate": 77, "pidfd_getfd": 438}, "aarch64": {"ftruncate": 46, "pidfd_getfd": 438}}


class Operation:
    """One thing to be done with a folder: prepare() before, do() while the worker dies, check() after."""

    def __init__(self, folder, library, serial):
        self.folder = folder
        self.library = library
        self.name = f"o{serial}"
        self.fds = []

    def full(self, path):
        return os.path.join(self.folder.dir, path)

    def file(self):
        """A descriptor of a file with known content."""
        fd = os.memfd_create("survive")
        os.write(fd, CONTENT)
        self.fds.append(fd)
        return fd

    def pipe(self):
        self.fds += os.pipe()
        return self.fds[-2:]

    def posted(self, fd, mode=0o600):
        self.library.srv_post(self.name, fd, mode)
        return self.full(f"srv/{self.name}")

    def opened(self, fd, flags):
        """Post a descriptor and open it by the mount."""
        opened = os.open(self.posted(fd), flags)
        self.fds.append(opened)
        return opened

    def prepare(self):
        pass

    def do(self):
        raise NotImplementedError

    def check(self, test, result):
        raise NotImplementedError

    def is_the_file(self, test, path, kind="memfd"):
        """The entry is there and is the file with known content."""
        test.assertEqual(os.getxattr(self.full(path), "user.kshared.what"), kind.encode())
        with open(self.full(path), "rb") as file:
            test.assertEqual(file.read(), CONTENT)

    def names(self, kind):
        return set(os.listdir(self.full(kind))) | set(self.library.list(kind))

    def in_use(self, test, entries, number_bytes):
        """The accounts are right, once the kernel has forgotten what was removed before."""
        def settled():
            status = self.library.status()
            return (status.entries, status.bytes) == (entries, number_bytes)
        harness.wait_until(settled, f"{entries} entries and {number_bytes} bytes are in use")

    def end(self):
        for fd in self.fds:
            os.close(fd)
        for kind in ("srv", "mem"):
            for name in os.listdir(self.full(kind)):
                path = self.full(f"{kind}/{name}")
                (os.rmdir if os.path.isdir(path) else os.unlink)(path)


class PostByNumber(Operation):
    def do(self):
        fd = os.open(self.full(f"srv/{self.name}"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)
        taken = os.write(fd, str(self.fds[0]).encode())
        os.close(fd)
        return taken

    def prepare(self):
        self.file()

    def check(self, test, result):
        test.assertEqual(result, len(str(self.fds[0])))
        test.assertEqual(stat.S_IMODE(os.stat(self.full(f"srv/{self.name}")).st_mode), 0o640)
        self.is_the_file(test, f"srv/{self.name}")


class PostAgain(PostByNumber):
    """A second post is refused, and not because the first one came twice."""

    def do(self):
        fd = os.open(self.full(f"srv/{self.name}"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        first = os.write(fd, str(self.fds[0]).encode())
        second = harness.errno_of(os.write, fd, str(self.fds[0]).encode())
        os.close(fd)
        return first, harness.errno_name(second)

    def check(self, test, result):
        test.assertEqual(result, (len(str(self.fds[0])), "EBUSY"))
        self.is_the_file(test, f"srv/{self.name}")


class PostGarbage(Operation):
    def do(self):
        fd = os.open(self.full(f"srv/{self.name}"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        self.fds.append(fd)
        return [harness.errno_name(harness.errno_of(os.write, fd, text)) for text in (b"5x", b"987654")]

    def check(self, test, result):
        test.assertEqual(result, ["EINVAL", "EBADF"])
        test.assertEqual(os.getxattr(self.full(f"srv/{self.name}"), "user.kshared.what"), b"unposted")


class PostByLibrary(Operation):
    def prepare(self):
        self.file()

    def do(self):
        self.library.srv_post(self.name, self.fds[0], 0o604)

    def check(self, test, result):
        test.assertEqual(stat.S_IMODE(os.stat(self.full(f"srv/{self.name}")).st_mode), 0o604)
        self.is_the_file(test, f"srv/{self.name}")
        test.assertEqual(harness.errno_of(self.library.srv_post, self.name, self.fds[0]), 17)


class CreateByMount(Operation):
    def do(self):
        fd = os.open(self.full(f"mem/{self.name}"), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        self.fds.append(fd)
        os.ftruncate(fd, len(CONTENT))
        return os.pwrite(fd, CONTENT, 0)

    def check(self, test, result):
        test.assertEqual(result, len(CONTENT))
        self.is_the_file(test, f"mem/{self.name}")
        self.in_use(test, 4, len(CONTENT))


class CreateByLibrary(Operation):
    def do(self):
        fd = self.library.mem_create(self.name, len(CONTENT), 0o600)
        self.fds.append(fd)
        return os.pwrite(fd, CONTENT, 0)

    def check(self, test, result):
        test.assertEqual(result, len(CONTENT))
        self.is_the_file(test, f"mem/{self.name}")
        test.assertEqual(self.library.stat(f"mem/{self.name}").seals & 6, 6, "its size is sealed")
        self.in_use(test, 4, len(CONTENT))


class SealByLibrary(Operation):
    def prepare(self):
        os.close(self.library.mem_create(self.name, 4096))

    def do(self):
        self.library.mem_seal(self.name, harness.KMEM_SEAL_WRITE | harness.KMEM_SEAL_SEAL)

    def check(self, test, result):
        test.assertEqual(self.library.stat(f"mem/{self.name}").seals & 15, 15)


class Resize(Operation):
    def prepare(self):
        os.close(self.library.mem_create(self.name, 4096, flags=harness.KMEM_RESIZABLE))

    def do(self):
        os.truncate(self.full(f"mem/{self.name}"), 12345)

    def check(self, test, result):
        test.assertEqual(os.stat(self.full(f"mem/{self.name}")).st_size, 12345)
        self.in_use(test, 4, 12345)


class Allocate(Resize):
    def do(self):
        fd = os.open(self.full(f"mem/{self.name}"), os.O_RDWR)
        self.fds.append(fd)
        os.posix_fallocate(fd, 0, 12345)


class UnlinkByMount(Operation):
    def prepare(self):
        self.posted(self.file())

    def do(self):
        os.unlink(self.full(f"srv/{self.name}"))

    def check(self, test, result):
        test.assertEqual(self.names("srv"), set())
        self.in_use(test, 3, 0)


class UnlinkByLibrary(UnlinkByMount):
    def prepare(self):
        os.stat(self.posted(self.file()))  # the kernel knows the name now

    def do(self):
        self.library.remove(f"srv/{self.name}")

    def check(self, test, result):
        test.assertFalse(os.path.lexists(self.full(f"srv/{self.name}")))
        super().check(test, result)


class RenameOver(Operation):
    def prepare(self):
        self.posted(self.file())
        self.library.srv_post("target", self.pipe()[0])

    def do(self):
        os.rename(self.full(f"srv/{self.name}"), self.full("srv/target"))

    def check(self, test, result):
        test.assertEqual(self.names("srv"), {"target"})
        self.is_the_file(test, "srv/target")


class Boards(Operation):
    def do(self):
        os.mkdir(self.full("srv/board"), 0o750)
        os.mkdir(self.full("srv/other"))
        os.rmdir(self.full("srv/other"))
        return harness.errno_name(harness.errno_of(os.mkdir, self.full("srv/board")))

    def check(self, test, result):
        test.assertEqual(result, "EEXIST")
        test.assertEqual(self.names("srv"), {"board"})
        test.assertEqual(stat.S_IMODE(os.stat(self.full("srv/board")).st_mode), 0o750)


class OpenByMount(Operation):
    def prepare(self):
        self.posted(self.file())

    def do(self):
        fd = os.open(self.full(f"srv/{self.name}"), os.O_RDWR)
        self.fds.append(fd)
        with mmap.mmap(fd, len(CONTENT)) as memory:
            return memory[:] + os.read(fd, 100)

    def check(self, test, result):
        test.assertEqual(result, CONTENT + CONTENT[:100])


class OpenByLibrary(Operation):
    def prepare(self):
        self.posted(self.file())

    def do(self):
        fd = self.library.srv_open(self.name, os.O_RDWR)
        self.fds.append(fd)
        return os.pread(fd, len(CONTENT), 0)

    def check(self, test, result):
        test.assertEqual(result, CONTENT)


class Chmod(Operation):
    def prepare(self):
        os.stat(self.posted(self.file()))

    def do(self):
        os.chmod(self.full(f"srv/{self.name}"), 0o651)
        os.chown(self.full(f"srv/{self.name}"), harness.USER_A, harness.USER_B)

    def check(self, test, result):
        at = os.stat(self.full(f"srv/{self.name}"))
        test.assertEqual((oct(at.st_mode), at.st_uid, at.st_gid), (oct(0o100651), harness.USER_A, harness.USER_B))
        at = self.library.stat(f"srv/{self.name}")
        test.assertEqual((oct(at.mode), at.uid, at.gid), (oct(0o100651), harness.USER_A, harness.USER_B))


class ReadReady(Operation):
    """What is there is read, once."""

    def prepare(self):
        reader, writer = self.pipe()
        self.proxied = self.opened(reader, os.O_RDONLY)
        os.write(writer, LONG[:60000])

    def do(self):
        return os.read(self.proxied, 20000)

    def check(self, test, result):
        # A read may give less, as any read may; but nothing twice and nothing lost.
        test.assertGreater(len(result), 0)
        while len(result) < 60000:
            result += harness.read_exactly(self.proxied, min(7000, 60000 - len(result)))
        test.assertTrue(result == LONG[:60000], "each byte once")
        test.assertEqual(select.select([self.proxied], [], [], 0)[0], [])


class ReadWaiting(ReadReady):
    """A read that waits, and then gets what comes."""

    def prepare(self):
        self.reader, self.writer = self.pipe()
        self.proxied = self.opened(self.reader, os.O_RDONLY)

    def do(self):
        timer = threading.Timer(0.002, os.write, (self.writer, LONG[:60000]))
        timer.start()
        data = os.read(self.proxied, 20000)
        timer.join()
        return data


class Write(Operation):
    """More than a pipe holds is written, once."""

    def prepare(self):
        self.reader, writer = self.pipe()
        self.proxied = self.opened(writer, os.O_WRONLY)
        self.got = b""

    def do(self):
        thread = threading.Thread(target=self.drain)
        thread.start()
        written = 0
        while written < len(LONG):
            written += os.write(self.proxied, LONG[written:])
        thread.join()
        return written

    def drain(self):
        self.got = harness.read_exactly(self.reader, len(LONG))

    def check(self, test, result):
        test.assertEqual(result, len(LONG))
        test.assertTrue(self.got == LONG, "each byte once")
        test.assertEqual(select.select([self.reader], [], [], 0)[0], [])


class SocketTurn(Operation):
    """A message to a peer, and its answer."""

    def prepare(self):
        one, self.peer = socket.socketpair()
        self.proxied = self.opened(one.fileno(), os.O_RDWR)
        one.close()
        self.peer.settimeout(10)

    def do(self):
        os.write(self.proxied, b"question")
        question = self.peer.recv(100)
        self.peer.send(b"answer")
        return question, os.read(self.proxied, 100)

    def check(self, test, result):
        test.assertEqual(result, (b"question", b"answer"))
        self.peer.close()


class Poll(ReadReady):
    def prepare(self):
        self.reader, self.writer = self.pipe()
        self.proxied = self.opened(self.reader, os.O_RDONLY)

    def do(self):
        epoll = select.epoll()
        epoll.register(self.proxied, select.EPOLLIN | select.EPOLLET)
        timer = threading.Timer(0.002, os.write, (self.writer, b"x"))
        timer.start()
        woken = bool(epoll.poll(20))
        timer.join()
        epoll.close()
        poll = select.poll()
        poll.register(self.proxied, select.POLLIN)
        return woken, [event for _, event in poll.poll(0)], os.read(self.proxied, 10)

    def check(self, test, result):
        test.assertEqual(result, (True, [select.POLLIN], b"x"))


class List(Operation):
    def prepare(self):
        for number in range(140):
            self.library.srv_post(f"entry{number}", 0)

    def do(self):
        return sorted(os.listdir(self.full("srv"))), sorted(self.library.list("srv"))

    def check(self, test, result):
        expected = sorted(f"entry{number}" for number in range(140))
        test.assertEqual(result, (expected, expected))


class Exhaustive(harness.FolderCase):
    """One test for each operation, made below."""

    timeout = 120.0

    def worker(self, but=0):
        keeper = self.keeper
        def idle():
            with open(f"/proc/{keeper}/task/{keeper}/children") as file:
                pids = [int(pid) for pid in file.read().split() if int(pid) != but]
            return pids and "epoll" in harness.process_state(pids[0]) and pids[0]
        return harness.wait_until(idle, "a worker waits for requests")

    def survives(self, operation_class):
        self.keeper = self.folder.keeper_pid()
        library = self.connect()
        killed, points = 0, []
        for number in range(1, STOPS_MAX):
            operation = operation_class(self.folder, library, number)
            operation.prepare()
            worker = self.worker(killed)
            outcome = []

            def do():
                try:
                    outcome.append(("result", operation.do()))
                except BaseException as error:  # to be told in the main thread
                    outcome.append(("error", error))

            tracer.attach(worker)
            thread = threading.Thread(target=do, daemon=True)
            thread.start()
            point = tracer.kill_at_stop(worker, number, lambda: bool(outcome))
            if point:
                killed = worker
                self.folder.kills += 1
                points.append(point)
            thread.join(20 * harness.SCALE)
            where = f"killed at stop {number}, the {point}" if point else "not killed"
            self.assertTrue(outcome, f"{where}: the caller still waits")
            self.assertEqual(outcome[0][0], "result", f"{where}: the caller got {outcome[0][1]!r}")
            try:
                operation.check(self, outcome[0][1])
            except Exception as error:
                raise AssertionError(f"{where}: {error!r}") from error
            operation.end()
            if not point:
                break
        self.assertIsNone(point, "the operation does not end")
        self.assertGreater(len(points), 5, "the worker was killed while it worked")


def _make_tests():
    for value in list(globals().values()):
        if isinstance(value, type) and issubclass(value, Operation) and value is not Operation:
            def method(self, operation_class=value):
                self.survives(operation_class)
            words = "".join("_" + c.lower() if c.isupper() else c for c in value.__name__)
            setattr(Exhaustive, f"test{words}", method)


_make_tests()


class Stopped(harness.FolderCase):
    def test_open_files_and_mappings_need_no_worker(self):
        fd = self.opened(self.path("mem/x"), os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 8192)
        library = self.connect()
        library.srv_post("f", os.memfd_create("posted"))
        posted = self.opened(self.path("srv/f"), os.O_RDWR)
        memory = mmap.mmap(fd, 8192)
        # Before a file's first write the kernel asks once whether it has capabilities to be stripped off.
        os.pwrite(fd, b"-", 0)
        os.pwrite(posted, b"-", 0)
        worker = self.folder.worker_pid()
        os.kill(worker, signal.SIGSTOP)
        try:
            self.child(self.use, fd, posted, memory).result(5)
        finally:
            os.kill(worker, signal.SIGCONT)
        self.assertEqual(memory[5000:5005], b"write")

    @staticmethod
    def use(fd, posted, memory):
        memory[0:3] = b"map"
        assert os.pread(fd, 3, 0) == b"map"
        os.pwrite(fd, b"write", 5000)
        assert memory[5000:5005] == b"write"
        os.pwrite(posted, b"posted", 0)
        assert os.pread(posted, 10, 0) == b"posted"
        os.lseek(posted, 3, os.SEEK_SET)
        assert os.read(posted, 10) == b"ted"

    def test_a_caller_who_waits_can_be_killed(self):
        worker = self.folder.worker_pid()
        os.kill(worker, signal.SIGSTOP)
        try:
            child = self.child(os.stat, self.path("srv/never-looked-at"))
            harness.wait_until(lambda: "request_wait" in harness.process_state(child.pid), "it waits")
            child.signal(signal.SIGKILL)
            child.kill()
        finally:
            os.kill(worker, signal.SIGCONT)
        self.assertEqual(os.listdir(self.path("srv")), [])


class Poison(harness.FolderCase):
    """A request that the worker dies of each time is refused after a few times; everybody else is served."""

    timeout = 60.0

    def crash_at(self, call, function):
        """Call function in a child while each worker gets SIGABRT at a system call. Return: (outcome, deaths)."""
        calls = CALLS.get(platform.machine())
        if not calls:
            self.skipTest("numbers of system calls are not known here")
        status = self.folder.status()
        crasher = tracer.Crasher(status["keeper_pid"], status["worker_pid"], {calls[call]}, signal.SIGABRT)
        child = self.child(function)
        started = time.monotonic()
        crasher.run(lambda: select.select([child.reader], [], [], 0)[0] or time.monotonic() > started + 30)
        self.folder.kills += crasher.sent
        return child.wait(5), crasher.sent, time.monotonic() - started

    def refused(self, call, function):
        outcome, deaths, seconds = self.crash_at(call, function)
        self.assertEqual(outcome[0], "oserror", outcome)
        self.assertEqual(harness.errno_name(outcome[1][0]), "EIO")
        self.assertLessEqual(deaths, 5)
        self.assertGreaterEqual(deaths, 2, "it was tried again before it was refused")
        self.assertLess(seconds, 10)

    def lives(self):
        self.assertEqual(sorted(os.listdir(self.folder.dir)), ["ksm", "mem", "port", "srv"])
        self.connect().srv_post("after", 0)
        self.assertEqual(os.listdir(self.path("srv")), ["after"])
        os.unlink(self.path("srv/after"))

    def test_a_post_by_number(self):
        with open(self.path("srv/before"), "w") as file:
            file.write("0")
        def post():
            fd = os.open(self.path("srv/poison"), os.O_CREAT | os.O_WRONLY)
            os.write(fd, b"0")
        self.refused("pidfd_getfd", post)
        self.assertEqual(os.getxattr(self.path("srv/poison"), "user.kshared.what"), b"unposted")
        self.assertNotEqual(os.getxattr(self.path("srv/before"), "user.kshared.what"), b"unposted")
        os.unlink(self.path("srv/poison"))
        os.unlink(self.path("srv/before"))
        self.lives()

    def test_a_creation_by_the_library(self):
        def create():
            harness.Connection(self.folder.dir).mem_create("poison", 4096)
        self.refused("ftruncate", create)
        self.assertEqual(os.listdir(self.path("mem")), [])
        self.lives()


class Keeper(harness.FolderCase):
    descriptor_slack = 2  # it is brought up in another way than at first

    def test_its_death_is_the_end_and_up_begins_anew(self):
        status = self.folder.status()
        os.kill(status["keeper_pid"], signal.SIGKILL)
        harness.wait_until(lambda: not harness.is_alive(status["worker_pid"]), "the worker ends")
        self.assertErrno(107, os.listdir, self.path("srv"))  # ENOTCONN
        done = self.cli("status")
        self.assertGreater(done.returncode, 0)
        self.assertRegex(done.stderr, r"^kshared: \S")
        done = self.cli("down")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertFalse(self.folder.is_mounted())
        self.assertFalse(os.path.exists(self.folder.socket()))
        done = self.cli("up")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sorted(os.listdir(self.folder.dir)), ["ksm", "mem", "port", "srv"])

    def test_up_alone_also_does(self):
        os.kill(self.folder.keeper_pid(), signal.SIGKILL)
        harness.wait_until(lambda: harness.errno_of(os.listdir, self.path("srv")) == 107, "the mount is dead")
        done = self.cli("up")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sorted(os.listdir(self.folder.dir)), ["ksm", "mem", "port", "srv"])
        self.assertEqual(len(harness.mounts_below(self.folder.dir)), 1, "the dead mount was taken away")


class NewVersion(harness.FolderCase):
    def test_a_hangup_replaces_the_worker_by_the_program_on_disk(self):
        binary, folder = self.scratch("ksharedd"), self.scratch("upgraded")
        shutil.copy(os.path.join(harness.BUILD, "ksharedd"), binary)
        daemon = subprocess.run([binary, "--dir", folder], stdin=subprocess.DEVNULL, env=harness.environment(),
                                capture_output=True, check=False)
        self.assertEqual(daemon.returncode, 0, daemon.stderr)
        with harness.Connection(folder) as library:
            self.addCleanup(lambda: harness.errno_of(library.shutdown))
            library.srv_post("kept", 0)
            before = library.status()
            shutil.copy(os.path.join(harness.BUILD, "ksharedd"), binary + ".new")
            os.rename(binary + ".new", binary)
            os.kill(before.keeper_pid, signal.SIGHUP)
            after = harness.wait_until(
                lambda: (lambda status: status.worker_pid != before.worker_pid and status)(library.status()),
                "another worker answers")
            self.assertEqual(after.keeper_pid, before.keeper_pid)
            self.assertEqual(os.stat(f"/proc/{after.worker_pid}/exe").st_ino, os.stat(binary).st_ino)
            self.assertEqual(list(library.list("srv")), ["kept"])
            library.shutdown()


if __name__ == "__main__":
    harness.main()
