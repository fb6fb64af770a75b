# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may open what: every caller, kind of descriptor, mode of entry, access and way, against one small oracle."""

import ctypes
import errno
import itertools
import os
import socket
import struct

import harness

OWNER, MEMBER, OTHER = harness.USER_A, harness.USER_B, harness.USER_C
READ, WRITE, BOTH = 4, 2, 6
FLAGS = {READ: os.O_RDONLY, WRITE: os.O_WRONLY, BOTH: os.O_RDWR}
MODES = (0o400, 0o200, 0o600, 0o640, 0o660, 0o604, 0o606, 0o000)
WAYS = ("mount", "library")

# What is posted: its access, whether its file can be opened again with less, and who has a right to that file itself.
KINDS = {
    "socket": (BOTH, False, "nobody"), "reader": (READ, False, "nobody"), "writer": (WRITE, False, "nobody"),
    "file-r": (READ, True, "root"), "file-w": (WRITE, True, "root"), "file-rw": (BOTH, True, "root"),
    "memfd": (BOTH, True, "all"), "mem": (BOTH, True, "as the entry"),
}

CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER = 1, 2, 3
SYS_SETGROUPS = 116
CALLERS = ("owner", "member", "other", "root", "powerless root")


def drop_capabilities(*which):
    """Give up capabilities in this process."""
    header = struct.pack("=Ii", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    assert harness.libc.syscall(125, header, data) == 0, "capget"
    words = list(struct.unpack("=6I", data.raw))
    for capability in which:
        for word in range(3):
            words[word] &= ~(1 << capability)
    assert harness.libc.syscall(126, header, struct.pack("=6I", *words)) == 0, "capset"


def call_as(caller, function, *args, timeout=30.0):
    """Call in a child as one of CALLERS. The member is one by a supplementary group alone."""
    def powerless():
        drop_capabilities(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER)
        return function(*args)

    if caller == "root":
        return harness.run_as(None, function, *args, timeout=timeout)
    if caller == "powerless root":
        return harness.run_as(None, powerless, timeout=timeout)
    uid = {"owner": OWNER, "member": MEMBER, "other": OTHER}[caller]
    groups = [harness.GROUP_SHARED] if caller == "member" else []
    return harness.run_as(uid, function, *args, groups=groups, timeout=timeout)


def errno_as_caller(caller, function, *args):
    try:
        call_as(caller, function, *args)
        return 0
    except OSError as error:
        return error.errno


def granted(caller, mode):
    """What the entry's mode gives a caller; the entry is OWNER's and GROUP_SHARED's."""
    shift = {"owner": 6, "member": 3, "other": 0, "powerless root": 0}
    return 7 if caller == "root" else mode >> shift[caller] & 7


def oracle(caller, kind, mode, wanted, way):
    """The errno that an open must end with."""
    posted, reopen, rights = KINDS[kind]
    given = granted(caller, mode)
    if wanted & ~given or wanted & ~posted:
        return errno.EACCES
    if way == "mount" or wanted == posted or kind == "mem":
        return 0
    if not reopen:
        return errno.EOPNOTSUPP
    # What the entry's mode keeps from him must not be had of the file by opening it again through /proc.
    withheld = posted & ~wanted & ~given
    own_right = rights == "all" or rights == "root" and caller in ("root", "powerless root")
    return errno.EOPNOTSUPP if withheld and own_right else 0


class Matrix(harness.FolderCase):
    @classmethod
    def prepare(cls):
        """One entry of every kind in every mode."""
        os.umask(0)
        ours, theirs = socket.socketpair()
        reader, writer = os.pipe()
        path = os.path.join(cls.folder.scratch, "file")
        with open(path, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
        fds = {"socket": theirs.fileno(), "reader": reader, "writer": writer, "memfd": os.memfd_create("matrix")}
        for name, flags in (("file-r", os.O_RDONLY), ("file-w", os.O_WRONLY), ("file-rw", os.O_RDWR)):
            fds[name] = os.open(path, flags)
        with harness.Connection(cls.folder.dir) as connection:
            for kind, mode in itertools.product(KINDS, MODES):
                if kind == "mem":
                    os.close(connection.mem_create(cls.entry(kind, mode), 4096, mode))
                else:
                    connection.srv_post(cls.entry(kind, mode), fds[kind], mode)
                path = os.path.join(cls.folder.dir, cls.inside(kind, mode))
                os.chown(path, OWNER, harness.GROUP_SHARED)
                assert os.stat(path).st_mode & 0o777 == mode
        for fd in fds.values():
            if fd != theirs.fileno():
                os.close(fd)
        ours.close()
        theirs.close()

    @staticmethod
    def entry(kind, mode):
        return f"{kind}-{mode:03o}"

    @classmethod
    def inside(cls, kind, mode):
        return f"{'mem' if kind == 'mem' else 'srv'}/{cls.entry(kind, mode)}"

    def try_all(self):
        """Everything a caller can ask for. Return: {what: (errno, the access that it gave, more by /proc)}."""
        found = {}
        with harness.Connection(self.folder.dir) as connection:
            for kind, mode, wanted, way in itertools.product(KINDS, MODES, FLAGS, WAYS):
                try:
                    if way == "mount":
                        fd = os.open(self.path(self.inside(kind, mode)), FLAGS[wanted] | os.O_NONBLOCK)
                    elif kind == "mem":
                        fd = connection.mem_open(self.entry(kind, mode), FLAGS[wanted])
                    else:
                        fd = connection.srv_open(self.entry(kind, mode), FLAGS[wanted])
                except OSError as error:
                    found[kind, mode, wanted, way] = error.errno, 0, 0
                    continue
                found[kind, mode, wanted, way] = 0, self.access_of(fd), self.more_by_proc(fd)
                os.close(fd)
        return found

    @staticmethod
    def access_of(fd):
        """What can be done with a descriptor; asked with lengths of 0, which take nothing."""
        access = 0
        if harness.libc.read(fd, None, 0) >= 0 or ctypes.get_errno() != errno.EBADF:
            access |= READ
        if harness.libc.write(fd, None, 0) >= 0 or ctypes.get_errno() != errno.EBADF:
            access |= WRITE
        return access

    @staticmethod
    def more_by_proc(fd):
        """What opening it again through /proc gives."""
        access = 0
        for wanted in (READ, WRITE):
            try:
                os.close(os.open(f"/proc/self/fd/{fd}", FLAGS[wanted] | os.O_NONBLOCK))
                access |= wanted
            except OSError:
                pass
        return access

    @harness.timeout(60)
    def test_every_combination(self):
        for caller in CALLERS:
            found = call_as(caller, self.try_all)
            self.assertEqual(len(found), len(KINDS) * len(MODES) * len(FLAGS) * len(WAYS))
            wrong = []
            for (kind, mode, wanted, way), (got, access, more) in found.items():
                expected = oracle(caller, kind, mode, wanted, way)
                what = f"{kind} {mode:04o} {'-rwb'[(wanted > 2) + (wanted & 2)]} by {way}"
                if got != expected:
                    wrong.append(f"{what}: {harness.errno_name(got)} rather than {harness.errno_name(expected)}")
                elif got == 0 and access != wanted:
                    wrong.append(f"{what}: gives {access} rather than {wanted}")
                elif got == 0 and "root" not in caller and more & ~(granted(caller, mode) & KINDS[kind][0]):
                    wrong.append(f"{what}: gives {more} through /proc")
            with self.subTest(caller):
                self.assertEqual(wrong, [])

    def test_the_oracle_says_both(self):
        """Each errno is expected somewhere for each way, so that the table can fail."""
        for way in WAYS:
            said = {oracle(*combination, way) for combination in itertools.product(CALLERS, KINDS, MODES, FLAGS)}
            self.assertEqual(said, {0, errno.EACCES} | ({errno.EOPNOTSUPP} if way == "library" else set()))

    def test_seals_need_the_right_to_write(self):
        for caller, mode in itertools.product(CALLERS, MODES):
            def seal(mode=mode):
                with harness.Connection(self.folder.dir) as connection:
                    connection.mem_seal(self.entry("mem", mode), harness.KMEM_SEAL_SHRINK)

            with self.subTest(caller, mode=oct(mode)):
                expected = 0 if granted(caller, mode) & WRITE else errno.EACCES
                self.assertEqual(errno_as_caller(caller, seal), expected)


class Directories(harness.FolderCase):
    """Removing, renaming, searching and listing, by mount and library."""

    def entry(self, directory, name="x", owner=OWNER, mode=0o666):
        path = os.path.join(directory, name)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        if "/srv/" in path:
            os.write(fd, b"0")
        os.close(fd)
        os.chown(path, owner, harness.GROUP_SHARED)
        os.chmod(path, mode)
        return path

    def board(self, mode, owner=0, kind="srv"):
        path = self.path(kind, f"board-{mode:o}-{owner}-{self._testMethodName}")
        os.mkdir(path)
        os.chown(path, owner, harness.GROUP_SHARED)
        os.chmod(path, mode)
        return path

    def remove_by_library(self, path):
        with harness.Connection(self.folder.dir) as connection:
            connection.remove(os.path.relpath(path, self.folder.dir))

    def ways(self):
        yield "mount", os.unlink
        yield "library", self.remove_by_library

    def check(self, directory, caller, expected, owner=OWNER):
        for title, remove in self.ways():
            path = self.entry(directory, owner=owner)
            with self.subTest(title, directory=os.path.basename(directory), caller=caller):
                self.assertEqual(harness.errno_name(errno_as_caller(caller, remove, path)),
                                 harness.errno_name(expected))
                self.assertEqual(os.path.exists(path), expected != 0)
            if os.path.exists(path):
                os.unlink(path)

    def test_removing_in_a_sticky_directory(self):
        """Only the entry's owner, the directory's owner and who is privileged."""
        for kind in ("srv", "mem"):
            for caller, expected in (("owner", 0), ("member", errno.EPERM), ("other", errno.EPERM), ("root", 0)):
                self.check(self.path(kind), caller, expected)
        board = self.board(0o1777, owner=MEMBER)
        for caller, expected in (("owner", 0), ("member", 0), ("other", errno.EPERM), ("powerless root", errno.EPERM)):
            self.check(board, caller, expected)

    def test_removing_in_a_board_without_the_sticky_bit(self):
        board = self.board(0o777)
        for caller in CALLERS:
            self.check(board, caller, 0)

    def test_removing_needs_to_write_and_search_the_board(self):
        for mode in (0o755, 0o766, 0o733, 0o700):
            board = self.board(mode)
            expected = 0 if mode & 3 == 3 else errno.EACCES
            self.check(board, "other", expected)
            self.check(board, "owner", expected)
        board = self.board(0o770)
        for caller, expected in (("member", 0), ("other", errno.EACCES), ("owner", errno.EACCES)):
            self.check(board, caller, expected)

    def test_renaming_in_a_sticky_directory(self):
        directory = self.path("srv")
        mine, theirs = self.entry(directory, "mine", owner=MEMBER), self.entry(directory, "theirs")
        for caller, old, new, expected in (
                ("member", theirs, self.path("srv", "stolen"), errno.EPERM), ("member", mine, theirs, errno.EPERM),
                ("other", theirs, mine, errno.EPERM), ("member", mine, self.path("srv", "renamed"), 0),
                ("owner", theirs, self.path("srv", "theirs-2"), 0)):
            with self.subTest(caller, new=os.path.basename(new)):
                self.assertEqual(errno_as_caller(caller, os.rename, old, new), expected)
        names = {name for name in os.listdir(directory) if not name.startswith("board-")}
        self.assertEqual(names, {"renamed", "theirs-2"})
        os.unlink(self.path("srv", "renamed"))
        os.unlink(self.path("srv", "theirs-2"))

    def open_by_library(self, path):
        with harness.Connection(self.folder.dir) as connection:
            name = os.path.relpath(path, self.path("srv"))
            connection.srv_open(name, connection.stat("srv/" + name).access)

    def stat_by_library(self, path):
        with harness.Connection(self.folder.dir) as connection:
            connection.stat(os.path.relpath(path, self.folder.dir))

    def list_by_library(self, path):
        with harness.Connection(self.folder.dir) as connection:
            return connection.list(os.path.relpath(path, self.folder.dir))

    def test_search_and_list(self):
        """Opening below a board needs x of it, listing r."""
        for mode in (0o700, 0o711, 0o744, 0o755):
            board = self.board(mode)
            path = self.entry(board)
            search = 0 if mode & 1 else errno.EACCES
            listing = 0 if mode & 4 else errno.EACCES
            for title, function, target, expected in (
                    ("open, mount", os.open, (path, os.O_RDONLY), search), ("stat, mount", os.stat, (path,), search),
                    ("open, library", self.open_by_library, (path,), search),
                    ("stat, library", self.stat_by_library, (path,), search),
                    ("list, mount", os.listdir, (board,), listing)):
                with self.subTest(title, mode=oct(mode)):
                    self.assertEqual(harness.errno_name(errno_as_caller("other", function, *target)),
                                     harness.errno_name(expected))

    def test_a_listing_tells_no_more_than_stat_would(self):
        """The library's listing gives attributes, too: so it needs r and x."""
        for mode in (0o700, 0o711, 0o744, 0o755):
            board = self.board(mode)
            self.entry(board)
            expected = 0 if mode & 5 == 5 else errno.EACCES
            with self.subTest(mode=oct(mode)):
                self.assertEqual(harness.errno_name(errno_as_caller("other", self.list_by_library, board)),
                                 harness.errno_name(expected))

    def test_making_needs_to_write_the_board(self):
        def post(board):
            with harness.Connection(self.folder.dir) as connection:
                connection.srv_post(os.path.relpath(os.path.join(board, "new"), self.path("srv")), 0)

        for mode in (0o755, 0o733, 0o722):
            board = self.board(mode)
            expected = 0 if mode & 3 == 3 else errno.EACCES
            with self.subTest(mode=oct(mode)):
                self.assertEqual(errno_as_caller("other", post, board), expected)
                self.assertEqual(errno_as_caller("other", os.mkdir, os.path.join(board, "inner")), expected)

    def test_ending_the_folder_is_for_root(self):
        def shutdown():
            with harness.Connection(self.folder.dir) as connection:
                connection.shutdown()

        self.assertErrnoAs(OTHER, errno.EPERM, shutdown)
        self.assertTrue(self.folder.is_mounted())


class OldInodes(harness.FolderCase):
    """An inode of a stream that was looked up before its entry changed gives no more than one looked up after."""

    def setUp(self):
        os.umask(0)
        self.name = self.path("srv", self._testMethodName)

        def post():
            reader, writer = os.pipe()
            with harness.Connection(self.folder.dir) as connection:
                connection.srv_post(self._testMethodName, writer, 0o666)
        harness.run_as(OWNER, post)
        self.old = f"/proc/self/fd/{self.opened(self.name, os.O_PATH)}"

    def test_access_that_was_taken_away(self):
        self.assertErrnoAs(OTHER, 0, os.open, self.old, os.O_WRONLY)
        harness.run_as(OWNER, os.chmod, self.name, 0o600)
        self.assertErrnoAs(OTHER, errno.EACCES, os.open, self.name, os.O_WRONLY)
        harness.wait_until(lambda: harness.errno_as(OTHER, os.open, self.old, os.O_WRONLY) == errno.EACCES,
                           "the old inode's mode is forgotten", timeout=2)

    def test_an_entry_that_was_given_away(self):
        os.chown(self.name, OTHER, OTHER)
        for change in ((os.chmod, self.old, 0o777), (os.chown, self.old, OWNER, -1), (os.chown, self.old, -1, OWNER),
                       (os.utime, self.old, (1, 1))):
            self.assertErrnoAs(OWNER, errno.EPERM, *change)
        found = os.stat(self.name)
        self.assertEqual((found.st_mode & 0o777, found.st_uid, found.st_gid), (0o666, OTHER, OTHER))
        # Root's rights and the new owner's are what they were.
        os.chmod(self.old, 0o640)
        os.utime(self.old, (1, 1))
        os.chown(self.old, OTHER, OWNER)
        harness.run_as(OTHER, os.chmod, self.name, 0o600)
        harness.run_as(OTHER, os.utime, self.name, (2, 2))
        found = os.stat(self.name)
        self.assertEqual((found.st_mode & 0o777, found.st_uid, found.st_gid), (0o600, OTHER, OWNER))


class Identity(harness.FolderCase):
    """The identity that counts is the one of the moment, on a connection that was made before, too."""

    def setUp(self):
        os.umask(0)
        with harness.Connection(self.folder.dir) as connection:
            connection.srv_post(self._testMethodName, 0, 0o600)
            connection.srv_post(self._testMethodName + "-group", 0, 0o060)
            os.chown(self.path("srv", self._testMethodName + "-group"), -1, harness.GROUP_SHARED)

    def opens(self, connection, suffix=""):
        entry = connection.stat("srv/" + self._testMethodName + suffix)
        return harness.errno_of(lambda: os.close(connection.srv_open(self._testMethodName + suffix, entry.access)))

    def test_setresuid(self):
        connection = self.connect()
        self.assertEqual(self.opens(connection), 0)
        os.setresgid(OTHER, OTHER, OTHER)
        os.setgroups([])
        os.setresuid(OTHER, OTHER, OTHER)
        self.assertEqual(self.opens(connection), errno.EACCES)
        connection.srv_post("as-other", 0)
        self.assertEqual(connection.stat("srv/as-other").uid, OTHER)

    def test_seteuid(self):
        """The effective user counts, as with open(2)."""
        connection = self.connect()
        self.assertEqual(self.opens(connection), 0)
        os.seteuid(OTHER)
        self.assertErrno(errno.EACCES, os.open, self.path("srv", self._testMethodName), os.O_RDONLY)
        self.assertEqual(self.opens(connection), errno.EACCES)
        os.seteuid(0)
        self.assertEqual(self.opens(connection), 0)

    def test_setgroups(self):
        def member():
            os.setresgid(OTHER, OTHER, OTHER)
            os.setgroups([harness.GROUP_SHARED])
            # Another user, who may still change his groups.
            harness.libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
            os.setresuid(OTHER, OTHER, OTHER)
            keep_only_setgid()
            connection = harness.Connection(self.folder.dir)
            before = self.opens(connection, "-group")
            # The system call: os.setgroups() is for all threads, and a sanitizer's own has lost its capabilities.
            self.assertEqual(harness.libc.syscall(SYS_SETGROUPS, 0, None), 0)
            return before, self.opens(connection, "-group")

        self.assertEqual(harness.run_as(None, member), (0, errno.EACCES))

    def test_setegid(self):
        def member():
            os.setgroups([])
            os.setresgid(harness.GROUP_SHARED, harness.GROUP_SHARED, harness.GROUP_SHARED)
            os.setresuid(OTHER, OTHER, 0)
            connection = harness.Connection(self.folder.dir)
            before = self.opens(connection, "-group")
            os.setresuid(0, 0, 0)
            os.setresgid(OTHER, OTHER, OTHER)
            os.setresuid(OTHER, OTHER, OTHER)
            return before, self.opens(connection, "-group")

        self.assertEqual(harness.run_as(None, member), (0, errno.EACCES))

    def test_a_child_that_gave_up_its_rights(self):
        connection = self.connect()
        self.assertEqual(self.opens(connection), 0)
        self.assertEqual(harness.run_as(OTHER, self.opens, connection), errno.EACCES)
        self.assertEqual(self.opens(connection), 0, "the parent's connection is as it was")

    def test_root_that_gave_up_its_capabilities(self):
        connection = self.connect()
        os.chown(self.path("srv", self._testMethodName), OWNER, -1)
        self.assertEqual(self.opens(connection), 0)
        drop_capabilities(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER)
        self.assertErrno(errno.EACCES, os.open, self.path("srv", self._testMethodName), os.O_RDONLY)
        with harness.Connection(self.folder.dir) as new:
            self.assertEqual(self.opens(new), errno.EACCES)


def keep_only_setgid():
    """Of the capabilities, CAP_SETGID alone."""
    header = struct.pack("=Ii", 0x20080522, 0)
    assert harness.libc.syscall(126, header, struct.pack("=6I", 1 << 6, 1 << 6, 0, 0, 0, 0)) == 0, "capset"


if __name__ == "__main__":
    harness.main()
