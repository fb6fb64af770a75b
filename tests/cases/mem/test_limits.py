# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits of memory objects, and huge pages."""

import errno
import mmap
import os

import harness
from memory import HUGE, MIB, MemCase, fallocate


class Limits(MemCase):
    options = ["--max-bytes-uid", str(16 * MIB), "--max-bytes", str(24 * MIB)]

    def as_user(self, function, uid=harness.USER_A):
        return harness.run_as(uid, function)

    def used(self, uid=harness.USER_A):
        def look():
            with harness.Connection(self.folder.dir) as connection:
                return connection.status().bytes_uid
        return harness.run_as(uid, look)

    def gone(self, *paths):
        """Remove objects and wait until they are no longer charged."""
        for path in paths:
            os.unlink(path)
        harness.wait_until(lambda: self.connect().status().bytes == 0, "nothing is charged any more")

    def each_way(self, grow):
        """As a user: an object that `grow(fd, size)` can make as large as the limit and no larger."""
        def inside():
            fd = os.open(self.mem(), os.O_RDWR | os.O_CREAT)
            grow(fd, 16 * MIB)
            self.assertErrno(errno.EDQUOT, grow, fd, 16 * MIB + 1)
            self.assertEqual(os.fstat(fd).st_size, 16 * MIB)
            self.assertErrno(errno.EDQUOT, os.ftruncate, os.open(self.mem("-other"), os.O_RDWR | os.O_CREAT), 1)
            os.ftruncate(fd, 8 * MIB)
            os.truncate(self.mem("-other"), 8 * MIB)
            self.assertErrno(errno.EDQUOT, grow, fd, 8 * MIB + 1)

        self.as_user(inside)
        self.assertEqual(self.used(), 16 * MIB)
        self.gone(self.mem(), self.mem("-other"))

    def test_ftruncate(self):
        self.each_way(os.ftruncate)

    def test_fallocate(self):
        self.each_way(lambda fd, size: fallocate(fd, 0, 0, size))

    def test_create_by_the_library(self):
        def inside():
            with harness.Connection(self.folder.dir) as connection:
                os.close(connection.mem_create(self.name("-1"), 10 * MIB))
                self.assertErrno(errno.EDQUOT, connection.mem_create, self.name("-2"), 6 * MIB + 1)
                os.close(connection.mem_create(self.name("-2"), 6 * MIB))
                self.assertErrno(errno.EDQUOT, connection.mem_create, self.name("-3"), 1)

        self.as_user(inside)
        self.assertErrno(errno.ENOENT, os.stat, self.mem("-3"))
        self.gone(self.mem("-1"), self.mem("-2"))

    def test_the_total(self):
        def take(suffix, size):
            with harness.Connection(self.folder.dir) as connection:
                os.close(connection.mem_create(self.name(suffix), size))

        self.as_user(lambda: take("-a", 16 * MIB))
        self.assertErrnoAs(harness.USER_B, errno.ENOSPC, take, "-b", 8 * MIB + 1)
        self.as_user(lambda: take("-b", 4 * MIB), harness.USER_B)
        self.assertErrno(errno.ENOSPC, take, "-root", 5 * MIB)
        fd = self.opened(self.mem("-root"), os.O_RDWR | os.O_CREAT)
        self.assertErrno(errno.ENOSPC, os.ftruncate, fd, 4 * MIB + 1)
        self.assertErrno(errno.ENOSPC, fallocate, fd, 0, 0, 4 * MIB + 1)
        os.ftruncate(fd, 4 * MIB)
        self.assertEqual(os.statvfs(self.path("mem")).f_bfree, 0)
        os.close(fd)
        self.gone(self.mem("-a"), self.mem("-b"), self.mem("-root"))

    def test_the_daemons_own_user_has_the_total_only(self):
        fd = self.opened(self.mem(), os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 24 * MIB)
        self.assertErrno(errno.ENOSPC, os.ftruncate, fd, 24 * MIB + 1)
        os.close(fd)
        self.gone(self.mem())

    def test_growth_by_writing_is_charged_and_then_stopped(self):
        """What the kernel serves alone is noticed when the size is next looked at: then no further."""
        def inside():
            fd = os.open(self.mem(), os.O_RDWR | os.O_CREAT)
            self.assertEqual(os.pwrite(fd, b"x", 5 * MIB), 1)
            os.stat(self.mem())
            self.assertEqual(self.used_here(), 5 * MIB + 1)
            os.pwrite(fd, b"x", 20 * MIB)
            os.close(fd)
            harness.wait_until(lambda: self.used_here() == 20 * MIB + 1, "the close is noticed")
            harness.wait_until(lambda: self.is_sealed(self.name()), "it is sealed")
            fd = os.open(self.mem(), os.O_RDWR)
            self.assertErrno(errno.EPERM, os.pwrite, fd, b"x", 20 * MIB + 1)
            self.assertEqual(os.pwrite(fd, b"y", 1000), 1, "what is there can be written")
            self.assertErrno(errno.EDQUOT, os.ftruncate, os.open(self.mem("-other"), os.O_RDWR | os.O_CREAT), 1)
            os.ftruncate(fd, 1000)
            os.truncate(self.mem("-other"), 1000)

        self.as_user(inside)
        self.gone(self.mem(), self.mem("-other"))

    def is_sealed(self, name):
        with harness.Connection(self.folder.dir) as connection:
            return connection.stat("mem/" + name).seals & harness.KMEM_SEAL_GROW

    def used_here(self):
        with harness.Connection(self.folder.dir) as connection:
            return connection.status().bytes_uid

    def test_growth_behind_the_mount_is_charged(self):
        """Through a descriptor of the library, which is the memfd itself."""
        def inside():
            with harness.Connection(self.folder.dir) as connection:
                fd = connection.mem_create(self.name(), 4096, flags=harness.KMEM_RESIZABLE)
                os.ftruncate(fd, 20 * MIB)
                self.assertEqual(connection.stat("mem/" + self.name()).size_bytes, 20 * MIB)
                self.assertEqual(connection.status().bytes_uid, 20 * MIB)
                harness.wait_until(lambda: self.is_sealed(self.name()), "it is sealed")
                self.assertErrno(errno.EPERM, os.ftruncate, fd, 20 * MIB + 1)
                self.assertErrno(errno.EDQUOT, connection.mem_create, self.name("-2"), 4096)

        self.as_user(inside)
        self.gone(self.mem())

    def sparse(self, suffix, size, mode=0o600):
        """An object made large behind the mount, which costs nothing, and looked at."""
        with harness.Connection(self.folder.dir) as connection:
            fd = connection.mem_create(self.name(suffix), 0, mode, harness.KMEM_RESIZABLE)
            os.ftruncate(fd, size)
            connection.stat("mem/" + self.name(suffix))

    def ordinary_use(self, suffix):
        """Growing by all ways, with every object open to more growth afterwards."""
        with harness.Connection(self.folder.dir) as connection:
            os.close(connection.mem_create(self.name(suffix + "-fixed"), 4096))
            fd = os.open(self.mem(suffix), os.O_RDWR | os.O_CREAT)
            for size in (MIB, 2 * MIB):
                os.pwrite(fd, b"x" * 8192, size - 8192)
                os.stat(self.mem(suffix))
            os.ftruncate(fd, 3 * MIB)
            library = connection.mem_open(self.name(suffix))
            os.ftruncate(library, 4 * MIB)
            os.close(library)
            self.assertEqual(connection.stat("mem/" + self.name(suffix)).seals & harness.KMEM_SEAL_GROW, 0)
            self.assertEqual(connection.status().bytes_uid, 4 * MIB + 4096)
            os.close(fd)
            for path in (self.mem(suffix), self.mem(suffix + "-fixed")):
                os.unlink(path)
            harness.wait_until(lambda: connection.status().bytes_uid == 0, "nothing is charged any more")

    def test_a_sparse_object_takes_no_room_of_others(self):
        """A size that costs nothing, and sums of such sizes."""
        for number, size in enumerate((1 << 62, (1 << 63) - 1, (1 << 63) - 1, (1 << 63) - 1)):
            self.as_user(lambda n=number, s=size: self.sparse(f"-{n}", s))
            harness.wait_until(lambda n=number: self.is_sealed(self.name(f"-{n}")), "it is sealed")
            self.assertEqual(self.connect().status().bytes, 16 * MIB, "his limit, and no more")
            self.assertErrnoAs(harness.USER_A, errno.EDQUOT, lambda: harness.Connection(self.folder.dir).mem_create(
                self.name("-more"), 1))
            self.as_user(lambda: self.ordinary_use("-other"), harness.USER_B)
            self.folder.kill_worker()
            self.assertEqual(self.connect().status().bytes, 16 * MIB, "his successor knows it")
            self.as_user(lambda: self.ordinary_use("-other"), harness.USER_B)
        self.gone(*(self.mem(f"-{number}") for number in range(4)))

    def test_a_sparse_object_that_the_folder_has_no_room_for(self):
        """It counts with the memory that it has; and is sealed, but nobody else's is."""
        self.as_user(lambda: self.sparse("-a", 16 * MIB))
        self.as_user(lambda: self.sparse("-b", 5 * MIB), harness.USER_B)
        self.as_user(lambda: self.sparse("-c", 4 * MIB), harness.USER_C)
        harness.wait_until(lambda: self.is_sealed(self.name("-c")), "it is sealed")
        self.assertEqual(self.used(harness.USER_C), 0)
        self.as_user(lambda: os.pwrite(os.open(self.mem("-c"), os.O_RDWR), b"x" * MIB, 0), harness.USER_C)
        harness.wait_until(lambda: os.stat(self.mem("-c")) and self.used(harness.USER_C) == MIB, "what it has counts")
        with harness.Connection(self.folder.dir) as connection:
            self.assertEqual(connection.status().bytes, 22 * MIB)
            for suffix in ("-a", "-b"):
                self.assertEqual(connection.stat("mem/" + self.name(suffix)).seals & harness.KMEM_SEAL_GROW, 0)
        self.as_user(lambda: os.truncate(self.mem("-c"), 3 * MIB), harness.USER_C)
        self.gone(self.mem("-a"), self.mem("-b"), self.mem("-c"))

    def test_an_object_of_the_daemons_user_that_another_makes_large(self):
        """He has no limit of his own, but one who may write his object does not take all of the folder by it."""
        os.umask(0)
        os.close(self.connect().mem_create(self.name(), 4096, 0o666, harness.KMEM_RESIZABLE))

        def grow():
            with harness.Connection(self.folder.dir) as connection:
                os.ftruncate(connection.mem_open(self.name()), 1 << 62)
                harness.wait_until(lambda: self.is_sealed(self.name()), "it is sealed")

        self.as_user(grow)
        self.assertEqual(self.connect().status().bytes, 4096)
        self.as_user(lambda: self.ordinary_use("-other"), harness.USER_B)
        self.gone(self.mem())

    def test_unasked_growth_survives_the_worker(self):
        """Others who take the room meanwhile do not make the growth one that passed the total."""
        self.as_user(lambda: self.sparse("-a", 10 * MIB))
        self.folder.kill_worker()
        self.assertEqual(self.used(), 10 * MIB)
        self.assertErrnoAs(harness.USER_B, errno.ENOSPC, lambda: harness.Connection(self.folder.dir).mem_create(
            self.name("-b"), 14 * MIB + 1))
        self.gone(self.mem("-a"))

    def test_an_open_object_without_a_name_is_charged(self):
        fd = self.opened(self.mem(), os.O_RDWR | os.O_CREAT)
        os.chown(self.mem(), harness.USER_A, -1)
        os.ftruncate(fd, 10 * MIB)
        os.unlink(self.mem())
        self.assertEqual(self.used(), 10 * MIB)
        os.close(fd)
        harness.wait_until(lambda: self.used() == 0, "it is charged until its last user is gone")

    def test_the_charge_survives_the_worker(self):
        def make():
            with harness.Connection(self.folder.dir) as connection:
                os.close(connection.mem_create(self.name(), 12 * MIB))

        self.as_user(make)
        self.folder.kill_worker()
        self.assertEqual(self.used(), 12 * MIB)
        self.gone(self.mem())

    def test_a_gift_is_charged_to_who_gets_it(self):
        for suffix, expected in (("-1", 0), ("-2", errno.EDQUOT)):
            os.close(self.connect().mem_create(self.name(suffix), 9 * MIB))
            self.assertErrno(expected, os.chown, self.mem(suffix), harness.USER_A, -1)
        self.assertEqual(self.used(), 9 * MIB)
        self.gone(self.mem("-1"), self.mem("-2"))


class HugePages(MemCase):
    """A few huge pages are reserved for the class and given back."""

    PATH = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"

    @classmethod
    def pages(cls, number=None):
        if number is not None:
            with open(cls.PATH, "w") as file:
                file.write(str(number))
        with open(cls.PATH) as file:
            return int(file.read())

    def setUp(self):
        if not os.path.exists(self.PATH):
            self.skipTest("this kernel has no huge pages of 2 MiB")
        before = self.pages()
        # A page that is still in use stays: an object's end takes a moment.
        self.addCleanup(harness.wait_until, lambda: self.pages(before) == before, "the huge pages are given back")
        if self.pages(before + 4) < before + 4:
            self.skipTest("the machine has no four free huge pages of 2 MiB to give")

    def test_an_object_of_huge_pages(self):
        fd = self.create(2 * HUGE, flags=harness.KMEM_HUGE_2MB)
        with mmap.mmap(fd, 2 * HUGE) as mapping:
            mapping[0:4] = mapping[HUGE:HUGE + 4] = b"huge"
            with open("/proc/self/smaps") as file:
                self.assertIn("KernelPageSize:     2048 kB", file.read())
            other = self.connect().mem_open(self.name(), os.O_RDONLY)
            with mmap.mmap(other, 2 * HUGE, prot=mmap.PROT_READ) as theirs:
                self.assertEqual(theirs[HUGE:HUGE + 4], b"huge")
            os.close(other)
        self.assertErrno(errno.EPERM, os.ftruncate, fd, HUGE)
        entry = self.connect().stat("mem/" + self.name())
        self.assertEqual((entry.size_bytes, entry.allocated_bytes), (2 * HUGE, 2 * HUGE))
        self.assertEqual(os.stat(self.mem()).st_size, 2 * HUGE)
        os.close(fd)
        self.connect().mem_remove(self.name())
        harness.wait_until(self.all_free, "the pages are free again")

    def all_free(self):
        with open(self.PATH.replace("nr_", "free_")) as file:
            return int(file.read()) == self.pages()

    def test_through_the_mount(self):
        """The kernel's passthrough has no huge pages: refused clearly, with the library as the way."""
        self.create(HUGE, flags=harness.KMEM_HUGE_2MB)
        self.assertErrno(errno.EOPNOTSUPP, os.open, self.mem(), os.O_RDWR)
        os.unlink(self.mem())

    def test_by_the_command(self):
        done = self.cli("mem", "create", self.name(), "4M", "--huge", "2M")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        fd = self.connect().mem_open(self.name())
        with mmap.mmap(fd, 2 * HUGE) as mapping:
            mapping[0] = 1
        os.close(fd)
        self.connect().mem_remove(self.name())

    def test_more_than_there_are(self):
        pages = self.pages()
        self.assertErrno(errno.ENOMEM, self.connect().mem_create, self.name(), (pages + 1000) * HUGE,
                         flags=harness.KMEM_HUGE_2MB)
        self.assertErrno(errno.ENOENT, os.stat, self.mem())
        self.assertEqual(self.connect().status().bytes_uid, 0)


if __name__ == "__main__":
    harness.main()
