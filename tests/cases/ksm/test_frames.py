#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Equal pages in two partitions have no frame in common. The kernel's own KSM, asked to merge the same, shares them."""

import ctypes
import mmap
import os
import time

import harness
import merging
from merging import PAGE

ALONE = True # the kernel's KSM is one for all
UNDER_VALGRIND = False
NR_PAGES = 4096
CONTENTS = 64


class Holder:
    """A process with NR_PAGES pages of CONTENTS contents, each of them as often; it ends with the test."""

    def __init__(self, case, mergeable=False):
        there, here = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            merging.die_with_parent()
            os.close(there[0])
            os.close(here[1])
            pages = mmap.mmap(-1, (NR_PAGES + 1) * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if mergeable:
                pages.madvise(12) # MADV_MERGEABLE
            for i in range(NR_PAGES):
                pages[i * PAGE:(i + 1) * PAGE] = self.content(i)
            os.write(there[1], self.address_of(pages).to_bytes(8, "little"))
            while os.read(here[0], 1):
                good = all(pages[i * PAGE:(i + 1) * PAGE] == self.content(i) for i in range(NR_PAGES))
                os.write(there[1], b"y" if good else b"n")
            os._exit(0)
        os.close(there[1])
        os.close(here[0])
        self.ends = there[0], here[1]
        self.address = int.from_bytes(os.read(there[0], 8), "little")
        case.addCleanup(self.end)

    def end(self):
        for fd in self.ends:
            os.close(fd)
        os.waitpid(self.pid, 0)

    @staticmethod
    def address_of(pages):
        return ctypes.addressof(ctypes.c_char.from_buffer(pages))

    @staticmethod
    def content(i):
        return bytes([1 + i % CONTENTS]) * (PAGE - 8) + (i % CONTENTS).to_bytes(8, "little")

    def is_unchanged(self):
        """Also touches every page, so that each has a frame."""
        os.write(self.ends[1], b"?")
        return os.read(self.ends[0], 1) == b"y"

    def range(self):
        return f"{self.address:x}-{self.address + NR_PAGES * PAGE:x}"

    def frames(self):
        return merging.frames(self.pid, self.address, NR_PAGES)


class Partitions(harness.FolderCase):
    timeout = 120.0
    descriptor_slack = 1 # the merger, which the first partition starts

    def test_two_partitions_have_no_frame_in_common(self):
        holders = [Holder(self), Holder(self), Holder(self)]
        merger = merging.Merger(self.folder)
        self.addCleanup(merger.forget)
        for name, holder in zip(("red", "blue", "blue"), holders):
            result, = merger("merge", name, [holder.pid], "--force", "--range", holder.range())
            self.assertGreaterEqual(result["merged"], NR_PAGES - CONTENTS)
        for holder in holders:
            self.assertTrue(holder.is_unchanged())
        red, blue, other_blue = (set(holder.frames()) for holder in holders)
        self.assertNotIn(0, red | blue)
        self.assertLessEqual(len(red), CONTENTS + 1)
        self.assertEqual(red & blue, set())
        self.assertEqual(red & other_blue, set())
        # They could have been seen: within the one partition they are.
        self.assertGreaterEqual(len(blue & other_blue), CONTENTS)

    def test_the_kernels_own_shares_the_same_pages(self):
        if not os.access(merging.KSM, os.W_OK) or merging.ksm_get("run") == 1:
            self.skipTest("the kernel's KSM is not there, or in use")
        holders = [Holder(self, mergeable=True), Holder(self, mergeable=True)]
        with merging.kernel_ksm():
            scans, end = merging.ksm_get("full_scans"), time.monotonic() + 60
            while merging.ksm_get("full_scans") < scans + 3:
                self.assertLess(time.monotonic(), end, "the kernel's KSM does not get on")
                time.sleep(0.02)
            for holder in holders:
                self.assertTrue(holder.is_unchanged())
            one, other = (set(holder.frames()) for holder in holders)
        self.assertGreaterEqual(len(one & other), CONTENTS)


if __name__ == "__main__":
    harness.main()
