# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening through the mount: the access, and files."""

import ctypes
import errno
import mmap
import os

import harness
import opening


class Access(opening.OpenCase):
    """The access asked for is part of the posted one, whoever asks."""

    def test_beyond_the_posted_access(self):
        reader, writer = self.pipe()
        _, path = self.file(b"content", mode=0o666)
        read_only, write_only = self.opened(path, os.O_RDONLY), self.opened(path, os.O_WRONLY)
        connection = self.connect()
        modes = {os.O_RDONLY: "r", os.O_WRONLY: "w", os.O_RDWR: "rw"}
        for title, fd, allowed in (("pipe's read end", reader, {"r"}), ("pipe's write end", writer, {"w"}),
                                   ("file to read", read_only, {"r"}), ("file to write", write_only, {"w"}),
                                   ("file for both", self.opened(path, os.O_RDWR), {"r", "w", "rw"})):
            entry = self.post(fd, "-" + title.replace(" ", "-"), 0o666)
            for flags, mode in modes.items():
                expected = 0 if mode in allowed else errno.EACCES
                with self.subTest(title, mode=mode):
                    self.assertErrno(expected, self.open, entry, flags)
                    self.assertErrno(expected, lambda flags=flags, entry=entry: self.kept(
                        connection.srv_open(os.path.basename(entry), flags)))

    def test_a_read_only_post_cannot_be_written_by_any_way(self):
        _, path = self.file(b"content")
        entry = self.post(self.opened(path, os.O_RDONLY))
        fd = self.open(entry, os.O_RDONLY)
        self.assertErrno(errno.EBADF, os.write, fd, b"x")
        self.assertErrno(errno.EINVAL, os.ftruncate, fd, 0)
        self.assertErrno(errno.EACCES, os.truncate, entry, 0)
        self.assertErrno(errno.EACCES, os.open, entry, os.O_RDONLY | os.O_TRUNC)
        self.assertErrno(errno.EACCES, os.open, f"/proc/self/fd/{fd}", os.O_WRONLY)
        self.assertErrno(errno.EACCES, opening.map_shared, fd, 4096, mmap.PROT_READ | mmap.PROT_WRITE)
        self.assertErrno(errno.EBADF, os.posix_fallocate, fd, 0, 100)
        with open(path, "rb") as file:
            self.assertEqual(file.read(), b"content")

    def test_a_write_only_post_cannot_be_read(self):
        _, path = self.file(b"secret")
        entry = self.post(self.opened(path, os.O_WRONLY))
        fd = self.open(entry, os.O_WRONLY)
        self.assertErrno(errno.EBADF, os.read, fd, 1)
        self.assertErrno(errno.EACCES, os.open, f"/proc/self/fd/{fd}", os.O_RDONLY)
        self.assertErrno(errno.EACCES, opening.map_shared, fd, 4096, mmap.PROT_READ)

    def test_less_than_posted_through_the_mount(self):
        ours, theirs = self.socketpair()
        path = self.post(theirs.fileno())
        reader, writer = self.open(path, os.O_RDONLY), self.open(path, os.O_WRONLY)
        self.assertErrno(errno.EBADF, os.write, reader, b"x")
        self.assertErrno(errno.EBADF, os.read, writer, 1)
        ours.send(b"in")
        self.assertEqual(os.read(reader, 100), b"in")
        os.write(writer, b"out")
        self.assertEqual(ours.recv(100), b"out")


class Files(opening.OpenCase):
    """Files and memfds are served by the kernel from the posted open file's inode."""

    def each(self, content):
        """For a file and a memfd: a title, the posted descriptor and the entry's path."""
        fd, _ = self.file(content)
        os.lseek(fd, 0, os.SEEK_SET)
        yield "file", fd, self.post(fd, "-file")
        fd = self.memfd(content)
        os.lseek(fd, 0, os.SEEK_SET)
        yield "memfd", fd, self.post(fd, "-memfd")

    def test_an_offset_of_its_own(self):
        for title, poster, path in self.each(b"0123456789"):
            with self.subTest(title):
                os.lseek(poster, 4, os.SEEK_SET)
                one, two = self.open(path), self.open(path)
                self.assertEqual(os.read(one, 3), b"012")
                self.assertEqual(os.read(two, 2), b"01")
                self.assertEqual(os.read(one, 3), b"345")
                self.assertEqual(os.lseek(one, -1, os.SEEK_END), 9)
                os.write(one, b"!?")
                self.assertEqual(os.pread(poster, 100, 8), b"8!?")
                self.assertEqual(os.lseek(poster, 0, os.SEEK_CUR), 4, "the poster's has not moved")
                self.assertEqual(os.fstat(one).st_size, 11)

    def test_size_and_times_are_the_files(self):
        for title, poster, path in self.each(b"x" * 5000):
            with self.subTest(title):
                self.assertEqual(os.stat(path).st_size, 5000)
                os.ftruncate(poster, 7000)
                self.assertEqual(os.stat(path).st_size, 7000)
                self.assertEqual(os.stat(path).st_mtime_ns, os.fstat(poster).st_mtime_ns)

    def test_mappings_are_one_memory(self):
        for title, poster, path in self.each(bytes(8192)):
            with self.subTest(title):
                fd = self.open(path)
                with mmap.mmap(fd, 8192) as mapped, mmap.mmap(poster, 8192) as posters:
                    mapped[5000:5005] = b"there"
                    self.assertEqual(posters[5000:5005], b"there")
                    self.assertEqual(os.pread(poster, 5, 5000), b"there")
                    os.pwrite(poster, b"back", 100)
                    self.assertEqual(mapped[100:104], b"back")
                    os.pwrite(fd, b"own", 200)
                    self.assertEqual(mapped[200:203] + posters[200:203], b"ownown")
                    mapped.flush()
                with mmap.mmap(self.open(path, os.O_RDONLY), 8192, prot=mmap.PROT_READ) as mapped:
                    self.assertEqual(mapped[5000:5005], b"there")
                with mmap.mmap(fd, 8192, flags=mmap.MAP_PRIVATE) as private:
                    private[5000:5005] = b"local"
                self.assertEqual(os.pread(poster, 5, 5000), b"there")

    def test_truncation(self):
        for title, poster, path in self.each(b"0123456789"):
            with self.subTest(title):
                fd = self.open(path)
                os.ftruncate(fd, 5)
                self.assertEqual(os.fstat(poster).st_size, 5)
                self.assertEqual(os.fstat(fd).st_size, 5)
                os.truncate(path, 7)
                self.assertEqual(os.pread(poster, 10, 0), b"01234\0\0")
                os.close(self.open(path, os.O_WRONLY | os.O_TRUNC))
                self.assertEqual(os.fstat(poster).st_size, 0)

    def test_allocation(self):
        for title, poster, path in self.each(b""):
            with self.subTest(title):
                fd = self.open(path)
                os.posix_fallocate(fd, 0, 65536)
                self.assertEqual(os.fstat(poster).st_size, 65536)
                self.assertGreaterEqual(os.fstat(poster).st_blocks * 512, 65536)
                self.assertGreaterEqual(os.stat(path).st_blocks * 512, 65536)
                keep_size_punch = 3
                self.assertEqual(harness.libc.fallocate(fd, keep_size_punch, ctypes.c_long(0), ctypes.c_long(32768)), 0)
                self.assertLess(os.fstat(poster).st_blocks * 512, 65536)

    def test_holes(self):
        for title, poster, path in self.each(b""):
            with self.subTest(title):
                os.ftruncate(poster, 4 << 20)
                os.pwrite(poster, b"data", 2 << 20)
                os.lseek(poster, 17, os.SEEK_SET)
                fd = self.open(path)
                self.assertEqual(os.lseek(fd, 0, os.SEEK_DATA), 2 << 20)
                self.assertEqual(os.lseek(fd, 0, os.SEEK_HOLE), 0)
                self.assertEqual(os.lseek(fd, 2 << 20, os.SEEK_HOLE), (2 << 20) + 4096)
                self.assertErrno(errno.ENXIO, os.lseek, fd, 3 << 20, os.SEEK_DATA)
                self.assertErrno(errno.ENXIO, os.lseek, fd, 5 << 20, os.SEEK_HOLE)
                self.assertEqual(os.lseek(poster, 0, os.SEEK_CUR), 17, "the poster's has not moved")

    def test_sync(self):
        for title, poster, path in self.each(b"x"):
            with self.subTest(title):
                fd = self.open(path)
                os.write(fd, b"y")
                os.fsync(fd)
                os.fdatasync(fd)
                self.assertEqual(os.pread(poster, 1, 0), b"y")

    def test_appending_posts_append(self):
        """O_APPEND was the poster's way to let others add and nothing else."""
        fd, path = self.file(b"begin ", flags=os.O_WRONLY | os.O_APPEND)
        entry = self.post(fd)
        for title, flags in (("plain", os.O_WRONLY), ("appending", os.O_WRONLY | os.O_APPEND)):
            with self.subTest(title):
                opened = self.open(entry, flags)
                before = os.stat(path).st_size
                os.pwrite(opened, b"pwrite ", 0)
                os.write(opened, b"write ")
                with open(path, "rb") as file:
                    content = file.read()
                self.assertTrue(content.startswith(b"begin "))
                self.assertEqual(content[before:], b"pwrite write ")
        self.assertErrno(errno.EPERM, os.truncate, entry, 0)
        self.assertErrno(errno.EPERM, os.open, entry, os.O_WRONLY | os.O_TRUNC)
        self.assertErrno(errno.EPERM, os.ftruncate, self.open(entry, os.O_WRONLY), 0)

    def test_append_at_the_openers_wish(self):
        for title, poster, path in self.each(b"begin "):
            with self.subTest(title):
                os.lseek(poster, 0, os.SEEK_END)
                fd = self.open(path, os.O_WRONLY | os.O_APPEND)
                os.write(poster, b"poster ")
                os.write(fd, b"opener")
                self.assertEqual(os.pread(poster, 100, 0), b"begin poster opener")

    def test_a_removed_file_is_still_there(self):
        fd, path = self.file(b"content")
        entry = self.post(fd)
        os.unlink(path)
        os.close(fd)
        self.assertEqual(os.read(self.open(entry), 100), b"content")

    def test_open_files_survive_the_entry_and_the_worker(self):
        fd, _ = self.file(b"content")
        entry = self.post(fd)
        opened = self.open(entry)
        os.unlink(entry)
        self.folder.kill_worker()
        self.assertEqual(os.pread(opened, 100, 0), b"content")
        os.pwrite(opened, b"C", 0)
        self.assertEqual(os.pread(fd, 1, 0), b"C")

    def test_a_directory_cannot_be_opened_through_the_mount(self):
        fd = self.opened(self.scratch(), os.O_RDONLY)
        entry = self.post(fd)
        self.assertErrno(errno.EOPNOTSUPP, self.open, entry, os.O_RDONLY)
        real = self.kept(self.connect().srv_open(self.name(), os.O_RDONLY))
        self.assertTrue(opening.same_open_file(fd, real))
        self.assertIsInstance(os.listdir(real), list)

    def test_opens_are_counted(self):
        fd, _ = self.file(b"")
        entry = self.post(fd)
        self.assertEqual(os.getxattr(entry, "user.kshared.opens"), b"0")
        os.close(self.open(entry))
        os.close(self.connect().srv_open(self.name()))
        self.assertEqual(os.getxattr(entry, "user.kshared.opens"), b"2")


if __name__ == "__main__":
    harness.main()
