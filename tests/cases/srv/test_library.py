# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening through the library."""

import errno
import fcntl
import mmap
import os
import pty
import socket
import threading

import harness
import opening

SO_COOKIE = 57


def cookie(sock_fd):
    """The kernel's number of a socket."""
    with socket.socket(fileno=os.dup(sock_fd)) as sock:
        return sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)


class ByLibrary(opening.OpenCase):
    def test_the_very_open_file(self):
        _, theirs = self.socketpair()
        reader, writer = self.pipe()
        cases = {
            "socket": (theirs.fileno(), os.O_RDWR), "reader": (reader, os.O_RDONLY), "writer": (writer, os.O_WRONLY),
            "file": (self.file(b"x")[0], os.O_RDWR), "memfd": (self.memfd(), os.O_RDWR),
            "eventfd": (self.kept(opening.eventfd()), os.O_RDWR), "timerfd": (self.kept(opening.timerfd(0)), os.O_RDWR),
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
                self.assertTrue(opening.same_open_file(fd, got))
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
                self.assertFalse(opening.same_open_file(fd, got))
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
                self.assertFalse(opening.same_open_file(fd, got))
                self.assertTrue(os.get_blocking(got))
                os.write(writer, b"line\n")
                self.assertEqual(os.read(got, 100), b"line\n")

    def test_reopen_of_what_cannot_be_opened_again(self):
        connection = self.connect()
        _, theirs = self.socketpair()
        for title, fd in (("socket", theirs.fileno()), ("eventfd", self.kept(opening.eventfd()))):
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
                self.assertFalse(opening.same_open_file(fd, got))
                self.assertErrno(errno.EBADF, os.write, got, b"x")
                self.assertEqual(os.read(got, 100), b"content")
                self.assertErrno(errno.EACCES, opening.map_shared, got, 4096, mmap.PROT_READ | mmap.PROT_WRITE)
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
        for title, fd in (("socket", theirs.fileno()), ("eventfd", self.kept(opening.eventfd()))):
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
