# SPDX-License-Identifier: GPL-2.0-or-later
"""Ports in the folder: what may be posted, who may open, what a server is told, and what is text."""

import errno
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), up) for up in ("..", "../daemon")]

import harness  # noqa: E402
import ports  # noqa: E402
import rawctl  # noqa: E402
from ports import Field  # noqa: E402

MODEL = ports.make_page([Field("number", ports.U64, 42, "things"), Field("below zero", ports.S64, -7),
                         Field("part", ports.FIXED, 3 << 10, "%", bits=11),
                         Field("word", ports.CHARS, b'a "b"\n\x1b\\', width=16),
                         Field("name", ports.CHARS, [b"one", b"", b"three"], width=8, count=3),
                         Field("size", ports.U64, [1, 2, 3], "B", count=3)])
TEXT = ('number 42 things\nbelow\\x20zero -7\npart 1.5000 %\nword "a \\x22b\\x22\\x0a\\x1b\\x5c"\n'
        'name[0] "one"\nname[2] "three"\nsize[0] 1 B\nsize[2] 3 B\n')


class PortCase(harness.FolderCase):
    descriptor_slack = 1  # the keeper's channel to a publisher that runs

    def port(self, name):
        return self.path("port", name)

    def text(self, name):
        with open(self.port(name)) as file:
            return file.read()

    def server(self, name, page=MODEL, **options):
        server = ports.Server(self.folder, name, page, **options)
        self.addCleanup(server.close)
        self.assertEqual(server.result, 0)
        return server

    def serving(self, name, page=MODEL, callers=None, **options):
        """A server that serves in a thread."""
        server = self.server(name, page, **options)
        thread = threading.Thread(target=server.serve, args=(callers,), daemon=True)
        thread.start()
        return server

    def assertPosted(self, error, fd, name="refused", **options):
        self.assertEqual(harness.errno_name(-ports.post(self.folder, name, fd, **options)), harness.errno_name(error))
        if error:
            self.assertFalse(os.path.lexists(self.port(name)))

    def tearDown(self):
        # The tests share a folder, and its pages stay.
        for name in set(os.listdir(self.path("port"))) - set(ports.PAGES):
            path = self.port(name)
            if os.path.isdir(path):
                os.rmdir(path)
            else:
                os.unlink(path)


class Posting(PortCase):
    def test_a_service_is_one_end_of_a_pair(self):
        end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with end, other:
            self.assertPosted(0, end.fileno(), "good")
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            end, other = socket.socketpair(socket.AF_UNIX, kind)
            with end, other:
                self.assertPosted(errno.EINVAL, end.fileno())
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as alone:
            self.assertPosted(errno.EINVAL, alone.fileno())
            alone.bind(self.scratch("listening"))
            alone.listen()
            self.assertPosted(errno.EINVAL, alone.fileno())
        for path in ("/etc/passwd", "/", self.path("srv")):
            fd = self.opened(path, os.O_RDONLY)
            self.assertPosted(errno.EINVAL, fd)

    def test_a_pair_of_another_user_is_none_of_ones_own(self):
        end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with end, other:
            got = harness.run_as(harness.USER_A, ports.post, self.folder, "theirs", end.fileno())
        self.assertEqual(got, -errno.EINVAL)

    def test_unknown_kinds(self):
        end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with end, other:
            for flags in (4, 5, 255, 512, 1 << 31):
                self.assertPosted(errno.EINVAL, end.fileno(), flags=flags)

    def test_by_the_mount_nothing_is_made(self):
        self.assertErrno(errno.EPERM, os.open, self.port("file"), os.O_WRONLY | os.O_CREAT, 0o600)
        self.assertErrno(errno.EPERM, os.mknod, self.port("file"))
        self.assertErrno(errno.EPERM, os.symlink, "x", self.port("link"))
        answer, _, _ = ports.request(self.folder, rawctl.request(rawctl.CREATE, b"port/file", token=77))
        self.assertEqual(answer, -errno.EBADF)

    def test_a_task(self):
        child = subprocess.Popen(["sleep", "100"])
        pidfd = os.pidfd_open(child.pid)
        try:
            self.assertPosted(0, pidfd, "mine", flags=ports.TASK)
            self.assertEqual(os.getxattr(self.port("mine"), "user.kshared.what"), b"task")
            self.assertEqual(harness.run_as(harness.USER_A, ports.post, self.folder, "theirs", pidfd, 0o644, ports.TASK),
                             -errno.EACCES)
        finally:
            child.kill()
            child.wait()
        self.assertPosted(errno.ESRCH, pidfd, flags=ports.TASK)
        os.close(pidfd)
        for path in ("/proc/self", "/etc/passwd"):
            self.assertPosted(errno.EINVAL, self.opened(path, os.O_RDONLY), flags=ports.TASK)

    def test_a_user_may_show_his_own(self):
        def own():
            with open(os.pidfd_open(os.getpid())) as pidfd:
                return ports.post(self.folder, "own", pidfd.fileno(), 0o600, ports.TASK)
        self.assertEqual(harness.run_as(harness.USER_A, own), 0)
        self.assertEqual(os.stat(self.port("own")).st_uid, harness.USER_A)

    def test_what_is_no_control_group(self):
        for path in ("/", "/proc", self.path("srv")):
            fd = self.opened(path, os.O_RDONLY | os.O_DIRECTORY)
            self.assertPosted(errno.EINVAL, fd, flags=ports.CGROUP)
            self.assertPosted(errno.EINVAL, fd, flags=ports.RULE)
            self.assertEqual(harness.run_as(harness.USER_A, ports.post, self.folder, "theirs", fd, 0o644, ports.RULE),
                             -errno.EPERM)
        fd = self.opened("/", os.O_PATH | os.O_DIRECTORY)
        self.assertPosted(errno.EBADF, fd, flags=ports.CGROUP)

    def test_taking_over(self):
        first = self.serving("again", mode=0o600)
        number = os.stat(self.port("again")).st_ino
        with ports.Page(self.folder, "again") as before:
            end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with end, other:
                self.assertEqual(ports.post(self.folder, "again", end.fileno()), -errno.EEXIST)
            second = self.serving("again", ports.make_page([Field("new", ports.U64, 2)]), flags=ports.REPLACE)
            self.assertEqual(os.stat(self.port("again")).st_ino, number)
            self.assertEqual(stat.S_IMODE(os.stat(self.port("again")).st_mode), 0o644)
            with ports.Page(self.folder, "again") as after:
                self.assertEqual(after.values(), {"new": [2]})
            self.assertEqual(before.values()["number"], [42])
            self.assertEqual(self.text("again"), "new 2\n")
        del first, second

        def other_user():
            return ports.Server(self.folder, "again", MODEL, flags=ports.REPLACE).result
        self.assertEqual(harness.run_as(harness.USER_A, other_user), -errno.EACCES)
        self.assertEqual(self.text("again"), "new 2\n")
        with ports.Server(self.folder, "load", MODEL, flags=ports.REPLACE) as wrong:
            self.assertEqual(wrong.result, -errno.EEXIST)

    def test_boards_and_removal_while_open(self):
        os.mkdir(self.port("board"))
        os.mkdir(self.port("board/inner"))
        server = self.server("board/inner/deep")
        result, end = ports.open_port(self.folder, "board/inner/deep")
        self.assertEqual(result, 0)
        caller = server.accept()
        self.assertEqual(caller.name, "board/inner/deep")
        caller.answer(ports.hello(), [ports.memory(MODEL)])
        os.unlink(self.port("board/inner/deep"))
        with self.assertRaises(EOFError):
            server.accept()
        self.assertEqual(len(end.recv(4096)), ports.HELLO.size, "who has it open goes on")
        caller.close()
        self.assertEqual(end.recv(4096), b"")
        end.close()
        os.rmdir(self.port("board/inner"))
        os.rmdir(self.port("board"))


class Opening(PortCase):
    def test_modes(self):
        self.serving("private", mode=0o600)
        self.serving("readable", mode=0o644)
        self.serving("writable", mode=0o666)
        self.serving("blind", mode=0o622)

        def attempt(name, oflags):
            result, end = ports.open_port(self.folder, name, oflags)
            if end:
                end.close()
            return result
        table = [("private", -errno.EACCES, -errno.EACCES), ("readable", 0, -errno.EACCES), ("writable", 0, 0),
                 ("blind", -errno.EACCES, -errno.EACCES), ("load", 0, -errno.EPERM), ("missing", -errno.ENOENT, -errno.ENOENT)]
        for name, reading, both in table:
            with self.subTest(name):
                self.assertEqual(harness.run_as(harness.USER_A, attempt, name, os.O_RDONLY), reading)
                self.assertEqual(harness.run_as(harness.USER_A, attempt, name, os.O_RDWR), both)
                wanted = -errno.ENOENT if name == "missing" else -errno.EINVAL
                self.assertEqual(attempt(name, os.O_WRONLY), wanted)
                self.assertEqual(attempt(name, os.O_RDONLY | 0x40000000), wanted, "reopening")
        self.assertEqual(attempt("load", os.O_RDWR), -errno.EPERM, "not even root")
        self.assertErrnoAs(harness.USER_A, errno.EACCES, os.open, self.port("private"), os.O_RDONLY)
        self.assertErrno(errno.EPERM, os.open, self.port("writable"), os.O_RDWR)
        self.assertErrno(errno.EPERM, os.open, self.port("load"), os.O_WRONLY)

    def test_what_a_server_learns(self):
        server = self.server("curious", mode=0o666)

        def user():
            result, end = ports.open_port(self.folder, "curious", os.O_RDWR)
            with end:
                return result, os.getpid(), end.recv(1)
        client = self.child(user, uid=harness.USER_A, gid=harness.USER_B)
        with server.accept() as caller:
            self.assertEqual((caller.magic, caller.what, caller.access), (ports.SERVE_MAGIC, 0, 6))
            self.assertEqual((caller.uid, caller.gid, caller.entry, caller.page), (harness.USER_A, harness.USER_B, 0, 0))
            self.assertEqual((caller.flags, len(caller.fds)), (ports.OPEN_PIDFD, 2))
            with open(f"/proc/self/fdinfo/{caller.fds[1]}") as file:
                self.assertIn(f"Pid:\t{caller.pid}\n", file.read())
            caller.answer(b"x")
            result, pid, _ = client.result()
        self.assertEqual((result, pid), (0, caller.pid))

    def test_a_client_can_say_nothing(self):
        server = self.server("mute")
        for name in ("mute", "load"):
            result, end = ports.open_port(self.folder, name)
            self.assertEqual(result, 0)
            self.assertErrno(errno.EPIPE, end.send, b"x")
            end.close()
        server.accept().close()

    def test_a_server_that_is_gone(self):
        server = self.server("mortal")
        server.close()
        self.assertEqual(ports.open_port(self.folder, "mortal")[0], -errno.ECONNREFUSED)
        self.assertErrno(errno.ECONNREFUSED, self.text, "mortal")
        self.assertTrue(os.path.exists(self.port("mortal")), "the entry stays")
        self.serving("mortal", flags=ports.REPLACE)
        self.assertEqual(self.text("mortal"), TEXT)

    def test_a_server_that_takes_nobody_in(self):
        server = self.server("full")
        ends = []
        while True:
            result, end = ports.open_port(self.folder, "full")
            if result:
                break
            ends.append(end)
            self.assertLess(len(ends), 1000)
        self.assertEqual(result, -errno.EAGAIN)
        self.assertGreater(len(ends), 16)
        self.assertTrue(self.text("load"), "others go on")
        server.accept().close()
        for end in ends:
            end.close()

    def test_a_worker_that_dies_in_the_middle(self):
        self.serving("sturdy")
        with ports.Page(self.folder, "sturdy") as page, ports.Page(self.folder, "load") as load:
            for _ in range(10):
                self.folder.kill_worker()
                self.assertEqual(page.values()["number"], [42])
                self.assertEqual(self.text("sturdy"), TEXT)
            self.assertFalse(page.is_gone() or load.is_gone())

    def test_texts_while_workers_die(self):
        self.serving("sturdy")
        stop = threading.Event()
        wrong = []

        def read():
            while not stop.is_set():
                got = self.text("sturdy")
                if got != TEXT:
                    wrong.append(got)
        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            self.folder.kill_worker()
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])


class Text(PortCase):
    def test_every_type(self):
        self.serving("model")
        self.assertEqual(self.text("model"), TEXT)
        self.assertEqual(subprocess.run(["cat", self.port("model")], capture_output=True, text=True, timeout=10).stdout,
                         TEXT)

    def test_piece_by_piece(self):
        self.serving("model")
        fd = self.opened(self.port("model"), os.O_RDONLY)
        got = b"".join(iter(lambda: os.read(fd, 7), b""))
        self.assertEqual(got.decode(), TEXT)
        self.assertEqual(os.pread(fd, 10, 10 ** 6), b"")

    def test_the_description(self):
        self.serving("model")

        def attribute(name):
            return os.getxattr(self.port("model"), f"user.kshared.port.{name}").decode()
        self.assertEqual(attribute("source"), "service")
        self.assertEqual(attribute("size"), str(8 * 3 + 16 + 24 + 24))
        lines = attribute("fields").splitlines()
        self.assertEqual(lines[0], "number u64 things 0 1 8")
        self.assertEqual(lines[2], "part fixed:11 % 16 1 8")
        self.assertEqual(lines[3], "word chars:16 - 24 1 16")
        self.assertEqual(lines[4], "name chars:8 - 40 3 8")
        listed = os.listxattr(self.port("model"))
        self.assertIn("user.kshared.port.fields", listed)
        self.assertEqual(len(listed), len(set(listed)))
        for name in listed:
            os.getxattr(self.port("model"), name)
        self.assertErrno(errno.ENODATA, os.getxattr, self.port("model"), "user.kshared.port.none")
        self.assertErrno(errno.ENODATA, os.getxattr, self.path("port"), "user.kshared.port.fields")
        self.assertErrno(errno.EOPNOTSUPP, os.setxattr, self.port("model"), "user.kshared.port.fields", b"x")

    def refused(self, error, answer, name="liar"):
        """A server that gives this answer costs its readers an error, and nobody else."""
        server = self.server(name, flags=ports.REPLACE if os.path.exists(self.port(name)) else 0)

        def reader():
            return harness.errno_of(self.text, name)
        child = self.child(reader)
        with server.accept() as caller:
            answer(caller)
            got = child.result()
        self.assertEqual(harness.errno_name(got), harness.errno_name(error))

    def page_is(self, error, fd):
        self.refused(error, lambda caller: caller.answer(ports.hello(), [fd]))
        os.close(fd)

    def test_a_server_that_lies(self):
        self.refused(errno.EPROTO, lambda caller: caller.answer(b"hello"))
        self.refused(errno.EPROTO, lambda caller: caller.answer(ports.hello(magic=1), [0]))
        self.refused(errno.EPROTO, lambda caller: caller.answer(ports.hello()))
        self.refused(errno.EPROTO, lambda caller: caller.answer(ports.hello(result=5)))
        self.refused(errno.EPROTO, lambda caller: caller.answer(ports.hello(result=-5000)))
        self.refused(errno.EDQUOT, lambda caller: caller.answer(ports.hello(result=-errno.EDQUOT)))
        self.refused(errno.ECONNREFUSED, lambda caller: caller.close())

    def test_memory_that_is_none(self):
        self.page_is(errno.EPROTO, os.open("/etc/passwd", os.O_RDONLY))
        self.page_is(errno.EPROTO, os.open("/", os.O_RDONLY))
        self.page_is(errno.EPROTO, os.pipe()[0])
        self.page_is(errno.EPROTO, ports.memory(MODEL, seals=0))
        self.page_is(errno.EPROTO, ports.memory(MODEL, seals=ports.SEAL_GROW))
        self.page_is(errno.EPROTO, ports.memory(b"", length=0))
        self.page_is(errno.EPROTO, ports.memory(MODEL, length=1 << 40))
        self.page_is(errno.EPROTO, os.open(self.path("srv"), os.O_RDONLY))

    def test_pages_that_are_wrong(self):
        field = Field("x", ports.U64, 1)
        for page in (ports.make_page([field], magic=7), ports.make_page([field], version=2),
                     ports.make_page([field], size=1 << 20), ports.make_page([field], nr=1 << 30),
                     ports.make_page([field], nr=2), ports.make_page([field], offset=8),
                     ports.make_page([field], offset=1 << 31), ports.make_page([Field("x", 9, 1)]),
                     ports.make_page([Field("x", ports.U64, 1, count=1 << 31)]),
                     ports.make_page([Field("x" * 44, ports.U64, 1)]), os.urandom(4096)):
            self.page_is(errno.EPROTO, ports.memory(page))
        self.page_is(errno.ETIMEDOUT, ports.memory(ports.make_page([field], seq=1)))

    def test_no_end_of_text(self):
        """A page whose text would be too long."""
        fields = [Field("x" * 43, ports.U64, [2 ** 64 - 1] * 30000, count=30000)]
        self.page_is(errno.EFBIG, ports.memory(ports.make_page(fields)))

    def test_a_server_that_does_not_answer(self):
        server = self.server("slow")
        started = time.monotonic()
        children = [self.child(lambda: harness.errno_of(self.text, "slow"), uid=harness.USER_A) for _ in range(8)]
        self.assertTrue(self.text("load"))
        self.assertLess(time.monotonic() - started, 1.5 * harness.SCALE, "others do not wait")
        self.assertErrno(errno.ETIMEDOUT, self.text, "slow")
        for child in children:
            child.result(20)
        server.close()

    def test_a_reader_that_gives_up(self):
        self.server("slow")
        child = self.child(lambda: self.text("slow"))
        harness.wait_until(lambda: "fuse" in harness.process_state(child.pid) or "request_wait" in
                           harness.process_state(child.pid), "it waits", timeout=1.5)
        started = time.monotonic()
        child.signal(signal.SIGKILL)
        harness.wait_until(lambda: not harness.is_alive(child.pid), "it ends")
        self.assertLess(time.monotonic() - started, 1.5)

    def test_descriptors_that_come_along_are_closed(self):
        before = self.folder.descriptor_counts()
        fds = [os.dup(0) for _ in range(100)]
        self.refused(errno.EPROTO, lambda caller: caller.answer(ports.hello(), fds))
        for fd in fds:
            os.close(fd)
        harness.wait_until(lambda: self.folder.descriptor_counts()[1] <= before[1] + 1, "they are closed")

    def test_a_page_that_is_written_all_the_time(self):
        """Each text is of one pass."""
        page = ports.make_page([Field("a", ports.U64, [0] * 64, count=64)])
        fd = os.memfd_create("page", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, 4096)
        os.pwrite(fd, page, 0)
        fcntl.fcntl(fd, ports.F_ADD_SEALS, ports.SEAL_SHRINK)

        def write():
            import mmap
            import struct
            memory = mmap.mmap(fd, 4096)
            at = len(page) - 512
            for n in range(1, 1 << 40):
                memory[ports.SEQ_AT:ports.SEQ_AT + 8] = struct.pack("<Q", 2 * n + 1)
                memory[at:at + 512] = struct.pack("<Q", n) * 64
                memory[ports.SEQ_AT:ports.SEQ_AT + 8] = struct.pack("<Q", 2 * n + 2)
                time.sleep(0.0001)
        writer = self.child(write)
        server = self.server("busy")

        def serve():
            while True:
                try:
                    caller = server.accept()
                except (OSError, EOFError):
                    return
                caller.answer(ports.hello(), [fd])
        threading.Thread(target=serve, daemon=True).start()
        seen = set()
        for _ in range(200):
            values = {line.split()[1] for line in self.text("busy").splitlines()}
            self.assertEqual(len(values), 1)
            seen |= values
        self.assertGreater(len(seen), 5)
        writer.kill()
        os.close(fd)


if __name__ == "__main__":
    harness.main()
