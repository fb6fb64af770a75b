# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory objects: used by unmodified programs, shared without a copy."""

import errno
import mmap
import os

import harness
from memory import (
    COLLAPSE_RANGE, KEEP_SIZE, MIB, MemCase, PUNCH_HOLE_KEEP_SIZE, address_of, fallocate, page_frames)


class Calls(MemCase):
    """Plain system calls on the mount."""

    def test_create_size_write_read_unlink(self):
        fd = self.opened(self.mem(), os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self.assertEqual(os.fstat(fd).st_size, 0)
        self.assertEqual(os.write(fd, b"hello"), 5)
        os.ftruncate(fd, 10000)
        self.assertEqual((os.fstat(fd).st_size, os.stat(self.mem()).st_size), (10000, 10000))
        self.assertEqual(os.pread(fd, 10, 0), b"hello\0\0\0\0\0")
        self.assertEqual(os.pread(fd, 100, 9990), bytes(10))
        self.assertEqual(os.pread(fd, 1, 10000), b"")
        os.pwrite(fd, b"end", 20000)
        self.assertEqual(os.stat(self.mem()).st_size, 20003)
        self.assertEqual(os.lseek(fd, 0, os.SEEK_END), 20003)
        os.truncate(self.mem(), 3)
        self.assertEqual(os.pread(fd, 100, 0), b"hel")
        self.assertErrno(errno.EEXIST, os.open, self.mem(), os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.close(os.open(self.mem(), os.O_WRONLY | os.O_TRUNC))
        self.assertEqual(os.fstat(fd).st_size, 0)
        os.unlink(self.mem())
        os.write(fd, b"nameless")
        self.assertEqual(os.fstat(fd).st_nlink, 0)
        self.assertErrno(errno.ENOENT, os.open, self.mem(), os.O_RDWR)

    def test_append(self):
        one, two = (self.opened(self.mem(), os.O_WRONLY | os.O_CREAT | os.O_APPEND) for _ in range(2))
        for fd, text in ((one, b"a"), (two, b"bb"), (one, b"ccc")):
            os.write(fd, text)
        self.assertEqual(os.read(self.opened(self.mem(), os.O_RDONLY), 100), b"abbccc")

    def test_access_modes(self):
        os.close(os.open(self.mem(), os.O_RDWR | os.O_CREAT))
        self.assertErrno(errno.EBADF, os.write, self.opened(self.mem(), os.O_RDONLY), b"x")
        self.assertErrno(errno.EBADF, os.read, self.opened(self.mem(), os.O_WRONLY), 1)

    def test_allocation_and_holes(self):
        fd = self.opened(self.mem(), os.O_RDWR | os.O_CREAT)
        fallocate(fd, 0, 0, MIB)
        self.assertEqual((os.fstat(fd).st_size, os.fstat(fd).st_blocks * 512), (MIB, MIB))
        os.pwrite(fd, b"x" * MIB, 0)  # what is allocated and never written is a hole to lseek()
        fallocate(fd, PUNCH_HOLE_KEEP_SIZE, 4096, MIB - 8192)
        self.assertEqual((os.fstat(fd).st_size, os.fstat(fd).st_blocks * 512), (MIB, 8192))
        self.assertEqual(os.lseek(fd, 0, os.SEEK_HOLE), 4096)
        self.assertEqual(os.lseek(fd, 4096, os.SEEK_DATA), MIB - 4096)
        self.assertErrno(errno.ENXIO, os.lseek, fd, MIB, os.SEEK_DATA)
        fallocate(fd, KEEP_SIZE, 2 * MIB, 4096)
        self.assertEqual(os.fstat(fd).st_size, MIB)
        self.assertErrno(errno.EOPNOTSUPP, fallocate, fd, COLLAPSE_RANGE, 0, 4096)
        self.assertErrno(errno.EINVAL, fallocate, fd, 0, 0, 0)
        os.fsync(fd)

    def test_large_sizes(self):
        fd = self.opened(self.mem(), os.O_RDWR | os.O_CREAT)
        self.assertErrno(errno.EINVAL, os.ftruncate, fd, -1)
        for size in (2**62, 2**63 - 1):
            self.assertIn(harness.errno_of(os.ftruncate, fd, size), (errno.ENOSPC, errno.EFBIG))
        self.assertEqual(os.fstat(fd).st_size, 0)

    def test_mappings(self):
        fd = self.opened(self.mem(), os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 8192)
        with mmap.mmap(fd, 8192) as mapping:
            mapping[4090:4100] = b"over pages"
            self.assertEqual(os.pread(fd, 10, 4090), b"over pages")
            os.pwrite(fd, b"written", 100)
            self.assertEqual(mapping[100:107], b"written")
            mapping.flush()

            def in_another_process():
                other = os.open(self.mem(), os.O_RDWR)
                with mmap.mmap(other, 8192) as theirs:
                    theirs[0:5] = b"there"
                    return theirs[4090:4100]

            self.assertEqual(harness.run_as(None, in_another_process), b"over pages")
            self.assertEqual(mapping[0:5], b"there")
            os.unlink(self.mem())
            os.close(fd)
            mapping[0:5] = b"alone"
            self.assertEqual(mapping[0:5], b"alone", "a mapping outlives name and descriptor")

    def test_mount_and_library_are_one_memory(self):
        fd = self.create(MIB)
        mounted = self.opened(self.mem(), os.O_RDWR)
        with mmap.mmap(fd, MIB) as library, mmap.mmap(mounted, MIB) as mount:
            for number in range(0, MIB, 4096):
                library[number:number + 4] = number.to_bytes(4, "little")
            self.assertEqual(bytes(mount), bytes(library))
            mount[5:10] = b"mount"
            self.assertEqual(library[5:10], b"mount")
            os.pwrite(fd, b"pwrite", 50)
            self.assertEqual((mount[50:56], os.pread(mounted, 6, 50)), (b"pwrite", b"pwrite"))
            os.pwrite(mounted, b"WRITE", 51)
            self.assertEqual((library[51:56], os.pread(fd, 5, 51)), (b"WRITE", b"WRITE"))
            self.assertEqual(page_frames(address_of(mount), MIB), page_frames(address_of(library), MIB))

    def test_size_changes_are_seen_by_both_ways(self):
        fd = self.create(4096, flags=harness.KMEM_RESIZABLE)
        mounted = self.opened(self.mem(), os.O_RDWR)
        os.ftruncate(fd, 50000)
        self.assertEqual((os.fstat(mounted).st_size, os.stat(self.mem()).st_size), (50000, 50000))
        os.ftruncate(mounted, 100)
        self.assertEqual(os.fstat(fd).st_size, 100)
        os.pwrite(fd, b"x", 70000)
        self.assertEqual(os.stat(self.mem()).st_size, 70001)
        self.assertEqual(self.connect().stat("mem/" + self.name()).size_bytes, 70001)
        self.assertEqual(os.lseek(mounted, 0, os.SEEK_END), 70001)

    def test_mappings_outlive_the_worker(self):
        fd = self.opened(self.mem(), os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 4096)
        with mmap.mmap(fd, 4096) as mapping:
            mapping[0:6] = b"before"
            self.folder.kill_worker()
            self.assertEqual(mapping[0:6], b"before")
            mapping[0:6] = b"after "
            self.assertEqual(os.pread(self.opened(self.mem(), os.O_RDONLY), 6, 0), b"after ")


class Sharing(MemCase):
    @staticmethod
    def in_memory(address):
        """What smaps says of the mapping at an address: its resident bytes, and its share of them."""
        with open("/proc/self/smaps") as file:
            for line in file:
                if line.startswith(f"{address:x}-"):
                    fields = {key: value for key, value in (file.readline().split(":", 1) for _ in range(5))}
                    return tuple(int(fields[key].split()[0]) * 1024 for key in ("Rss", "Pss"))
        raise AssertionError("no such mapping")

    @harness.timeout(60)
    def test_two_processes_share_a_gigabyte_and_nothing_is_copied(self):
        size = 1 << 30
        os.umask(0)
        os.close(self.connect().mem_create(self.name(), size, 0o666))
        fd = self.opened(self.mem(), os.O_RDWR)
        with mmap.mmap(fd, size) as ours:
            for offset in range(0, size, 4096):
                ours[offset] = offset >> 12 & 0xff
            self.assertEqual(self.in_memory(address_of(ours)), (size, size))

            def look():
                """As another user, by the library."""
                with harness.Connection(self.folder.dir) as connection:
                    other = connection.mem_open(self.name())
                with mmap.mmap(other, size) as theirs:
                    for offset in range(0, size, 4096):
                        if theirs[offset] != offset >> 12 & 0xff:
                            raise AssertionError(f"at {offset}")
                    theirs[size - 1] = 77
                    return self.in_memory(address_of(theirs))

            resident, share = harness.run_as(harness.USER_A, look, timeout=40)
            self.assertEqual((resident, share), (size, size // 2), "every page is there once, for both")
            self.assertEqual(ours[size - 1], 77)
            self.assertEqual(os.fstat(fd).st_blocks * 512, size)

            def frames():
                other = os.open(self.mem(), os.O_RDWR)
                with mmap.mmap(other, size) as theirs:
                    _ = theirs[0], theirs[size // 2], theirs[size - 4096]
                    address = address_of(theirs)
                    return [page_frames(address + offset, 4096) for offset in (0, size // 2, size - 4096)]

            address = address_of(ours)
            expected = [page_frames(address + offset, 4096) for offset in (0, size // 2, size - 4096)]
            self.assertEqual(harness.run_as(None, frames), expected, "the same physical pages")
            self.assertNotIn([0], expected)

    def test_nothing_is_left_in_memory(self):
        counts = self.folder.descriptor_counts()
        with harness.Connection(self.folder.dir) as connection:
            fd = connection.mem_create(self.name(), 64 * MIB)
            fallocate(fd, 0, 0, 64 * MIB)
            os.stat(self.mem())
            os.close(fd)
            self.assertEqual(connection.status().bytes_uid, connection.status().bytes)
            before = connection.status().bytes
            connection.mem_remove(self.name())
            harness.wait_until(lambda: connection.status().bytes == before - 64 * MIB, "it is no longer charged")
        harness.wait_until(lambda: all(now <= then for now, then in zip(self.folder.descriptor_counts(), counts)),
                           "nobody holds it any more")


class Programs(MemCase):
    needs = ["sqlite3", "dd", "cp", "cmp", "fio"]

    def test_sqlite(self):
        for journal in ("delete", "wal", "memory", "off"):
            with self.subTest(journal):
                path = self.mem("-" + journal)
                out = self.program("sqlite3", path, f"pragma journal_mode={journal};" + """
                    create table t(a integer primary key, b text);
                    with recursive n(i) as (select 1 union all select i+1 from n where i<5000)
                    insert into t select i, hex(randomblob(40)) from n;
                    begin; delete from t where a % 7 = 0; rollback;
                    begin; delete from t where a % 5 = 0; commit;
                    vacuum; pragma integrity_check; select count(*), sum(a) from t;""")
                self.assertEqual(out.split()[-2:], ["ok", self.expected_rows()])
                self.assertEqual(self.program("sqlite3", path, "pragma mmap_size=268435456; pragma integrity_check;"
                                              "select count(*), sum(a) from t;").split()[-2:],
                                 ["ok", self.expected_rows()])
        names = sorted(name for name in os.listdir(self.path("mem")) if name.startswith(self.name("-")))
        self.assertEqual(names, sorted(self.name("-" + journal) for journal in ("delete", "wal", "memory", "off")),
                         "no journal is left")

    @staticmethod
    def expected_rows():
        rows = [number for number in range(1, 5001) if number % 5]
        return f"{len(rows)}|{sum(rows)}"

    def test_sqlite_by_two_at_a_time(self):
        path = self.mem()
        self.program("sqlite3", path, "pragma journal_mode=wal; create table t(a);")

        def insert():
            self.program("sqlite3", "-cmd", ".timeout 20000", path, "insert into t values(1);\n" * 100)

        children = [self.child(insert) for _ in range(2)]
        for child in children:
            child.result(25)
        self.assertEqual(self.program("sqlite3", path, "select count(*) from t; pragma integrity_check;").split(),
                         ["200", "ok"])

    def test_dd(self):
        source = self.scratch("source")
        with open(source, "wb") as file:
            file.write(os.urandom(3 * MIB + 123))
        self.program("dd", f"if={source}", f"of={self.mem()}", "bs=64k", "status=none")
        self.program("cmp", source, self.mem())
        self.program("dd", f"if={self.mem()}", f"of={self.scratch('back')}", "bs=4k", "status=none")
        self.program("cmp", source, self.scratch("back"))
        self.program("dd", "if=/dev/zero", f"of={self.mem()}", "bs=1k", "seek=10", "count=5", "conv=notrunc",
                     "status=none")
        self.assertEqual(os.stat(self.mem()).st_size, 3 * MIB + 123)
        self.assertEqual(os.pread(self.opened(self.mem(), os.O_RDONLY), 5 << 10, 10 << 10), bytes(5 << 10))

    def test_dd_past_the_page_cache(self):
        self.program("dd", "if=/dev/zero", f"of={self.mem()}", "bs=64k", "count=16", "oflag=direct", "status=none")
        self.program("dd", f"if={self.mem()}", "of=/dev/null", "bs=64k", "iflag=direct", "status=none")
        self.assertEqual(os.stat(self.mem()).st_size, MIB)

    def test_sparse_copies(self):
        with open(self.mem(), "wb") as file:
            file.truncate(64 * MIB)
            file.seek(32 * MIB)
            file.write(b"in the middle")
        for source, copy in ((self.mem(), self.mem("-copy")), (self.mem("-copy"), self.scratch("copy")),
                             (self.scratch("copy"), self.mem("-again"))):
            self.program("cp", "--sparse=always", source, copy)
            self.program("cmp", self.mem(), copy)
            self.assertLess(os.stat(copy).st_blocks * 512, MIB)

    def test_python(self):
        script = """
import mmap, sys
with open(sys.argv[1], "w+b") as file:
    file.truncate(100000)
    with mmap.mmap(file.fileno(), 0) as mapping:
        mapping[50000:50005] = b"there"
        mapping.resize(200000)
        mapping[150000:150003] = b"far"
        assert mapping.find(b"far") == 150000
        mapping.flush()
    file.seek(50000)
    assert file.read(5) == b"there"
"""
        self.program("python3", "-c", script, self.mem())
        self.assertEqual(os.stat(self.mem()).st_size, 200000)

    def fio(self, *options, path=None):
        self.program("fio", "--name=job", f"--filename={path or self.mem()}", "--size=8M", "--bs=4k", "--verify=crc32c",
                     "--verify_fatal=1", "--output=" + self.scratch(self.name() + ".out"), *options, cwd=self.scratch())

    def test_fio_by_mmap(self):
        self.fio("--ioengine=mmap", "--rw=randwrite")
        self.assertEqual(os.stat(self.mem()).st_size, 8 * MIB)

    def test_fio_by_calls(self):
        for engine in ("psync", "libaio"):
            with self.subTest(engine):
                self.fio(f"--ioengine={engine}", "--rw=randwrite", "--iodepth=8")

    def test_fio_by_io_uring_on_the_librarys_descriptor(self):
        fd = self.create(8 * MIB)
        self.fio("--ioengine=io_uring", "--rw=randwrite", "--iodepth=8", path=f"/proc/{os.getpid()}/fd/{fd}")
        self.assertNotEqual(os.pread(self.opened(self.mem(), os.O_RDONLY), 4096, 0), bytes(4096))

    def test_shell_redirections(self):
        self.program("bash", "-ec", 'echo one > "$1"; echo two >> "$1"; test "$(cat "$1")" = $\'one\\ntwo\'; : > "$1"; '
                     'test ! -s "$1"; head -c 1M /dev/urandom | tee "$1" | cksum > "$2"; cksum < "$1" | cmp "$2"',
                     "bash", self.mem(), self.scratch("sum"))


if __name__ == "__main__":
    harness.main()
