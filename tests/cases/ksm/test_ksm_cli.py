#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""kshared ksm."""

import json
import os
import pty
import select
import subprocess

import harness
from folder import environment, program
from partitions import KsmCase

SEEDS = [1, 2, 1, 0, 2, 3, 1, 1] * 32


class Cli(KsmCase):
    def good(self, *args, **options):
        done = self.cli("ksm", *args, **options)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def refused(self, *args, word="", **options):
        done = self.cli("ksm", *args, **options)
        self.assertRefused(done)
        self.assertIn(word, done.stderr)
        return done

    def test_from_making_to_removing(self):
        name = self.name()
        self.good("create", name, "-m", "640")
        self.assertEqual(os.stat(self.path("ksm", name)).st_mode & 0o777, 0o750)
        puppet = self.puppet()
        puppet.do("make", SEEDS)
        text = self.good("merge", name, "--pid", str(puppet.pid))
        self.assertRegex(text, rf"^{puppet.pid}: 1M looked at in \d+\.\d\d s, \d+K saved: \d+ pages merged")
        self.assertEqual(puppet.do("wrong"), [])
        stat = dict(line.split() for line in self.good("stat", name).splitlines())
        self.assertGreater(int(stat["pages_sharing"]), 100)
        self.assertEqual(stat["members"], "1")
        self.assertEqual(json.loads(self.good("stat", name, "--json"))["pages_sharing"], int(stat["pages_sharing"]))
        line = self.good("ls").splitlines()[-1].split()
        self.assertEqual((line[0], line[1], line[2], line[-1]), ("rwr---", "root", "1", name))
        [entry] = [one for one in json.loads(self.good("ls", "--json")) if one["name"] == name]
        self.assertEqual((entry["mode"], entry["members"]), ("750", 1))
        self.assertEqual(self.good("unmerge", name, "--pid", str(puppet.pid)), "")
        self.assertEqual(json.loads(self.good("stat", name, "--json"))["pages_sharing"], 0)
        self.good("rm", name)
        self.refused("stat", name, word="no such partition")

    def test_a_dry_run_says_what_a_merge_then_does(self):
        self.good("create", self.name())
        puppet = self.puppet()
        puppet.do("make", SEEDS)
        would = json.loads(self.good("merge", self.name(), "--pid", str(puppet.pid), "--dry-run", "--json"))
        self.assertTrue(would["dry_run"])
        self.assertEqual(len(set(puppet.do("frames"))), len(SEEDS))
        did = json.loads(self.good("merge", self.name(), "--pid", str(puppet.pid), "--json"))
        # The last page of a mapping is left alone, and the agent's memory may part one from its neighbour.
        self.assertAlmostEqual(would["processes"][0]["saved_bytes"], did["processes"][0]["saved_bytes"], delta=4096)
        self.assertEqual(did["processes"][0]["pid"], puppet.pid)

    def test_two_processes_at_once_share(self):
        self.good("create", self.name())
        one, two = self.puppet(), self.puppet()
        one.do("make", list(range(1, 65)))
        two.do("make", list(range(1, 65)))
        self.good("merge", self.name(), "--pid", str(one.pid), "--pid", str(two.pid))
        both = set(one.do("frames")) & set(two.do("frames"))
        # The last page of a mapping is left alone.
        self.assertGreaterEqual(len(both), 63)

    def test_a_range(self):
        self.good("create", self.name())
        puppet = self.puppet()
        address, _ = puppet.do("make", [1] * 64)
        done = json.loads(self.good("merge", self.name(), "--pid", str(puppet.pid), "--range",
                                    f"{address:x}-{address + 8 * 4096:x}", "--json"))
        self.assertEqual(done["processes"][0]["scanned"], 8)
        for text in ("1", "-", "1-", "2-1", "0x1-0x2", "g-h", "1--2"):
            self.refused("merge", self.name(), "--pid", "1", "--range", text, word="no range")

    def test_memory_of_a_process_that_did_not_ask(self):
        self.good("create", self.name())
        puppet = self.puppet()
        address, size = puppet.do("make", SEEDS, False)
        span = f"{address:x}-{address + size:x}"
        self.refused("merge", self.name(), "--pid", str(puppet.pid), "--range", span, word="--force")
        self.good("merge", self.name(), "--pid", str(puppet.pid), "--range", span, "--force")
        self.assertEqual(puppet.do("wrong"), [])

    def test_what_is_no_guest(self):
        self.good("create", self.name())
        puppet = self.puppet()
        self.refused("merge", self.name(), "--pid", str(puppet.pid), "--guest-ram", word="no QEMU")

    def test_words_that_are_wrong(self):
        self.good("create", self.name())
        self.refused("create", self.name(), word="one of this name")
        self.refused("create", "a/b", word="no good name")
        self.refused("create", self.name("2"), "-m", "9", word="no mode")
        self.refused("merge", self.name(), word="needs --pid")
        self.refused("merge", self.name(), "--pid", "0", word="no process number")
        self.refused("merge", self.name(), "--pid", "4194305", word="ended")
        self.refused("merge", "nowhere", "--pid", "1", word="no such partition")
        self.refused("merge", "--pid", "1", word="one NAME")
        self.refused("merge", self.name(), "--pid", "1", "--guest-ram", "--range", "1-2", word="--range")
        self.refused("unmerge", self.name(), "--pid", "1", "--dry-run", word="neither")
        self.refused("nothing", word="none of")
        self.refused(word="must follow")
        self.refused("rm", "nowhere", word="no such partition")
        self.refused("ls", self.name(), word="no NAME")

    def test_as_a_user(self):
        self.good("create", self.name(), "-m", "666")
        mine, others = self.puppet(uid=harness.USER_A), self.puppet(uid=harness.USER_B)
        mine.do("make", SEEDS)
        others.do("make", SEEDS)
        self.good("merge", self.name(), "--pid", str(mine.pid), uid=harness.USER_A)
        self.refused("merge", self.name(), "--pid", str(others.pid), uid=harness.USER_A, word="may not trace")
        self.refused("create", self.name("2"), uid=harness.USER_A, word="made by root")
        self.refused("rm", self.name(), uid=harness.USER_A)

    def test_on_a_terminal_it_is_told_how_far_it_is(self):
        self.good("create", self.name())
        puppet = self.puppet()
        puppet.do("make", [number % 300 for number in range(16384)])
        leader, follower = pty.openpty()
        done = subprocess.Popen([*program("kshared"), "--at", self.folder.dir, "ksm", "merge", self.name(), "--pid",
                                 str(puppet.pid)], stdout=subprocess.PIPE, stderr=follower, env=environment())
        os.close(follower)
        seen = b""
        while select.select([leader], [], [], 20)[0]:
            try:
                part = os.read(leader, 4096)
            except OSError:
                break
            seen += part
        os.close(leader)
        out = done.communicate(timeout=20)[0]
        self.assertEqual(done.returncode, 0)
        self.assertIn(b"looked at in", out)
        # A fast machine has nothing to tell; what is told is taken away again.
        if seen:
            self.assertIn(b"looked at", seen)
            self.assertTrue(seen.endswith(b"\r\x1b[K"), seen[-20:])


if __name__ == "__main__":
    harness.main()
