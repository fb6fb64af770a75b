#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Two guests run the same image. Their RAM is merged while they run, and all the time they verify what is in it."""

import harness
import merging
from merging import guest

FILE_TIMEOUT = 1500
ALONE = True # two processors' worth of guests
UNDER_VALGRIND = False


class Guests(harness.FolderCase):
    timeout = 400.0
    descriptor_slack = 1 # the merger, which the first partition starts

    def setUp(self):
        try:
            guest.prepare()
        except guest.Unavailable as reason:
            self.skipTest(f"no guests: {reason}")
        self.merger = merging.Merger(self.folder)
        self.addCleanup(self.merger.forget)

    def start(self, *seeds, memory=()):
        guests = []
        for seed in seeds:
            guests.append(guest.Guest(self.scratch(f"console-{seed}"), seed, memory=memory))
            self.addCleanup(guests[-1].stop)
        for one in guests:
            one.await_rounds(1)
        return guests

    def memory_bytes(self, guests):
        """What the guests' RAM and the merger take, each frame counted once."""
        merger = self.merger.pid
        return (sum(one.ram_kib() for one in guests) + (merging.pss_kib(merger) if merger else 0)) * 1024

    def merge(self, guests):
        return self.merger("merge", "web", [one.pid for one in guests], "--guest-ram")

    def common_frames(self, guests):
        ram = []
        for one in guests:
            first, last = guest.ram_span(one.pid, guest.MIB)
            ram.append(set(merging.frames(one.pid, first, (last - first) // merging.PAGE)))
        return len((ram[0] & ram[1]) - {0, merging.zero_frame()})

    def test_merged_while_running_they_need_less_and_lose_nothing(self):
        guests = self.start(1, 2)
        before = self.memory_bytes(guests)
        results = self.merge(guests)
        after = self.memory_bytes(guests)
        for result in results:
            self.assertGreater(result["scanned"], 30000)
            self.assertEqual(result["skipped_limit"], 0)
        # What the kernel shows is what was promised; the guests go on writing meanwhile.
        saved = sum(result["saved_bytes"] for result in results)
        self.assertGreater(saved, 100 << 20)
        self.assertAlmostEqual(before - after, saved, delta=saved * 0.2)
        for one in guests:
            one.await_rounds(5)
        self.assertGreater(self.common_frames(guests), 5000)
        self.assertLess(self.memory_bytes(guests), before * 0.65)

    def test_unmerged_again_each_has_its_own(self):
        guests = self.start(3, 4)
        self.merge(guests)
        for one in guests:
            one.await_rounds(2) # a merged page is mapped when it is next read
        self.assertGreater(self.common_frames(guests), 5000)
        self.merger("unmerge", "web", [one.pid for one in guests], "--guest-ram")
        self.assertEqual(self.common_frames(guests), 0)
        for one in guests:
            one.await_rounds(3)

    def test_a_guest_that_is_killed_leaves_the_other_what_it_has(self):
        guests = self.start(5, 6)
        self.merge(guests)
        guests[0].stop()
        guests[1].await_rounds(5)

    def test_shared_memory_is_refused(self):
        one, = self.start(7, memory=[
            "-object", f"memory-backend-memfd,id=ram,size={guest.MIB}M,share=on", "-machine", "memory-backend=ram"])
        done = self.merger.refused("merge", "web", [one.pid], "--guest-ram")
        self.assertRegex(done.stderr, "is shared memory, which cannot be merged; start QEMU without share=on")
        one.await_rounds(2)


if __name__ == "__main__":
    harness.main()
