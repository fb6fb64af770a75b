# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocking, O_NONBLOCK, signals and readiness of what is opened through the mount."""

import array
import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct

import harness
import opening

UNDER_VALGRIND = False


def raw_read(fd):
    """read(2) that does not try again by itself."""
    buffer = ctypes.create_string_buffer(100)
    return harness.libc.read(fd, buffer, 100)


def raw_write(fd, data):
    return harness.libc.write(fd, data, len(data))


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


class Waiting(opening.OpenCase):
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
        counter = self.kept(opening.eventfd(0))
        fd = self.open(self.post(counter))
        self.assertEqual(self.ready(fd), select.POLLOUT)
        os.write(counter, struct.pack("=Q", 1))
        self.assertEqual(self.ready(fd), select.POLLIN | select.POLLOUT)


if __name__ == "__main__":
    harness.main()
