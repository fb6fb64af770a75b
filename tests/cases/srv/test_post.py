# SPDX-License-Identifier: GPL-2.0-or-later
"""Posting: the number of a descriptor is written to a new file in srv/, or the library sends the descriptor."""

import errno
import os
import socket
import subprocess
import threading

import harness

UNDER_VALGRIND = False


def post(path, fd, flags=os.O_EXCL, mode=0o600):
    """Post a descriptor of this process by its number."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | flags, mode)
    try:
        os.write(handle, str(fd).encode())
    finally:
        os.close(handle)


class PostCase(harness.FolderCase):
    def srv(self, suffix=""):
        """The path of an entry that no other test uses."""
        return self.path("srv", self._testMethodName + suffix)

    def pipe_with(self, data):
        """A pipe that holds some bytes: its read end."""
        reader, writer = os.pipe()
        os.write(writer, data)
        os.close(writer)
        self.addCleanup(lambda: harness.errno_of(os.close, reader))
        return reader

    def what(self, path):
        return os.getxattr(path, "user.kshared.what")

    def unposted(self, suffix=""):
        """A new entry that nothing is posted to, and the handle that may post."""
        path = self.srv(suffix)
        return path, self.opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)

    def content(self, path):
        fd = os.open(path, os.O_RDONLY)
        try:
            return harness.read_exactly(fd, 100)
        finally:
            os.close(fd)


class ByNumber(PostCase):
    def test_what_is_posted_is_what_is_opened(self):
        post(self.srv(), self.pipe_with(b"hello"))
        self.assertEqual(self.content(self.srv()), b"hello")

    def test_a_newline_may_follow(self):
        path, handle = self.unposted()
        number = b"%d\n" % self.pipe_with(b"line")
        self.assertEqual(os.write(handle, number), len(number))
        self.assertEqual(self.content(path), b"line")

    def test_leading_zeros_are_decimal(self):
        path, handle = self.unposted()
        os.write(handle, b"%010d" % self.pipe_with(b"zeros"))
        self.assertEqual(self.content(path), b"zeros")

    def test_from_bash(self):
        file = self.scratch("from-bash")
        done = subprocess.run(["bash", "-ec", 'exec 5<>"$1"; echo 5 > "$2"; echo word >&5', "bash", file, self.srv()],
                              capture_output=True, text=True, timeout=10)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(self.content(self.srv()), b"word\n")

    def test_bash_is_told_of_a_bad_number(self):
        done = subprocess.run(["bash", "-c", 'echo 77 > "$1"', "bash", self.srv()], capture_output=True, text=True,
                              timeout=10)
        self.assertEqual(done.returncode, 1)
        self.assertIn("Bad file descriptor", done.stderr)

    def test_from_a_thread_that_leads_no_process(self):
        reader = self.pipe_with(b"thread")
        results = []
        thread = threading.Thread(target=lambda: results.append(harness.errno_of(post, self.srv(), reader)))
        thread.start()
        thread.join()
        self.assertEqual(results, [0])
        self.assertEqual(self.content(self.srv()), b"thread")
        self.assertEqual(os.getxattr(self.srv(), "user.kshared.poster.pid"), str(os.getpid()).encode())

    def test_as_another_user(self):
        harness.run_as(harness.USER_A, lambda: post(self.srv(), self.pipe_with(b"user")))
        self.assertEqual(self.content(self.srv()), b"user")
        self.assertEqual(os.getxattr(self.srv(), "user.kshared.poster.uid"), str(harness.USER_A).encode())

    def test_from_a_pid_namespace_that_the_daemon_sees(self):
        def inside():
            self.assertEqual(os.getpid(), 1)
            post(self.srv(), self.pipe_with(b"inside"))

        harness.run_as(None, inside, new_pid_namespace=True)
        self.assertEqual(self.content(self.srv()), b"inside")

    def test_an_entry_outlives_its_poster(self):
        child = self.child(lambda: post(self.srv(), self.pipe_with(b"legacy")))
        pid = child.pid
        child.result()
        self.assertFalse(harness.is_alive(pid))
        self.assertEqual(self.content(self.srv()), b"legacy")
        self.assertEqual(os.getxattr(self.srv(), "user.kshared.poster.pid"), str(pid).encode())

    def test_the_poster_may_close_both_at_once(self):
        reader, writer = os.pipe()
        post(self.srv(), writer)
        os.close(writer)
        handle = os.open(self.srv(), os.O_WRONLY)
        os.write(handle, b"still here")
        os.close(handle)
        self.assertEqual(harness.read_exactly(reader, 10), b"still here")
        self.assertErrno(errno.EAGAIN, self.read_now, reader)

    def read_now(self, fd):
        os.set_blocking(fd, False)
        return os.read(fd, 1)

    def test_removing_the_entry_ends_what_it_held(self):
        reader, writer = os.pipe()
        post(self.srv(), writer)
        os.close(writer)
        os.unlink(self.srv())
        self.assertEqual(harness.read_exactly(reader, 1), b"", "the last writer is gone")


class Refused(PostCase):
    def refused(self, expected, text, offset=0):
        """Writing `text` fails, and the entry waits for its descriptor as before."""
        path, handle = self.unposted(f"-{abs(hash(text))}-{offset}")
        self.assertErrno(expected, os.pwrite, handle, text, offset)
        self.assertEqual(self.what(path), b"unposted")
        os.write(handle, b"%d" % self.pipe_with(b"good"))
        self.assertEqual(self.content(path), b"good", "a refused post does not spoil the entry")

    def test_no_number(self):
        for text in (b"\n", b" ", b"   ", b"+5", b"-1", b"5 ", b" 5", b"0x5", b"5\n\n", b"5\r\n", b"5x", b"x",
                     b"1" * 20, b"0" * 19 + b"5", b"9" * 4096, b"\0", b"5\0", b"\x005", b"5\n\0", b"5,6", b"5.0",
                     "\u0665".encode()):
            with self.subTest(text=text[:30]):
                self.refused(errno.EINVAL, text)

    def test_an_empty_write_posts_nothing(self):
        path, handle = self.unposted()
        self.assertEqual(os.write(handle, b""), 0)
        self.assertEqual(self.what(path), b"unposted")

    def test_not_at_the_beginning(self):
        number = b"%d" % self.pipe_with(b"x")
        for offset in (1, 4096, 2**40):
            with self.subTest(offset=offset):
                self.refused(errno.EINVAL, number, offset)

    def test_a_number_in_two_parts_is_no_number(self):
        path, handle = self.unposted()
        self.assertErrno(errno.EBADF, os.write, handle, b"99999")
        self.assertErrno(errno.EBADF, os.pwrite, handle, b"99999", 0)
        self.assertErrno(errno.EINVAL, os.pwrite, handle, b"1", 5)
        self.assertEqual(self.what(path), b"unposted")

    def test_no_descriptor(self):
        for text in (b"987", b"2147483647", b"2147483648", b"4294967295", b"4294967296", b"4294967301",
                     b"9999999999999999999"):
            with self.subTest(text=text):
                self.refused(errno.EBADF, text)

    def test_a_path_descriptor(self):
        fd = self.opened(self.scratch(), os.O_PATH)
        self.refused(errno.EBADF, b"%d" % fd)

    def test_a_second_post(self):
        path, handle = self.unposted()
        os.write(handle, b"%d" % self.pipe_with(b"first"))
        other = self.pipe_with(b"second")
        self.assertErrno(errno.EBUSY, os.pwrite, handle, b"%d" % other, 0)
        self.assertErrno(errno.EBUSY, os.write, handle, b"%d" % other)
        self.assertErrno(errno.EBUSY, os.pwrite, handle, b"garbage", 0)
        self.assertEqual(self.content(path), b"first")

    def test_two_handles_and_one_post(self):
        path, handle = self.unposted()
        late = self.opened(path, os.O_WRONLY)
        os.write(late, b"%d" % self.pipe_with(b"late"))
        self.assertErrno(errno.EBUSY, os.write, handle, b"%d" % self.pipe_with(b"early"))
        self.assertEqual(self.content(path), b"late")

    def test_writing_to_a_posted_entry_is_no_post(self):
        reader, writer = os.pipe()
        post(self.srv(), writer)
        handle = self.opened(self.srv(), os.O_WRONLY)
        os.write(handle, b"0")
        self.assertEqual(harness.read_exactly(reader, 1), b"0")

    def test_own_file_system(self):
        connection = self.connect()
        os.close(connection.mem_create("loop", 4096))
        post(self.srv("-target"), self.pipe_with(b"x"))
        _, waiting = self.unposted("-waiting")
        cases = {
            "the folder": self.opened(self.folder.dir, os.O_RDONLY),
            "its directory": self.opened(self.path("srv"), os.O_RDONLY),
            "a memory object": self.opened(self.path("mem", "loop"), os.O_RDWR),
            "an entry that is posted": self.opened(self.srv("-target"), os.O_RDONLY),
            "an entry that is not": waiting,
        }
        for title, fd in cases.items():
            with self.subTest(title, way="number"):
                self.refused(errno.ELOOP, b"%d" % fd)
            with self.subTest(title, way="library"):
                self.assertErrno(errno.ELOOP, connection.srv_post, "loop", fd)
                self.assertErrno(errno.ENOENT, connection.stat, "srv/loop")

    def test_a_handle_to_itself(self):
        path, handle = self.unposted()
        self.assertErrno(errno.ELOOP, os.write, handle, b"%d" % handle)
        self.assertEqual(self.what(path), b"unposted")

    def test_a_taken_name(self):
        post(self.srv(), self.pipe_with(b"mine"))
        self.assertErrno(errno.EEXIST, post, self.srv(), self.pipe_with(b"yours"))
        self.assertErrno(errno.EEXIST, os.mkdir, self.srv())
        self.assertErrno(errno.EEXIST, self.connect().srv_post, os.path.basename(self.srv()), 0)
        self.assertEqual(self.content(self.srv()), b"mine")

    def test_names_too_long(self):
        connection = self.connect()
        reader = self.pipe_with(b"x")
        longest = "n" * 255
        post(self.path("srv", longest), reader)
        connection.srv_remove(longest)
        connection.srv_post(longest, reader)
        os.unlink(self.path("srv", longest))
        for length in (256, 1000):
            with self.subTest(length=length):
                self.assertErrno(errno.ENAMETOOLONG, post, self.path("srv", "n" * length), reader)
                self.assertErrno(errno.ENAMETOOLONG, os.mkdir, self.path("srv", "n" * length))
                self.assertErrno(errno.ENAMETOOLONG, connection.srv_post, "n" * length, reader)

    def test_outside_the_kinds_directories(self):
        self.assertErrno(errno.EPERM, post, self.path("x"), 0)
        self.assertErrno(errno.EPERM, os.mkdir, self.path("x"))
        self.assertEqual(sorted(os.listdir(self.folder.dir)), ["ksm", "mem", "port", "srv"])

    def test_reading_what_is_not_posted(self):
        path, handle = self.unposted()
        self.assertErrno(errno.ENXIO, os.open, path, os.O_RDONLY)
        self.assertErrno(errno.ENXIO, os.open, path, os.O_RDONLY | os.O_NONBLOCK)
        self.assertErrno(errno.ENXIO, self.connect().srv_open, os.path.basename(path), os.O_RDONLY)
        both = self.opened(path, os.O_RDWR)
        self.assertErrno(errno.ENXIO, os.read, both, 1)
        os.write(both, b"%d" % self.pipe_with(b"now"))
        self.assertErrno(errno.ENXIO, os.read, both, 1)
        self.assertEqual(self.content(path), b"now")
        os.close(handle)

    def test_creating_for_reading_only(self):
        self.assertErrno(errno.ENXIO, os.open, self.srv(), os.O_RDONLY | os.O_CREAT)

    def test_truncation_means_nothing_before_the_post(self):
        path, handle = self.unposted()
        post(path, self.pipe_with(b"truncated"), flags=os.O_TRUNC)
        self.assertEqual(self.content(path), b"truncated")
        other, handle = self.unposted("-other")
        self.assertErrno(errno.EINVAL, os.ftruncate, handle, 0)
        self.assertEqual(self.what(other), b"unposted")


class Deputy(PostCase):
    """A handle obeys only the user who opened it: whoever holds it for another cannot be made to post."""

    def handle_of(self, uid, gid=None):
        """A handle to an unposted entry, opened by another user and handed to us."""
        ours, theirs = socket.socketpair()

        def open_and_send():
            fd = os.open(self.srv(), os.O_WRONLY | os.O_CREAT, 0o666)
            socket.send_fds(theirs, [b"."], [fd])

        harness.run_as(uid, open_and_send, gid=gid)
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        ours.close()
        theirs.close()
        self.addCleanup(os.close, fds[0])
        return fds[0]

    def test_another_users_handle(self):
        handle = self.handle_of(harness.USER_A)
        secret = self.pipe_with(b"secret")
        self.assertErrno(errno.EPERM, os.write, handle, b"%d" % secret)
        self.assertEqual(self.what(self.srv()), b"unposted")

    def test_another_groups_handle(self):
        handle = self.handle_of(0, gid=harness.USER_A)
        self.assertErrno(errno.EPERM, os.write, handle, b"%d" % self.pipe_with(b"secret"))
        self.assertEqual(self.what(self.srv()), b"unposted")

    def test_root_does_not_lend_its_handle_either(self):
        _, handle = self.unposted()
        reader = self.pipe_with(b"x")
        self.assertErrnoAs(harness.USER_A, errno.EPERM, os.write, handle, b"%d" % reader)
        self.assertEqual(self.what(self.srv()), b"unposted")

    def test_the_same_user_in_another_process(self):
        _, handle = self.unposted()

        def write():
            os.write(handle, b"%d" % self.pipe_with(b"child"))

        harness.run_as(None, write)
        self.assertEqual(self.content(self.srv()), b"child")

    def test_after_giving_up_privileges(self):
        _, handle = self.unposted()
        reader = self.pipe_with(b"x")

        def give_up_and_write():
            os.setresuid(harness.USER_A, harness.USER_A, harness.USER_A)
            os.write(handle, b"%d" % reader)

        self.assertErrnoAs(None, errno.EPERM, give_up_and_write)
        self.assertEqual(self.what(self.srv()), b"unposted")


class ByLibrary(PostCase):
    def test_what_is_posted_is_what_is_opened(self):
        self.connect().srv_post("lib", self.pipe_with(b"library"), 0o640)
        self.assertEqual(self.content(self.path("srv", "lib")), b"library")
        self.assertEqual(os.stat(self.path("srv", "lib")).st_mode & 0o7777, 0o640)

    def test_the_umask_counts(self):
        os.umask(0o027)
        self.connect().srv_post("masked", self.pipe_with(b""), 0o666)
        self.assertEqual(os.stat(self.path("srv", "masked")).st_mode & 0o7777, 0o640)

    def test_from_another_pid_namespace(self):
        def inside():
            self.connect().srv_post("namespace", self.pipe_with(b"namespace"))

        harness.run_as(None, inside, new_pid_namespace=True)
        self.assertEqual(self.content(self.path("srv", "namespace")), b"namespace")

    def test_no_descriptor(self):
        connection = self.connect()
        for fd in (-1, 987, self.opened(self.scratch(), os.O_PATH)):
            with self.subTest(fd=fd):
                self.assertErrno(errno.EBADF, connection.srv_post, "bad", fd)
                self.assertErrno(errno.ENOENT, connection.stat, "srv/bad")

    def test_bad_names(self):
        connection = self.connect()
        reader = self.pipe_with(b"")
        for name in ("", ".", "..", "../x", "a/../b", "/x", "x/", "a//b", "./x"):
            with self.subTest(name=name):
                self.assertErrno(errno.EINVAL, connection.srv_post, name, reader)
        self.assertErrno(errno.ENOENT, connection.srv_post, "no-board/x", reader)
        connection.srv_post("file", reader)
        self.assertErrno(errno.ENOTDIR, connection.srv_post, "file/x", reader)
        self.assertErrno(errno.ENAMETOOLONG, connection.srv_post, "/".join(["x"] * 600), reader)

    def test_in_a_board(self):
        os.mkdir(self.path("srv", "board"))
        self.connect().srv_post("board/inner", self.pipe_with(b"board"))
        self.assertEqual(self.content(self.path("srv", "board", "inner")), b"board")


class Limits(PostCase):
    options = ["--max-entries-uid", "3"]

    def test_a_users_limit(self):
        """The daemon's own user has none."""
        for index in range(5):
            post(self.srv(f"-root{index}"), 0)

        def as_user():
            connection = self.connect()
            post(self.srv("-1"), 0)
            connection.srv_post("limit-2", 0)
            os.mkdir(self.srv("-3"))
            self.assertErrno(errno.EDQUOT, post, self.srv("-4"), 0)
            self.assertErrno(errno.EDQUOT, connection.srv_post, "limit-5", 0)
            self.assertErrno(errno.EDQUOT, os.mkdir, self.srv("-6"))
            self.assertErrno(errno.EDQUOT, connection.mem_create, "limit-7", 4096)
            os.rmdir(self.srv("-3"))
            harness.wait_until(lambda: harness.errno_of(post, self.srv("-8"), 0) == 0, "there is room again")

        harness.run_as(harness.USER_A, as_user)
        names = {name for name in os.listdir(self.path("srv"))
                 if os.stat(self.path("srv", name)).st_uid == harness.USER_A}
        self.assertEqual(names, {os.path.basename(self.srv("-1")), "limit-2", os.path.basename(self.srv("-8"))})

    def test_a_gift_is_charged_to_who_gets_it(self):
        for index in range(3):
            post(self.srv(f"-{index}"), 0)
            os.chown(self.srv(f"-{index}"), harness.USER_B, harness.USER_B)
        post(self.srv("-one-more"), 0)
        self.assertErrno(errno.EDQUOT, os.chown, self.srv("-one-more"), harness.USER_B, harness.USER_B)
        self.assertEqual(os.stat(self.srv("-one-more")).st_uid, 0)
        self.assertErrnoAs(harness.USER_B, errno.EDQUOT, post, self.srv("-own"), 0)


class AllEntries(PostCase):
    options = ["--max-entries", "6"]

    def test_the_folders_limit(self):
        status = self.connect().status()
        self.assertEqual(status.max_entries, 6)
        for index in range(status.max_entries - status.entries):
            post(self.srv(f"-{index}"), 0)
        self.assertErrno(errno.ENOSPC, post, self.srv("-more"), 0)
        self.assertErrno(errno.ENOSPC, self.connect().srv_post, "more", 0)
        os.unlink(self.srv("-0"))
        harness.wait_until(lambda: harness.errno_of(post, self.srv("-again"), 0) == 0, "there is room again")


class DaemonInside(PostCase):
    """The daemon in a pid namespace of its own does not see who writes a number."""

    def test_by_number_it_is_refused_and_by_library_it_works(self):
        base = self.scratch("outer")
        inner = os.path.join(base, "folder")
        os.makedirs(inner)
        subprocess.run(["mount", "--bind", base, base], check=True)
        self.addCleanup(subprocess.run, ["umount", "-R", "-l", base], check=False)
        subprocess.run(["mount", "--make-shared", base], check=True)
        command = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--propagation", "unchanged", "sh", "-c",
                   'mount --make-private /proc; mount -t proc proc /proc && exec "$@"', "sh",
                   *harness.program("ksharedd"), "--foreground", "--dir", inner]
        with open(self.scratch("inner.log"), "wb") as log:
            daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                      env=harness.environment())
        try:
            harness.wait_until(lambda: os.path.ismount(inner) and harness.errno_of(harness.Connection, inner) == 0,
                               "the inner daemon serves")
            handle = os.open(os.path.join(inner, "srv", "x"), os.O_WRONLY | os.O_CREAT)
            self.assertErrno(errno.EOPNOTSUPP, os.write, handle, b"%d" % self.pipe_with(b"x"))
            os.close(handle)
            self.assertEqual(self.what(os.path.join(inner, "srv", "x")), b"unposted")
            with harness.Connection(inner) as connection:
                connection.srv_post("y", self.pipe_with(b"sent"))
                self.assertEqual(connection.stat("srv/y").poster_pid, 0)
                self.assertEqual(self.content(os.path.join(inner, "srv", "y")), b"sent")
                connection.shutdown()
            daemon.wait(10)
        finally:
            daemon.kill()
            daemon.wait()


if __name__ == "__main__":
    harness.main()
