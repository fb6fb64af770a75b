# SPDX-License-Identifier: GPL-2.0-or-later
"""`kshared port` and what other commands say of ports: used well, used badly, on a terminal and in a pipe."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import harness

UNDER_VALGRIND = False

USAGE, FAILED = 2, 1
PAGES = {"load", "cpu", "memory", "swap", "vmstat", "psi", "net", "clock"}
COMPLETION = os.path.join(harness.ROOT, "src/cli/completion")
LAMP = ["level:u32:%=40", "colour:chars16=warm", "offset:s64=-5", "ratio:fixed8=1.5", "count=18446744073709551615"]

BAD = [
    (USAGE, "port"), (USAGE, "port no-such-verb"), (USAGE, "port --json"), (USAGE, "port ls x"), (USAGE, "port ls -x"),
    (USAGE, "port read"), (USAGE, "port read load --no-such-option"), (FAILED, "port read missing"),
    (FAILED, "port read load missing"), (FAILED, "port read load load1[1]"), (FAILED, "port read load load1["),
    (FAILED, "port read load load1[-1]"), (FAILED, "port read load load1[0x0]"), (FAILED, "port read .."),
    (FAILED, "port read {longname}"), (FAILED, "port read load/x"), (FAILED, "port read gone"),
    (USAGE, "port write"), (USAGE, "port write lamp"), (USAGE, "port write lamp level"), (USAGE, "port write lamp =1"),
    (FAILED, "port write lamp missing=1"), (FAILED, "port write lamp level=-1"), (FAILED, "port write lamp level="),
    (FAILED, "port write lamp level=4294967296"), (FAILED, "port write lamp level=1.5"),
    (FAILED, "port write lamp count=18446744073709551616"), (FAILED, "port write lamp offset=9223372036854775808"),
    (FAILED, "port write lamp offset=--1"), (FAILED, "port write lamp ratio=1."), (FAILED, "port write lamp ratio=.5"),
    (FAILED, "port write lamp ratio=72057594037927936"), (FAILED, "port write lamp ratio=1e3"),
    (FAILED, "port write lamp colour=aaaaaaaaaaaaaaaaa"), (FAILED, "port write load load1=1"),
    (FAILED, "port write lamp level=1 missing=2"), (FAILED, "port write lamp level=1 level[1]=2"),
    (FAILED, "port write missing a=1"), (USAGE, "port write lamp level=1 --fast"),
    (USAGE, "port watch"), (USAGE, "port watch load -n 0"), (USAGE, "port watch load -n x"),
    (USAGE, "port watch load -n"), (USAGE, "port watch load -n 86401"), (USAGE, "port watch load -n -1"),
    (FAILED, "port watch missing"), (FAILED, "port watch load missing"),
    (USAGE, "port add"), (USAGE, "port add x"), (USAGE, "port add x --pid 1 --cgroup /"), (USAGE, "port add x --pid 0"),
    (USAGE, "port add x --pid y"), (USAGE, "port add x y --pid 1"), (USAGE, "port add x --pid 1 -m 999"),
    (FAILED, "port add x --pid 2147483647"), (FAILED, "port add x --cgroup {missing}"),
    (FAILED, "port add x --cgroup {file}"), (FAILED, "port add x --cgroup {scratch}"), (FAILED, "port add .. --pid 1"),
    (FAILED, "port add lamp --pid 1"), (FAILED, "port add missing/x --pid 1"),
    (USAGE, "port rule x"), (USAGE, "port rule x --pid 1"), (FAILED, "port rule x --cgroup {missing}"),
    (USAGE, "port serve"), (USAGE, "port serve x"), (USAGE, "port serve x a"), (USAGE, "port serve x a:u65=1"),
    (USAGE, "port serve x a=1 a=2"), (USAGE, "port serve x a:fixed64=1"), (USAGE, "port serve x a:chars0=1"),
    (USAGE, "port serve x a:chars4097=1"), (USAGE, "port serve x a=x"), (USAGE, "port serve x =1"),
    (USAGE, "port serve x a\x07=1"), (USAGE, "port serve x a:u64:{longname}=1"), (USAGE, "port serve x {longname}=1"),
    (USAGE, "port serve x a=1 --policy shout"), (USAGE, "port serve x a=1 --period 0"),
    (USAGE, "port serve x a=1 -m 0"), (USAGE, "port serve x a=1 --no-such-option"),
    (FAILED, "port serve lamp a=1"), (FAILED, "port serve load a=1"), (FAILED, "port serve .. a=1"),
    (FAILED, "port serve missing/x a=1"), (FAILED, "port serve {longname} a=1"),
    (FAILED, "rm port"), (FAILED, "rm port/missing"), (USAGE, "help port frobnicate"),
]


def read_line(fd, timeout=5.0):
    """One line from fd, without its end."""
    line = b""
    deadline = time.monotonic() + timeout * harness.SCALE
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise harness.Hung(f"no line within {timeout * harness.SCALE:g} s, only {line!r}")
        byte = os.read(fd, 1)
        if not byte:
            raise AssertionError(f"the end, after {line!r}")
        line += byte
    return line[:-1].decode()


class PortCase(harness.FolderCase):
    descriptor_slack = None  # the publisher stays for a minute

    def ok(self, *args, **options):
        """A command that must succeed and say nothing on stderr. Return: what it printed."""
        done = self.cli(*args, **options)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def start(self, *args, **options):
        """A command that goes on running."""
        process = subprocess.Popen([*harness.program("kshared"), "--at", self.folder.dir, *args],
                                   env=harness.environment(), **options)
        self.addCleanup(lambda: [pipe.close() for pipe in (process.stdin, process.stdout, process.stderr) if pipe])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def serve(self, name, *words, **options):
        """`kshared port serve` with pipes, once the port can be read."""
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        # If it is killed at the end, the entry stays.
        self.addCleanup(self.cli, "rm", f"port/{name}")
        process = self.start("port", "serve", name, *words, **options)

        def served():
            self.assertIsNone(process.poll(), "it ended")
            return self.cli("port", "read", name).returncode == 0
        harness.wait_until(served, f"port/{name} is served")
        return process

    def line(self, process, stream="stdout"):
        """The next line that a command prints."""
        return read_line(getattr(process, stream).fileno())

    def values(self, name, *fields):
        return json.loads(self.ok("port", "read", name, "--json", *fields))["values"]

    def await_values(self, name, expected):
        def reached():
            values = self.values(name)
            return {key: values[key] for key in expected} == expected
        harness.wait_until(reached, f"port/{name} holds {expected}")


class Refusals(PortCase):
    @classmethod
    def prepare(cls):
        with open(os.path.join(cls.folder.scratch, "file"), "w"):
            pass

    @harness.timeout(180)
    def test_a_sentence_a_status_and_nothing_changed(self):
        self.serve("lamp", *LAMP)
        gone = self.serve("gone", "a=1")
        gone.kill()
        gone.wait()
        words = {"file": self.scratch("file"), "missing": self.scratch("missing"), "longname": "n" * 256,
                 "scratch": self.scratch()}
        before = self.values("lamp"), sorted(os.listdir(self.path("port")))
        for expected, line in BAD:
            with self.subTest(line):
                done = self.cli(*[word.format(**words) for word in line.split()])
                self.assertRefused(done)
                self.assertEqual(done.returncode, expected, done.stderr)
                self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
                self.assertEqual(self.values("lamp"), before[0])
        self.assertEqual(sorted(os.listdir(self.path("port"))), before[1])

    def test_the_next_step_is_named(self):
        gone = self.serve("left", "a=1")
        gone.kill()
        gone.wait()
        self.assertIn("--replace", self.cli("port", "read", "left").stderr)
        self.assertIn("'kshared port ls'", self.cli("port", "read", "missing").stderr)
        self.assertIn("'kshared port read load'", self.cli("port", "read", "load", "x").stderr)

    def test_what_is_not_permitted(self):
        self.serve("private", "a=1", "-m", "600")
        for line in ("port read private", "port write private a=2", "port serve private a=1 --replace",
                     "rm port/private", f"port add x --pid {os.getpid()}", "port rule x --cgroup /sys/fs/cgroup"):
            with self.subTest(line):
                done = self.cli(*line.split(), uid=harness.USER_A)
                self.assertRefused(done)
                self.assertEqual(done.returncode, FAILED)
        self.assertEqual(self.values("private"), {"a": 1})

    def test_an_output_that_takes_nothing(self):
        with open("/dev/full", "w") as full:
            for line in ("port ls", "port read load", "port read load --json", "port watch load", "port watch load --json"):
                with self.subTest(line):
                    process = self.start(*line.split(), stdout=full, stderr=subprocess.PIPE)
                    self.assertEqual(process.wait(10 * harness.SCALE), FAILED)
                    self.assertIn(b"standard output", process.stderr.read())


class Reading(PortCase):
    def test_load_is_what_the_kernel_says(self):
        def loads():
            with open("/proc/loadavg") as file:
                return [float(word) for word in file.read().split()[:3]]

        def agree():
            before, values, after = loads(), self.values("load"), loads()
            read = [values[name] for name in ("load1", "load5", "load15")]
            # The kernel prints two digits, rounded; an update in between gives neither.
            return before == after and all(abs(a - b) <= 0.0055 for a, b in zip(read, before))
        harness.wait_until(agree, "port/load is /proc/loadavg", timeout=20)

    def test_text_is_that_of_the_file(self):
        self.serve("lamp", *LAMP)
        text = self.ok("port", "read", "lamp")
        self.assertEqual(text, 'level 40 %\ncolour "warm"\noffset -5\nratio 1.500\ncount 18446744073709551615\n')
        with open(self.path("port", "lamp")) as file:
            self.assertEqual(file.read(), text)

    def test_fields_by_name(self):
        self.serve("lamp", *LAMP)
        self.assertEqual(self.ok("port", "read", "lamp", "offset", "level"), "offset -5\nlevel 40 %\n")
        cpus = self.ok("port", "read", "cpu", "user").splitlines()
        self.assertEqual(len(cpus), len(os.listdir("/sys/bus/cpu/devices")))
        self.assertRegex(cpus[0], r"^user(\[0\])? \d+ ns$")
        self.assertRegex(self.ok("port", "read", "cpu", cpus[0].split()[0]), r"^user\S* \d+ ns\n$")

    def test_devices_that_are_there(self):
        lines = self.ok("port", "read", "net", "name").splitlines()
        self.assertEqual({line.split()[1].strip('"') for line in lines},
                         set(os.listdir("/sys/class/net")) - {"bonding_masters"})

    def test_json(self):
        self.serve("lamp", *LAMP)
        said = json.loads(self.ok("port", "read", "lamp", "--json"))
        self.assertEqual(said["values"], {"level": 40, "colour": "warm", "offset": -5, "ratio": 1.5,
                                          "count": "18446744073709551615"})
        self.assertEqual((said["port"], said["source"], said["gone"]), ("lamp", "service", False))
        self.assertEqual(said["units"], {"level": "%"})
        page = json.loads(self.ok("port", "read", "load", "--json"))
        self.assertIn(page["source"], ("bpf", "sampler"))
        self.assertLess(page["age_ns"], 2 * 10**9)
        self.assertLess(abs(page["sample_ns"] + page["age_ns"] - time.monotonic_ns()), 10 * 10**9)

    def test_what_a_service_says_is_escaped(self):
        self.serve("odd", 'a"b:chars32:x\\y=\x1b[31m "red"\\')
        self.assertEqual(self.ok("port", "read", "odd"), 'a\\x22b "\\x1b[31m \\x22red\\x22\\x5c" x\\x5cy\n')
        self.assertEqual(list(self.values("odd").values()), ['\x1b[31m "red"\\'])

    def test_ls(self):
        self.serve("lamp", *LAMP, "-m", "664")
        self.serve("private", "a=1", "-m", "600")
        gone = self.serve("gone", "a=1")
        gone.kill()
        gone.wait()
        ports = {port["name"]: port for port in json.loads(self.ok("port", "ls", "--json"))}
        self.assertLessEqual(PAGES | {"lamp", "private", "gone"}, set(ports))
        self.assertEqual((ports["lamp"]["what"], ports["lamp"]["source"], ports["lamp"]["mode"],
                          ports["lamp"]["writable"], ports["lamp"]["size_bytes"]),
                         ("service", "service", "0664", True, 48))
        self.assertEqual((ports["load"]["what"], ports["load"]["writable"], ports["load"]["gone"]),
                         ("page", False, False))
        self.assertTrue(ports["gone"]["gone"])
        lines = {line.split()[-1]: line for line in self.ok("port", "ls").splitlines()}
        self.assertEqual(set(lines), set(ports) | {"NAME"})
        self.assertRegex(lines["lamp"], r"^-rw-rw-r-- root +service +service +48 ")
        self.assertRegex(lines["gone"], r" gone ")
        others = {port["name"]: port for port in json.loads(self.ok("port", "ls", "--json", uid=harness.USER_A))}
        self.assertIn("error", others["private"])
        self.assertNotIn("error", others["load"])
        self.assertIn("lamp", self.ok("ls", "port").split())

    def test_a_server_that_hangs_is_listed(self):
        hung = self.serve("hung", "a=1")
        os.kill(hung.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, hung.pid, signal.SIGCONT)
        lines = {line.split()[-1]: line for line in self.ok("port", "ls", timeout=20).splitlines()}
        self.assertIn(" hangs ", lines["hung"])

    def test_in_boards(self):
        os.mkdir(self.path("port", "board"))
        self.serve("board/inner", "a=1")
        self.assertIn("board/inner", [port["name"] for port in json.loads(self.ok("port", "ls", "--json"))])
        self.assertEqual(self.ok("port", "read", "board/inner"), "a 1\n")

    def test_doctor_and_status(self):
        said = {item["name"]: item for item in json.loads(self.ok("doctor", "--json", timeout=30))}
        source = json.loads(self.ok("port", "read", "load", "--json"))["source"]
        self.assertEqual(said["ports by BPF"]["state"], "yes" if source == "bpf" else "no")
        self.assertIn("gain", said["ports by BPF"])


class Writing(PortCase):
    def write(self, *words, uid=0):
        """`kshared port write` that must succeed. Return: its process number."""
        process = self.start("port", "write", *words, stderr=subprocess.PIPE, user=uid, group=uid)
        self.assertEqual((process.wait(10 * harness.SCALE), process.stderr.read()), (0, b""))
        return process.pid

    def test_each_type(self):
        server = self.serve("lamp", *LAMP)
        pid = self.write("lamp", "level=4294967295", "colour=a b=c", "offset=-9223372036854775808", "ratio=0.996",
                         "count=0")
        self.assertEqual(self.values("lamp"), {"level": 4294967295, "colour": "a b=c", "offset": -2**63,
                                               "ratio": 255 / 256, "count": 0})
        self.assertEqual([self.line(server) for _ in range(5)],
                         [f"{field} 0 {pid}" for field in ("level=4294967295", 'colour="a b=c"',
                                                           "offset=-9223372036854775808", "ratio=0.996", "count=0")])

    def test_one_write_for_each_run(self):
        server = self.serve("lamp", *LAMP)
        pid = self.write("lamp", "level=1", "offset=7", "ratio=2")
        self.assertEqual([self.line(server) for _ in range(3)],
                         [f"level=1 0 {pid}", f"offset=7 0 {pid}", f"ratio=2.000 0 {pid}"])
        self.assertEqual(self.values("lamp", "colour", "count"), {"colour": "warm", "count": str(2**64 - 1)})

    def test_what_is_printed_can_be_written(self):
        self.serve("lamp", *LAMP, "fine:fixed63=0.123456789", "load:fixed11=0.3")
        before = self.ok("port", "read", "lamp")
        self.assertIn("\nload 0.2998\n", before)
        for name, text in (line.split()[:2] for line in before.splitlines()):
            self.write("lamp", f"{name}={text.strip(chr(34))}")
        after = self.ok("port", "read", "lamp")
        # Of 63 bits of fraction 18 digits do not tell all.
        self.assertEqual(re.sub(r"(fine \S{18})\S+", r"\1", after), re.sub(r"(fine \S{18})\S+", r"\1", before))

    def test_polled(self):
        server = self.serve("lamp", *LAMP, "--period", "20")
        pid = self.write("lamp", "level=3", "count=4", "--polled")
        self.assertEqual([self.line(server), self.line(server)], [f"level=3 0 {pid}", f"count=4 0 {pid}"])

    def test_by_another_user(self):
        server = self.serve("lamp", *LAMP, "-m", "666")
        pid = self.write("lamp", "level=5", uid=harness.USER_A)
        self.assertEqual(self.line(server), f"level=5 {harness.USER_A} {pid}")


class Serving(PortCase):
    def test_lines_are_published(self):
        server = self.serve("lamp", *LAMP)
        server.stdin.write(b"level=9\ncolour=deep blue\n\n")
        server.stdin.flush()
        self.await_values("lamp", {"level": 9, "colour": "deep blue"})
        for line in (b"level\n", b"level=x\n", b"missing=1\n", b"x" * 70000 + b"\n"):
            server.stdin.write(line)
            server.stdin.flush()
            self.assertRegex(self.line(server, "stderr"), r"^kshared: \S.*; give ")
        server.stdin.write(b"level=10\n")
        server.stdin.flush()
        self.await_values("lamp", {"level": 10, "colour": "deep blue"})

    def test_the_end_of_input_is_not_its_end(self):
        server = self.serve("lamp", *LAMP, stdin=subprocess.DEVNULL)
        self.ok("port", "write", "lamp", "level=2")
        self.assertRegex(self.line(server), r"^level=2 0 \d+$")

    def test_signals_end_it_and_the_entry(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number.name):
                server = self.serve("lamp", *LAMP)
                server.send_signal(number)
                self.assertEqual(server.wait(5 * harness.SCALE), 0)
                self.assertEqual(server.stderr.read(), b"")
                self.assertFalse(os.path.exists(self.path("port", "lamp")))

    def test_replace(self):
        old = self.serve("lamp", "level=1")
        old.kill()
        old.wait()
        self.assertIn("--replace", self.cli("port", "serve", "lamp", "level=2").stderr)
        new = self.serve("lamp", "level=3", "--replace")
        self.assertEqual(self.values("lamp"), {"level": 3})
        newer = self.start("port", "serve", "lamp", "level=4", "--replace", stdin=subprocess.DEVNULL)
        self.assertEqual(new.wait(5 * harness.SCALE), FAILED)
        self.assertIn(b"taken over", new.stderr.read())
        self.await_values("lamp", {"level": 4})
        newer.terminate()
        self.assertEqual(newer.wait(5 * harness.SCALE), 0)
        self.assertFalse(os.path.exists(self.path("port", "lamp")))

    def test_removed_under_it(self):
        server = self.serve("lamp", "level=1")
        self.ok("rm", "port/lamp")
        self.assertEqual(server.wait(5 * harness.SCALE), FAILED)
        self.assertIn(b"removed", server.stderr.read())

    def test_mode(self):
        for words, expected in (([], 0o644), (["-m", "640"], 0o640), (["--mode", "666"], 0o666)):
            with self.subTest(words):
                server = self.serve("lamp", "a=1", *words)
                self.assertEqual(os.stat(self.path("port", "lamp")).st_mode & 0o777, expected)
                server.terminate()
                server.wait()


class Watching(PortCase):
    def lines(self, process, n):
        return [self.line(process) for _ in range(n)]

    def test_lines(self):
        self.serve("lamp", *LAMP)
        watch = self.start("port", "watch", "lamp", "level", "colour", "-n", "0.05", stdout=subprocess.PIPE)
        for line in self.lines(watch, 3):
            self.assertRegex(line, r'^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} level=40 colour="warm"$')
        self.ok("port", "write", "lamp", "level=41")
        harness.wait_until(lambda: " level=41 " in self.line(watch), "the new value is shown")
        watch.send_signal(signal.SIGINT)
        self.assertEqual(watch.wait(5 * harness.SCALE), 0)

    def test_objects_with_rates(self):
        watch = self.start("port", "watch", "clock", "-n", "0.1", "--json", stdout=subprocess.PIPE)
        first, second = [json.loads(line) for line in self.lines(watch, 2)]
        self.assertEqual(first["per_second"], {})
        self.assertGreater(second["values"]["monotonic"], first["values"]["monotonic"])
        self.assertAlmostEqual(second["per_second"]["monotonic"] / 1e9, 1, delta=0.2)
        watch.terminate()
        self.assertEqual(watch.wait(5 * harness.SCALE), 0)

    def test_the_interval(self):
        watch = self.start("port", "watch", "load", "-n", "0.2", stdout=subprocess.PIPE)
        self.line(watch)
        started = time.monotonic()
        self.lines(watch, 5)
        self.assertGreater(time.monotonic() - started, 0.7)

    def test_a_reader_that_goes_away(self):
        watch = self.start("port", "watch", "load", "-n", "0.01", stdout=subprocess.PIPE)
        self.line(watch)
        watch.stdout.close()
        self.assertIn(watch.wait(5 * harness.SCALE), (-signal.SIGPIPE, FAILED))

    def test_the_server_goes_and_comes_back(self):
        server = self.serve("lamp", "level=1")
        watch = self.start("port", "watch", "lamp", "-n", "0.05", "--json", stdout=subprocess.PIPE)
        self.assertFalse(json.loads(self.line(watch))["gone"])
        server.kill()
        server.wait()
        harness.wait_until(lambda: json.loads(self.line(watch))["gone"], "it says that the server is gone")
        self.serve("lamp", "level=2", "more=3", "--replace")

        def back():
            said = json.loads(self.line(watch))
            return not said["gone"] and said["values"] == {"level": 2, "more": 3}
        harness.wait_until(back, "the new server is found")

    def on_terminal(self, *words, rows=12, columns=60, controls=True):
        """A watch on a terminal, which controls it. Return: (process, the other end, are the terminal's modes unchanged)."""
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        before = termios.tcgetattr(theirs)
        process = subprocess.Popen([*harness.program("kshared"), "--at", self.folder.dir, "port", "watch", *words],
                                   stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=controls,
                                   preexec_fn=controls and (lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) or None,
                                   env=harness.environment(TERM="xterm"))
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.addCleanup(os.close, theirs)
        return process, ours, lambda: termios.tcgetattr(theirs) == before

    def until(self, fd, pattern, timeout=5):
        """What comes from a terminal up to a pattern."""
        seen = b""
        deadline = time.monotonic() + timeout * harness.SCALE
        while not re.search(pattern, seen, re.S):
            ready, _, _ = select.select([fd], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise harness.Hung(f"{pattern} is not in {seen[-2000:]!r}")
            seen += os.read(fd, 65536)
        return seen

    def test_a_live_view(self):
        process, terminal, unchanged = self.on_terminal("clock", "-n", "0.05")
        seen = self.until(terminal, rb"monotonic +\d+ ns +\+1000M/s")
        self.assertTrue(seen.startswith(b"\x1b[?1049h"), seen[:40])
        self.assertRegex(seen, rb"clock  by (bpf|sampler), \d+\.\d ms old")
        os.write(terminal, b"\x03")
        seen = self.until(terminal, rb"\x1b\[\?1049l$")
        self.assertEqual(process.wait(5 * harness.SCALE), 0)
        self.assertEqual(seen.count(b"\x1b[?25h"), 1)
        self.assertTrue(unchanged())

    def test_more_than_the_screen_has(self):
        _, terminal, _ = self.on_terminal("vmstat", "-n", "0.05", rows=10)
        seen = self.until(terminal, rb"\d+ more; name the fields to see them")
        screen = seen.split(b"\x1b[H")[1]
        self.assertEqual(screen.count(b"\n"), 9)
        for line in screen.split(b"\n"):
            self.assertLess(len(re.sub(rb"\x1b\[\??\d*[a-zA-Z]|\r", b"", line)), 60)

    def test_stopped_and_continued(self):
        # The leader of a session cannot be stopped so.
        process, terminal, _ = self.on_terminal("load", "-n", "0.05", controls=False)
        self.until(terminal, rb"load15")
        process.send_signal(signal.SIGTSTP)
        self.until(terminal, rb"\x1b\[\?1049l")
        harness.wait_until(lambda: " T " in harness.process_state(process.pid), "it is stopped")
        os.kill(process.pid, signal.SIGCONT)
        self.until(terminal, rb"\x1b\[\?1049h.*load15")
        process.terminate()
        self.assertEqual(process.wait(5 * harness.SCALE), 0)

    def test_a_refusal_is_on_the_screen_that_stays(self):
        process, terminal, _ = self.on_terminal("load", "missing")
        seen = self.until(terminal, rb"missing")
        self.assertNotIn(b"1049", seen)
        self.assertEqual(process.wait(5 * harness.SCALE), FAILED)


class Adding(PortCase):
    def test_a_process(self):
        child = subprocess.Popen(["sleep", "1000"])
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        self.ok("port", "add", "sleeper", "--pid", str(child.pid), "-m", "440")
        self.assertEqual(os.stat(self.path("port", "sleeper")).st_mode & 0o777, 0o440)
        values = self.values("sleeper")
        self.assertEqual((values["pid"], values["comm"], values["alive"]), (child.pid, "sleep", 1))
        self.ok("rm", "port/sleeper")
        self.assertRefused(self.cli("port", "read", "sleeper"))

    def test_a_control_group(self):
        with open("/proc/self/mountinfo") as file:
            root = next((line.split()[4] for line in file if " - cgroup2 " in line), None)
        if not root:
            self.skipTest("there is no cgroup2 here, and a mount would be everybody's")
        group = os.path.join(root, f"kshared-test-{os.getpid()}")
        os.mkdir(group)
        self.addCleanup(os.rmdir, group)
        self.ok("port", "add", "group", "--cgroup", group)
        self.assertEqual(self.values("group")["alive"], 1)
        self.ok("rm", "port/group")


class Words(PortCase):
    needs = ["bash"]

    def complete(self, *words):
        """What bash offers for the last of the words, which may be empty."""
        script = """
            PATH=$1:$PATH
            . "$2/kshared.bash"
            shift 2
            COMP_WORDS=("$@")
            COMP_CWORD=$(($# - 1))
            COMPREPLY=()
            compopt() { :; }  # the real one is for what is being typed
            _kshared
            printf '%s\\n' "${COMPREPLY[@]}"
            """
        done = subprocess.run(["bash", "--norc", "-c", script, "bash", harness.BUILD, COMPLETION, "kshared", *words],
                              capture_output=True, text=True, timeout=10 * harness.SCALE,
                              env=harness.environment(KSHARED_DIR=self.folder.dir))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return {line for line in done.stdout.splitlines() if line}

    def test_completion(self):
        verbs = {"ls", "read", "write", "watch", "add", "rule", "serve"}
        self.assertIn("port", self.complete("po"))
        self.assertLessEqual(verbs, self.complete("port", ""))
        self.assertEqual(self.complete("help", "port", ""), verbs)
        self.assertLessEqual(PAGES, self.complete("port", "read", ""))
        self.assertEqual(self.complete("port", "read", "load", ""), {"load1", "load5", "load15"})
        self.assertEqual(self.complete("port", "watch", "-n", "2", "load", "load1"), {"load1", "load15"})
        self.serve("lamp", *LAMP)
        self.assertEqual(self.complete("port", "write", "lamp", "l"), {"level="})
        self.assertEqual(self.complete("port", "serve", "x", "--policy", ""), {"kill", "revoke", "log"})
        self.assertEqual(self.complete("rm", "port/lam"), {"port/lamp"})

    def test_help_names_every_option(self):
        shown = self.ok("help", "port")
        for option in ("--json", "--polled", "--interval", "--pid", "--cgroup", "--mode", "--replace", "--policy",
                       "--period"):
            self.assertIn(option, shown)
        for line in shown.splitlines():
            self.assertLessEqual(len(line), 90, line)


class Example(PortCase):
    """The agent of examples/: what it prints is so, and while it reads it calls nothing."""

    needs = ["strace"]
    AGENT = os.path.join(harness.BUILD, "examples", "port-agent")

    @harness.timeout(60)
    def test_no_call_in_the_loop(self):
        trace = self.scratch("trace")
        done = subprocess.run(["strace", "-f", "-o", trace, self.AGENT, "3"], capture_output=True, text=True,
                              timeout=40 * harness.SCALE, env=harness.environment(KSHARED_DIR=self.folder.dir))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        reads = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("port_agent_reads")]
        self.assertEqual(len(reads), 3)
        self.assertGreater(min(reads), 100000)
        with open(trace) as file:
            calls = [line.split(None, 1)[1].split("(")[0] for line in file if "(" in line]
        first = calls.index("write")
        last = len(calls) - calls[::-1].index("write")
        self.assertEqual(calls[first:last], ["write"] * 3)

    @harness.timeout(60)
    def test_its_figures(self):
        done = subprocess.run([self.AGENT, "1"], capture_output=True, text=True, timeout=20 * harness.SCALE,
                              env=harness.environment(KSHARED_DIR=self.folder.dir))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        metrics = dict(line.split() for line in done.stdout.splitlines())
        with open("/proc/meminfo") as file:
            total = next(int(line.split()[1]) for line in file if line.startswith("MemTotal:"))
        self.assertEqual(float(metrics["node_memory_total_pages"]) * os.sysconf("SC_PAGE_SIZE"), total * 1024)
        self.assertIn("node_load1", metrics)
        self.assertIn("node_pressure_cpu_some_total", metrics)


if __name__ == "__main__":
    harness.main()
