# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory objects: used by unmodified programs, shared without a copy, sealed, limited."""

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import subprocess

import harness

F_GET_SEALS, F_ADD_SEALS = 1034, 1033
PUNCH_HOLE_KEEP_SIZE, KEEP_SIZE, COLLAPSE_RANGE = 3, 1, 8
SHRINK, GROW = harness.KMEM_SEAL_SHRINK, harness.KMEM_SEAL_GROW
WRITE, FUTURE_WRITE, SEAL = harness.KMEM_SEAL_WRITE, harness.KMEM_SEAL_FUTURE_WRITE, harness.KMEM_SEAL_SEAL
RW = mmap.PROT_READ | mmap.PROT_WRITE
MIB = 1 << 20
HUGE = 2 * MIB


def fallocate(fd, mode, offset, length):
    if harness.libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")


def shmem_bytes():
    """Memory in all of the machine's tmpfs files and memfds."""
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("Shmem:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("no Shmem in /proc/meminfo")


def page_frames(address, length):
    """The physical pages behind a mapping of this process."""
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        data = os.pread(file.fileno(), length // 4096 * 8, address // 4096 * 8)
    return [word & (1 << 55) - 1 for word in memoryview(data).cast("Q")]


def address_of(mapping):
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


class MemCase(harness.FolderCase):
    def name(self, suffix=""):
        return self._testMethodName + suffix

    def mem(self, suffix=""):
        return self.path("mem", self.name(suffix))

    def create(self, size=0, suffix="", **options):
        """A new object by the library: its descriptor."""
        fd = self.connect().mem_create(self.name(suffix), size, **options)
        self.addCleanup(lambda: harness.errno_of(os.close, fd))
        return fd

    def program(self, *command, **options):
        """Run a program that knows nothing of us; it must succeed. Return: what it printed."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * harness.SCALE, **options)
        self.assertEqual(done.returncode, 0, f"{command[0]}: {done.stdout}{done.stderr}")
        return done.stdout


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
    @harness.timeout(60)
    def test_two_processes_share_a_gigabyte_and_nothing_is_copied(self):
        size = 1 << 30
        os.umask(0)
        os.close(self.connect().mem_create(self.name(), size, 0o666))
        before = shmem_bytes()
        fd = self.opened(self.mem(), os.O_RDWR)
        fallocate(fd, 0, 0, size)
        with mmap.mmap(fd, size) as ours:
            for offset in range(0, size, 4096):
                ours[offset] = offset >> 12 & 0xff
            slack = 64 * MIB  # others on this machine make and free memory, too
            self.assertGreater(shmem_bytes() - before, size - slack)

            def look():
                """As another user, by the library."""
                with harness.Connection(self.folder.dir) as connection:
                    other = connection.mem_open(self.name())
                with mmap.mmap(other, size) as theirs:
                    for offset in range(0, size, 4096):
                        if theirs[offset] != offset >> 12 & 0xff:
                            raise AssertionError(f"at {offset}")
                    theirs[size - 1] = 77
                    return shmem_bytes()

            second = harness.run_as(harness.USER_A, look, timeout=40)
            self.assertLess(second - before, size + slack, "it is in memory once")
            self.assertLessEqual(os.fstat(fd).st_blocks * 512, size)
            self.assertEqual(ours[size - 1], 77)

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
        before = shmem_bytes()
        fd = self.create(64 * MIB)
        fallocate(fd, 0, 0, 64 * MIB)
        self.assertGreaterEqual(shmem_bytes() - before, 60 * MIB)
        os.close(fd)
        self.connect().mem_remove(self.name())
        harness.wait_until(lambda: shmem_bytes() - before < 32 * MIB, "the memory is free again")


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


def address_of_read_only(mapping):
    """A read-only mapping's address: ctypes wants a writable one, so it is looked up."""
    size = len(mapping)
    with open("/proc/self/maps") as file:
        for line in file:
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            if end - start == size and line.split()[1] == "r--s":
                return start
    raise AssertionError("no such mapping")


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
            fd = os.open(self.mem(), os.O_RDWR)
            self.assertErrno(errno.EPERM, os.pwrite, fd, b"x", 20 * MIB + 1)
            self.assertEqual(os.pwrite(fd, b"y", 1000), 1, "what is there can be written")
            self.assertErrno(errno.EDQUOT, os.ftruncate, os.open(self.mem("-other"), os.O_RDWR | os.O_CREAT), 1)
            os.ftruncate(fd, 1000)
            os.truncate(self.mem("-other"), 1000)

        self.as_user(inside)
        self.gone(self.mem(), self.mem("-other"))

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
                self.assertErrno(errno.EPERM, os.ftruncate, fd, 20 * MIB + 1)
                self.assertErrno(errno.EDQUOT, connection.mem_create, self.name("-2"), 4096)

        self.as_user(inside)
        self.gone(self.mem())

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
