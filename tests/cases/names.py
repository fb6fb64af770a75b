# SPDX-License-Identifier: GPL-2.0-or-later
"""What is true of names, owners, modes and times of every kind of entry: a base for each kind's test_names.py."""

import ctypes
import errno
import os
import stat
import time

import harness

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
AT_FDCWD = -100
ODD_NAMES = [b"with space", b"new\nline", b"-leading", b"\xff\xfe", b"tab\t", b"\xc3\xa4\xe2\x82\xac", b"\x01\x7f",
             b"...",
             b"..x", b"a\\b", b"*?", b"'\"", b".hidden", b"n" * 255]


def renameat2(old, new, flags):
    if harness.libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), ctypes.c_uint(flags)):
        raise OSError(ctypes.get_errno(), "renameat2")


def mknod(path, kind):
    os.mknod(path, kind | 0o600, os.makedev(1, 3))


class NamesCase(harness.FolderCase):
    """kind: its directory's name; make(): a new entry."""

    kind = None

    def make(self, name, mode=0o600):
        """A new entry whose content says its name. Return: its path."""
        raise NotImplementedError

    def own(self, name=""):
        """A path in a board of the test's own."""
        board = self.path(self.kind, self._testMethodName)
        if not os.path.isdir(board):
            os.mkdir(board, 0o777)
            os.chmod(board, 0o777)
        return os.path.join(board, name) if name else board

    def inside(self, path):
        """A path as the library wants it."""
        return os.path.relpath(path, self.folder.dir)

    def content(self, path):
        fd = os.open(path, os.O_RDONLY)
        try:
            return os.read(fd, 300).rstrip(b"\0")
        finally:
            os.close(fd)


class Tests(NamesCase):
    """Derive from this and a make()."""

    def test_modes(self):
        path = self.make(self.own("x"))
        for mode in (0o600, 0o640, 0o444, 0o000, 0o777):
            os.chmod(path, mode)
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), mode)
            self.assertEqual(stat.S_IMODE(self.connect().stat(self.inside(path)).mode), mode)
        self.assertTrue(stat.S_ISREG(os.stat(path).st_mode))
        board = self.own("board")
        os.mkdir(board)
        os.chmod(board, 0o1770)
        self.assertEqual(stat.S_IMODE(os.stat(board).st_mode), 0o1770)

    def test_the_umask_counts(self):
        os.umask(0o027)
        path = self.make(self.own("x"), mode=0o666)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o640)
        os.mkdir(self.own("board"), 0o777)
        self.assertEqual(stat.S_IMODE(os.stat(self.own("board")).st_mode), 0o750)

    def test_owners(self):
        path = self.make(self.own("x"))
        self.assertEqual((os.stat(path).st_uid, os.stat(path).st_gid), (0, 0))
        os.chown(path, harness.USER_A, harness.GROUP_SHARED)
        found = os.stat(path)
        self.assertEqual((found.st_uid, found.st_gid), (harness.USER_A, harness.GROUP_SHARED))
        entry = self.connect().stat(self.inside(path))
        self.assertEqual((entry.uid, entry.gid), (harness.USER_A, harness.GROUP_SHARED))
        os.chown(path, -1, 5)
        self.assertEqual((os.stat(path).st_uid, os.stat(path).st_gid), (harness.USER_A, 5))

    def test_only_the_owner_changes_it(self):
        path = self.make(self.own("x"), mode=0o666)
        self.assertErrnoAs(harness.USER_A, errno.EPERM, os.chmod, path, 0o777)
        self.assertErrnoAs(harness.USER_A, errno.EPERM, os.chown, path, harness.USER_A, -1)
        os.chown(path, harness.USER_A, harness.USER_A)
        self.assertErrnoAs(harness.USER_A, 0, os.chmod, path, 0o640)
        self.assertErrnoAs(harness.USER_A, errno.EPERM, os.chown, path, harness.USER_B, -1)
        self.assertErrnoAs(harness.USER_A, errno.EPERM, os.chown, path, -1, harness.GROUP_SHARED)
        self.assertErrnoAs(harness.USER_A, 0, os.chown, path, -1, harness.GROUP_SHARED, groups=[harness.GROUP_SHARED])
        self.assertErrnoAs(harness.USER_B, errno.EPERM, os.chmod, path, 0o777)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o640)

    def test_a_new_entry_is_its_makers(self):
        path = self.own("x")
        harness.run_as(harness.USER_A, self.make, path, gid=harness.GROUP_SHARED)
        found = os.stat(path)
        self.assertEqual((found.st_uid, found.st_gid), (harness.USER_A, harness.GROUP_SHARED))

    def test_a_set_gid_board_gives_its_group(self):
        board = self.own("board")
        os.mkdir(board)
        os.chown(board, -1, harness.GROUP_SHARED)
        os.chmod(board, 0o2777)
        path = self.make(os.path.join(board, "x"))
        self.assertEqual(os.stat(path).st_gid, harness.GROUP_SHARED)
        os.mkdir(os.path.join(board, "inner"))
        self.assertTrue(os.stat(os.path.join(board, "inner")).st_mode & stat.S_ISGID)

    def test_rename(self):
        path = self.make(self.own("old"))
        before = os.stat(path)
        os.rename(path, self.own("new"))
        after = os.stat(self.own("new"))
        self.assertErrno(errno.ENOENT, os.stat, path)
        self.assertEqual((before.st_ino, before.st_mode), (after.st_ino, after.st_mode))
        self.assertEqual(os.listdir(self.own()), ["new"])
        self.assertEqual(self.content(self.own("new")), b"old")
        self.assertErrno(errno.ENOENT, os.rename, path, self.own("other"))
        os.rename(self.own("new"), self.own("new"))
        self.assertEqual(self.content(self.own("new")), b"old")

    def test_rename_over_an_existing_one(self):
        one, two = self.make(self.own("one")), self.make(self.own("two"))
        number = os.stat(one).st_ino
        held = self.opened(two, os.O_RDONLY)
        os.rename(one, two)
        self.assertEqual(os.listdir(self.own()), ["two"])
        self.assertEqual((os.stat(two).st_ino, self.content(two)), (number, b"one"))
        self.assertEqual(os.read(held, 100).rstrip(b"\0"), b"two", "who has it open keeps it")

    def test_rename_without_replacing(self):
        one, two = self.make(self.own("one")), self.make(self.own("two"))
        self.assertErrno(errno.EEXIST, renameat2, one, two, RENAME_NOREPLACE)
        self.assertEqual((self.content(one), self.content(two)), (b"one", b"two"))
        renameat2(one, self.own("three"), RENAME_NOREPLACE)
        self.assertEqual(sorted(os.listdir(self.own())), ["three", "two"])

    def test_exchange(self):
        one, two = self.make(self.own("one")), self.make(self.own("two"))
        numbers = os.stat(one).st_ino, os.stat(two).st_ino
        renameat2(one, two, RENAME_EXCHANGE)
        self.assertEqual((os.stat(two).st_ino, os.stat(one).st_ino), numbers)
        self.assertEqual((self.content(one), self.content(two)), (b"two", b"one"))
        self.assertErrno(errno.ENOENT, renameat2, one, self.own("three"), RENAME_EXCHANGE)
        board = self.own("board")
        os.mkdir(board)
        renameat2(board, two, RENAME_EXCHANGE)
        self.assertTrue(os.path.isdir(two))
        self.assertEqual(self.content(board), b"one")

    def test_rename_flags_that_are_not_supported(self):
        one, two = self.make(self.own("one")), self.make(self.own("two"))
        for flags in (RENAME_WHITEOUT, RENAME_NOREPLACE | RENAME_EXCHANGE, 64):
            with self.subTest(flags=flags):
                self.assertErrno(errno.EINVAL, renameat2, one, two, flags)
        self.assertEqual((self.content(one), self.content(two)), (b"one", b"two"))

    def test_rename_between_boards(self):
        for name in ("a", "b"):
            os.mkdir(self.own(name))
        self.make(self.own("a/x"))
        os.rename(self.own("a/x"), self.own("b/y"))
        self.assertEqual((os.listdir(self.own("a")), os.listdir(self.own("b"))), ([], ["y"]))
        self.assertErrno(errno.EINVAL, os.rename, self.own("a"), self.own("a/inner"))
        os.rename(self.own("a"), self.own("b/a"))
        self.assertErrno(errno.EINVAL, os.rename, self.own("b"), self.own("b/a/b"))
        self.assertErrno(errno.EINVAL, renameat2, self.own("b"), self.own("b/a"), RENAME_EXCHANGE)
        self.assertEqual(self.content(self.own("b/y")), b"x")

    def test_rename_of_unlike_things(self):
        self.make(self.own("x"))
        for name in ("board", "full"):
            os.mkdir(self.own(name))
        self.make(self.own("full/x"))
        self.assertErrno(errno.EISDIR, os.rename, self.own("x"), self.own("board"))
        self.assertErrno(errno.ENOTDIR, os.rename, self.own("board"), self.own("x"))
        self.assertErrno(errno.ENOTEMPTY, os.rename, self.own("board"), self.own("full"))
        os.rename(self.own("full"), self.own("board"))
        self.assertEqual(os.listdir(self.own("board")), ["x"])

    def test_rename_to_another_kind(self):
        other = "mem" if self.kind == "srv" else "srv"
        path = self.make(self.own("x"))
        self.assertErrno(errno.EXDEV, os.rename, path, self.path(other, "x"))
        self.assertErrno(errno.EXDEV, os.rename, self.own(), self.path(other, "board"))
        self.assertErrno(errno.EPERM, os.rename, path, self.path("x"))
        self.assertEqual(self.content(path), b"x")

    def test_the_kinds_directories_stay(self):
        directory = self.path(self.kind)
        self.assertErrno(errno.EPERM, os.rename, directory, self.path("renamed"))
        self.assertErrno(errno.EPERM, renameat2, self.path("mem"), self.path("srv"), RENAME_EXCHANGE)
        os.mkdir(self.own("board"))
        self.assertIn(harness.errno_of(os.rmdir, directory), (errno.EPERM, errno.ENOTEMPTY))
        self.assertEqual(sorted(os.listdir(self.folder.dir)), ["ksm", "mem", "port", "srv"])

    def test_unlink_while_open(self):
        path = self.make(self.own("x"))
        fd = self.opened(path, os.O_RDONLY)
        os.unlink(path)
        self.assertErrno(errno.ENOENT, os.stat, path)
        self.assertEqual(os.fstat(fd).st_nlink, 0)
        self.assertEqual(os.read(fd, 100).rstrip(b"\0"), b"x")
        again = self.make(path)
        self.assertNotEqual(os.stat(again).st_ino, os.fstat(fd).st_ino, "a number is not used again")
        self.assertErrno(errno.ENOENT, os.unlink, self.own("missing"))

    def test_boards(self):
        board = self.own("board")
        os.mkdir(board)
        self.assertEqual(os.stat(self.own()).st_nlink, 3)
        self.make(os.path.join(board, "x"))
        self.assertErrno(errno.ENOTEMPTY, os.rmdir, board)
        self.assertErrno(errno.EISDIR, os.unlink, board)
        self.assertErrno(errno.ENOTDIR, os.rmdir, os.path.join(board, "x"))
        self.assertErrno(errno.EEXIST, os.mkdir, board)
        self.assertErrno(errno.ENOTDIR, os.mkdir, os.path.join(board, "x", "y"))
        self.assertErrno(errno.EISDIR, os.open, board, os.O_RDWR)
        deep = "/".join(["deep"] * 20)
        os.makedirs(os.path.join(board, deep))
        self.make(os.path.join(board, deep, "bottom"))
        self.assertEqual(self.content(os.path.join(board, deep, "bottom")), b"bottom")
        self.assertEqual(list(self.connect().list(self.inside(os.path.join(board, deep)))), ["bottom"])
        os.unlink(os.path.join(board, "x"))
        self.assertErrno(errno.ENOTEMPTY, self.connect().remove, self.inside(board))

    def test_a_removed_board_takes_nothing(self):
        os.mkdir(self.own("board"))
        fd = self.opened(self.own("board"), os.O_RDONLY | os.O_DIRECTORY)
        os.rmdir(self.own("board"))
        self.assertErrno(errno.ENOENT, os.open, "x", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
        self.assertErrno(errno.ENOENT, os.mkdir, "x", dir_fd=fd)
        self.assertEqual(os.listdir(fd), [])

    def test_links_and_devices_are_refused(self):
        path = self.make(self.own("x"))
        self.assertErrno(errno.EPERM, os.link, path, self.own("link"))
        self.assertErrno(errno.EPERM, os.symlink, "x", self.own("symlink"))
        for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK):
            with self.subTest(kind=oct(kind)):
                self.assertErrno(errno.EPERM, mknod, self.own("node"), kind)
        self.assertEqual(os.listdir(self.own()), ["x"])
        self.assertEqual(os.stat(path).st_nlink, 1)

    def test_mknod_of_a_file(self):
        mknod(self.own("x"), stat.S_IFREG)
        self.assertTrue(stat.S_ISREG(os.stat(self.own("x")).st_mode))

    def test_odd_names(self):
        connection = self.connect()
        board = os.fsencode(self.own())
        for name in ODD_NAMES:
            with self.subTest(name=name[:20]):
                path = os.path.join(board, name)
                self.make(os.fsdecode(path))
                self.assertEqual(self.content(path), name)
                self.assertEqual(os.fsencode(connection.stat(self.inside(os.fsdecode(path))).name), name)
        self.assertEqual(sorted(os.listdir(board)), sorted(ODD_NAMES))
        listed = connection.list(self.inside(self.own()))
        self.assertEqual(sorted(map(os.fsencode, listed)), sorted(ODD_NAMES))
        for number, name in enumerate(ODD_NAMES):
            os.rename(os.path.join(board, name), os.path.join(board, b"%d" % number))
            os.rename(os.path.join(board, b"%d" % number), os.path.join(board, name))
            if number % 2:
                os.unlink(os.path.join(board, name))
            else:
                connection.remove(self.inside(os.fsdecode(os.path.join(board, name))))
        self.assertEqual(os.listdir(board), [])

    def test_names_that_are_none(self):
        connection = self.connect()
        self.make(self.own("x"))
        self.assertErrno(errno.EEXIST, os.mkdir, self.own("."))
        self.assertErrno(errno.EEXIST, os.mkdir, self.own(".."))
        self.assertEqual(os.stat(self.own("..")).st_ino, os.stat(self.path(self.kind)).st_ino)
        self.assertEqual(os.stat(self.own(".")).st_ino, os.stat(self.own()).st_ino)
        board = self.inside(self.own())
        for name in (".", "..", "../" + self.kind, "x/", "/x", "", "./x", board + "/../x"):
            path = f"{board}/{name}"
            with self.subTest(path=path):
                self.assertErrno(errno.EINVAL, connection.stat, path)
                self.assertErrno(errno.EINVAL, connection.remove, path)
        self.assertErrno(errno.ENAMETOOLONG, connection.stat, f"{board}/{'n' * 256}")
        self.assertErrno(errno.ENAMETOOLONG, connection.stat, "/".join(["n"] * 600))
        self.assertErrno(errno.ENOENT, connection.stat, f"{board}/missing")
        self.assertErrno(errno.ENOTDIR, connection.stat, f"{board}/x/y")
        self.assertErrno(errno.ENOTDIR, connection.list, f"{board}/x")
        self.assertErrno(errno.ENOENT, connection.list, f"{board}/missing")
        self.assertEqual(os.listdir(self.own()), ["x"])

    def test_a_name_is_seen_at_once_by_the_other_way(self):
        """What the library makes or removes is no longer what the kernel has cached, and the reverse."""
        connection = self.connect()
        path = self.own("x")
        for _ in range(20):
            self.assertErrno(errno.ENOENT, os.stat, path)
            self.make(path)
            number = os.stat(path).st_ino
            self.assertEqual(connection.stat(self.inside(path)).id, number)
            connection.remove(self.inside(path))
            self.assertErrno(errno.ENOENT, os.stat, path)
            self.assertErrno(errno.ENOENT, os.open, path, os.O_RDONLY)
            self.make(path)
            self.assertNotEqual(os.stat(path).st_ino, number)
            os.unlink(path)
            self.assertErrno(errno.ENOENT, connection.stat, self.inside(path))

    def test_directories_change_their_times(self):
        def moved(action):
            before = os.stat(self.own())
            harness.wait_until(lambda: time.time_ns() > before.st_mtime_ns + 1000000, "the clock goes on")
            action()
            after = os.stat(self.own())
            return after.st_mtime_ns > before.st_mtime_ns and after.st_ctime_ns > before.st_ctime_ns

        connection = self.connect()
        self.assertTrue(moved(lambda: self.make(self.own("x"))))
        self.assertTrue(moved(lambda: os.rename(self.own("x"), self.own("y"))))
        self.assertTrue(moved(lambda: os.mkdir(self.own("board"))))
        self.assertTrue(moved(lambda: os.rmdir(self.own("board"))))
        self.assertTrue(moved(lambda: connection.remove(self.inside(self.own("y")))))
        self.assertFalse(moved(lambda: os.listdir(self.own())))

    def test_times_of_an_entry(self):
        before = time.time_ns()
        path = self.make(self.own("x"))
        found = os.stat(path)
        self.assertLessEqual(before - 10**9, found.st_mtime_ns)
        self.assertLessEqual(found.st_mtime_ns, time.time_ns())
        harness.wait_until(lambda: time.time_ns() > found.st_ctime_ns + 1000000, "the clock goes on")
        os.chmod(path, 0o644)
        changed = os.stat(path)
        self.assertGreater(changed.st_ctime_ns, found.st_ctime_ns)
        self.assertEqual(changed.st_mtime_ns, found.st_mtime_ns, "chmod changes the entry, not what it stands for")
        entry = self.connect().stat(self.inside(path))
        self.assertEqual((entry.mtime_ns, entry.ctime_ns), (changed.st_mtime_ns, changed.st_ctime_ns))
        self.assertLessEqual(before - 10**9, entry.btime_ns)
        self.assertLessEqual(entry.btime_ns, time.time_ns())

    def test_statfs(self):
        before = os.statvfs(self.own())
        self.assertEqual(before.f_namemax, 255)
        self.assertGreater(before.f_files, 0)
        self.assertGreater(before.f_blocks, 0)
        self.make(self.own("x"))
        self.assertEqual(os.statvfs(self.own()).f_ffree, before.f_ffree - 1)
        status = self.connect().status()
        self.assertEqual(status.max_entries, before.f_files)

    def test_attributes_cannot_be_set(self):
        path = self.make(self.own("x"))
        for name in ("user.kshared.what", "user.mine", "security.mine", "trusted.mine"):
            with self.subTest(name=name):
                self.assertErrno(errno.EOPNOTSUPP, os.setxattr, path, name, b"value")
                self.assertErrno(errno.EOPNOTSUPP, os.removexattr, path, name)
        for name in ("user.mine", "user.kshared.", "user.kshared.nothing", "security.capability"):
            with self.subTest(name=name):
                self.assertErrno(errno.ENODATA, os.getxattr, path, name)

    def test_what_all_attributes_have_in_common(self):
        path = self.make(self.own("x"))
        names = os.listxattr(path)
        self.assertTrue(names)
        for name in names:
            with self.subTest(name=name):
                self.assertTrue(name.startswith("user.kshared."))
                value = os.getxattr(path, name)
                size = harness.libc.getxattr(os.fsencode(path), os.fsencode(name), None, 0)
                self.assertEqual(size, len(value))
                if len(value) > 1:
                    buffer = ctypes.create_string_buffer(1)
                    self.assertEqual(harness.libc.getxattr(os.fsencode(path), os.fsencode(name), buffer, 1), -1)
                    self.assertEqual(ctypes.get_errno(), errno.ERANGE)
        self.assertEqual(os.getxattr(path, "user.kshared.kind"), self.kind.encode())
        self.assertEqual(os.listxattr(self.own()), ["user.kshared.kind"])
        self.assertIn("user.kshared.socket", os.listxattr(self.folder.dir))

    @harness.timeout(60)
    def test_a_listing_gives_what_stays_exactly_once(self):
        """1,000 entries stay; others are made, renamed and removed all the while."""
        stable = {f"stays-{number:04}" for number in range(1000)}
        for name in stable:
            self.make(self.own(name))
        stop = os.path.join(self.folder.scratch, self._testMethodName)

        def churn():
            number = 0
            while not os.path.exists(stop):
                number += 1
                path = self.make(self.own(f"goes-{number:06}"))
                os.rename(path, self.own(f"gone-{number:06}"))
                if number > 20:
                    os.unlink(self.own(f"gone-{number - 20:06}"))
            return number

        child = self.child(churn)
        harness.wait_until(lambda: any(name.startswith("gone-") for name in os.listdir(self.own())), "it is under way")
        board = self.inside(self.own())
        with harness.Connection(self.folder.dir) as connection:
            for _ in range(10):
                names = os.listdir(self.own())
                self.assertEqual(len(names), len(set(names)), "a name is given twice")
                self.assertEqual(stable - set(names), set(), "getdents")
                self.assertEqual(stable - set(connection.list(board)), set(), "library")
        open(stop, "w").close()
        self.assertGreater(child.result(20), 10)

    def test_a_listing_can_be_taken_up_again(self):
        """seekdir() to where telldir() was."""
        names = [f"x{number}" for number in range(200)]
        for name in names:
            self.make(self.own(name))
        libc = harness.libc
        libc.opendir.restype = ctypes.c_void_p
        libc.readdir.restype = ctypes.c_void_p
        for function in (libc.readdir, libc.telldir, libc.rewinddir, libc.closedir):
            function.argtypes = [ctypes.c_void_p]
        libc.telldir.restype = ctypes.c_long
        libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
        directory = libc.opendir(os.fsencode(self.own()))

        def rest():
            found = []
            while True:
                entry = libc.readdir(directory)
                if not entry:
                    return found
                found.append(ctypes.string_at(entry + 19).decode())  # d_name

        for _ in range(50):
            libc.readdir(directory)
        place = libc.telldir(directory)
        first = rest()
        self.assertEqual(len(first), 152)
        libc.seekdir(directory, place)
        self.assertEqual(rest(), first)
        libc.rewinddir(directory)
        self.assertEqual(sorted(rest()), sorted([".", "..", *names]))
        libc.closedir(directory)
