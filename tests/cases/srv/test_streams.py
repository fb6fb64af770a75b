# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets, pipes, terminals and counters through the mount."""

import errno
import mmap
import os
import pty
import socket
import struct
import termios
import time

import harness
import opening

UNDER_VALGRIND = False


class Streams(opening.OpenCase):
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
        counter = self.kept(opening.eventfd(0))
        fd = self.open(self.post(counter), os.O_RDWR | os.O_NONBLOCK)
        self.assertErrno(errno.EAGAIN, os.read, fd, 8)
        self.assertEqual(os.write(fd, struct.pack("=Q", 3)), 8)
        os.write(counter, struct.pack("=Q", 4))
        self.assertEqual(os.read(fd, 8), struct.pack("=Q", 7))
        self.assertErrno(errno.EINVAL, os.read, fd, 4)

    def test_timerfd(self):
        timer = self.kept(opening.timerfd(0.2))
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
        self.assertErrno(errno.ENODEV, opening.map_shared, fd, 4096, mmap.PROT_READ)
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


if __name__ == "__main__":
    harness.main()
