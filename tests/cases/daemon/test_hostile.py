# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients that lie, flood, hang or post traps: they are refused with an errno, and everybody else is served."""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import pathlib
import random
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import threading
import time

import harness
import hungfs
import rawctl
from rawctl import Raw, request

UNDER_VALGRIND = False
FILE_TIMEOUT = 300


class Hostile(harness.FolderCase):
    """With a way to ask whether the others are served; each test begins with an empty folder."""

    def setUp(self):
        self.addCleanup(self.empty)  # after everything else

    def empty(self):
        self.folder.remove_all()
        harness.wait_until(lambda: self.folder.status()["entries"] == 4, "removed entries are forgotten")

    def others_are_served(self, seconds=3):
        """Another user does a bit of everything, by both ways, in time."""
        child = self.child(self.a_bit_of_everything, uid=harness.USER_C)
        child.result(seconds)

    def a_bit_of_everything(self):
        reader, writer = os.pipe()
        with open(self.path("srv/served"), "w") as file:
            file.write(str(reader))
        fd = os.open(self.path("srv/served"), os.O_RDONLY)
        os.write(writer, b"hello")
        assert os.read(fd, 10) == b"hello"
        os.close(fd)
        assert "served" in os.listdir(self.path("srv"))
        os.stat(self.path("srv/served"))
        with harness.Connection(self.folder.dir) as library:
            library.srv_post("served2", writer)
            os.close(library.srv_open("served2", os.O_WRONLY))
            os.close(library.mem_create("served", 4096))
            assert "served2" in library.list("srv")
            library.srv_remove("served2")
        with open(self.path("mem/served"), "r+b") as file:
            file.write(b"x")
        os.unlink(self.path("mem/served"))
        os.unlink(self.path("srv/served"))

    def threads(self, number, function, *args):
        """So many threads that run a function; they do not keep the process from ending."""
        old = threading.stack_size(128 << 10)
        threads = [threading.Thread(target=function, args=args, daemon=True) for _ in range(number)]
        for thread in threads:
            thread.start()
        threading.stack_size(old)
        return threads

    def join_all(self, threads, seconds):
        deadline = time.monotonic() + seconds * harness.SCALE
        for thread in threads:
            thread.join(max(0, deadline - time.monotonic()))
        left = sum(thread.is_alive() for thread in threads)
        self.assertEqual(left, 0, f"of {len(threads)} threads still wait")


class Packets(Hostile):
    def refused(self, data, expected=errno.EINVAL, fds=()):
        with Raw(self.folder) as raw:
            result = raw.ask(data, fds)
        self.assertIn(result, (None, -expected), f"{len(data)} bytes: {data[:60]!r}")

    def test_garbage(self):
        chooser = random.Random(3)
        for length in list(range(0, 80)) + [chooser.randrange(80, 3000) for _ in range(200)]:
            self.refused(chooser.randbytes(length))
        self.others_are_served()

    def test_a_request_with_one_thing_wrong(self):
        good = request(rawctl.HELLO)
        with Raw(self.folder) as raw:
            self.assertEqual(raw.ask(good), 0)
        self.refused(good[:-1])
        self.refused(good[:20])
        self.refused(good + b"x")
        self.refused(request(rawctl.HELLO, magic=rawctl.MAGIC + 1))
        self.refused(request(rawctl.HELLO, token=0))
        for op in (0, 11, 255, 65535):
            self.refused(request(op))
        for length in (0, 1, 9, 1024, 0x7FFFFFFF, 0xFFFFFFFF):
            self.refused(request(rawctl.STAT, b"srv/name", path_len=length))
        self.refused(request(rawctl.STAT, b"s" * 1024))
        self.refused(request(rawctl.OPEN, b"srv", oflags=3), expected=errno.EISDIR)
        self.refused(request(rawctl.CREATE, b"mem/x", mode=0o100600))
        self.refused(request(rawctl.CREATE, b"mem/x", more=0xFFFF))
        self.refused(request(rawctl.CREATE, b"mem/x", size=2**64 - 1))
        self.refused(request(rawctl.POST, b"srv/x"), expected=errno.EBADF)
        self.assertEqual(os.listdir(self.path("srv")) + os.listdir(self.path("mem")), [])
        self.others_are_served()

    def test_paths_lead_nowhere_else(self):
        self.connect().mem_create("secret", 10)
        for path in (b"..", b"srv/..", b"srv/../mem/secret", b"/mem/secret", b"mem//secret", b"mem/./secret",
                     b"mem/secret/", b"mem/secret\0", b"\0", b"mem/secret/x", b"srv/mem/secret"):
            with Raw(self.folder) as raw:
                result = raw.ask(request(rawctl.OPEN, path))
            self.assertIn(-result, (errno.EINVAL, errno.ENOENT, errno.ENOTDIR, errno.EISDIR), path)
        for path in (b"srv/..", b"srv/.", b"srv/a\0b", b"srv/", b"srv", b"x", b"", b"srv/../x"):
            with Raw(self.folder) as raw:
                result = raw.ask(request(rawctl.POST, path), [0])
            self.assertIn(-result, (errno.EINVAL, errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.EPERM, errno.EACCES),
                          path)
        self.assertEqual(sorted(os.listdir(self.folder.dir)), ["ksm", "mem", "port", "srv"])
        self.assertEqual(os.listdir(self.path("srv")), [])

    def test_descriptors_that_nobody_asked_for_are_closed(self):
        before = self.folder.descriptor_counts()
        fds = os.pipe()
        many = list(fds) * 100
        for _ in range(20):
            self.refused(request(rawctl.POST, b"srv/x"), fds=many)
            self.refused(request(rawctl.POST, b"srv/x"), fds=fds)
            self.refused(b"garbage", fds=many[:4])
            self.refused(b"", fds=many)
            self.refused(b"", fds=fds[:1])
            for op in (rawctl.STAT, rawctl.REMOVE, rawctl.OPEN, rawctl.CREATE, rawctl.SEAL):
                with Raw(self.folder) as raw:
                    raw.ask(request(op, b"srv/x"), fds[:1])
            with Raw(self.folder) as raw:
                raw.ask(request(rawctl.HELLO), fds[:1])
                raw.ask(request(rawctl.STATUS), fds[:1])
        # The daemon's copies are gone when its end of the pipe is.
        os.close(fds[1])
        self.assertEqual(harness.read_exactly(fds[0], 1), b"", "a writing end is still open somewhere")
        os.close(fds[0])
        harness.wait_until(lambda: self.folder.descriptor_counts() <= before, "descriptors are closed")

    def test_one_who_never_reads_answers(self):
        raws = [Raw(self.folder) for _ in range(20)]
        for raw in raws:
            raw.socket.setblocking(False)
            with contextlib.suppress(OSError):
                for _ in range(5000):
                    raw.send(request(rawctl.LIST, b"srv"))
        self.others_are_served()
        for raw in raws:
            raw.close()

    def test_six_hundred_connections_of_one_user(self):
        def flood():
            raws = []
            for _ in range(600):
                with contextlib.suppress(OSError):
                    raws.append(Raw(self.folder))
            answers = []
            for raw in raws:
                with contextlib.suppress(OSError):
                    answers.append(raw.ask(request(rawctl.HELLO)))
            os.write(writer, b"x")
            time.sleep(60)  # until it is killed
            return raws, answers
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        reader, writer = os.pipe()
        child = self.child(flood, uid=harness.USER_A)
        harness.read_exactly(reader, 1, timeout=10)
        self.others_are_served()
        # That user himself goes on by the mount, and by the library when the flood is over.
        harness.run_as(harness.USER_A, os.listdir, self.path("srv"))
        child.signal(9)
        child.kill()
        def by_library():
            with harness.Connection(self.folder.dir) as library:
                return library.status().entries
        self.assertGreaterEqual(harness.run_as(harness.USER_A, by_library), 2)

    def test_users_that_take_all_connections(self):
        """Limits count uids, and who has a range of subordinate ones has many; root comes in all the same."""
        def served(raw):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                return raw.ask(request(rawctl.HELLO)) is not None
            return False
        def hold(told, end):
            raws = [Raw(self.folder) for _ in range(512)]
            os.write(told, b"x")
            os.read(end, 1)
            return sum(served(raw) for raw in raws)
        limits = pathlib.Path(f"/proc/{self.folder.worker_pid()}/limits").read_text(encoding="ascii")
        numbers = int(re.search(r"Max open files +(\d+)", limits)[1])
        room = min(4096, numbers // 16)
        told, telling = os.pipe()
        reader, writer = os.pipe()
        children = [self.child(hold, telling, reader, uid=62000 + i) for i in range(8)]
        def refused():
            with Raw(self.folder) as raw:
                return not served(raw)
        harness.read_exactly(told, len(children), timeout=20)
        harness.wait_until(lambda: harness.run_as(harness.USER_A, refused), "all connections are taken", timeout=20)
        self.assertEqual(self.folder.status()["entries"], 4)
        os.write(writer, bytes(len(children)))
        self.assertIn(sum(child.result() for child in children), range(room - 2, room + 1))
        harness.wait_until(lambda: not harness.run_as(harness.USER_A, refused), "there is room again")

    def test_what_is_not_read_any_more_is_not_waited_for(self):
        """Closing a connection drops its packets, and with them a socket that lingers."""
        worker = self.folder.worker_pid()
        connections = contextlib.ExitStack()
        self.addCleanup(connections.close)
        for _ in range(512):
            connections.enter_context(Raw(self.folder))
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        lingering = socket.create_connection(listener.getsockname())
        lingering.setblocking(False)
        lingering.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 20))
        with self.assertRaises(BlockingIOError):
            while True:
                lingering.send(bytes(1 << 20))
        os.kill(worker, signal.SIGSTOP)
        try:
            with Raw(self.folder) as raw:
                raw.send(b"", [lingering.fileno()])
                os.close(lingering.detach())
        finally:
            os.kill(worker, signal.SIGCONT)
        self.others_are_served()
        connections.close()
        self.folder.kill_worker()  # which keeps what it cannot close without waiting

    def lingering(self, count):
        """Sockets that are long in closing: what was sent is not taken, and SO_LINGER waits for that."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen(count)
        found = []
        for _ in range(count):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            one.connect(listener.getsockname())
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    one.send(bytes(65536))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
            found.append(one)
        return listener, found

    def with_a_thousand_numbers(self):
        """In a child, whose daemon has no more either: somebody sends sockets to be closed, and goes on sending."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        folder = harness.Folder()
        def flood(told):
            _listener, sockets = self.lingering(400)
            raw, end = Raw(folder), time.monotonic() + 4
            null = os.open("/dev/null", os.O_RDONLY)
            while time.monotonic() < end:
                batch, sockets = sockets[:200], sockets[200:]
                if told and not batch:
                    os.write(told, b"x")
                    told = None
                with contextlib.suppress(OSError):
                    raw.send(request(rawctl.HELLO), [one.fileno() for one in batch] or [null] * 250)
                    for one in batch:
                        one.close()
                    if raw.receive() is not None:
                        continue
                raw.close()
                with contextlib.suppress(OSError):
                    raw = Raw(folder)
        try:
            folder.start()
            reader, writer = os.pipe()
            with harness.Child(flood, writer, uid=harness.USER_A) as child:
                harness.read_exactly(reader, 1, timeout=20)
                for turn in range(5):
                    folder.cli("status", check=True, timeout=3)
                    folder.cli("status", uid=harness.USER_B, check=True, timeout=3)
                    with open(f"{folder.dir}/srv/post{turn}", "w") as file:
                        file.write("0")
                child.result(20)
        finally:
            folder.take_down()
            folder.delete()

    def test_sockets_that_are_long_in_closing_leave_numbers_for_others(self):
        self.child(self.with_a_thousand_numbers).result(60)

    def test_what_the_library_removes_ends_at_once(self):
        with harness.Connection(self.folder.dir) as library:
            before = library.status().entries
            ours, theirs = socket.socketpair()
            for turn in range(20):
                library.srv_post(f"short{turn}", theirs.fileno())
                library.srv_remove(f"short{turn}")
                self.assertEqual(library.status().entries, before)
            ours.close()
            theirs.close()

    def test_half_a_conversation(self):
        for _ in range(50):
            raw = Raw(self.folder)
            raw.send(request(rawctl.CREATE, b"mem/left", size=4096))
            raw.close()
            raw = Raw(self.folder)
            raw.send(request(rawctl.REMOVE, b"mem/left"))
            raw.close()
        self.others_are_served()
        self.assertErrno(errno.ENOENT, self.connect().remove, "srv/never")


class Inherited(Hostile):
    def test_a_connection_inherited_by_another_user(self):
        library = self.connect()
        library.srv_post("mine", os.memfd_create("x"), 0o600)
        raw = Raw(self.folder)
        self.addCleanup(raw.close)
        self.assertEqual(raw.ask(request(rawctl.OPEN, b"srv/mine", seq=1)), 0)
        def other_user():
            return (raw.ask(request(rawctl.OPEN, b"srv/mine", seq=2)),
                    harness.errno_of(library.srv_open, "mine", os.O_RDONLY),
                    harness.errno_of(library.srv_post, "his", 0))
        result = harness.run_as(harness.USER_A, other_user)
        self.assertEqual(result, (-errno.ESTALE, errno.EACCES, 0))
        self.assertEqual(library.stat("srv/his").uid, harness.USER_A)
        # And the first one goes on as himself.
        self.assertEqual(raw.ask(request(rawctl.OPEN, b"srv/mine", seq=3)), 0)
        os.close(library.srv_open("mine", os.O_RDWR))

    def test_a_connection_on_which_nothing_was_said_yet(self):
        library = self.connect()
        library.srv_post("unspoken", os.memfd_create("x"), 0o600)
        raw = Raw(self.folder)
        self.addCleanup(raw.close)
        ask = request(rawctl.OPEN, b"srv/unspoken")
        self.assertEqual(harness.run_as(harness.USER_A, raw.ask, ask), -errno.ESTALE)
        self.assertEqual(harness.run_as(None, raw.ask, ask), -errno.ESTALE, "another process, if of the same user")
        self.assertEqual(raw.ask(ask), 0)

    def test_a_request_that_another_user_has_made(self):
        """Its number is no secret: who sends it again gets nothing by it."""
        def ask(flags=0):
            with Raw(self.folder) as raw:
                return raw.ask(request(rawctl.CREATE, b"mem/made", token=77, seq=5, size=4096, flags=flags))
        self.assertEqual(harness.run_as(harness.USER_A, ask), 0)
        self.assertEqual(harness.run_as(harness.USER_A, ask), -errno.EEXIST)
        self.assertEqual(harness.run_as(harness.USER_A, ask, 1), 0)
        self.assertEqual(harness.run_as(harness.USER_B, ask, 1), -errno.EEXIST)

    def test_a_process_that_becomes_another_user(self):
        library = self.connect()
        library.srv_post("roots", os.memfd_create("x"), 0o600)
        def change():
            opened = harness.errno_of(library.srv_open, "roots", os.O_RDONLY)
            os.setgroups([])
            os.setresgid(harness.USER_A, harness.USER_A, harness.USER_A)
            os.setresuid(harness.USER_A, harness.USER_A, harness.USER_A)
            return opened, harness.errno_of(library.srv_open, "roots", os.O_RDONLY)
        self.assertEqual(self.child(change).result(), (0, errno.EACCES))


class Traps(Hostile):
    """Posted descriptors that stand for the folder itself, or that hang."""

    def test_a_file_of_the_folder_itself(self):
        library = self.connect()
        os.close(library.mem_create("object", 4096))
        link = self.scratch("link")
        os.symlink(self.path("mem/object"), link)
        fd = self.opened(link, os.O_RDWR)
        again = self.opened(f"/proc/self/fd/{fd}", os.O_RDONLY)
        directory = self.opened(self.path("srv"), os.O_RDONLY)
        path_only = self.opened(self.path("mem/object"), os.O_PATH)
        for what in (fd, again, directory, path_only):
            expected = errno.EBADF if what == path_only else errno.ELOOP
            self.assertErrno(expected, library.srv_post, "loop", what)
            into = self.opened(self.path("srv/number"), os.O_WRONLY | os.O_CREAT)
            self.assertErrno(expected, os.write, into, str(what).encode())
        self.assertEqual(os.listdir(self.path("srv")), ["number"])
        self.others_are_served()

    def test_links_into_and_out_of_the_folder(self):
        self.assertErrno(errno.EPERM, os.symlink, "/etc/passwd", self.path("srv/link"))
        os.close(os.open(self.path("srv/name"), os.O_WRONLY | os.O_CREAT))
        self.assertErrno(errno.EPERM, os.link, self.path("srv/name"), self.path("srv/name2"))
        self.assertErrno(errno.EPERM, os.mkfifo, self.path("srv/fifo"))
        self.assertErrno(errno.EXDEV, os.link, self.path("srv/name"), self.scratch("name2"))

    def test_ones_own_control_connection(self):
        raw = Raw(self.folder)
        self.addCleanup(raw.close)
        self.assertEqual(raw.ask(request(rawctl.HELLO)), 0)
        library = self.connect()
        library.srv_post("control", raw.socket.fileno(), 0o666)
        fd = self.opened(self.path("srv/control"), os.O_RDWR | os.O_NONBLOCK)
        # What the worker writes to itself carries other credentials than the connection's.
        os.write(fd, request(rawctl.CREATE, b"mem/by-the-worker"))
        answer = harness.wait_until(lambda: self.readable(fd), "the worker has answered itself")
        self.assertEqual(rawctl.REPLY.unpack_from(answer)[1], -errno.ESTALE)
        self.assertEqual(os.listdir(self.path("mem")), [])
        self.others_are_served()
        library.srv_remove("control")
        self.others_are_served()

    @staticmethod
    def readable(fd):
        try:
            return os.read(fd, 4096)
        except BlockingIOError:
            return b""

    def test_an_epoll_descriptor_that_contains_a_file_of_the_folder(self):
        library = self.connect()
        reader, _ = os.pipe()
        library.srv_post("pipe", reader)
        inside = self.opened(self.path("srv/pipe"), os.O_RDONLY)
        epoll = select.epoll()
        epoll.register(inside, select.EPOLLIN)
        library.srv_post("epoll", epoll.fileno())
        self.child(lambda: harness.errno_of(os.open, self.path("srv/epoll"), os.O_RDONLY)).result(5)
        self.child(lambda: os.stat(self.path("srv/epoll"))).result(5)
        epoll.close()
        self.others_are_served()
        library.srv_remove("epoll")
        library.srv_remove("pipe")
        self.others_are_served()

    def test_a_socket_with_descriptors_of_the_folder_on_their_way(self):
        library = self.connect()
        os.close(library.mem_create("object", 4096))
        reader, _ = os.pipe()
        library.srv_post("pipe", reader)
        for number in range(20):
            one, other = socket.socketpair()
            inside = [os.open(self.path("mem/object"), os.O_RDWR), os.open(self.path("srv/pipe"), os.O_RDONLY)]
            socket.send_fds(one, [b"x"], inside + [other.fileno()])
            for fd in inside:
                os.close(fd)
            library.srv_post("socket", other.fileno())
            one.close()
            other.close()
            # Reading drops what came along; so does the end of the socket, unread.
            if number % 2:
                with open(self.path("srv/socket"), "rb", buffering=0) as file:
                    self.assertEqual(file.read(10), b"x")
            self.child(lambda: os.unlink(self.path("srv/socket"))).result(5)
        self.others_are_served()
        os.unlink(self.path("mem/object"))
        library.srv_remove("pipe")
        harness.wait_until(lambda: library.status().entries == 4, "nothing of it is left")



class HungServer(Hostile):
    """A posted file whose file system does not answer any more hangs whoever uses it, and nobody else."""

    timeout = 60.0
    descriptor_slack = 2  # closing a file of a hung server may last until that server is gone

    def setUp(self):
        super().setUp()
        self.hung = hungfs.HungFs(self.scratch("hung"))
        # Whoever has a file of it open cannot even be killed before its server is gone.
        self.stuck = []
        self.addCleanup(lambda: [child.__exit__() for child in self.stuck])
        self.addCleanup(self.hung.end)

    def start(self, function, *args):
        child = harness.Child(function, *args)
        self.stuck.append(child)
        return child

    def in_time(self, function, *args):
        return self.child(function, *args).result(5)

    def post_before_and_after(self, ready, hung):
        """In a child, which alone has the file open."""
        fd = os.open(self.hung.path, os.O_RDWR)
        with harness.Connection(self.folder.dir) as library:
            library.srv_post("early", fd)
            os.write(ready, b"x")
            os.read(hung, 1)
            library.srv_post("late", fd)
            with open(self.path("srv/number"), "w") as file:
                file.write(str(fd))
            os.write(ready, b"x")
            os.read(hung, 1)

    def test_everybody_else_is_served(self):
        library = self.connect()
        ready, hung = os.pipe(), os.pipe()
        self.start(self.post_before_and_after, ready[1], hung[0])
        harness.read_exactly(ready[0], 1)
        self.hung.hang()
        os.write(hung[1], b"x")
        harness.read_exactly(ready[0], 1)
        self.others_are_served()
        for name in ("early", "late", "number"):
            for function in (self.read, self.write, self.allocate, self.sync):
                self.start(function, name)
        self.others_are_served()
        self.assertEqual(set(library.list("srv")), {"early", "late", "number"})
        sizes = self.in_time(lambda: [entry.stat().st_size for entry in os.scandir(self.path("srv"))])
        self.assertEqual(len(sizes), 3)
        self.in_time(os.getxattr, self.path("srv/early"), "user.kshared.what")
        self.in_time(os.chmod, self.path("srv/early"), 0o666)
        self.in_time(os.rename, self.path("srv/early"), self.path("srv/renamed"))
        self.folder.kill_worker()
        self.others_are_served()
        self.in_time(os.unlink, self.path("srv/renamed"))
        self.others_are_served()
        self.in_time(library.srv_remove, "late")
        self.in_time(os.unlink, self.path("srv/number"))
        self.others_are_served()
        self.folder.kill_worker()
        self.others_are_served()

    def ends(self, end):
        """A folder of its own ends in time though a file that was posted there hangs; its keeper when that does."""
        folder = harness.Folder()
        self.addCleanup(folder.delete)
        self.addCleanup(folder.force_down)
        folder.start()
        keeper, worker = folder.keeper_pid(), folder.worker_pid()
        self.start(self.hold_a_posted_file, folder)
        with harness.Connection(folder.dir) as library:
            harness.wait_until(lambda: "early" in library.list("srv"), "the file is posted")
        self.hung.hang()
        started = time.monotonic()
        end(folder, keeper)
        harness.wait_until(lambda: not folder.is_mounted() and not os.path.exists(folder.socket()),
                           "mount and socket are gone", timeout=10)
        self.assertLess(time.monotonic() - started, 10 * harness.SCALE)
        self.assertRefused(folder.cli("status"))
        self.hung.end_server()
        harness.wait_until(lambda: not harness.is_alive(keeper) and not harness.is_alive(worker),
                           "keeper and worker end with the server", timeout=10)
        # And a new one can begin there.
        folder.process.wait(10)
        folder.start()
        self.assertEqual(sorted(os.listdir(folder.dir)), ["ksm", "mem", "port", "srv"])
        self.assertEqual(folder.take_down(), [])

    def hold_a_posted_file(self, folder):
        fd = os.open(self.hung.path, os.O_RDWR)
        with harness.Connection(folder.dir) as library:
            library.srv_post("early", fd)
        signal.pause()

    def test_the_folder_can_be_ended_by_down(self):
        self.ends(lambda folder, keeper: self.assertEqual(folder.cli("down", timeout=15).returncode, 0))

    def test_the_folder_can_be_ended_by_a_signal(self):
        self.ends(lambda folder, keeper: os.kill(keeper, signal.SIGTERM))

    def read(self, name):
        os.pread(os.open(self.path(f"srv/{name}"), os.O_RDONLY), 100, 0)

    def write(self, name):
        os.pwrite(os.open(self.path(f"srv/{name}"), os.O_WRONLY), b"x", 0)

    def allocate(self, name):
        os.posix_fallocate(os.open(self.path(f"srv/{name}"), os.O_WRONLY), 0, 100)

    def sync(self, name):
        os.fsync(os.open(self.path(f"srv/{name}"), os.O_WRONLY))

    def test_many_of_them_are_removed(self):
        library = self.connect()
        for number in range(300):
            fd = os.open(self.hung.path, os.O_RDWR)
            library.srv_post(f"hung{number}", fd)
            os.close(fd)
        self.hung.hang()
        for number in range(60):
            self.start((self.read, self.write)[number % 2], f"hung{number}")
        self.others_are_served()
        for number in range(300):
            self.in_time(library.srv_remove, f"hung{number}")
        self.others_are_served()
        # Others' descriptors are still given back meanwhile.
        reader, writer = os.pipe()
        def post_and_remove():
            with harness.Connection(self.folder.dir) as connection:
                connection.srv_post("pipe", writer)
                connection.srv_remove("pipe")
        harness.run_as(harness.USER_B, post_and_remove)
        os.close(writer)
        self.assertEqual(harness.read_exactly(reader, 1), b"", "the writing end is closed")


class PageThatNeverComes(Hostile):
    """A process holds a pipe's mutex while it waits for a page that nobody brings. SIGKILL does not help whoever waits for it."""

    timeout = 60.0

    def setUp(self):
        self.uffd = harness.libc.syscall(323, os.O_CLOEXEC | os.O_NONBLOCK)
        if self.uffd < 0:
            raise OSError(ctypes.get_errno(), "userfaultfd")
        fcntl.ioctl(self.uffd, 0xC018AA3F, bytearray(struct.pack("QQQ", 0xAA, 0, 0)))  # UFFDIO_API
        self.page = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.page))
        fcntl.ioctl(self.uffd, 0xC020AA00, bytearray(struct.pack("QQQQ", self.address, 4096, 1, 0)))  # UFFDIO_REGISTER

    def bring_page(self):
        fcntl.ioctl(self.uffd, 0xC020AA04, bytearray(struct.pack("QQQq", self.address, 4096, 0, 0)))  # UFFDIO_ZEROPAGE

    def test_only_its_users_wait(self):
        reader, writer = os.pipe()
        os.write(writer, b"before")
        library = self.connect()
        library.srv_post("held", reader)
        holder = self.threads(1, lambda: harness.libc.write(writer, ctypes.c_void_p(self.address), 4096))
        harness.wait_until(lambda: select.select([self.uffd], [], [], 0)[0], "the holder faults")
        held = os.open(self.path("srv/held"), os.O_RDONLY)
        got = []
        users = self.threads(1, lambda: got.append(os.read(held, 10)))
        self.others_are_served()
        # Who has a connection gets his answers, though the one who accepted it hangs in its exit.
        for number in range(2):
            connections = [self.connect() for _ in range(3)]
            self.folder.kill_worker()
            self.others_are_served(20)
            for connection in connections:
                connection.srv_post(f"kept{number}", 0)
                connection.srv_remove(f"kept{number}")
        self.assertEqual(set(library.list("srv")), {"held"})
        self.assertEqual(got, [])
        self.bring_page()
        self.join_all(holder + users, 20)
        # Read once, by whichever worker: not lost, not twice.
        self.assertEqual(got, [b"before" + bytes(4)])
        self.assertEqual(os.read(reader, 8192), bytes(4092))
        for fd in (reader, writer, held, self.uffd):
            os.close(fd)


class Crowds(Hostile):
    timeout = 120.0

    def test_four_thousand_blocked_readers_are_all_woken(self):
        pipes = [os.pipe() for _ in range(40)]
        library = self.connect()
        opened = []
        for number, (reader, _) in enumerate(pipes):
            library.srv_post(f"pipe{number}", reader)
            opened.append(os.open(self.path(f"srv/pipe{number}"), os.O_RDONLY))
        got = []
        threads = []
        for fd in opened:
            threads += self.threads(100, lambda fd=fd: got.append(os.read(fd, 1)))
        self.blocked(4000)
        self.others_are_served(10)
        for _, writer in pipes[:20]:
            os.write(writer, b"x" * 100)
        self.join_all(threads[:2000], 30)
        # Half of them wait for the next worker.
        self.folder.kill_worker()
        self.others_are_served(20)
        for _, writer in pipes[20:]:
            os.write(writer, b"x" * 100)
        self.join_all(threads, 30)
        self.assertEqual(got, [b"x"] * 4000)
        for fd in opened + [fd for pair in pipes for fd in pair]:
            os.close(fd)

    SHARE = 16384  # handles that write or are streams, of one user

    def open_many(self, name, number, ready, end):
        """As a child: so many handles, which wait if they are streams, until `end` closes; then one more."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, number + 200)), hard))
        epoll = select.epoll()
        for _ in range(number):
            fd = os.open(self.path(name), os.O_RDWR)
            if name.startswith("srv"):
                epoll.register(fd, select.EPOLLIN)
        os.write(ready, b".")
        os.read(end, 1)

    def use_a_stream(self):
        """As another: post one, open it and wait for it."""
        reader, writer = os.pipe()
        with harness.Connection(self.folder.dir) as library:
            library.srv_post("another", reader)
            fd = os.open(self.path("srv/another"), os.O_RDONLY)
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            assert poll.poll(50) == []
            threading.Timer(0.1, os.write, (writer, b"x")).start()
            assert poll.poll(3000) == [(fd, select.POLLIN)]
            os.close(fd)
            library.srv_remove("another")

    def test_one_users_handles_leave_some_for_others(self):
        os.umask(0)
        library = self.connect()
        one, _ = socket.socketpair()
        library.srv_post("stream", one.fileno(), 0o666)
        os.close(library.mem_create("object", 4096, 0o666))
        ready_reader, ready_writer = os.pipe()
        end_reader, end_writer = os.pipe()

        def opener(name):
            os.close(end_writer)
            self.open_many(name, self.SHARE // 4, ready_writer, end_reader)

        def one_more(name):
            os.close(os.open(self.path(name), os.O_RDWR))

        children = [self.child(opener, name, uid=harness.USER_A)
                    for name in ("srv/stream", "mem/object", "srv/stream", "mem/object")]
        harness.read_exactly(ready_reader, len(children), timeout=60)
        for _ in range(2):
            for name in ("srv/stream", "mem/object"):
                self.assertErrnoAs(harness.USER_A, errno.ENFILE, one_more, name)
                self.assertErrnoAs(harness.USER_B, 0, one_more, name)
            self.others_are_served(10)
            self.child(self.use_a_stream, uid=harness.USER_B).result(10)
            self.folder.kill_worker()
        for fd in (end_reader, end_writer):
            os.close(fd)
        for child in children:
            child.result(60)
        harness.wait_until(lambda: harness.errno_as(harness.USER_A, one_more, "mem/object") == 0,
                           "his handles are given back", timeout=30)
        for fd in (ready_reader, ready_writer):
            os.close(fd)
        one.close()

    def blocked(self, number):
        """So many threads of ours wait for the folder."""
        def waiting():
            count = 0
            for task in os.listdir("/proc/self/task"):
                with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/wchan") as file:
                    count += file.read().startswith("request_wait")
            return count >= number
        harness.wait_until(waiting, f"{number} threads wait", timeout=30)

    def test_two_hundred_blocked_writers_do_not_stop_others(self):
        pipes = [os.pipe() for _ in range(10)]
        library = self.connect()
        threads, opened = [], []
        for number, (_, writer) in enumerate(pipes):
            library.srv_post(f"full{number}", writer)
            opened.append(os.open(self.path(f"srv/full{number}"), os.O_WRONLY))
            threads += self.threads(20, self.write_all, opened[-1], bytes([number]) * 100000)
        # The kernel lets one of them at a time write to each pipe; the others wait for that one.
        self.blocked(len(pipes))
        self.others_are_served(10)
        for number, (reader, _) in enumerate(pipes):
            data = harness.read_exactly(reader, 20 * 100000, timeout=20)
            self.assertEqual(data, bytes([number]) * (20 * 100000))
        self.join_all(threads, 20)
        for fd in opened + [fd for pair in pipes for fd in pair]:
            os.close(fd)

    def test_an_entry_is_changed_and_removed_while_a_writer_waits(self):
        os.umask(0)
        reader, writer = os.pipe()
        library = self.connect()
        library.srv_post("full", writer, 0o666)
        blocked = self.child(lambda: self.write_all(os.open(self.path("srv/full"), os.O_WRONLY), b"x" * 200000),
                             uid=harness.USER_A)
        harness.wait_until(lambda: "request_wait" in harness.process_state(blocked.pid), "the writer waits")
        def do_not_wait():
            fd = os.open(self.path("srv/full"), os.O_WRONLY | os.O_NONBLOCK)
            return harness.errno_name(harness.errno_of(os.write, fd, b"y" * 200000))
        # Those who cannot be killed until the writer has gone are let go in the end, whatever happens.
        stuck = []
        self.addCleanup(lambda: [child.__exit__() for child in stuck])
        self.addCleanup(lambda: blocked.signal(9) if blocked.pid else None)
        for function, expected in ((do_not_wait, "EAGAIN"),
                                   (lambda: os.chmod(self.path("srv/full"), 0o600), None),
                                   (lambda: os.rename(self.path("srv/full"), self.path("srv/still-full")), None),
                                   (lambda: os.unlink(self.path("srv/still-full")), None)):
            stuck.append(harness.Child(function))
            self.assertTrue(select.select([stuck[-1].reader], [], [], 5 * harness.SCALE)[0],
                            "it waits for the writer")
            self.assertEqual(stuck[-1].result(), expected)
        self.others_are_served()
        self.assertEqual(harness.read_exactly(reader, 200000), b"x" * 200000)
        blocked.result()

    @staticmethod
    def write_all(fd, data):
        while data:
            data = data[os.write(fd, data):]


class Exhaustion(Hostile):
    """Calls of the worker fail for want of memory, space or descriptors: a clean errno, and nothing half made."""

    needs = ["strace"]

    @contextlib.contextmanager
    def failing(self, call, error):
        """While this lasts a system call of the worker fails."""
        worker = self.folder.worker_pid()
        strace = subprocess.Popen(["strace", "-f", "-p", str(worker), "-e", f"trace={call}", "-e",
                                   f"inject={call}:error={error}", "-o", "/dev/null"],
                                  stderr=subprocess.PIPE, text=True)
        try:
            line = strace.stderr.readline()
            self.assertIn("attached", line)
            yield
        finally:
            strace.terminate()
            strace.wait(5)
            strace.stderr.close()
        self.assertEqual(self.folder.worker_pid(), worker, "the worker lives on")

    def nothing_made(self):
        self.assertEqual(os.listdir(self.path("srv")) + os.listdir(self.path("mem")), [])
        library = self.connect()
        harness.wait_until(lambda: (library.status().entries, library.status().bytes) == (4, 0), "nothing is charged")
        self.others_are_served()

    def test_no_memory_for_a_new_object(self):
        library = self.connect()
        with self.failing("memfd_create", "ENOMEM"):
            self.assertErrno(errno.ENOMEM, os.open, self.path("mem/x"), os.O_RDWR | os.O_CREAT)
            self.assertErrno(errno.ENOMEM, library.mem_create, "x", 4096)
        self.nothing_made()

    def test_no_space_for_its_size(self):
        library = self.connect()
        with self.failing("ftruncate", "ENOSPC"):
            self.assertErrno(errno.ENOSPC, library.mem_create, "x", 4096)
        self.nothing_made()

    def test_no_space_to_grow(self):
        library = self.connect()
        os.close(library.mem_create("x", 4096, flags=harness.KMEM_RESIZABLE))
        fd = self.opened(self.path("mem/x"), os.O_RDWR)
        with self.failing("ftruncate", "ENOSPC"):
            self.assertErrno(errno.ENOSPC, os.ftruncate, fd, 1 << 20)
            self.assertErrno(errno.ENOSPC, os.truncate, self.path("mem/x"), 1 << 20)
        self.assertEqual(os.stat(self.path("mem/x")).st_size, 4096)
        self.assertEqual(library.status().bytes, 4096)
        os.close(fd)
        os.unlink(self.path("mem/x"))
        self.nothing_made()

    def test_its_owner_cannot_be_set(self):
        with self.failing("fchown", "EPERM"):
            self.assertErrnoAs(harness.USER_A, errno.EPERM, os.open, self.path("mem/x"), os.O_RDWR | os.O_CREAT)
        self.nothing_made()

    def test_no_descriptor_for_a_posted_one(self):
        with self.failing("pidfd_getfd", "EMFILE"):
            fd = os.open(self.path("srv/x"), os.O_WRONLY | os.O_CREAT)
            self.assertErrno(errno.EMFILE, os.write, fd, b"0")
            os.close(fd)
        self.assertEqual(os.getxattr(self.path("srv/x"), "user.kshared.what"), b"unposted")
        os.unlink(self.path("srv/x"))
        self.nothing_made()

    def test_no_descriptor_to_be_given_out(self):
        library = self.connect()
        os.close(library.mem_create("x", 4096))
        with self.failing("openat,fcntl", "EMFILE"):
            self.assertErrno(errno.EMFILE, library.mem_open, "x")
            self.assertErrno(errno.EMFILE, library.mem_create, "y", 10)
        os.close(library.mem_open("x"))
        os.unlink(self.path("mem/x"))
        self.nothing_made()


if __name__ == "__main__":
    harness.main()
