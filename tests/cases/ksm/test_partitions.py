#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Partitions as directories and as descriptors: making, looking, merging own memory, removing."""

import errno
import os
import stat
import subprocess

import harness
from partitions import (
    CREAT, DRY_RUN, EXCL, FORCE, PAGE, PARTS, SYNC, KsmCase, Memory, ksm_merge, ksm_open, ksm_stats, ksm_unlink,
    ksm_unmerge)


class Directory(KsmCase):
    def test_a_directory_comes_with_its_files_and_goes_with_them(self):
        os.mkdir(self.path("ksm", self.name()), 0o750)
        self.assertEqual(sorted(os.listdir(self.path("ksm", self.name()))), PARTS)
        for part in PARTS:
            mode = os.stat(self.path("ksm", self.name(), part)).st_mode
            self.assertEqual(stat.S_IMODE(mode), 0o200 if part in ("merge", "unmerge") else 0o440, part)
        os.rmdir(self.path("ksm", self.name()))
        self.assertEqual([name for name in os.listdir(self.path("ksm")) if name == self.name()], [])

    def test_numbers_are_numbers(self):
        os.mkdir(self.path("ksm", self.name()))
        for part in PARTS:
            if part not in ("merge", "unmerge", "members"):
                self.assertEqual(self.part(part), "0\n", part)
        self.assertEqual(self.part("members"), "")

    def test_nothing_else_goes_into_it(self):
        room = self.path("ksm", self.name())
        os.mkdir(room)
        self.assertErrno(errno.EPERM, os.mkdir, os.path.join(room, "x"))
        self.assertErrno(errno.EPERM, os.open, os.path.join(room, "x"), os.O_CREAT | os.O_WRONLY)
        self.assertErrno(errno.EPERM, os.open, self.path("ksm", "file"), os.O_CREAT | os.O_WRONLY)
        os.mkdir(room + "2")
        self.assertErrno(errno.EPERM, os.rename, room + "2", os.path.join(room, "x"))
        os.rmdir(room + "2")

    def test_its_files_stay_where_they_are(self):
        room = self.path("ksm", self.name())
        os.mkdir(room)
        self.assertErrno(errno.EPERM, os.unlink, os.path.join(room, "members"))
        self.assertErrno(errno.EPERM, os.rename, os.path.join(room, "members"), os.path.join(room, "others"))
        self.assertErrno(errno.EPERM, os.rename, os.path.join(room, "members"), os.path.join(room, "merge"))
        self.assertErrno(errno.EPERM, os.chmod, os.path.join(room, "members"), 0o777)
        self.assertErrno(errno.EPERM, os.chown, os.path.join(room, "members"), 1, 1)
        self.assertEqual(sorted(os.listdir(room)), PARTS)

    def test_its_files_have_its_owner_and_mode(self):
        room = self.path("ksm", self.name())
        os.mkdir(room)
        os.chown(room, harness.USER_A, harness.GROUP_SHARED)
        os.chmod(room, 0o570)
        for part in PARTS:
            found = os.stat(os.path.join(room, part))
            self.assertEqual((found.st_uid, found.st_gid), (harness.USER_A, harness.GROUP_SHARED))
            self.assertEqual(stat.S_IMODE(found.st_mode), 0o020 if part in ("merge", "unmerge") else 0o440, part)

    def test_it_can_be_renamed(self):
        fd = self.open()
        ksm_merge(fd, (memory := self.memory([1, 1])).address, memory.size)
        os.rename(self.path("ksm", self.name()), self.path("ksm", self.name("new")))
        self.assertEqual(self.part("pages_shared", "new"), "1\n")
        os.rmdir(self.path("ksm", self.name("new")))

    def test_it_survives_the_worker(self):
        room = self.path("ksm", self.name())
        os.mkdir(room)
        fd = self.open()
        memory = self.memory([1, 1, 1])
        ksm_merge(fd, memory.address, memory.size)
        self.folder.kill_worker()
        self.assertEqual(sorted(os.listdir(room)), PARTS)
        self.assertEqual(self.part("pages_sharing"), "2\n")
        self.assertEqual(ksm_stats(fd).pages_sharing, 2)

    def test_it_counts_as_one_entry(self):
        before = self.folder.status()["entries"]
        os.mkdir(self.path("ksm", self.name()))
        self.assertEqual(self.folder.status()["entries"], before + 1)
        os.rmdir(self.path("ksm", self.name()))


class Open(KsmCase):
    def test_flags(self):
        where = self.folder.dir
        self.assertErrno(errno.ENOENT, ksm_open, where, self.name(), SYNC)
        self.open(flags=SYNC | CREAT | EXCL)
        self.assertErrno(errno.EEXIST, ksm_open, where, self.name(), SYNC | CREAT | EXCL)
        self.open(flags=SYNC | CREAT)
        self.open(flags=SYNC)
        self.open(flags=0)
        self.assertErrno(errno.EINVAL, ksm_open, where, self.name(), 8)

    def test_names(self):
        where = self.folder.dir
        self.assertErrno(errno.EINVAL, ksm_open, where, "")
        self.assertErrno(errno.EINVAL, ksm_open, where, "a/b")
        self.assertErrno(errno.EINVAL, ksm_open, where, "..")
        self.assertErrno(errno.ENAMETOOLONG, ksm_open, where, "x" * 256)
        self.assertErrno(errno.EINVAL, ksm_open, where, self.name("2"), SYNC | CREAT, 0o10600)

    def test_mode_and_umask(self):
        self.open(mode=0o664)
        self.assertEqual(stat.S_IMODE(os.stat(self.path("ksm", self.name())).st_mode), 0o755)

    def test_who_only_looks_cannot_merge(self):
        self.open()
        fd = self.open(flags=0)
        memory = self.memory([1, 1])
        self.assertErrno(errno.EBADF, ksm_merge, fd, memory.address, memory.size)
        self.assertEqual(ksm_stats(fd).pages_shared, 0)

    def test_what_is_no_partition(self):
        reader, writer = os.pipe()
        self.assertErrno(errno.EBADF, ksm_merge, reader, 0, PAGE)
        self.assertErrno(errno.EBADF, ksm_stats, reader)
        os.close(reader)
        os.close(writer)
        self.assertErrno(errno.EBADF, ksm_stats, reader)

    def test_removed_while_open_it_goes_on(self):
        fd = self.open()
        memory = self.memory([5, 5])
        ksm_unlink(self.folder.dir, self.name())
        self.assertErrno(errno.ENOENT, ksm_unlink, self.folder.dir, self.name())
        self.assertEqual(ksm_merge(fd, memory.address, memory.size).merged, 2)
        other = self.open()
        self.assertEqual(ksm_stats(other).pages_shared, 0, "another one of the same name")
        self.assertEqual(ksm_stats(fd).pages_shared, 1)
        self.assertEqual(memory.wrong(), [])

    def test_a_file_of_it_that_is_open_goes_on(self):
        fd = self.open()
        looking = self.opened(self.path("ksm", self.name(), "pages_shared"), os.O_RDONLY)
        memory = self.memory([5, 5])
        ksm_merge(fd, memory.address, memory.size)
        os.rmdir(self.path("ksm", self.name()))
        self.assertEqual(os.read(looking, 100), b"1\n")

    def test_a_file_can_be_read_in_pieces(self):
        fd = self.open()
        memory = self.memory(range(1, 41))
        ksm_merge(fd, memory.address, memory.size)
        looking = self.opened(self.path("ksm", self.name(), "pages_unshared"), os.O_RDONLY)
        self.assertEqual([os.read(looking, 1) for _ in range(4)], [b"4", b"0", b"\n", b""])

    def test_the_daemon_has_no_more_descriptors_afterwards(self):
        for number in range(20):
            os.close(ksm_open(self.folder.dir, self.name()))
        ksm_unlink(self.folder.dir, self.name())


class Own(KsmCase):
    def test_equal_pages_are_one_frame(self):
        fd = self.open()
        memory = self.memory([1, 2, 1, 3, 1, 2, 0, 0])
        result = ksm_merge(fd, memory.address, memory.size)
        self.assertEqual((result.scanned, result.merged, result.zero, result.unique), (8, 7, 2, 1))
        frames = memory.frames()
        self.assertEqual(len({frames[i] for i in (0, 2, 4)}), 1)
        self.assertEqual(frames[1], frames[5])
        self.assertEqual(len({frames[i] for i in (0, 1, 3)}), 3)
        stats = ksm_stats(fd)
        self.assertEqual((stats.pages_shared, stats.pages_sharing, stats.pages_unshared, stats.members), (2, 3, 1, 1))
        self.assertEqual(self.part("pages_sharing"), "3\n")
        self.assertEqual(self.part("members"), f"{os.getpid()}\n")

    def test_a_write_parts_them(self):
        fd = self.open()
        memory = self.memory([1] * 10)
        ksm_merge(fd, memory.address, memory.size)
        memory.write(4, 7)
        frames = memory.frames()
        self.assertEqual(len(set(frames)), 2)
        self.assertNotEqual(frames[4], frames[5])

    def test_unmerged_each_has_its_own(self):
        fd = self.open()
        memory = self.memory([1] * 10)
        ksm_merge(fd, memory.address, memory.size)
        ksm_unmerge(fd, memory.address, memory.size)
        self.assertEqual(len(set(memory.frames())), 10)
        self.assertEqual(ksm_stats(fd).pages_sharing, 0)

    def test_a_dry_run_changes_nothing(self):
        fd = self.open()
        memory = self.memory([1] * 10 + [2])
        before = memory.frames()
        result = ksm_merge(fd, memory.address, memory.size, flags=DRY_RUN)
        self.assertEqual((result.scanned, result.merged, result.unique), (11, 10, 1))
        self.assertEqual(result.saved_bytes, 9 * PAGE)
        self.assertEqual(memory.frames(), before)
        self.assertEqual(ksm_stats(fd).members, 0)

    def test_only_memory_made_for_it(self):
        fd = self.open()
        plain = Memory([1, 1], made=False)
        self.assertErrno(errno.EINVAL, ksm_merge, fd, plain.address, plain.size)
        self.assertErrno(errno.EINVAL, ksm_merge, fd, plain.address, plain.size, -1, FORCE)
        memory = self.memory([1, 1])
        self.assertErrno(errno.EINVAL, ksm_merge, fd, memory.address + 1, PAGE)
        self.assertErrno(errno.EINVAL, ksm_merge, fd, memory.address, memory.size, -1, 16)
        self.assertErrno(errno.EINVAL, ksm_merge, fd, memory.address, (1 << 64) - PAGE)

    def test_a_part_of_a_page_is_left_out(self):
        fd = self.open()
        memory = self.memory([1, 1, 1])
        self.assertEqual(ksm_merge(fd, memory.address, 2 * PAGE + 5).scanned, 2)

    def test_freed_memory_is_no_longer_meant(self):
        fd = self.open()
        memory = Memory([1, 1])
        memory.free()
        self.assertErrno(errno.EINVAL, ksm_merge, fd, memory.address, memory.size)

    def test_two_processes_share_in_one_partition_and_not_in_two(self):
        fd = self.open()
        other = self.open("other")
        here, there, apart = self.puppet(), self.puppet(), self.puppet()
        frames = []
        for puppet, sock in ((here, fd), (there, fd), (apart, other)):
            puppet.do("make", list(range(1, 9)) * 2)
            self.assertEqual(puppet.do("merge", sock), 16)
            frames.append(set(puppet.do("frames")))
        self.assertEqual(frames[0], frames[1])
        self.assertEqual(frames[0] & frames[2], set())
        self.assertEqual(ksm_stats(fd).members, 2)
        self.assertEqual(ksm_stats(other).members, 1)

    def test_a_member_that_ends_is_forgotten(self):
        fd = self.open()
        puppet = self.puppet()
        puppet.do("make", [1, 1])
        puppet.do("merge", fd)
        self.assertEqual(self.part("members"), f"{puppet.pid}\n")
        puppet.end()
        harness.wait_until(lambda: ksm_stats(fd).members == 0 and ksm_stats(fd).store_bytes == 0, "it is forgotten")
        self.assertEqual(self.part("members"), "")

    def test_a_child_has_the_same_and_merges_for_itself(self):
        fd = self.open()
        puppet = self.puppet()
        puppet.do("make", [1, 1, 2])
        puppet.do("merge", fd)
        self.assertEqual(puppet.do("fork"), [])

        def inherit(memory):
            self.assertEqual(memory.wrong(), [])
            memory.write(0, 9)
            more = Memory([9, 9])
            result = ksm_merge(fd, more.address, more.size)
            return memory.wrong() + more.wrong(), result.merged

        memory = self.memory([1, 1, 2])
        ksm_merge(fd, memory.address, memory.size)
        self.assertEqual(self.child(inherit, memory).result(), ([], 2))
        self.assertEqual(memory.wrong(), [])

    def test_threads_may_call_at_once(self):
        import threading

        fd = self.open()
        memories = [self.memory([1, 1, number]) for number in range(2, 8)]
        merged = []
        threads = [threading.Thread(target=lambda m=m: merged.append(ksm_merge(fd, m.address, m.size).merged))
                   for m in memories]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(merged, [2] * 6)
        self.assertEqual([m.wrong() for m in memories], [[]] * 6)

    def test_an_ordinary_user_merges_more_than_he_may_lock(self):
        os.mkdir(self.path("ksm", self.name()))
        os.chmod(self.path("ksm", self.name()), 0o777)
        puppet = self.puppet(uid=harness.USER_A)
        puppet.do("make", [1] * 4096)
        fd = puppet.do("ksm_open", self.folder.dir, self.name(), SYNC)
        before = open(f"/proc/{puppet.pid}/limits").read()
        result = puppet.do("merge_result", fd)
        # Without CAP_SYS_RESOURCE, as in some containers, the merger cannot help it.
        self.assertEqual(result["merged"] + result["skipped_limit"], 4096)
        with open("/proc/self/status") as file:
            if int(file.read().split("CapEff:")[1].split()[0], 16) >> 24 & 1:
                self.assertEqual(result["skipped_limit"], 0)
        self.assertEqual(puppet.do("wrong"), [])
        limits = open(f"/proc/{puppet.pid}/limits").read()
        self.assertEqual(limits, before, "no limit of its is changed for good")

    def test_memory_may_be_freed_while_it_is_merged(self):
        import threading

        fd = self.open()
        for call in (ksm_merge, ksm_unmerge):
            memories = [Memory([number % 200 for number in range(4096)]) for _ in range(4)]
            low = min(memory.address for memory in memories)
            high = max(memory.address + memory.size for memory in memories)
            thread = threading.Thread(target=harness.errno_of, args=(call, fd, low, high - low))
            thread.start()
            for memory in memories:
                memory.free()
            thread.join()

    def test_an_exec_leaves_the_descriptor_behind(self):
        fd = self.open()
        done = subprocess.run(["/bin/sh", "-c", f"ls /proc/self/fd/{fd}"], capture_output=True)
        self.assertNotEqual(done.returncode, 0)


if __name__ == "__main__":
    harness.main()
