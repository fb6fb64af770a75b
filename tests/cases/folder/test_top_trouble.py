# SPDX-License-Identifier: GPL-2.0-or-later
"""kshared folder top, when something is in its way: never wrong quietly; and what a terminal shows."""

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time

import harness
from oddfs import OddFs
from top import MS_BIND, MS_REC, Terminal, TopCase, mount

MILLION = 1000000 // int(harness.SCALE)
ERASE = b"\r\x1b[K"
COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
ODD = [b"new\nline", b"\x1b[31mred", b"\x1b]0;title\x07", b"\xff\xfe", b"\xc2\x9b31m", b"\x7f\x08", b"\r\r", b"tab\t",
       "\u202eright".encode(), b"back\\slash"]


class Trouble(TopCase):
    def partial(self, *args, **options):
        """It says that something is missing: status 1 and the last line. Return: what is on stderr before that, as lines."""
        done = self.top(*args, **options)
        self.assertEqual(done.returncode, 1, done.stderr)
        lines = done.stderr.splitlines()
        self.assertTrue(lines.pop().startswith(b"kshared: partial, not everything could be read: "), done.stderr)
        got = json.loads(self.top("--json", *args, **options).stdout)
        self.assertEqual((got["partial"], got["stopped"]), (True, False))
        return lines

    def test_directories_that_may_not_be_read(self):
        self.dir("closed", 0o700)
        self.file("closed/f", 50000)
        self.dir("open")
        self.file("open/f", 5000)
        self.dir("open/closed", 0o700)
        self.dir("listed", 0o744)
        self.file("listed/f", 7000)
        expected = [b"kshared: ./closed: Permission denied; what is in it is not counted",
                    b"kshared: ./listed/f: Permission denied; it is not counted",
                    b"kshared: ./open/closed: Permission denied; what is in it is not counted"]
        self.assertEqual(self.partial(uid=harness.USER_A), expected)
        # What can be told of them is counted: themselves.
        done = self.json(uid=harness.USER_A, status=1)
        own = os.lstat(self.at("closed")).st_blocks * 512
        self.assertEqual({e["name"]: (e["bytes"], e["inodes"]) for e in done["entries"]},
                         {"closed": (own, 1), "listed": (own, 1), "open": (2 * own + 8192, 3)})
        self.assertEqual([(e["path"], e["call"], e["errno"], e["error"]) for e in done["errors"]], [
            ("closed", "open", errno.EACCES, "Permission denied"), ("listed/f", "statx", errno.EACCES, "Permission denied"),
            ("open/closed", "open", errno.EACCES, "Permission denied")])
        self.assertEqual(self.top().returncode, 0)

    def test_very_many_of_them(self):
        for i in range(33):
            self.dir(f"closed{i}", 0o700)
        lines = self.partial(uid=harness.USER_A)
        self.assertEqual(len(lines), 21)
        self.assertEqual(lines[-1], b"kshared: and 13 more like these")
        got = self.json(uid=harness.USER_A, status=1)
        # The same ones at every run.
        first = sorted(f"closed{i}" for i in range(33))[:20]
        self.assertEqual((got["nr_errors"], [e["path"] for e in got["errors"]]), (33, first))

    def odd(self, entries):
        self.own_mounts()
        odd = OddFs(self.at("odd"), entries)
        self.addCleanup(odd.end)
        return odd

    def test_entries_that_vanish(self):
        self.odd({b"file": "file", b"ghost": "ghost", b"dir": "ghost-directory", b"was-dir": "replaced"})
        done = self.top()
        self.assertEqual((done.returncode, done.stdout), (0, b"24K  ./odd\n"))
        self.assertTrue(done.stderr.startswith(b"kshared: 2 entries were gone before they were looked at\nkshared: "))
        self.assertNotIn(b"partial", done.stderr)
        self.assertEqual(self.json()["vanished"], 2)
        tree = json.loads(self.ok("--export"))[3]
        self.assertEqual([item["name"] for item in tree[1][1:]], ["file", "was-dir"])

    def test_a_tree_that_is_removed_meanwhile(self):
        """All that ends without an error; and what stays is all counted."""
        self.dir("stays")
        self.file("stays/f", 1 << 20)
        self.dir("going")
        stop = threading.Event()

        def churn():
            while not stop.is_set():
                for i in range(30):
                    self.dir(f"going/{i}")
                    self.file(f"going/{i}/f")
                for i in range(30):
                    os.unlink(self.at(f"going/{i}/f"))
                    os.rmdir(self.at(f"going/{i}"))

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            for _ in range(30 // int(min(harness.SCALE, 5))):
                got = self.json("-b")
                self.assertEqual(got["nr_errors"], 0)
                stays = next(e for e in got["entries"] if e["name"] == "stays")
                self.assertEqual(stays["apparent_bytes"], (1 << 20) + os.lstat(self.at("stays")).st_size)
                self.assertLessEqual(got["total"]["inodes"], 4 + 60)
        finally:
            stop.set()
            thread.join()

    def test_errors_of_the_disk(self):
        self.odd({b"file": "file", b"bad": "broken", b"baddir": "broken-directory", b"new\nline": "broken"})
        self.assertEqual(self.partial(), [
            b"kshared: ./odd/bad: Input/output error; it is not counted",
            b"kshared: ./odd/baddir: Input/output error; the rest of it is not counted",
            b"kshared: ./odd/new\\012line: Input/output error; it is not counted"])
        done = self.top("--export")
        self.assertEqual(done.returncode, 1)
        entries = {(e[0] if isinstance(e, list) else e)["name"]: e for e in json.loads(done.stdout)[3][1][1:]}
        self.assertEqual(entries["bad"], {"name": "bad", "read_error": True})
        self.assertEqual(len(entries["baddir"]), 1)

    def test_a_file_system_that_does_not_tell_what_is_a_directory(self):
        self.odd({b"f": "untold", b"d": "untold-directory", b"e": "untold-directory"})
        got = self.json()
        self.assertEqual((got["entries"][0]["name"], got["entries"][0]["inodes"], got["partial"]), ("odd", 4, False))

    def test_nothing_is_mounted_where_it_is_not_wanted(self):
        """With -x, what would be mounted on use is left alone: its server may be dead."""
        self.own_mounts()
        self.dir("trigger")
        self.file("f", 5000)
        asked, tell = os.pipe()
        self.addCleanup(os.close, asked)
        try:
            mount("auto", self.at("trigger"), "autofs", options=f"fd={tell},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct")
        except OSError as error:
            self.skipTest(f"no autofs: {error}")
        finally:
            os.close(tell)
        os.set_blocking(asked, False)
        for options in ([], ["--export"], ["-d", "0"]):
            self.ok("-x", *options, process_group=0)
        self.assertEqual(self.names("-x", process_group=0), [b"f"])
        self.assertRaises(BlockingIOError, os.read, asked, 1)
        # The other way round it would be asked for: the test can fail.
        process = subprocess.Popen(self.command(self.here), stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0,
                                   **self.popen_options())
        harness.read_exactly(asked, 8, 20)
        process.kill()
        process.communicate()

    def test_a_directory_that_is_listed_as_a_file(self):
        """It may have taken a file's place after the listing, too."""
        self.odd({b"liar": "lied-directory", b"f": "file"})
        got = self.json()
        self.assertEqual((got["entries"][0]["inodes"], got["partial"], got["vanished"]), (4, False, 0))

    def test_a_directory_that_contains_itself(self):
        """A damaged file system has that: the kernel tells of some, and of others does not know."""
        self.odd({b"d": "loop", b"e": "same", b"f": "file"})
        self.assertEqual(self.partial(), [
            b"kshared: ./odd/d/self: Too many levels of symbolic links; it is not counted",
            b"kshared: ./odd/e/self: Too many levels of symbolic links; it is a directory above itself, and not counted again"])
        got = self.json(status=1)
        self.assertEqual((got["vanished"], got["entries"][0]["inodes"]), (0, 4))
        self.assertEqual(self.top("--export").returncode, 1)

    def test_loops_by_bind_mounts(self):
        self.own_mounts()
        self.dir("data")
        self.file("data/f", 1 << 20)
        self.dir("data/loop")
        self.dir("again")
        mount(self.at("data"), self.at("again"), flags=MS_BIND)
        mount(self.here, self.at("data/loop"), flags=MS_BIND | MS_REC)
        done = self.top("-b")
        lines = done.stderr.splitlines()
        what = b": left out; what it shows is counted elsewhere"
        self.assertEqual(lines[:-1], [b"kshared: ./" + path + what for path in (b"again", b"data/loop")])
        self.assertEqual(done.returncode, 0)
        # What the loop covers is to be seen there.
        own = os.lstat(self.at("again/loop")).st_blocks * 512
        self.assertEqual([line.split(b"  ./") for line in done.stdout.splitlines()],
                         [[b"%d" % ((1 << 20) + own), b"data"], [b"%d" % own, b"again"]])
        got = self.json()
        self.assertEqual([s["path"] for s in got["skipped_mounts"]], ["again", "data/loop"])
        self.assertEqual(got["total"]["inodes"], 4)
        exported = json.loads(self.ok("--export"))[3]
        self.assertEqual([part[0]["name"] for part in exported[1:]], ["data", "again"] if exported[1][0]["name"] == "data" else
                         ["again", "data"])
        again = next(part for part in exported[1:] if part[0]["name"] == "again")
        self.assertEqual((again[0], again[1][0]["name"], len(again)), ({"name": "again"}, "loop", 2))

    def test_a_bind_mount_of_what_is_around_it(self):
        """It shows more than is counted elsewhere: all of it is counted but the directory itself, as by du."""
        self.in_memory()
        for path in ("p", "p/q", "p/q/m"):
            self.dir(path)
        self.file("big", 20 << 20)
        self.file("p/f", 1 << 20)
        mount(self.here, self.at("p/q/m"), flags=MS_BIND)
        done = self.top("-b", self.at("p"), cwd="/")
        self.assertEqual((done.returncode, done.stdout), (0, b"20971520  ./q\n1048576  ./f\n"))
        self.assertEqual(done.stderr.splitlines()[0], b"kshared: ./q/m/p: left out; what it shows is counted elsewhere")
        du = subprocess.run(["du", "-s", "-B1", self.at("p")], stdout=subprocess.PIPE, check=True).stdout
        self.assertEqual(int(du.split()[0]), 21 << 20)
        exported = json.loads(self.ok("--export", self.at("p"), cwd="/"))
        self.assertIn({"name": "p", "excluded": "otherfs"}, exported[3][1:][[
            entry[0]["name"] if isinstance(entry, list) else "" for entry in exported[3][1:]].index("q")][1])

    def test_a_small_bind_mount_of_a_file_system_that_is_mounted_too(self):
        self.in_memory()
        for path in ("fs", "d", "d/etc", "d/host"):
            self.dir(path)
        mount("test", self.at("fs"), "tmpfs")
        self.file("fs/hosts", 4096)
        self.file("fs/big", 20 << 20)
        self.file("d/etc/hosts")
        mount(self.at("fs/hosts"), self.at("d/etc/hosts"), flags=MS_BIND)
        mount(self.at("fs"), self.at("d/host"), flags=MS_BIND)
        done = self.top("-b", self.at("d"), cwd="/")
        self.assertEqual((done.returncode, done.stdout), (0, b"20975616  ./host\n0  ./etc\n"))
        self.assertIn(b"kshared: ./etc/hosts: left out; what it shows is counted elsewhere\n", done.stderr)

    def deep(self, levels, name):
        """A chain of directories with a file at its end."""
        fd = os.open(self.here, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir(name, dir_fd=fd)
            below = os.open(name, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(os.open("end", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
        return fd

    def test_depth_beyond_PATH_MAX(self):
        self.in_memory()
        name = "d" * 250
        os.close(self.deep(200, name))
        for descriptors in (None, 32):
            options = {"descriptors": None if harness.WRAPPER else descriptors}
            self.assertEqual(self.ok("--count", **options), b"201  ./" + name.encode() + b"\n")
            self.assertEqual(self.names("--files", **options), [os.path.join(*[name] * 200, "end").encode()])
            tree = json.loads(self.ok("--export", **options))[3]
            for _ in range(200):
                self.assertEqual(len(tree), 2)
                tree = tree[1]
            self.assertEqual(tree[1]["name"], "end")

    def test_an_error_beyond_PATH_MAX_is_told_with_its_whole_path(self):
        self.in_memory()
        name = "d" * 250
        fd = self.deep(40, name)
        os.mkdir("closed", 0o700, dir_fd=fd)
        os.close(fd)
        path = os.path.join(*[name] * 40, "closed")
        self.assertEqual(self.partial(uid=harness.USER_A), [
            f"kshared: ./{path}: Permission denied; what is in it is not counted".encode()])
        self.assertEqual(self.json(uid=harness.USER_A, status=1)["errors"][0]["path"], path)

    def test_thousands_of_levels(self):
        self.in_memory()
        os.close(self.deep(5000 // int(harness.SCALE), "d"))
        self.assertEqual(self.json("--count")["total"]["inodes"], 5000 // int(harness.SCALE) + 2)
        self.assertEqual(self.ok("--export").count(b'"name":"d"'), 5000 // int(harness.SCALE))

    def test_a_directory_with_very_many_entries(self):
        """A million on a tmpfs, less under a sanitizer."""
        self.in_memory()
        self.dir("wide")
        fd = os.open(self.at("wide"), os.O_RDONLY)
        for i in range(MILLION):
            os.mknod(str(i), 0o100644, dir_fd=fd)
        os.close(fd)
        self.assertEqual(self.ok("--count"), b"%d  ./wide\n" % (MILLION + 1))
        got = self.top("--count", "--json", "-n", "3", self.at("wide"), cwd="/")
        got = json.loads(got.stdout)
        self.assertEqual((got["nr_entries"], got["total"]["inodes"]), (MILLION, MILLION + 1))
        self.assertEqual([e["name"] for e in got["entries"]], ["0", "1", "10"])

    def test_no_entries(self):
        for options in ([], ["--files"], ["-0"], ["--count"]):
            done = self.top(*options)
            self.assertEqual((done.returncode, done.stdout), (0, b""))
            self.assertTrue(done.stderr.startswith(f"kshared: {self.here}: it has no entries\nkshared: ".encode()))
        self.assertEqual((self.json()["entries"], self.json()["total"]["inodes"]), ([], 1))

    def test_no_entries_but_excluded_ones(self):
        self.file("f")
        done = self.top("--exclude", "*")
        self.assertEqual((done.returncode, done.stdout), (0, b""))
        self.assertIn(f"{self.here}: it has no entries but those that are excluded, if any\n".encode(), done.stderr)

    def test_no_descriptors_to_be_had(self):
        """Complete with a few; with next to none it says so."""
        path = ""
        for i in range(30):
            path += f"{i}/"
            self.dir(path)
        statuses = set()
        for descriptors in () if harness.WRAPPER else range(4, 40):
            done = self.top("--count", "-b", descriptors=descriptors)
            statuses.add(done.returncode)
            if done.returncode == 0:
                self.assertEqual(done.stdout, b"30  ./0\n")
            else:
                self.assertEqual(done.returncode, 1)
                self.assertIn(b"oo many open files", done.stderr)
        if not harness.WRAPPER:
            self.assertEqual(self.top("--count", "-b", descriptors=32).returncode, 0)
            self.assertIn(0, statuses)


    def test_little_address_space(self):
        """However little: either the whole answer, or that there is no memory; and what is enough once is enough always."""
        if harness.WRAPPER or harness.environment().get("KSHARED_REPORTS"):
            self.skipTest("what watches the program takes address space itself")
        for i in range(200):
            self.dir(f"{i}")
            self.file(f"{i}/f")
        enough = False
        for size in (*range(6, 30), *range(40, 200, 10)):
            done = self.top("--count", "-n", "1", address_space=size << 20)
            if done.returncode == 0:
                self.assertEqual(done.stdout, b"2  ./0\n")
                enough = enough or size >= 12
            else:
                self.assertFalse(enough, (size, done))
                self.assertRegex(done.stderr, b"not enough memory|cannot allocate|failed to map|no thread can be started")
        self.assertTrue(enough)


class Interrupted(TopCase):
    def setUp(self):
        super().setUp()
        self.own_mounts()
        self.file("f", 1 << 20)
        self.odd = OddFs(self.at("odd"), {b"file": "file", b"hung": "hung"})
        self.addCleanup(self.odd.end)

    def start(self, *args, **options):
        """Start it on what never answers, and wait until it is there."""
        process = subprocess.Popen(self.command(*args, self.here), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, **self.popen_options(**options))
        self.assertEqual(harness.read_exactly(self.odd.hung, 1, 20), b"x")
        return process

    def end(self, process):
        out, errors = process.communicate(timeout=20 * harness.SCALE)
        return process.returncode, out, errors

    def test_what_is_known_is_printed(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            process = self.start("-b", "--apparent-size")
            process.send_signal(number)
            status, out, errors = self.end(process)
            self.assertEqual(status, 1)
            self.assertEqual(sorted(out.splitlines()), [b"10000  ./odd", b"1048576  ./f"])
            self.assertRegex(errors, rb"\Akshared: partial, stopped: \d+ in all; .*\n\Z")

    def test_in_json(self):
        process = self.start("--json")
        process.send_signal(signal.SIGINT)
        status, out, errors = self.end(process)
        got = json.loads(out)
        self.assertEqual((status, got["partial"], got["stopped"], got["nr_errors"]), (1, True, True, 0))
        self.assertEqual(errors, f"kshared: {self.here}: the answer is partial: it was stopped\n".encode())

    def test_two_that_come_together_are_one(self):
        process = self.start()
        for _ in range(3):
            process.send_signal(signal.SIGINT)
            harness.wait_until(lambda: not self.pending(process.pid), "the signal is taken")
        status, out, _ = self.end(process)
        self.assertEqual((status, len(out.splitlines())), (1, 2))

    def test_a_second_one_ends_it_at_once(self):
        process = self.start()
        process.send_signal(signal.SIGINT)
        harness.wait_until(lambda: not self.pending(process.pid), "the signal is taken")
        time.sleep(0.3)  # what comes sooner is the same wish
        process.send_signal(signal.SIGINT)
        status, out, _ = self.end(process)
        self.assertEqual((status, out), (-signal.SIGINT, b""))

    @staticmethod
    def pending(pid):
        with open(f"/proc/{pid}/status") as file:
            words = dict(line.split(":\t", 1) for line in file)
        return int(words.get("ShdPnd", "0"), 16)

    def test_one_that_was_ignored_stays_so(self):
        """As in nohup, or a shell's background."""
        process = subprocess.Popen(["sh", "-c", "trap '' INT; exec " + shlex.join(self.command(self.here))],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   **self.popen_options())
        self.assertEqual(harness.read_exactly(self.odd.hung, 1, 20), b"x")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        status, _, errors = self.end(process)
        self.assertEqual(status, 1)
        self.assertIn(b"partial, stopped", errors)

    def test_ctrl_c_on_a_terminal(self):
        terminal = self.terminal()
        terminal.read_until(b"entries/s")
        terminal.type(b"\x03")
        done = terminal.end()
        self.assertEqual(done.returncode, 1)
        before, after = done.stdout.rsplit(ERASE, 1)
        self.assertRegex(before, rb"\r\d+ entries, 1\.\d+M, \d+ entries/s\x1b\[K")
        plain = COLOUR.sub(b"", after)
        self.assertRegex(plain, rb"(?m)^ *1M  #+ +\d+%  \./f$")
        self.assertRegex(plain.splitlines()[-1], rb"\Apartial, stopped: ")
        self.assertNotIn(b"entries/s", plain)

    def test_no_progress_but_on_a_terminal(self):
        for options in ({"errors_too": False}, {"env": {"TERM": "dumb"}}):
            terminal = self.terminal(**options)
            self.assertEqual(harness.read_exactly(self.odd.hung, 1, 20), b"x")
            # Longer than what is waited for before the line is shown.
            with self.assertRaises(harness.Hung):
                terminal.read_until(b"entries/s", 1 / harness.SCALE)
            terminal.type(b"\x03")
            done = terminal.end()
            self.assertEqual(done.returncode, 1)
            self.assertNotIn(b"entries/s", done.stdout + done.stderr)
            self.assertNotIn(b"\r", done.stdout + done.stderr)

    def test_the_progress_while_standard_output_is_no_terminal(self):
        """It would stand in the way of what reads it; but an export takes long, and is never read by people."""
        with open(self.scratch("export-" + self._testMethodName), "wb+") as out:
            terminal = Terminal(["sh", "-c", "exec " + shlex.join(self.command("--export", self.here)) + f" >&{out.fileno()}"],
                                pass_fds=[out.fileno()], **self.popen_options(env={"TERM": "xterm"}))
            terminal.read_until(b"entries/s")
            terminal.type(b"\x03")
            terminal.read_until(b"^C")
            harness.wait_until(lambda: not self.pending(terminal.process.pid), "the signal is taken")
            self.odd.server.__exit__()  # there is but one thread, which hangs
            done = terminal.end()
            self.assertTrue(done.stdout.split(ERASE)[-1].endswith(b"the answer is partial: it was stopped\n"))
            out.seek(0)
            self.assertNotIn(b"\x1b", out.read())


class OnTerminal(TopCase):
    def make(self):
        self.dir("directory")
        self.file("directory/f", 300 << 10)
        self.file("half", 152 << 10)
        self.file("tiny", 4096)
        self.file("empty")

    def test_bars_and_percentages(self):
        self.in_memory()
        self.make()
        done = self.on_terminal(env={"NO_COLOR": "1"}, columns=40)
        lines = done.stdout.splitlines()
        self.assertEqual((done.returncode, len(lines)), (0, 5))
        self.assertEqual(lines[:4], [b"300K  ##########  66%  ./directory", b"152K  #####.....  33%  ./half",
                                     b"  4K  #.........   1%  ./tiny", b"   0  ..........   0%  ./empty"])
        self.assertRegex(lines[4], rb"\A456K in all; the file system is \d+% full: ")
        wide = self.on_terminal(env={"NO_COLOR": "1", "LC_ALL": "C.UTF-8"}, columns=200).stdout.decode().splitlines()
        self.assertEqual(wide[0], "300K  " + "\u2588" * 24 + "  66%  ./directory")
        self.assertEqual(wide[2], "  4K  \u2588" + "\u2591" * 23 + "   1%  ./tiny")

    def test_neither_on_a_pipe(self):
        self.make()
        done = self.top(env={"TERM": "xterm", "LC_ALL": "C.UTF-8"})
        for text in (b"\x1b", b"#", b"\xe2", b"%  "):
            self.assertNotIn(text, done.stdout)
        self.assertNotIn(b"\x1b", done.stderr)

    def test_colour(self):
        self.make()
        for env, coloured in (({}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False),
                              ({"TERM": ""}, False)):
            done = self.on_terminal(env=env)
            self.assertEqual(bool(COLOUR.search(done.stdout)), coloured, env)
            self.assertEqual(done.returncode, 0)
            self.assertIn(b"./directory", COLOUR.sub(b"", done.stdout))

    def test_names_never_reach_a_terminal_raw(self):
        for i, name in enumerate(ODD):
            path = os.path.join(os.fsencode(self.here), name)
            os.mkdir(path)
            os.mkdir(os.path.join(path, b"\x1b[2J"), 0o700)
            self.file(os.fsdecode(name + b"/f"), 5000 * (i + 1))
        for locale in ("C", "C.UTF-8"):
            for options in ([], ["-0"], ["--files"], ["--json"], ["-b"]):
                done = self.on_terminal("-n", "100", *options, env={"LC_ALL": locale}, uid=harness.USER_A)
                self.assertEqual(done.returncode, 1)
                text = COLOUR.sub(b"", done.stdout).replace(ERASE, b"")
                text = text.replace(b"\0", b"") if options == ["-0"] else text
                bad = {byte for byte in text if (byte < 32 and byte != 10) or byte == 127}
                self.assertEqual(bad, set(), text)
                decoded = text.decode()  # is UTF-8
                self.assertFalse(set(decoded) & {chr(c) for c in range(0x80, 0xa0)}, text)
                self.assertNotIn("\u202e", decoded)
                if options != ["--json"]:
                    self.assertIn(b"./new\\012line", text)
                    self.assertIn(b"./back\\\\slash", text)
                    self.assertIn(b"./\\033[31mred/\\033[2J: Permission denied", text)

    def test_the_progress_line_disappears(self):
        """Whatever was shown meanwhile is erased before the answer begins."""
        self.own_mounts()
        odd = OddFs(self.at("odd"), {b"hung": "hung"})
        self.addCleanup(odd.end)
        terminal = self.terminal(env={"NO_COLOR": "1"}, columns=20)
        terminal.read_until(b"entr")
        odd.server.__exit__()  # who waits is let go, with an error
        done = terminal.end()
        shown, answer = done.stdout.rsplit(ERASE, 1)
        for line in shown.split(b"\r")[1:]:
            self.assertLess(len(line.replace(b"\x1b[K", b"")), 20)
        self.assertNotIn(b"entries/s", answer)
        self.assertEqual(done.returncode, 1)


if __name__ == "__main__":
    harness.main()
