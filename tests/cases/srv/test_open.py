# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening what is posted: through the mount with plain system calls, and through the library."""

import array
import ctypes
import errno
import fcntl
import mmap
import os
import pty
import select
import signal
import socket
import struct
import termios
import threading
import time

import harness

KCMP_FILE = 0
SYS_KCMP = 312  # x86-64
SO_COOKIE = 57


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


def cookie(sock_fd):
    """The kernel's number of a socket."""
    with socket.socket(fileno=os.dup(sock_fd)) as sock:
        return sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)


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


class Streams(OpenCase):
    """Sockets, pipes, terminals and counters are proxied."""

    def both_ways(self, kind):
        ours, theirs = self.socketpair(kind)
        fd = self.open(self.post(theirs.fileno()))
        os.write(fd, b"question")
        self.assertEqual(ours.recv(100), b"question")
        ours.send(b"answer")
        self.assertEqual(os.read(fd, 100), b"answer")
        return ours, theirs, fd

    def test_stream_socket(self):
        ours, theirs, fd = self.both_ways(socket.SOCK_STREAM)
        ours.send(b"in parts")
        self.assertEqual(os.read(fd, 3), b"in ")
        self.assertEqual(os.read(fd, 100), b"parts")
        theirs.close()
        ours.close()
        self.assertEqual(os.read(fd, 1), b"", "end of file")
        self.assertEqual(os.read(fd, 1), b"")

    def test_tcp_socket(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            near = socket.create_connection(server.getsockname())
            far, _ = server.accept()
            with near, far:
                fd = self.open(self.post(near.fileno()))
                os.write(fd, b"request")
                self.assertEqual(far.recv(100), b"request")
                far.sendall(b"reply")
                far.shutdown(socket.SHUT_WR)
                self.assertEqual(harness.read_exactly(fd, 100), b"reply")

    def test_datagram_socket(self):
        ours, _, fd = self.both_ways(socket.SOCK_DGRAM)
        ours.send(b"first")
        ours.send(b"second")
        self.assertEqual(os.read(fd, 100), b"first", "one read is one datagram")
        self.assertEqual(os.read(fd, 3), b"sec")
        ours.send(b"third")
        self.assertEqual(os.read(fd, 100), b"third", "the rest of a cut datagram is gone, as without the mount")
        os.write(fd, b"x")
        os.write(fd, b"yy")
        self.assertEqual((ours.recv(100), ours.recv(100)), (b"x", b"yy"))

    def test_seqpacket_socket(self):
        ours, _, fd = self.both_ways(socket.SOCK_SEQPACKET)
        ours.send(b"first")
        ours.send(b"second")
        self.assertEqual(os.read(fd, 100), b"first")
        self.assertEqual(os.read(fd, 100), b"second")

    def test_listening_socket(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            path = self.post(server.fileno())
            fd = self.open(path)
            self.assertErrno(errno.ENOTCONN, os.read, fd, 1)
            self.assertErrno(errno.EPIPE, os.write, fd, b"x")
            real = self.kept(self.connect().srv_open(self.name()))
            client = socket.create_connection(server.getsockname())
            with client, socket.socket(fileno=os.dup(real)) as accepting:
                peer, _ = accepting.accept()
                with peer:
                    client.send(b"accepted")
                    self.assertEqual(peer.recv(100), b"accepted")

    def test_pipe(self):
        reader, writer = os.pipe()
        out, into = self.open(self.post(reader, "-r"), os.O_RDONLY), self.open(self.post(writer, "-w"), os.O_WRONLY)
        os.close(reader)
        os.close(writer)
        os.write(into, b"through both")
        self.assertEqual(os.read(out, 7), b"through")
        self.assertEqual(os.read(out, 100), b" both")
        os.unlink(self.srv("-w"))
        os.close(into)
        self.assertEqual(harness.read_exactly(out, 1), b"", "the last writer is gone")

    def test_fifo(self):
        os.mkfifo(self.scratch("fifo"))
        poster = self.opened(self.scratch("fifo"), os.O_RDWR)
        fd = self.open(self.post(poster))
        os.write(fd, b"fifo")
        self.assertEqual(os.read(poster, 100), b"fifo")
        os.write(poster, b"back")
        self.assertEqual(os.read(fd, 100), b"back")

    def test_terminal(self):
        master, slave = self.kept(*pty.openpty())
        fd = self.open(self.post(slave))
        os.write(master, b"typed\n")
        self.assertEqual(os.read(fd, 100), b"typed\n")
        os.write(fd, b"shown\n")
        self.assertEqual(harness.read_exactly(master, 14), b"typed\r\nshown\r\n")
        os.write(master, b"no newline")
        other = self.open(self.srv(), os.O_RDWR | os.O_NONBLOCK)
        self.assertErrno(errno.EAGAIN, os.read, other, 100)
        self.assertErrno(errno.ENOTTY, self.tcgetattr, fd)
        real = self.kept(self.connect().srv_open(self.name()))
        self.assertTrue(os.isatty(real))

    def tcgetattr(self, fd):
        try:
            termios.tcgetattr(fd)
        except termios.error as error:
            raise OSError(error.args[0], "tcgetattr") from None

    def test_terminals_master(self):
        master, slave = self.kept(*pty.openpty())
        fd = self.open(self.post(master))
        os.write(fd, b"typed\n")
        self.assertEqual(os.read(slave, 100), b"typed\n")
        self.assertEqual(harness.read_exactly(fd, 7), b"typed\r\n")

    def test_eventfd(self):
        counter = self.kept(eventfd(0))
        fd = self.open(self.post(counter), os.O_RDWR | os.O_NONBLOCK)
        self.assertErrno(errno.EAGAIN, os.read, fd, 8)
        self.assertEqual(os.write(fd, struct.pack("=Q", 3)), 8)
        os.write(counter, struct.pack("=Q", 4))
        self.assertEqual(os.read(fd, 8), struct.pack("=Q", 7))
        self.assertErrno(errno.EINVAL, os.read, fd, 4)

    def test_timerfd(self):
        timer = self.kept(timerfd(0.2))
        fd = self.open(self.post(timer), os.O_RDWR)
        started = time.monotonic()
        self.assertEqual(os.read(fd, 8), struct.pack("=Q", 1))
        self.assertLess(time.monotonic() - started, 5)

    def test_inotify(self):
        watch = self.kept(harness.libc.inotify_init1(os.O_NONBLOCK))
        self.assertGreater(harness.libc.inotify_add_watch(watch, os.fsencode(self.scratch()), 0x100), 0)  # IN_CREATE
        fd = self.open(self.post(watch), os.O_RDONLY)
        open(self.scratch("seen"), "w").close()
        self.assertIn(b"seen\0", os.read(fd, 4096))

    def test_zero(self):
        zero = self.opened("/dev/zero", os.O_RDWR)
        fd = self.open(self.post(zero))
        self.assertEqual(os.read(fd, 100000), bytes(100000))
        self.assertEqual(os.write(fd, b"x" * 100000), 100000)

    def test_it_looks_like_a_file_and_cannot_be_sought(self):
        _, theirs = self.socketpair()
        fd = self.open(self.post(theirs.fileno()))
        self.assertErrno(errno.ESPIPE, os.lseek, fd, 0, os.SEEK_SET)
        self.assertErrno(errno.ESPIPE, os.pread, fd, 1, 0)
        self.assertErrno(errno.ESPIPE, os.pwrite, fd, b"x", 0)
        self.assertErrno(errno.EINVAL, os.ftruncate, fd, 0)
        self.assertErrno(errno.ENODEV, map_shared, fd, 4096, mmap.PROT_READ)
        self.assertEqual(os.fstat(fd).st_size, 0)

    def test_truncation_by_opening_means_nothing(self):
        ours, theirs = self.socketpair()
        fd = self.open(self.post(theirs.fileno()), os.O_RDWR | os.O_TRUNC)
        ours.send(b"whole")
        self.assertEqual(os.read(fd, 100), b"whole")

    def test_an_open_entry_outlives_its_name(self):
        ours, theirs = self.socketpair()
        fd = self.open(self.post(theirs.fileno()))
        theirs.close()
        os.unlink(self.srv())
        os.write(fd, b"nameless")
        self.assertEqual(ours.recv(100), b"nameless")
        os.close(fd)
        self.assertEqual(ours.recv(1), b"", "the last user is gone")

    def test_bytes_go_to_one_of_several_readers(self):
        reader, writer = self.pipe()
        path = self.post(reader)
        opened = [self.open(path, os.O_RDONLY) for _ in range(3)]
        children = [self.child(lambda fd=fd: (os.close(writer), len(harness.read_exactly(fd, 1 << 20, timeout=20)))[1])
                    for fd in opened]
        total = 200000
        sent = 0
        while sent < total:
            sent += os.write(writer, b"x" * min(4096, total - sent))
        os.close(writer)
        self.assertEqual(sum(child.result(20) for child in children), total)


class Waiting(OpenCase):
    """Blocking, O_NONBLOCK, signals and readiness."""

    def test_a_read_waits_for_data(self):
        reader, writer = self.pipe()
        fd = self.open(self.post(reader), os.O_RDONLY)
        child = self.child(os.read, fd, 100)
        self.assertBlocked(child)
        os.write(writer, b"at last")
        self.assertEqual(child.result(), b"at last")

    def test_a_read_waits_for_the_end_of_file(self):
        reader, writer = os.pipe()
        fd = self.open(self.post(reader), os.O_RDONLY)
        child = self.child(lambda: (os.close(writer), os.read(fd, 100))[1])
        self.assertBlocked(child)
        os.close(writer)
        self.assertEqual(child.result(), b"")
        os.close(reader)

    def test_a_write_waits_for_room(self):
        reader, writer = self.pipe()
        full = self.fill(writer)
        fd = self.open(self.post(writer), os.O_WRONLY)
        child = self.child(os.write, fd, b"+" * 100)
        self.assertBlocked(child)
        self.assertEqual(harness.read_exactly(reader, full), b"-" * full)
        self.assertEqual(child.result(), 100)
        self.assertEqual(harness.read_exactly(reader, 100), b"+" * 100)

    def test_the_mount_serves_others_while_one_waits(self):
        reader, _ = self.pipe()
        fd = self.open(self.post(reader), os.O_RDONLY)
        child = self.child(os.read, fd, 100)
        self.assertBlocked(child)
        ours, theirs = self.socketpair()
        other = self.open(self.post(theirs.fileno(), "-other"))
        os.write(other, b"meanwhile")
        self.assertEqual(ours.recv(100), b"meanwhile")
        self.assertIn(self.name(), os.listdir(self.path("srv")))

    def test_without_waiting(self):
        ours, theirs = self.socketpair()
        path = self.post(theirs.fileno())
        fd = self.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.assertErrno(errno.EAGAIN, os.read, fd, 1)
        self.assertFalse(fcntl.fcntl(theirs.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK,
                         "the poster's descriptor is not made non-blocking")
        ours.send(b"x")
        self.assertEqual(os.read(fd, 1), b"x")
        sent = 0
        with self.assertRaises(BlockingIOError):
            while sent < 100 << 20:
                sent += os.write(fd, b"y" * 4096)
        self.assertEqual(len(ours.recv(4096, socket.MSG_WAITALL)), 4096)

    def test_o_nonblock_may_be_set_later(self):
        reader, writer = self.pipe()
        fd = self.open(self.post(reader), os.O_RDONLY)
        os.set_blocking(fd, False)
        self.assertErrno(errno.EAGAIN, os.read, fd, 1)
        os.set_blocking(fd, True)
        child = self.child(os.read, fd, 1)
        self.assertBlocked(child)
        os.write(writer, b"x")
        self.assertEqual(child.result(), b"x")

    def test_a_posters_o_nonblock_is_not_the_openers(self):
        reader, writer = self.pipe()
        os.set_blocking(reader, False)
        fd = self.open(self.post(reader), os.O_RDONLY)
        child = self.child(os.read, fd, 1)
        self.assertBlocked(child)
        os.write(writer, b"x")
        self.assertEqual(child.result(), b"x")
        self.assertFalse(os.get_blocking(reader))

    def test_a_signal_ends_a_read(self):
        reader, writer = self.pipe()
        fd = self.open(self.post(reader), os.O_RDONLY)
        child = self.child(interrupted, lambda: raw_read(fd))
        self.assertBlocked(child)
        child.signal(signal.SIGUSR1)
        self.assertEqual(child.result(), errno.EINTR)
        os.write(writer, b"not lost")
        self.assertEqual(os.read(fd, 100), b"not lost")

    def test_a_signal_ends_a_write(self):
        reader, writer = self.pipe()
        full = self.fill(writer)
        fd = self.open(self.post(writer), os.O_WRONLY)
        child = self.child(interrupted, lambda: raw_write(fd, b"+"))
        self.assertBlocked(child)
        child.signal(signal.SIGUSR1)
        self.assertEqual(child.result(), errno.EINTR)
        os.close(fd)
        os.close(writer)
        os.unlink(self.srv())
        self.assertEqual(len(harness.read_exactly(reader, full + 1)), full, "nothing was written")

    def test_a_restarting_handler_goes_on_waiting(self):
        reader, writer = self.pipe()
        fd = self.open(self.post(reader), os.O_RDONLY)
        handled_reader, handled_writer = self.pipe()

        def restart():
            signal.signal(signal.SIGUSR1, lambda *_: os.write(handled_writer, b"."))
            signal.siginterrupt(signal.SIGUSR1, False)
            return os.read(fd, 100)

        child = self.child(restart)
        self.assertBlocked(child)
        child.signal(signal.SIGUSR1)
        self.assertEqual(harness.read_exactly(handled_reader, 1), b".")
        self.assertBlocked(child)
        os.write(writer, b"after all")
        self.assertEqual(child.result(), b"after all")

    def test_a_waiting_reader_can_be_killed(self):
        reader, writer = self.pipe()
        fd = self.open(self.post(reader), os.O_RDONLY)
        child = self.child(os.read, fd, 100)
        self.assertBlocked(child)
        child.signal(signal.SIGKILL)
        self.assertTrue(select.select([child.pidfd], [], [], 5 * harness.SCALE)[0], "it is gone at once")
        os.write(writer, b"for the next")
        self.assertEqual(os.read(fd, 100), b"for the next")

    def test_a_waiting_writer_can_be_killed(self):
        reader, writer = self.pipe()
        full = self.fill(writer)
        fd = self.open(self.post(writer), os.O_WRONLY)
        child = self.child(os.write, fd, b"+")
        self.assertBlocked(child)
        child.signal(signal.SIGKILL)
        self.assertTrue(select.select([child.pidfd], [], [], 5 * harness.SCALE)[0], "it is gone at once")
        self.assertEqual(harness.read_exactly(reader, full), b"-" * full)
        os.set_blocking(reader, False)
        self.assertErrno(errno.EAGAIN, os.read, reader, 1)

    def test_nobody_reads_any_more(self):
        reader, writer = os.pipe()
        fd = self.open(self.post(writer), os.O_WRONLY)
        os.close(reader)
        self.assertErrno(errno.EPIPE, os.write, fd, b"x")
        ours, theirs = self.socketpair()
        other = self.open(self.post(theirs.fileno(), "-socket"))
        ours.close()
        self.assertErrno(errno.EPIPE, os.write, other, b"x")
        os.close(writer)

    def test_a_large_write_arrives_whole_and_in_order(self):
        reader, writer = self.pipe()
        fd = self.open(self.post(writer), os.O_WRONLY)
        data = array.array("I", range(1 << 20)).tobytes()  # 4 MiB, each word another
        child = self.child(write_all, fd, data)
        self.assertEqual(harness.read_exactly(reader, len(data), timeout=20), data)
        self.assertEqual(child.result(), len(data))

    def test_a_large_write_to_a_blocking_pipe_is_not_short(self):
        """write(2) to a pipe without O_NONBLOCK returns when all is written."""
        reader, writer = self.pipe()
        fd = self.open(self.post(writer), os.O_WRONLY)
        data = bytes(range(256)) * 1024  # 256 KiB, four times a pipe
        child = self.child(os.write, fd, data)
        self.assertEqual(harness.read_exactly(reader, len(data), timeout=20), data)
        self.assertEqual(child.result(), len(data))

    def test_large_reads(self):
        ours, theirs = self.socketpair()
        fd = self.open(self.post(theirs.fileno()), os.O_RDWR)
        data = os.urandom(1 << 20)
        child = self.child(lambda: (ours.sendall(data), ours.shutdown(socket.SHUT_WR))[1])
        self.assertEqual(harness.read_exactly(fd, len(data) + 1, timeout=20), data)
        child.result()

    def test_poll(self):
        ours, theirs = self.socketpair()
        fd = self.open(self.post(theirs.fileno()))
        self.assertEqual(self.ready(fd), select.POLLOUT)
        ours.send(b"x")
        self.assertEqual(self.ready(fd), select.POLLIN | select.POLLOUT)
        os.read(fd, 1)
        self.assertEqual(self.ready(fd), select.POLLOUT)
        ours.close()
        self.assertTrue(self.ready(fd) & select.POLLHUP)

    def test_poll_waits(self):
        ours, theirs = self.socketpair()
        fd = self.open(self.post(theirs.fileno()))
        child = self.child(self.ready, fd, select.POLLIN, 10)
        harness.wait_until(lambda: "poll" in harness.process_state(child.pid), "it waits in poll()")
        ours.send(b"x")
        self.assertEqual(child.result(), select.POLLIN)

    def test_poll_waits_for_room(self):
        reader, writer = self.pipe()
        full = self.fill(writer)
        fd = self.open(self.post(writer), os.O_WRONLY)
        self.assertEqual(self.ready(fd), 0)
        child = self.child(self.ready, fd, select.POLLOUT, 10)
        harness.wait_until(lambda: "poll" in harness.process_state(child.pid), "it waits in poll()")
        harness.read_exactly(reader, full)
        self.assertEqual(child.result(), select.POLLOUT)

    def test_poll_tells_of_a_hang_up(self):
        reader, writer = os.pipe()
        fd = self.open(self.post(reader), os.O_RDONLY)
        child = self.child(lambda: (os.close(writer), self.ready(fd, select.POLLIN, 10))[1])
        harness.wait_until(lambda: "poll" in harness.process_state(child.pid), "it waits in poll()")
        os.close(writer)
        self.assertTrue(child.result() & select.POLLHUP)
        os.close(reader)

    def test_select(self):
        ours, theirs = self.socketpair()
        fd = self.open(self.post(theirs.fileno()))
        self.assertEqual(select.select([fd], [fd], [], 0), ([], [fd], []))
        child = self.child(select.select, [fd], [], [], 10)
        harness.wait_until(lambda: "select" in harness.process_state(child.pid)
                           or "poll" in harness.process_state(child.pid), "it waits in select()")
        ours.send(b"x")
        self.assertEqual(child.result(), ([fd], [], []))

    def test_epoll_tells_of_a_level(self):
        ours, theirs = self.socketpair()
        fd = self.open(self.post(theirs.fileno()))
        with select.epoll() as poller:
            poller.register(fd, select.EPOLLIN)
            self.assertEqual(poller.poll(0), [])
            ours.send(b"xy")
            self.assertEqual(poller.poll(10), [(fd, select.EPOLLIN)])
            self.assertEqual(poller.poll(0), [(fd, select.EPOLLIN)], "as long as there is something")
            os.read(fd, 1)
            self.assertEqual(poller.poll(0), [(fd, select.EPOLLIN)])
            os.read(fd, 1)
            self.assertEqual(poller.poll(0), [])
            ours.send(b"again")
            self.assertEqual(poller.poll(10), [(fd, select.EPOLLIN)])

    def test_epoll_tells_of_an_edge(self):
        ours, theirs = self.socketpair()
        fd = self.open(self.post(theirs.fileno()), os.O_RDWR | os.O_NONBLOCK)
        with select.epoll() as poller:
            poller.register(fd, select.EPOLLIN | select.EPOLLET)
            self.assertEqual(poller.poll(0), [])
            for round_number in range(50):
                ours.send(b"xy")
                self.assertEqual(poller.poll(10), [(fd, select.EPOLLIN)], f"round {round_number}")
                self.assertEqual(poller.poll(0), [], "once for each change")
                self.assertEqual(os.read(fd, 100), b"xy")

    def test_epoll_once(self):
        ours, theirs = self.socketpair()
        fd = self.open(self.post(theirs.fileno()))
        with select.epoll() as poller:
            poller.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
            ours.send(b"x")
            self.assertEqual(poller.poll(10), [(fd, select.EPOLLIN)])
            self.assertEqual(poller.poll(0), [])
            poller.modify(fd, select.EPOLLIN | select.EPOLLONESHOT)
            self.assertEqual(poller.poll(10), [(fd, select.EPOLLIN)])

    def test_many_pollers_of_one_entry(self):
        ours, theirs = self.socketpair()
        path = self.post(theirs.fileno())
        fds = [self.open(path) for _ in range(20)]
        with select.epoll() as poller:
            for fd in fds:
                poller.register(fd, select.EPOLLIN | select.EPOLLET)
            self.assertEqual(poller.poll(0), [])
            ours.send(b"x")
            seen = set()

            def all_seen():
                seen.update(fd for fd, _ in poller.poll(0.1))
                return seen == set(fds)

            harness.wait_until(all_seen, "each of them is told")

    def test_a_file_is_always_ready(self):
        fd, _ = self.file(b"x")
        opened = self.open(self.post(fd))
        self.assertEqual(self.ready(opened), select.POLLIN | select.POLLOUT)

    def test_an_eventfds_readiness(self):
        counter = self.kept(eventfd(0))
        fd = self.open(self.post(counter))
        self.assertEqual(self.ready(fd), select.POLLOUT)
        os.write(counter, struct.pack("=Q", 1))
        self.assertEqual(self.ready(fd), select.POLLIN | select.POLLOUT)


def raw_read(fd):
    """read(2) that does not try again by itself."""
    buffer = ctypes.create_string_buffer(100)
    return harness.libc.read(fd, buffer, 100)


def raw_write(fd, data):
    return harness.libc.write(fd, data, len(data))


def map_shared(fd, length, protection):
    """mmap(2) itself: Python's looks at the size first."""
    harness.libc.mmap.restype = ctypes.c_void_p
    harness.libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                                  ctypes.c_long]
    address = harness.libc.mmap(None, length, protection, mmap.MAP_SHARED, fd, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")


def interrupted(call):
    """The errno of a call during which SIGUSR1 comes."""
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.siginterrupt(signal.SIGUSR1, True)
    return ctypes.get_errno() if call() < 0 else 0


def write_all(fd, data):
    written = 0
    while written < len(data):
        written += os.write(fd, data[written:])
    return written


class Access(OpenCase):
    """The access asked for is part of the posted one, whoever asks."""

    def test_beyond_the_posted_access(self):
        reader, writer = self.pipe()
        _, path = self.file(b"content", mode=0o666)
        read_only, write_only = self.opened(path, os.O_RDONLY), self.opened(path, os.O_WRONLY)
        connection = self.connect()
        modes = {os.O_RDONLY: "r", os.O_WRONLY: "w", os.O_RDWR: "rw"}
        for title, fd, allowed in (("pipe's read end", reader, {"r"}), ("pipe's write end", writer, {"w"}),
                                   ("file to read", read_only, {"r"}), ("file to write", write_only, {"w"}),
                                   ("file for both", self.opened(path, os.O_RDWR), {"r", "w", "rw"})):
            entry = self.post(fd, "-" + title.replace(" ", "-"), 0o666)
            for flags, mode in modes.items():
                expected = 0 if mode in allowed else errno.EACCES
                with self.subTest(title, mode=mode):
                    self.assertErrno(expected, self.open, entry, flags)
                    self.assertErrno(expected, lambda flags=flags, entry=entry: self.kept(
                        connection.srv_open(os.path.basename(entry), flags)))

    def test_a_read_only_post_cannot_be_written_by_any_way(self):
        _, path = self.file(b"content")
        entry = self.post(self.opened(path, os.O_RDONLY))
        fd = self.open(entry, os.O_RDONLY)
        self.assertErrno(errno.EBADF, os.write, fd, b"x")
        self.assertErrno(errno.EINVAL, os.ftruncate, fd, 0)
        self.assertErrno(errno.EACCES, os.truncate, entry, 0)
        self.assertErrno(errno.EACCES, os.open, entry, os.O_RDONLY | os.O_TRUNC)
        self.assertErrno(errno.EACCES, os.open, f"/proc/self/fd/{fd}", os.O_WRONLY)
        self.assertErrno(errno.EACCES, map_shared, fd, 4096, mmap.PROT_READ | mmap.PROT_WRITE)
        self.assertErrno(errno.EBADF, os.posix_fallocate, fd, 0, 100)
        with open(path, "rb") as file:
            self.assertEqual(file.read(), b"content")

    def test_a_write_only_post_cannot_be_read(self):
        _, path = self.file(b"secret")
        entry = self.post(self.opened(path, os.O_WRONLY))
        fd = self.open(entry, os.O_WRONLY)
        self.assertErrno(errno.EBADF, os.read, fd, 1)
        self.assertErrno(errno.EACCES, os.open, f"/proc/self/fd/{fd}", os.O_RDONLY)
        self.assertErrno(errno.EACCES, map_shared, fd, 4096, mmap.PROT_READ)

    def test_less_than_posted_through_the_mount(self):
        ours, theirs = self.socketpair()
        path = self.post(theirs.fileno())
        reader, writer = self.open(path, os.O_RDONLY), self.open(path, os.O_WRONLY)
        self.assertErrno(errno.EBADF, os.write, reader, b"x")
        self.assertErrno(errno.EBADF, os.read, writer, 1)
        ours.send(b"in")
        self.assertEqual(os.read(reader, 100), b"in")
        os.write(writer, b"out")
        self.assertEqual(ours.recv(100), b"out")


class Files(OpenCase):
    """Files and memfds are served by the kernel from the posted open file's inode."""

    def each(self, content):
        """For a file and a memfd: a title, the posted descriptor and the entry's path."""
        fd, _ = self.file(content)
        os.lseek(fd, 0, os.SEEK_SET)
        yield "file", fd, self.post(fd, "-file")
        fd = self.memfd(content)
        os.lseek(fd, 0, os.SEEK_SET)
        yield "memfd", fd, self.post(fd, "-memfd")

    def test_an_offset_of_its_own(self):
        for title, poster, path in self.each(b"0123456789"):
            with self.subTest(title):
                os.lseek(poster, 4, os.SEEK_SET)
                one, two = self.open(path), self.open(path)
                self.assertEqual(os.read(one, 3), b"012")
                self.assertEqual(os.read(two, 2), b"01")
                self.assertEqual(os.read(one, 3), b"345")
                self.assertEqual(os.lseek(one, -1, os.SEEK_END), 9)
                os.write(one, b"!?")
                self.assertEqual(os.pread(poster, 100, 8), b"8!?")
                self.assertEqual(os.lseek(poster, 0, os.SEEK_CUR), 4, "the poster's has not moved")
                self.assertEqual(os.fstat(one).st_size, 11)

    def test_size_and_times_are_the_files(self):
        for title, poster, path in self.each(b"x" * 5000):
            with self.subTest(title):
                self.assertEqual(os.stat(path).st_size, 5000)
                os.ftruncate(poster, 7000)
                self.assertEqual(os.stat(path).st_size, 7000)
                self.assertEqual(os.stat(path).st_mtime_ns, os.fstat(poster).st_mtime_ns)

    def test_mappings_are_one_memory(self):
        for title, poster, path in self.each(bytes(8192)):
            with self.subTest(title):
                fd = self.open(path)
                with mmap.mmap(fd, 8192) as mapped, mmap.mmap(poster, 8192) as posters:
                    mapped[5000:5005] = b"there"
                    self.assertEqual(posters[5000:5005], b"there")
                    self.assertEqual(os.pread(poster, 5, 5000), b"there")
                    os.pwrite(poster, b"back", 100)
                    self.assertEqual(mapped[100:104], b"back")
                    os.pwrite(fd, b"own", 200)
                    self.assertEqual(mapped[200:203] + posters[200:203], b"ownown")
                    mapped.flush()
                with mmap.mmap(self.open(path, os.O_RDONLY), 8192, prot=mmap.PROT_READ) as mapped:
                    self.assertEqual(mapped[5000:5005], b"there")
                with mmap.mmap(fd, 8192, flags=mmap.MAP_PRIVATE) as private:
                    private[5000:5005] = b"local"
                self.assertEqual(os.pread(poster, 5, 5000), b"there")

    def test_truncation(self):
        for title, poster, path in self.each(b"0123456789"):
            with self.subTest(title):
                fd = self.open(path)
                os.ftruncate(fd, 5)
                self.assertEqual(os.fstat(poster).st_size, 5)
                self.assertEqual(os.fstat(fd).st_size, 5)
                os.truncate(path, 7)
                self.assertEqual(os.pread(poster, 10, 0), b"01234\0\0")
                os.close(self.open(path, os.O_WRONLY | os.O_TRUNC))
                self.assertEqual(os.fstat(poster).st_size, 0)

    def test_allocation(self):
        for title, poster, path in self.each(b""):
            with self.subTest(title):
                fd = self.open(path)
                os.posix_fallocate(fd, 0, 65536)
                self.assertEqual(os.fstat(poster).st_size, 65536)
                self.assertGreaterEqual(os.fstat(poster).st_blocks * 512, 65536)
                self.assertGreaterEqual(os.stat(path).st_blocks * 512, 65536)
                keep_size_punch = 3
                self.assertEqual(harness.libc.fallocate(fd, keep_size_punch, ctypes.c_long(0), ctypes.c_long(32768)), 0)
                self.assertLess(os.fstat(poster).st_blocks * 512, 65536)

    def test_holes(self):
        for title, poster, path in self.each(b""):
            with self.subTest(title):
                os.ftruncate(poster, 4 << 20)
                os.pwrite(poster, b"data", 2 << 20)
                os.lseek(poster, 17, os.SEEK_SET)
                fd = self.open(path)
                self.assertEqual(os.lseek(fd, 0, os.SEEK_DATA), 2 << 20)
                self.assertEqual(os.lseek(fd, 0, os.SEEK_HOLE), 0)
                self.assertEqual(os.lseek(fd, 2 << 20, os.SEEK_HOLE), (2 << 20) + 4096)
                self.assertErrno(errno.ENXIO, os.lseek, fd, 3 << 20, os.SEEK_DATA)
                self.assertErrno(errno.ENXIO, os.lseek, fd, 5 << 20, os.SEEK_HOLE)
                self.assertEqual(os.lseek(poster, 0, os.SEEK_CUR), 17, "the poster's has not moved")

    def test_sync(self):
        for title, poster, path in self.each(b"x"):
            with self.subTest(title):
                fd = self.open(path)
                os.write(fd, b"y")
                os.fsync(fd)
                os.fdatasync(fd)
                self.assertEqual(os.pread(poster, 1, 0), b"y")

    def test_appending_posts_append(self):
        """O_APPEND was the poster's way to let others add and nothing else."""
        fd, path = self.file(b"begin ", flags=os.O_WRONLY | os.O_APPEND)
        entry = self.post(fd)
        for title, flags in (("plain", os.O_WRONLY), ("appending", os.O_WRONLY | os.O_APPEND)):
            with self.subTest(title):
                opened = self.open(entry, flags)
                before = os.stat(path).st_size
                os.pwrite(opened, b"pwrite ", 0)
                os.write(opened, b"write ")
                with open(path, "rb") as file:
                    content = file.read()
                self.assertTrue(content.startswith(b"begin "))
                self.assertEqual(content[before:], b"pwrite write ")
        self.assertErrno(errno.EPERM, os.truncate, entry, 0)
        self.assertErrno(errno.EPERM, os.open, entry, os.O_WRONLY | os.O_TRUNC)
        self.assertErrno(errno.EPERM, os.ftruncate, self.open(entry, os.O_WRONLY), 0)

    def test_append_at_the_openers_wish(self):
        for title, poster, path in self.each(b"begin "):
            with self.subTest(title):
                os.lseek(poster, 0, os.SEEK_END)
                fd = self.open(path, os.O_WRONLY | os.O_APPEND)
                os.write(poster, b"poster ")
                os.write(fd, b"opener")
                self.assertEqual(os.pread(poster, 100, 0), b"begin poster opener")

    def test_a_removed_file_is_still_there(self):
        fd, path = self.file(b"content")
        entry = self.post(fd)
        os.unlink(path)
        os.close(fd)
        self.assertEqual(os.read(self.open(entry), 100), b"content")

    def test_open_files_survive_the_entry_and_the_worker(self):
        fd, _ = self.file(b"content")
        entry = self.post(fd)
        opened = self.open(entry)
        os.unlink(entry)
        self.folder.kill_worker()
        self.assertEqual(os.pread(opened, 100, 0), b"content")
        os.pwrite(opened, b"C", 0)
        self.assertEqual(os.pread(fd, 1, 0), b"C")

    def test_a_directory_cannot_be_opened_through_the_mount(self):
        fd = self.opened(self.scratch(), os.O_RDONLY)
        entry = self.post(fd)
        self.assertErrno(errno.EOPNOTSUPP, self.open, entry, os.O_RDONLY)
        real = self.kept(self.connect().srv_open(self.name(), os.O_RDONLY))
        self.assertTrue(same_open_file(fd, real))
        self.assertIsInstance(os.listdir(real), list)

    def test_opens_are_counted(self):
        fd, _ = self.file(b"")
        entry = self.post(fd)
        self.assertEqual(os.getxattr(entry, "user.kshared.opens"), b"0")
        os.close(self.open(entry))
        os.close(self.connect().srv_open(self.name()))
        self.assertEqual(os.getxattr(entry, "user.kshared.opens"), b"2")


class ByLibrary(OpenCase):
    def test_the_very_open_file(self):
        _, theirs = self.socketpair()
        reader, writer = self.pipe()
        cases = {
            "socket": (theirs.fileno(), os.O_RDWR), "reader": (reader, os.O_RDONLY), "writer": (writer, os.O_WRONLY),
            "file": (self.file(b"x")[0], os.O_RDWR), "memfd": (self.memfd(), os.O_RDWR),
            "eventfd": (self.kept(eventfd()), os.O_RDWR), "timerfd": (self.kept(timerfd(0)), os.O_RDWR),
            "inotify": (self.kept(harness.libc.inotify_init1(0)), os.O_RDONLY),
            "epoll": (self.kept(harness.libc.epoll_create1(0)), os.O_RDWR),
            "pidfd": (self.kept(os.pidfd_open(os.getpid())), os.O_RDWR),
            "tty": (self.kept(*pty.openpty())[1], os.O_RDWR),
            "device": (self.opened("/dev/null", os.O_RDWR), os.O_RDWR),
            "directory": (self.opened("/", os.O_RDONLY), os.O_RDONLY),
        }
        connection = self.connect()
        for title, (fd, access) in cases.items():
            with self.subTest(title):
                connection.srv_post(title, fd)
                got = self.kept(connection.srv_open(title, access))
                self.assertTrue(same_open_file(fd, got))
                self.assertTrue(fcntl.fcntl(got, fcntl.F_GETFD) & fcntl.FD_CLOEXEC)
                connection.srv_remove(title)

    def test_socket_calls_work(self):
        ours, theirs = self.socketpair()
        self.post(theirs.fileno())
        got = self.kept(self.connect().srv_open(self.name()))
        self.assertEqual(cookie(got), cookie(theirs.fileno()))
        with socket.socket(fileno=os.dup(got)) as sock:
            sock.send(b"sent")
            self.assertEqual(ours.recv(100), b"sent")

    def test_the_offset_is_shared(self):
        fd, _ = self.file(b"0123456789")
        self.post(fd)
        got = self.kept(self.connect().srv_open(self.name()))
        os.read(got, 4)
        self.assertEqual(os.lseek(fd, 0, os.SEEK_CUR), 4)

    def test_reopen_has_an_offset_of_its_own(self):
        connection = self.connect()
        for title, fd in (("file", self.file(b"0123456789")[0]), ("memfd", self.memfd(b"0123456789"))):
            with self.subTest(title):
                os.lseek(fd, 7, os.SEEK_SET)
                self.post(fd, "-" + title)
                got = self.kept(connection.srv_open(self.name("-" + title), os.O_RDWR | harness.KSRV_REOPEN))
                self.assertFalse(same_open_file(fd, got))
                self.assertEqual(os.read(got, 3), b"012")
                self.assertEqual(os.lseek(fd, 0, os.SEEK_CUR), 7)
                os.write(got, b"X")
                self.assertEqual(os.pread(fd, 10, 0), b"012X456789")
                self.assertTrue(fcntl.fcntl(got, fcntl.F_GETFD) & fcntl.FD_CLOEXEC)

    def test_reopen_of_a_fifo_and_a_terminal(self):
        os.mkfifo(self.scratch("fifo"))
        fifo = self.opened(self.scratch("fifo"), os.O_RDWR)
        master, slave = self.kept(*pty.openpty())
        connection = self.connect()
        for title, fd, writer in (("fifo", fifo, fifo), ("tty", slave, master)):
            with self.subTest(title):
                self.post(fd, "-" + title)
                got = self.kept(connection.srv_open(self.name("-" + title), os.O_RDWR | harness.KSRV_REOPEN))
                self.assertFalse(same_open_file(fd, got))
                self.assertTrue(os.get_blocking(got))
                os.write(writer, b"line\n")
                self.assertEqual(os.read(got, 100), b"line\n")

    def test_reopen_of_what_cannot_be_opened_again(self):
        connection = self.connect()
        _, theirs = self.socketpair()
        for title, fd in (("socket", theirs.fileno()), ("eventfd", self.kept(eventfd()))):
            with self.subTest(title):
                self.post(fd, "-" + title)
                self.assertErrno(errno.ENXIO, connection.srv_open, self.name("-" + title),
                                 os.O_RDWR | harness.KSRV_REOPEN)

    def test_reopen_keeps_o_append(self):
        fd, path = self.file(b"begin ", flags=os.O_WRONLY | os.O_APPEND)
        self.post(fd)
        got = self.kept(self.connect().srv_open(self.name(), os.O_WRONLY | harness.KSRV_REOPEN))
        os.pwrite(got, b"end", 0)
        with open(path, "rb") as file:
            self.assertEqual(file.read(), b"begin end")

    def test_less_than_posted_is_really_less(self):
        connection = self.connect()
        for title, fd in (("file", self.file(b"content")[0]), ("memfd", self.memfd(b"content"))):
            with self.subTest(title):
                self.post(fd, "-" + title)
                got = self.kept(connection.srv_open(self.name("-" + title), os.O_RDONLY))
                self.assertFalse(same_open_file(fd, got))
                self.assertErrno(errno.EBADF, os.write, got, b"x")
                self.assertEqual(os.read(got, 100), b"content")
                self.assertErrno(errno.EACCES, map_shared, got, 4096, mmap.PROT_READ | mmap.PROT_WRITE)
                writer = self.kept(connection.srv_open(self.name("-" + title), os.O_WRONLY))
                self.assertErrno(errno.EBADF, os.read, writer, 1)

    def test_a_read_only_open_cannot_be_upgraded(self):
        """By a user whom the entry's mode lets only read, through /proc/self/fd."""
        def try_to_upgrade(name):
            with harness.Connection(self.folder.dir) as connection:
                fd = connection.srv_open(name, os.O_RDONLY)
                for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
                    self.assertErrno(errno.EACCES, os.open, f"/proc/self/fd/{fd}", flags)
                return os.read(fd, 100)

        fd, _ = self.file(b"content", mode=0o644)
        self.post(fd, "-file", 0o644)
        self.assertEqual(harness.run_as(harness.USER_A, try_to_upgrade, self.name("-file")), b"content")
        memfd = self.memfd(b"content")
        os.fchmod(memfd, 0o600)
        self.post(memfd, "-closed", 0o644)
        self.assertEqual(harness.run_as(harness.USER_A, try_to_upgrade, self.name("-closed")), b"content")

    def test_what_could_be_upgraded_is_not_given(self):
        """A file that everybody may write by its own mode: a read-only descriptor of it would be one in name only."""
        fd, path = self.file(b"content", mode=0o666)
        self.post(fd, "-file", 0o644)
        memfd = self.memfd(b"content")  # mode 0777
        self.post(memfd, "-memfd", 0o644)

        def open_read_only(name):
            with harness.Connection(self.folder.dir) as connection:
                connection.srv_open(name, os.O_RDONLY)

        for name in (self.name("-file"), self.name("-memfd")):
            with self.subTest(name):
                self.assertErrnoAs(harness.USER_A, errno.EOPNOTSUPP, open_read_only, name)

        def through_the_mount(entry):
            opened = os.open(entry, os.O_RDONLY)
            self.assertErrno(errno.EACCES, os.open, f"/proc/self/fd/{opened}", os.O_RDWR)
            return os.read(opened, 100)

        for suffix in ("-file", "-memfd"):
            with self.subTest("mount", suffix=suffix):
                os.lseek(memfd, 0, os.SEEK_SET)
                self.assertEqual(harness.run_as(harness.USER_A, through_the_mount, self.srv(suffix)), b"content")

    def test_less_than_posted_cannot_be_had_of_a_socket(self):
        connection = self.connect()
        _, theirs = self.socketpair()
        for title, fd in (("socket", theirs.fileno()), ("eventfd", self.kept(eventfd()))):
            self.post(fd, "-" + title)
            for flags in (os.O_RDONLY, os.O_WRONLY):
                with self.subTest(title, flags=flags):
                    self.assertErrno(errno.EOPNOTSUPP, connection.srv_open, self.name("-" + title), flags)

    def test_bad_flags(self):
        connection = self.connect()
        self.post(self.file(b"")[0])
        for flags in (3, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_TRUNC, -1):
            with self.subTest(flags=flags):
                self.assertErrno(errno.EINVAL, connection.srv_open, self.name(), flags)

    def test_missing_entries_and_boards(self):
        connection = self.connect()
        os.mkdir(self.path("srv", "board"))
        self.assertErrno(errno.ENOENT, connection.srv_open, "missing")
        self.assertErrno(errno.ENOENT, connection.srv_remove, "missing")
        self.assertErrno(errno.EISDIR, connection.srv_open, "board")
        self.assertErrno(errno.EISDIR, connection.srv_remove, "board")
        connection.remove("srv/board")
        self.assertErrno(errno.ENOENT, os.stat, self.path("srv", "board"))

    def test_threads_share_a_connection(self):
        connection = self.connect()
        self.post(self.file(b"x")[0])
        results = []

        def work():
            for _ in range(100):
                fd = connection.srv_open(self.name())
                results.append(os.fstat(fd).st_size)
                os.close(fd)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(results, [1] * 800)

    def test_a_forked_child_uses_its_own(self):
        connection = self.connect()
        self.post(self.file(b"x")[0])

        def use():
            for _ in range(50):
                os.close(connection.srv_open(self.name()))

        children = [self.child(use) for _ in range(4)]
        use()
        for child in children:
            child.result()


if __name__ == "__main__":
    harness.main()
