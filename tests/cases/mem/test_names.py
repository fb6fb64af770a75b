# SPDX-License-Identifier: GPL-2.0-or-later
"""Names, owners, modes, times and attributes of memory objects."""

import errno
import os

import harness
import names


class Mem(names.Tests):
    kind = "mem"

    def make(self, name, mode=0o600):
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        os.write(fd, os.path.basename(os.fsencode(name)))
        os.close(fd)
        return name

    def test_attributes(self):
        path = self.make(self.own("x"))
        self.assertEqual({name.removeprefix("user.kshared."): os.getxattr(path, name) for name in os.listxattr(path)},
                         {"kind": b"mem", "what": b"memfd", "access": b"read-write", "opens": b"1", "seals": b""})
        self.connect().mem_seal(os.path.join(self._testMethodName, "x"),
                                harness.KMEM_SEAL_SHRINK | harness.KMEM_SEAL_FUTURE_WRITE)
        self.assertEqual(os.getxattr(path, "user.kshared.seals"), b"shrink,future-write")
        self.assertErrno(errno.ENODATA, os.getxattr, path, "user.kshared.poster.uid")

    def test_blocks_are_those_in_use(self):
        path = self.own("x")
        fd = self.opened(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 1 << 20)
        self.assertEqual((os.stat(path).st_size, os.stat(path).st_blocks), (1 << 20, 0))
        os.pwrite(fd, b"x", 500000)
        self.assertEqual(os.stat(path).st_blocks * 512, 4096)
        entry = self.connect().stat(self.inside(path))
        self.assertEqual((entry.size_bytes, entry.allocated_bytes), (1 << 20, 4096))

    def test_statfs_counts_sizes(self):
        before = os.statvfs(self.path("mem"))
        os.close(self.connect().mem_create("counted", 8 << 20))
        self.assertEqual(os.statvfs(self.path("mem")).f_bfree * 4096, before.f_bfree * 4096 - (8 << 20))
        self.assertEqual(self.connect().status().max_bytes // 4096, before.f_blocks)


if __name__ == "__main__":
    harness.main()
