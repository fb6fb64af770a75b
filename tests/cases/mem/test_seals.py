# SPDX-License-Identifier: GPL-2.0-or-later
"""Seals of memory objects, each with its effect, and descriptors that give what they say and no more."""

import ctypes
import errno
import fcntl
import mmap
import os
import signal

import harness
from memory import (
    COLLAPSE_RANGE, F_ADD_SEALS, F_GET_SEALS, HUGE, MIB, MemCase, PUNCH_HOLE_KEEP_SIZE, RW, address_of_read_only,
    fallocate)

SHRINK, GROW = harness.KMEM_SEAL_SHRINK, harness.KMEM_SEAL_GROW
WRITE, FUTURE_WRITE, SEAL = harness.KMEM_SEAL_WRITE, harness.KMEM_SEAL_FUTURE_WRITE, harness.KMEM_SEAL_SEAL


class Seals(MemCase):
    """Each seal and its effect, by the library and by the command; both are one thing."""

    def seal(self, how, seals):
        if how == "library":
            self.connect().mem_seal(self.name("-" + how), seals)
            return
        words = {SHRINK: "shrink", GROW: "grow", WRITE: "write", FUTURE_WRITE: "future-write", SEAL: "seal"}
        done = self.cli("mem", "seal", self.name("-" + how),
                        ",".join(word for bit, word in words.items() if seals & bit))
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))

    def each(self, seals, size=8192, flags=os.O_RDWR):
        """For both ways: a sealed object's own descriptor and one through the mount, both opened before."""
        for how in ("library", "command"):
            fd = self.create(size, "-" + how, flags=harness.KMEM_RESIZABLE)
            mounted = self.opened(self.mem("-" + how), flags)
            self.seal(how, seals)
            self.assertEqual(fcntl.fcntl(fd, F_GET_SEALS) & 0x1f & ~SEAL, seals & ~SEAL)
            self.assertEqual(self.connect().stat("mem/" + self.name("-" + how)).seals & seals, seals)
            yield how, fd, mounted

    def test_shrink(self):
        for how, fd, mounted in self.each(SHRINK):
            for descriptor in (fd, mounted):
                self.assertErrno(errno.EPERM, os.ftruncate, descriptor, 4096)
                os.ftruncate(descriptor, os.fstat(descriptor).st_size + 4096)
                self.assertEqual(os.pwrite(descriptor, b"x", 0), 1)
            self.assertErrno(errno.EPERM, os.truncate, self.mem("-" + how), 0)
            self.assertErrno(errno.EPERM, os.open, self.mem("-" + how), os.O_WRONLY | os.O_TRUNC)
            self.assertEqual(os.stat(self.mem("-" + how)).st_size, 16384)

    def test_grow(self):
        for how, fd, mounted in self.each(GROW):
            for descriptor in (fd, mounted):
                self.assertErrno(errno.EPERM, os.ftruncate, descriptor, 100000)
                self.assertErrno(errno.EPERM, os.pwrite, descriptor, b"x", 8192)
                self.assertErrno(errno.EPERM, fallocate, descriptor, 0, 0, 100000)
                self.assertEqual(os.pwrite(descriptor, b"x", 8191), 1)
            self.assertEqual(os.stat(self.mem("-" + how)).st_size, 8192)
            os.ftruncate(mounted, 4096)
            self.assertEqual(os.fstat(fd).st_size, 4096)

    def test_a_refused_growth_is_not_charged(self):
        before = self.connect().status().bytes
        for _, fd, mounted in self.each(GROW):
            self.assertErrno(errno.EPERM, os.ftruncate, mounted, 10 * MIB)
            self.assertErrno(errno.EPERM, fallocate, mounted, 0, 0, 10 * MIB)
            self.assertErrno(errno.EPERM, os.pwrite, mounted, b"x", 10 * MIB)
            os.close(fd)
        self.assertEqual(self.connect().status().bytes - before, 2 * 8192)

    def test_write(self):
        for how, fd, mounted in self.each(WRITE, flags=os.O_RDONLY):
            self.assertErrno(errno.EPERM, os.pwrite, fd, b"x", 0)
            self.assertErrno(errno.EPERM, fallocate, fd, PUNCH_HOLE_KEEP_SIZE, 0, 4096)
            self.assertErrno(errno.EPERM, mmap.mmap, fd, 8192, mmap.MAP_SHARED, RW)
            for descriptor in (fd, mounted):
                self.assertEqual(os.pread(descriptor, 2, 0), b"\0\0")
            self.refused_for_writing(how)

    def test_writing_cannot_be_sealed_while_it_is_open_for_writing(self):
        """Through the mount, where the kernel would let such a handle be mapped and written after the seal."""
        for seals, word in ((WRITE, "write"), (FUTURE_WRITE, "future-write")):
            with self.subTest(word):
                fd = self.create(8192, "-" + word, flags=harness.KMEM_RESIZABLE)
                mounted = self.opened(self.mem("-" + word), os.O_RDWR)
                connection = self.connect()
                for _ in range(2):
                    self.assertErrno(errno.EBUSY, connection.mem_seal, self.name("-" + word), seals)
                    done = self.cli("mem", "seal", self.name("-" + word), word)
                    self.assertRefused(done)
                    self.assertIn("mount", done.stderr)
                    self.assertEqual(fcntl.fcntl(fd, F_GET_SEALS) & (WRITE | FUTURE_WRITE), 0)
                    self.folder.kill_worker()
                connection.mem_seal(self.name("-" + word), SHRINK)
                with mmap.mmap(mounted, 8192) as mapping:
                    os.close(mounted)
                    mapping[0] = 1
                    self.assertErrno(errno.EBUSY, connection.mem_seal, self.name("-" + word), WRITE)
                harness.wait_until(lambda seals=seals, word=word: harness.errno_of(
                    connection.mem_seal, self.name("-" + word), seals) == 0, "it can be sealed when it is closed")
                self.assertErrno(errno.EPERM, os.open, self.mem("-" + word), os.O_RDWR)

    def refused_for_writing(self, how):
        for flags in (os.O_WRONLY, os.O_RDWR):
            self.assertErrno(errno.EPERM, os.open, self.mem("-" + how), flags)
            self.assertErrno(errno.EPERM, self.connect().mem_open, self.name("-" + how), flags)
        for fd in (self.opened(self.mem("-" + how), os.O_RDONLY),
                   self.connect().mem_open(self.name("-" + how), os.O_RDONLY)):
            with mmap.mmap(fd, 8192, prot=mmap.PROT_READ) as mapping:
                self.assertEqual(mapping[0], 0)

    def test_write_while_a_writable_mapping_exists(self):
        for opener in ("library", "mount"):
            with self.subTest(opener):
                fd = self.create(8192, "-" + opener, flags=harness.KMEM_RESIZABLE)
                descriptor = fd if opener == "library" else self.opened(self.mem("-" + opener), os.O_RDWR)
                connection = self.connect()
                with mmap.mmap(descriptor, 8192):
                    if opener == "mount":
                        os.close(descriptor)
                    self.assertErrno(errno.EBUSY, connection.mem_seal, self.name("-" + opener), WRITE)
                    self.assertRefused(self.cli("mem", "seal", self.name("-" + opener), "write"))
                    self.assertEqual(fcntl.fcntl(fd, F_GET_SEALS) & WRITE, 0)
                connection.mem_seal(self.name("-" + opener), WRITE)
                self.assertErrno(errno.EPERM, os.pwrite, fd, b"x", 0)

    def test_future_write(self):
        for how in ("library", "command"):
            with self.subTest(how):
                fd = self.create(8192, "-" + how, flags=harness.KMEM_RESIZABLE)
                mounted = self.opened(self.mem("-" + how), os.O_RDONLY)
                with mmap.mmap(fd, 8192) as existing:
                    self.seal(how, FUTURE_WRITE)
                    existing[0:4] = b"goes"
                    for descriptor in (fd, mounted):
                        self.assertEqual(os.pread(descriptor, 4, 0), b"goes")
                    self.assertErrno(errno.EPERM, os.pwrite, fd, b"x", 0)
                    self.assertErrno(errno.EPERM, mmap.mmap, fd, 8192, mmap.MAP_SHARED, RW)
                    for flags in (os.O_WRONLY, os.O_RDWR):
                        self.assertErrno(errno.EPERM, os.open, self.mem("-" + how), flags)
                        self.assertErrno(errno.EPERM, self.connect().mem_open, self.name("-" + how), flags)

    def test_seal(self):
        for how, fd, _ in self.each(SEAL | SHRINK, flags=os.O_RDONLY):
            for seals in (GROW, WRITE, SEAL):
                self.assertErrno(errno.EPERM, self.connect().mem_seal, self.name("-" + how), seals)
            self.assertErrno(errno.EPERM, fcntl.fcntl, fd, F_ADD_SEALS, GROW)
            done = self.cli("mem", "seal", self.name("-" + how), "grow")
            self.assertEqual(done.returncode, 1)
            self.assertRefused(done)

    def test_who_may_seal(self):
        self.create(4096, mode=0o644, flags=harness.KMEM_RESIZABLE)

        def seal():
            with harness.Connection(self.folder.dir) as connection:
                connection.mem_seal(self.name(), SHRINK)

        self.assertErrnoAs(harness.USER_A, errno.EACCES, seal)
        self.assertEqual(self.connect().stat("mem/" + self.name()).seals & SHRINK, 0)
        os.chmod(self.mem(), 0o666)
        self.assertErrnoAs(harness.USER_A, 0, seal)
        self.assertEqual(self.connect().stat("mem/" + self.name()).seals & SHRINK, SHRINK)

    def test_bad_seals(self):
        self.create(4096, flags=harness.KMEM_RESIZABLE)
        connection = self.connect()
        for seals in (0, 0x20, 0x40, 1 << 31, SHRINK | 0x100):
            with self.subTest(seals=seals):
                self.assertErrno(errno.EINVAL, connection.mem_seal, self.name(), seals)
        self.assertErrno(errno.ENOENT, connection.mem_seal, "missing", SHRINK)
        self.assertEqual(connection.stat("mem/" + self.name()).seals & ~SEAL, 0)

    def test_seals_survive_the_worker(self):
        self.create(4096, flags=harness.KMEM_RESIZABLE)
        self.connect().mem_seal(self.name(), GROW)
        self.folder.kill_worker()
        self.assertErrno(errno.EPERM, os.truncate, self.mem(), 8192)

    def test_a_size_that_was_given_is_fixed(self):
        fd = self.create(8192)
        self.assertEqual(self.connect().stat("mem/" + self.name()).seals & (SHRINK | GROW), SHRINK | GROW)
        for size in (0, 4096, 10000):
            self.assertErrno(errno.EPERM, os.ftruncate, fd, size)
            self.assertErrno(errno.EPERM, os.truncate, self.mem(), size)

    def test_a_reader_of_a_sealed_object_cannot_crash(self):
        """Whatever the owner tries, a mapping inside the size raises no SIGBUS."""
        size = 64 * 1024

        def make():
            with harness.Connection(self.folder.dir) as connection:
                os.close(connection.mem_create(self.name(), size, 0o644))

        harness.run_as(harness.USER_A, make)
        ready_reader, ready_writer = os.pipe()
        go_reader, go_writer = os.pipe()

        def read_all():
            os.close(go_writer)
            fd = os.open(self.mem(), os.O_RDONLY)
            with mmap.mmap(fd, size, prot=mmap.PROT_READ) as mapping:
                os.write(ready_writer, b".")
                os.read(go_reader, 1)
                return [mapping[offset] for offset in range(0, size, 4096)]

        reader = self.child(read_all, uid=harness.USER_B)
        self.assertEqual(harness.read_exactly(ready_reader, 1), b".")

        def attack():
            """Everything that an owner could hope to take the pages away with."""
            with harness.Connection(self.folder.dir) as connection:
                fds = [connection.mem_open(self.name()), os.open(self.mem(), os.O_RDWR)]
                attempts = [lambda: os.truncate(self.mem(), 0), lambda: os.open(self.mem(), os.O_RDWR | os.O_TRUNC)]
                for fd in fds:
                    attempts += [lambda fd=fd: os.ftruncate(fd, 0), lambda fd=fd: os.ftruncate(fd, 4096),
                                 lambda fd=fd: os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_TRUNC),
                                 lambda fd=fd: os.truncate(f"/proc/self/fd/{fd}", 0),
                                 lambda fd=fd: fallocate(fd, COLLAPSE_RANGE, 0, 4096)]
                refused = [harness.errno_of(attempt) for attempt in attempts]
                for fd in fds:
                    fallocate(fd, PUNCH_HOLE_KEEP_SIZE, 0, size)
                    with mmap.mmap(fd, size) as mapping:
                        mapping.madvise(mmap.MADV_REMOVE)
                        mapping.madvise(mmap.MADV_DONTNEED)
                os.chmod(self.mem(), 0)
                os.rename(self.mem(), self.mem("-away"))
                os.unlink(self.mem("-away"))
                return refused

        self.assertNotIn(0, harness.run_as(harness.USER_A, attack))
        self.folder.kill_worker()
        os.close(go_writer)
        self.assertEqual(reader.result(), [0] * 16, "the punched pages are zeros, and there is no SIGBUS")

    def test_an_unsealed_object_shows_that_the_test_above_can_fail(self):
        fd = self.create(8192, flags=harness.KMEM_RESIZABLE)

        def read_after_truncation():
            with mmap.mmap(self.opened(self.mem(), os.O_RDONLY), 8192, prot=mmap.PROT_READ) as mapping:
                os.ftruncate(fd, 0)
                return mapping[4096]

        child = self.child(read_after_truncation)
        self.assertEqual(child.wait(), ("killed", f"killed by signal {int(signal.SIGBUS)}"))


class Rights(MemCase):
    def test_a_read_only_descriptor_cannot_be_upgraded(self):
        """Not through /proc/self/fd, as a user whom the mode lets only read; whoever made the object."""
        self.create(4096, mode=0o644)
        os.pwrite(self.connect().mem_open(self.name()), b"content", 0)

        def try_to_upgrade():
            with harness.Connection(self.folder.dir) as connection:
                library = connection.mem_open(self.name(), os.O_RDONLY)
            for fd in (library, os.open(self.mem(), os.O_RDONLY)):
                for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDONLY | os.O_TRUNC):
                    self.assertErrno(errno.EACCES, os.open, f"/proc/self/fd/{fd}", flags)
                self.assertErrno(errno.EBADF, os.write, fd, b"x")
                self.assertErrno(errno.EACCES, mmap.mmap, fd, 4096, mmap.MAP_SHARED, RW)
                self.assertErrno(errno.EPERM, os.fchmod, fd, 0o666)
                with mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ) as mapping:
                    address = address_of_read_only(mapping)
                    self.assertEqual(harness.libc.mprotect(ctypes.c_void_p(address), 4096, RW), -1)
            self.assertErrno(errno.EPERM, fcntl.fcntl, library, F_ADD_SEALS, WRITE)

        harness.run_as(harness.USER_A, try_to_upgrade)
        self.assertEqual(os.pread(self.connect().mem_open(self.name()), 7, 0), b"content")

    def test_chmod_counts_for_descriptors_to_come_through_proc(self):
        self.create(4096, mode=0o666)
        os.chmod(self.mem(), 0o644)

        def upgrade():
            with harness.Connection(self.folder.dir) as connection:
                fd = connection.mem_open(self.name(), os.O_RDONLY)
            os.open(f"/proc/self/fd/{fd}", os.O_RDWR)

        self.assertErrnoAs(harness.USER_A, errno.EACCES, upgrade)
        os.chown(self.mem(), harness.USER_A, -1)
        self.assertErrnoAs(harness.USER_A, 0, upgrade)

    def test_the_creator_gets_the_umasks_mode(self):
        os.umask(0o077)
        self.create(4096, mode=0o666)
        self.assertEqual(os.stat(self.mem()).st_mode & 0o777, 0o600)

        def open_it():
            with harness.Connection(self.folder.dir) as connection:
                connection.mem_open(self.name(), os.O_RDONLY)

        self.assertErrnoAs(harness.USER_A, errno.EACCES, open_it)

    def test_bad_arguments(self):
        connection = self.connect()
        for size, flags, expected in ((4096, 8, errno.EINVAL), (4096, 6, errno.EINVAL), (4096, 2, errno.EINVAL),
                                      (HUGE, 4, errno.EINVAL)):
            with self.subTest(size=size, flags=flags):
                self.assertErrno(expected, connection.mem_create, self.name(), size, flags=flags)
        for name in ("", ".", "..", "a/../b", "/a", "a/"):
            with self.subTest(name=name):
                self.assertErrno(errno.EINVAL, connection.mem_create, name, 4096)
        self.create(4096)
        self.assertErrno(errno.EEXIST, connection.mem_create, self.name(), 4096)
        self.assertErrno(errno.ENAMETOOLONG, connection.mem_create, "n" * 256, 4096)
        self.assertErrno(errno.ENOENT, connection.mem_open, "missing")
        self.assertErrno(errno.EINVAL, connection.mem_open, self.name(), 3)
        os.mkdir(self.path("mem", "board"))
        self.assertErrno(errno.EISDIR, connection.mem_open, "board", os.O_RDONLY)
        self.assertErrno(errno.EISDIR, connection.mem_remove, "board")
        self.assertErrno(errno.ENOENT, connection.stat, "mem/missing")


if __name__ == "__main__":
    harness.main()
