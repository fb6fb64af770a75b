# SPDX-License-Identifier: GPL-2.0-or-later
"""kshared folder top: what it lists, counts and prints, with each option; against du, ncdu and a plain reference."""

import base64
import errno
import json
import os
import random
import re
import subprocess
import time

import harness
from test_top_random import Maker, largest, reference
from top import TopCase, mount

ALL = 1 << 30
USAGE = [  # what is said of each wrong command line
    (["-n", "0"], b"'0' is too small"), (["-n", "-1"], b"no number"), (["-n", "x"], b"no number"),
    (["-n", ""], b"no number"), (["-n", "4294967296"], b"too large"), (["-n", "1K"], b"no number"),
    (["-d", "-1"], b"no number"), (["-d", "4294967296"], b"too large"), (["-n"], b"-n"), (["--depth"], b"--depth"),
    (["--exclude", ""], b"pattern is empty"), (["--exclude", "/x"], b"would match nothing"), (["--exclude"], b"--exclude"), (["--no-such-option"], b"--no-such-option"),
    (["-q"], b"-q"), (["--json=yes"], b"--json"), (["--json", "-0"], b"exclude each other"),
    (["--count", "--apparent-size"], b"exclude each other"), (["--files", "--count"], b"exclude each other"),
    (["--export", "--json"], b"--json does not go with it"), (["--export", "-0"], b"-0 does not go with it"),
    (["--export", "--files"], b"--files does not"), (["--export", "--count"], b"--count does not"),
    (["--export", "--apparent-size"], b"--apparent-size does not"), (["one", "more"], b"one argument too many"),
]


def short(size):
    """A size as the seed's examples have it: du's, without a tenth that is 0."""
    return size.replace(b".0", b"")


class Listing(TopCase):
    def test_the_examples_of_the_manual_entry(self):
        for name, size in (("team_configs", 200 << 20), ("project_archives_2022", 12 << 30), ("export_logs", 500 << 20),
                           ("video_assets", 8 << 30), ("database_dumps", 2 << 30), ("small", 1)):
            self.file(name, size, allocated=False)
        expected = (b"12G  ./project_archives_2022\n8G  ./video_assets\n2G  ./database_dumps\n500M  ./export_logs\n"
                    b"200M  ./team_configs\n")
        self.assertEqual(self.ok("-n", "5", "--apparent-size"), expected)
        self.assertEqual(self.ok("-h", "-n", "5", "--apparent-size"), expected)
        self.assertEqual(self.ok("-n", "5", "--apparent-size", cwd=self.here), expected)
        self.assertEqual(self.ok("--apparent-size").count(b"\n"), 6)

    def test_allocated_blocks_are_what_counts(self):
        self.file("written", 3 << 20)
        self.file("sparse", 1 << 40, allocated=False)
        self.dir("d")
        self.file("d/more", 7 << 20)
        lines = self.ok().splitlines()
        self.assertRegex(lines[0], rb"^7(\.1)?M  \./d$")
        self.assertEqual(lines[1:], [b"3M  ./written", b"0  ./sparse"])

    def test_sizes_are_rounded_as_du_does(self):
        choice = random.Random(1)
        sizes = {0, 1, 812, (1 << 60) - 1}
        for power in range(10, 61, 10):
            for factor in (1, 1.05, 9.9, 9.95, 10, 10.5, 999, 1023, 1023.5):
                sizes.update(int(factor * 2**power) + add for add in (-1, 0, 1))
        sizes.update(choice.randrange(1 << choice.randrange(1, 62)) for _ in range(100))
        self.in_memory()
        sizes = sorted(size for size in sizes if size < 1 << 62)
        for size in sizes:
            self.file(str(size), size, allocated=False)
        du = subprocess.run(["du", "-ah", "--apparent-size", "."], cwd=self.here, stdout=subprocess.PIPE, check=True)
        expected = {line.split(b"\t")[1]: short(line.split(b"\t")[0]) for line in du.stdout.splitlines()}
        del expected[b"."]
        found = {line.split(b"  ")[1]: line.split(b"  ")[0]
                 for line in self.ok("--apparent-size", "-n", "1000").splitlines()}
        self.assertEqual(found, expected)
        self.assertEqual(len(found), len(sizes))

    def test_number(self):
        for i in range(25):
            self.file(f"{i:02}", i, allocated=False)
        for number in (1, 10, 24, 25, 26, 4294967295):
            expected = [b"%02d" % i for i in range(24, -1, -1)][:number]
            self.assertEqual(self.names("--apparent-size", "-n", str(number)), expected)
            self.assertEqual(self.names("--apparent-size", f"--number={number}"), expected)
        self.assertEqual(len(self.names()), 10)

    def test_equals_by_name_in_byte_order(self):
        names = [b"B", b"a", b"\xc3\xa4", b"aa", b"Z", b"\xff", b".x"]
        for name in names:
            self.file(os.fsdecode(name))
        for locale in ("C", "C.UTF-8"):
            self.assertEqual(self.names(env={"LC_ALL": locale}), sorted(names))

    def test_bytes_and_the_last_of_two_holds(self):
        self.file("f", 123456, allocated=False)
        for options, expected in ((["-b"], b"123456"), (["--bytes"], b"123456"), (["-h"], b"121K"), (["-b", "-h"], b"121K"),
                                  (["-h", "-b"], b"123456"), (["--bytes", "--human-readable"], b"121K")):
            self.assertEqual(self.ok("--apparent-size", *options), expected + b"  ./f\n")

    def test_depth(self):
        path = "a"
        for level in range(5):
            self.dir(path)
            self.file(path + "/f", 1000 << level, allocated=False)
            path += "/a"
        for depth in (0, 1, 2, 4, 5, 6, 4294967295):
            _, sums = reference(self.here, depth, False)
            self.assertEqual(self.ok("-b", "-d", str(depth)), b"%d  ./a\n" % sums[b"a"].disk)
            self.assertEqual(self.ok("-b", "--apparent-size", f"--depth={depth}"), b"%d  ./a\n" % sums[b"a"].apparent)
            self.assertEqual(self.ok("--count", "-d", str(depth)), b"%d  ./a\n" % sums[b"a"].count)

    def test_exclude(self):
        for path in ("cache", "cache/x", "src", "src/cache", "src/lib"):
            self.dir(path)
        for path in ("a.o", "cache/tmp1", "cache/x/deep.o", "src/b.o", "src/c.c", "src/cache/tmp2", "src/lib/.o"):
            self.file(path, 10)
        for patterns, left in (
                (["*.o"], {b"src/c.c", b"cache/tmp1", b"src/cache/tmp2"}),
                (["cache"], {b"a.o", b"src/b.o", b"src/c.c", b"src/lib/.o"}),
                (["src/cache"], {b"a.o", b"cache/tmp1", b"cache/x/deep.o", b"src/b.o", b"src/c.c", b"src/lib/.o"}),
                (["cache/tmp*"], {b"a.o", b"cache/x/deep.o", b"src/b.o", b"src/c.c", b"src/cache/tmp2", b"src/lib/.o"}),
                (["src/*.o"], {b"a.o", b"cache/tmp1", b"cache/x/deep.o", b"src/c.c", b"src/cache/tmp2"}),
                (["*.o", "*.c", "tmp[0-1]"], {b"src/cache/tmp2"}),
                (["./src/cache/", "./*.o"], {b"cache/tmp1", b"src/c.c"}),
                (["src*"], {b"a.o", b"cache/tmp1", b"cache/x/deep.o"}),
                (["*"], set())):
            args = [word for pattern in patterns for word in ("--exclude", pattern)]
            self.assertEqual(set(self.names("--files", "-n", "100", *args)), left, patterns)
        self.assertEqual(self.json("--exclude", "*")["total"]["inodes"], 1)

    def test_other_file_systems(self):
        self.own_mounts()
        self.dir("d")
        self.dir("other")
        self.dir("d/inner")
        for path in ("other", "d/inner"):
            mount("test", self.at(path), "tmpfs")
            self.file(path + "/f", 1 << 20)
        self.file("d/f", 4096)
        self.file("bound", 0)
        mount(self.at("other/f"), self.at("bound"), flags=4096)
        everything = self.json()
        self.assertEqual({e["name"]: e["inodes"] for e in everything["entries"]}, {"d": 4, "other": 2})
        self.assertEqual([s["path"] for s in everything["skipped_mounts"]], ["bound"])
        mine = self.json("-x")
        self.assertEqual({e["name"]: e["inodes"] for e in mine["entries"]}, {"d": 2})
        self.assertEqual(mine["skipped_mounts"], [])
        again = self.json("--one-file-system")
        self.assertEqual((again["total"], again["entries"]), (mine["total"], mine["entries"]))
        du = subprocess.run(["du", "-sx", "-B1", self.here], stdout=subprocess.PIPE, check=True)
        self.assertEqual(mine["total"]["bytes"], int(du.stdout.split()[0]))

    def test_files_anywhere(self):
        self.dir("d")
        self.dir("d/e")
        self.file("d/e/big", 90000)
        self.file("d/tie2", 50000)
        self.file("tie1", 50000)
        self.file("small", 1000)
        os.link(self.at("d/e/big"), self.at("d/zzz"))
        os.link(self.at("d/e/big"), self.at("e"))
        os.symlink("/", self.at("link"))
        self.assertEqual(self.names("--files", "-n", "3"), [b"d/e/big", b"d/tie2", b"tie1"])
        self.assertEqual(self.names("--files", "-n", "9"), [b"d/e/big", b"d/tie2", b"tie1", b"small", b"link"])

    def test_what_is_no_file(self):
        self.dir("empty")
        os.mkfifo(self.at("fifo"))
        os.symlink("/usr", self.at("link"))
        os.mknod(self.at("device"), 0o20644, os.makedev(1, 3))
        kinds = {e["name"]: (e["type"], e["inodes"]) for e in self.json()["entries"]}
        self.assertEqual(kinds, {"empty": ("directory", 1), "fifo": ("fifo", 1), "link": ("symlink", 1),
                                 "device": ("character-device", 1)})

    def test_the_directory_may_be_a_symlink(self):
        self.file("f", 5000)
        os.symlink(self.here, self.scratch("to-" + self._testMethodName))
        done = self.top(self.scratch("to-" + self._testMethodName), cwd="/")
        self.assertEqual((done.returncode, done.stdout), (0, b"8K  ./f\n"))

    def test_the_last_line(self):
        self.own_mounts()
        mount("test", self.here, "tmpfs", options="size=10m,nr_inodes=1000")  # where nobody else writes
        self.file("f", 1 << 20)
        done = self.top()
        room = os.statvfs(self.here)
        self.assertRegex(done.stderr.decode(), r"\Akshared: 1(\.1)?M in all; the file system is \d+% full: \S+ of \S+ used, "
                                               r"\S+ available\n\Z")
        df = subprocess.run(["df", "--output=pcent", self.here], stdout=subprocess.PIPE, check=True, text=True)
        self.assertIn(df.stdout.split()[-1] + " full", done.stderr.decode())
        done = self.top("-b")
        self.assertIn(f" of {room.f_blocks * room.f_frsize} used", done.stderr.decode())
        done = self.top("--count")
        self.assertEqual(done.stdout, b"1  ./f\n")
        self.assertRegex(done.stderr.decode(), rf"\Akshared: 2 inodes in all; .* of {room.f_files} inodes used, ")

    def test_a_file_system_without_limits(self):
        self.in_memory()
        self.assertIn(b"1 inodes in all; the file system has no limit of inodes\n", self.top("--count", "-d0").stderr)
    def test_a_file_system_without_a_size(self):
        done = self.top("/proc/self/fdinfo", cwd="/")
        self.assertIn(b"the file system has no limit\n", done.stderr)
        done = self.top("--json", "/proc/self/fdinfo", cwd="/")
        self.assertIsNone(json.loads(done.stdout)["filesystem"])


class SameAnswer(TopCase):
    def test_hard_links_whatever_the_threads_do(self):
        """How many threads there are depends on the descriptors that may be open."""
        Maker(self.at("tree"), 7).make()
        for i in range(60):
            self.dir(f"d{i:02}")
            self.file(f"d{i:02}/own", 4096 * (i + 1))
        for i in range(60):
            for k in range(i % 7, 60, 7):
                os.link(self.at(f"d{i:02}/own"), self.at(f"d{k:02}/of{i}"))
        total, sums = reference(self.here, ALL, False)
        expected = [(os.fsdecode(name), found.disk) for name, found in largest(sums, "disk", 1000)]
        for descriptors in (16, 20, 32, 64, 512):
            for _ in range(10 // int(min(harness.SCALE, 5))):
                got = self.json("-n", "1000", descriptors=None if harness.WRAPPER else descriptors)
                self.assertEqual([(e["name"], e["bytes"]) for e in got["entries"]], expected)
                self.assertEqual(got["total"]["bytes"], total.disk)
                self.assertEqual(got["partial"], False)
        du = subprocess.run(["du", "-s", "-B1", self.here], stdout=subprocess.PIPE, check=True)
        self.assertEqual(total.disk, int(du.stdout.split()[0]))

    def test_two_runs_print_the_same_bytes(self):
        Maker(self.at("tree"), 11).make()
        for options in ([], ["--files"], ["--count"], ["--apparent-size", "-b"], ["-0"], ["--json"]):
            first = self.top(*options).stdout
            for _ in range(3):
                # What others write changes how full the file system is.
                again = self.top(*options).stdout
                if options == ["--json"]:
                    first, again = (re.sub(rb'"filesystem": \{[^}]*\}', b"", text) for text in (first, again))
                self.assertEqual(again, first)

    def test_du_on_a_large_tree(self):
        for du_option, option, member in (("-B1", None, "bytes"), ("-bB1", "--apparent-size", "apparent_bytes"),
                                          ("--inodes", "--count", "inodes")):
            du = subprocess.run(["du", "-s", du_option, "/usr/share"], stdout=subprocess.PIPE, check=True)
            got = self.top("--json", *([option] if option else []), "/usr/share", cwd="/", timeout=50)
            self.assertEqual(got.returncode, 0, got.stderr)
            self.assertEqual(json.loads(got.stdout)["total"][member], int(du.stdout.split()[0]))


class ForPrograms(TopCase):
    NAMES = [b"plain", b"new\nline", b"\n3", b"\t1", b"tab\t", b"\x1b[31mred", b"\xff\xfe", b"back\\slash", b"two  .x", b"\xc3\xa4\xe2\x82\xac",
             b"\xf0\x9f\x98\x80", b"\xed\xa0\x80", b"\xc0\xaf", b"-rf", b" ", b"\x7f", b"\xc2\x9b31m", b'"', b"%s", b"n" * 255]

    def make_names(self):
        for name in self.NAMES:
            os.mkdir(os.path.join(os.fsencode(self.here), name))

    def test_plain_lines_give_the_names_back(self):
        self.make_names()
        for locale in ("C", "C.UTF-8"):
            lines = self.ok("-n", "100", env={"LC_ALL": locale}).splitlines()
            self.assertEqual(len(lines), len(self.NAMES))
            for line in lines:
                self.assertFalse(any(byte < 32 or byte == 127 for byte in line), line)
                line.decode()  # is UTF-8
            script = "while IFS= read -r line; do printf '%b\\0' \"${line#*  ./}\"; done"
            back = subprocess.run(["bash", "-c", script], input=b"\n".join(lines) + b"\n", stdout=subprocess.PIPE, check=True)
            self.assertEqual(sorted(back.stdout.split(b"\0")[:-1]), sorted(self.NAMES))

    def test_null(self):
        self.make_names()
        for option in ("-0", "--null"):
            parts = self.ok(option, "-n", "100").split(b"\0")
            self.assertEqual(parts.pop(), b"")
            for part in parts:
                self.assertRegex(part, rb"(?s)\A[0-9.]+[KMGTPE]?  \./")
            self.assertEqual(sorted(part.split(b"  ./", 1)[1] for part in parts), sorted(self.NAMES))

    def test_json_against_a_walk(self):
        Maker(self.at("tree"), 3).make()
        Maker(self.at("more"), 4).make()
        self.make_names()
        for options, by, measure in (([], "bytes", "disk"), (["--apparent-size"], "apparent_bytes", "apparent"),
                                     (["--count"], "inodes", "count"), (["--files"], "bytes", "disk"),
                                     (["-d", "1"], "bytes", "disk")):
            depth = 1 if "-d" in options else ALL
            total, sums = reference(self.here, depth, "--files" in options)
            got = self.json("-n", "15", *options)
            self.assertEqual((got["directory"], got["by"], got["files"], got["partial"], got["stopped"]),
                             (self.here, by, "--files" in options, False, False))
            self.assertEqual(tuple(got["total"].values()), tuple(total))
            self.assertEqual(got["nr_entries"], len(os.listdir(self.here)))
            found = []
            for entry in got["entries"]:
                name = base64.b64decode(entry["name_base64"]) if "name_base64" in entry else entry["name"].encode()
                self.assertEqual(name.decode(errors="replace") == entry["name"], True, name)
                found.append((name, (entry["bytes"], entry["apparent_bytes"], entry["inodes"])))
            self.assertEqual(found, [(name, tuple(sums)) for name, sums in largest(sums, measure, 15)])
            self.assertEqual((got["nr_errors"], got["errors"], got["vanished"], got["skipped_mounts"], got["quotas"]),
                             (0, [], 0, [], []))

    def test_json_says_how_full_it_is(self):
        room = os.statvfs(self.here)
        got = self.json()["filesystem"]
        self.assertEqual((got["size"], got["inodes"]), (room.f_blocks * room.f_frsize, room.f_files))
        self.assertLessEqual(got["used"] + got["available"], got["size"])

    def test_a_directory_that_is_no_utf8(self):
        path = os.path.join(os.fsencode(self.here), b"\xff")
        os.mkdir(path)
        done = self.top("--json", path, cwd="/")
        got = json.loads(done.stdout)
        self.assertEqual(base64.b64decode(got["directory_base64"]), path)
        self.assertTrue(got["directory"].endswith("\ufffd"))


class Export(TopCase):
    def walk(self, path, device):
        """What ncdu's format says of a directory, in no order."""
        status = os.lstat(path)
        info = {"name": os.path.basename(path), "asize": status.st_size, "dsize": status.st_blocks * 512}
        if status.st_dev != device:
            info["dev"] = status.st_dev
        if os.path.isdir(path) and not os.path.islink(path):
            return [info] + [self.walk(os.path.join(path, name), status.st_dev) for name in sorted(os.listdir(path))]
        if status.st_nlink > 1:
            info.update(ino=status.st_ino, hlnkc=True, nlink=status.st_nlink)
        if not os.path.isfile(path) or os.path.islink(path):
            info["notreg"] = True
        return info

    @staticmethod
    def in_order(entry):
        """The same, of what was exported: sorted, with sizes of 0, which are left out, in it."""
        if isinstance(entry, dict):
            return dict({"asize": 0, "dsize": 0}, **entry)
        return [Export.in_order(entry[0])] + sorted(
            map(Export.in_order, entry[1:]), key=lambda item: item[0]["name"] if isinstance(item, list) else item["name"])

    def exported(self, *options, status=0, **run):
        done = self.top("--export", *options, **run)
        self.assertEqual(done.returncode, status, done.stderr)
        # Names are told as their bytes.
        major, minor, about, tree = json.loads(done.stdout.decode(errors="surrogateescape"))
        self.assertEqual((major, minor, about["progname"]), (1, 2, "kshared"))
        self.assertLess(abs(about["timestamp"] - time.time()), 100 * harness.SCALE)
        return tree

    def check(self, **run):
        expected = self.walk(self.here, None)
        expected[0]["name"] = self.here
        self.assertEqual(self.in_order(self.exported(**run)), expected)

    def test_against_a_walk(self):
        for seed in (3, 4, 5):
            Maker(self.at(str(seed)), seed).make()
        for name in ForPrograms.NAMES:
            self.dir(os.fsdecode(name))
            self.file(os.path.join(os.fsdecode(name), os.fsdecode(name)), 5000)
        self.check()

    def test_a_deep_and_wide_tree_with_few_descriptors(self):
        path = self.here
        for _ in range(150):
            for name in ("a", "b", "z"):
                os.mkdir(os.path.join(path, name))
            path = os.path.join(path, "m")
            os.mkdir(path)
        self.check(descriptors=None if harness.WRAPPER else 20)

    def test_a_directory_with_very_many_sub_directories(self):
        self.in_memory()
        for i in range(20000):
            os.mkdir(self.at(str(i)))
        self.check(descriptors=None if harness.WRAPPER else 20)

    def test_what_is_left_out_is_marked(self):
        self.own_mounts()
        for path in ("d", "d/deep", "other", "again"):
            self.dir(path)
        self.file("d/deep/f", 10)
        self.file("x.o", 10)
        mount("test", self.at("other"), "tmpfs")
        mount(self.at("d"), self.at("again"), flags=4096)
        tree = self.exported("-x", "--exclude", "*.o", "-d", "1", "--exclude", "no/such")
        names = {item[0]["name"] if isinstance(item, list) else item["name"]: item for item in tree[1:]}
        self.assertEqual(names["x.o"], {"name": "x.o", "excluded": "pattern"})
        self.assertEqual(names["other"], {"name": "other", "excluded": "otherfs"})
        self.assertEqual(names["again"], {"name": "again", "excluded": "otherfs"})
        self.assertEqual([item[0]["name"] for item in names["d"][1:]], ["deep"])
        self.assertEqual(len(names["d"][1]), 1)

    def test_an_unreadable_directory_is_marked(self):
        self.dir("closed", 0o700)
        self.file("closed/f", 10)
        tree = self.exported(status=1, uid=harness.USER_A)
        self.assertEqual(tree[1][0]["name"], "closed")
        self.assertIs(tree[1][0]["read_error"], True)
        self.assertEqual(tree[1][0]["dsize"], os.lstat(self.at("closed")).st_blocks * 512)

    def test_ncdu_writes_the_same(self):
        for seed in (5, 6):
            Maker(self.at(str(seed)), seed).make()
        try:
            ncdu = subprocess.run(["ncdu", "-0", "-o-", self.here], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  check=True)
        except FileNotFoundError:
            self.skipTest("needs ncdu")
        tree = json.loads(ncdu.stdout.decode(errors="surrogateescape"))[3]
        self.assertEqual(self.in_order(self.exported()), self.in_order(tree))

    def test_not_on_a_terminal(self):
        done = self.on_terminal("--export")
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"--export is not for a terminal", done.stdout)


class Refused(TopCase):
    def refused(self, status, text, *args, **options):
        done = self.top(*args, **options)
        self.assertEqual((done.returncode, done.stdout), (status, b""), done.stderr)
        self.assertIn(text, done.stderr)
        self.assertTrue(done.stderr.startswith(b"kshared: ") and done.stderr.count(b"\n") == 1, done.stderr)

    def test_bad_command_lines(self):
        for args, text in USAGE:
            self.refused(2, text, *args, cwd="/")

    def test_what_is_no_directory(self):
        self.file("file", 10)
        os.mkfifo(self.at("fifo"))
        os.symlink("missing", self.at("dangling"))
        os.symlink("loop", self.at("loop"))
        os.symlink("file", self.at("to-file"))
        for path, text in (("file", b"it is not a directory; name the directory that it is in"), ("file/x", b"not a directory"),
                           ("fifo", b"not a directory"), ("to-file", b"not a directory"), ("missing", b"no such directory"),
                           ("missing/x", b"no such directory"), ("dangling", b"no such directory"),
                           ("loop", b"round in a circle"), ("n" * 256, b"too long"), ("n/" * 4096, b"too long"),
                           ("", b"name is empty")):
            self.refused(2, text, path, cwd=self.here)
            self.refused(2, text, "--json", path, cwd=self.here)
            self.refused(2, text, "--export", path, cwd=self.here)

    def test_its_name_is_safe_to_read(self):
        done = self.top("\x1b]0;x\x07\n", cwd=self.here)
        self.assertEqual((done.returncode, done.stderr.count(b"\n")), (2, 1))
        self.assertNotIn(b"\x1b", done.stderr)

    def test_a_directory_that_may_not_be_read(self):
        self.dir("closed", 0o700)
        self.refused(1, b"closed: permission denied; use a user who may read it", self.at("closed"), cwd="/",
                     uid=harness.USER_A)

    def test_nowhere_to_print(self):
        self.file("f", 10)
        with open("/dev/full", "wb") as full:
            for options in ([], ["--json"], ["--export"]):
                done = self.top(*options, stdout=full)
                self.assertEqual(done.returncode, 1)
                self.assertIn(os.strerror(errno.ENOSPC).encode(), done.stderr)
                self.assertNotIn(b"in all", done.stderr)

    def test_help(self):
        done = self.top("--help", cwd="/")
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        with open(os.path.join(os.path.dirname(harness.BUILD), "man/kshared-folder-top.1.scd")) as file:
            page = file.read()
        for option in re.findall(r"^\*(-[^*]*)\*", page, re.M) + re.findall(r"^\*-.\*, \*(--[a-z-]*)\*", page, re.M):
            self.assertTrue(option == "--help" or option in done.stdout.decode(), option)


if __name__ == "__main__":
    harness.main()
