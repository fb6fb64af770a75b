# SPDX-License-Identifier: GPL-2.0-or-later
"""`kshared ring`: making, listing, watching and removing rings; who may; what is refused; help and completion."""

import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import time

import harness
from ring import BROKEN, FAILED, TIMEOUT, USAGE, RingCase

UNDER_VALGRIND = False

COMPLETION = os.path.join(harness.ROOT, "src/cli/completion/kshared.bash")
VERBS = ["create", "ls", "stat", "watch", "send", "recv", "rm"]

# Every line is refused: the status, and the words after `ring`. {longname} is filled in.
BAD = [
    (USAGE, ""), (USAGE, "make x"), (USAGE, "--json"), (USAGE, "create"), (USAGE, "create x y"),
    (USAGE, "create x --shape ring"), (USAGE, "create x --shape"), (USAGE, "create x --slots 3"),
    (USAGE, "create x --slots 1"), (USAGE, "create x --slots 2M"), (USAGE, "create x --slots -1"),
    (USAGE, "create x --slot-size 32"), (USAGE, "create x --slot-size 8K"), (USAGE, "create x --slot-size 100"),
    (USAGE, "create x --data 2K"), (USAGE, "create x --data 5M"), (USAGE, "create x --data 2T"),
    (USAGE, "create x --shape many-to-one --writers 257"), (USAGE, "create x --shape many-to-one --writers 0"),
    (USAGE, "create x --writers 2"), (USAGE, "create x --readers 2"), (USAGE, "create x --blocking"),
    (USAGE, "create x --shape many-to-one --readers 2"), (USAGE, "create x --mode 8"), (USAGE, "create x --mode 1000"),
    (USAGE, "create x --timeout 1"), (USAGE, "create x --json"),
    (FAILED, "create .."), (FAILED, "create missing/x"), (FAILED, "create {longname}"), (FAILED, "create ring"),
    (FAILED, "create protected"), (FAILED, "create /x"), (FAILED, "create x --data 1T"),
    (FAILED, "create taken --protected"),
    (USAGE, "ls ring"), (USAGE, "ls -l"), (USAGE, "ls --json=1"),
    (USAGE, "stat"), (USAGE, "stat ring ring"), (USAGE, "stat -x ring"), (FAILED, "stat missing"), (FAILED, "stat .."),
    (FAILED, "stat object"), (FAILED, "stat loose"), (FAILED, "stat protected.ctl"), (FAILED, "stat board"),
    (USAGE, "watch"), (USAGE, "watch ring ring"), (USAGE, "watch ring -n"), (USAGE, "watch ring -n 0"),
    (USAGE, "watch ring -n x"), (USAGE, "watch ring -n 1."), (USAGE, "watch ring -n -1"), (USAGE, "watch ring -n 1e3"),
    (USAGE, "watch ring -n 99999999999"), (FAILED, "watch missing"), (FAILED, "watch object"),
    (USAGE, "send"), (USAGE, "send ring ring"), (USAGE, "send ring --lines --null"), (USAGE, "send ring --keep"),
    (USAGE, "send ring --history"), (USAGE, "send ring --timeout"), (USAGE, "send ring --timeout 0"),
    (USAGE, "send ring --timeout soon"), (USAGE, "send ring --readers 257"), (USAGE, "send ring --readers x"),
    (FAILED, "send ring --readers 2"), (FAILED, "send missing"), (FAILED, "send object"), (FAILED, "send loose"),
    (FAILED, "send protected.ctl"), (FAILED, "send many"), (FAILED, "send {longname}"), (FAILED, "send board"),
    (USAGE, "recv"), (USAGE, "recv ring ring"), (USAGE, "recv ring --keep"), (USAGE, "recv ring --readers 1"),
    (USAGE, "recv ring --raw --lines"), (FAILED, "recv missing"), (FAILED, "recv object"), (FAILED, "recv many"),
    (FAILED, "recv ring --history"), (FAILED, "recv ring --history --lines"),
    (USAGE, "rm"), (USAGE, "rm ring ring"), (USAGE, "rm -f ring"), (FAILED, "rm missing"), (FAILED, "rm object"),
    (FAILED, "rm loose"), (FAILED, "rm protected.ctl"), (FAILED, "rm board"), (FAILED, "rm .."),
]


def random_of(case):
    return random.Random(f"{os.environ.get('KSHARED_SEED', '1')} {case.id()}")


class Words(RingCase):
    @classmethod
    def prepare(cls):
        for options in (["ring"], ["protected", "--protected"], ["many", "--shape", "many-to-one", "--data", "4K"]):
            assert cls.folder.cli("ring", "create", *options).returncode == 0
        os.mkdir(os.path.join(cls.folder.dir, "mem", "board"))
        with harness.Connection(cls.folder.dir) as connection:
            with os.fdopen(connection.mem_create("object", 8192), "r+b") as file:
                file.write(b"not a ring, whatever else it is")
            os.close(connection.mem_create("loose", 8192, flags=harness.KMEM_RESIZABLE))
            os.close(connection.mem_create("taken.ctl", 4096))

    def listing(self):
        entries = json.loads(self.ok("ls", "--json", "mem"))
        return {entry["name"]: (entry["size_bytes"], entry["mode"]) for entry in entries}

    @harness.timeout(120)
    def test_what_is_refused(self):
        before = self.listing(), [self.stat(name)["peers"] for name in ("ring", "protected", "many")]
        for expected, line in BAD:
            with self.subTest(line or "(nothing)"):
                words = [word.format(longname="n" * 256) for word in line.split()]
                done = self.cli("ring", *words)
                self.assertRefused(done)
                self.assertEqual(done.returncode, expected, done.stderr)
                self.assertEqual(done.stderr.count("\n"), 1, "one sentence")
        self.assertEqual((self.listing(), [self.stat(name)["peers"] for name in ("ring", "protected", "many")]), before)

    def test_help(self):
        text = self.ok("help", "ring")
        for verb in VERBS:
            self.assertIn(f"] ring {verb}", text)
            self.assertEqual(self.ok("help", "ring", verb), text)
            self.assertEqual(self.ok("ring", verb, "--help"), text)
        self.assertRegex(self.ok("help"), r"(?m)^  ring ")
        self.assertTrue(all(len(line) <= 90 for line in text.splitlines()))

    def complete(self, *words):
        """What bash offers for the last of the words."""
        script = """. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); compopt() { :; }
            _kshared; printf '%s\\n' "${COMPREPLY[@]}" """
        env = harness.environment(KSHARED_DIR=self.folder.dir)
        env["PATH"] = harness.BUILD + ":" + env["PATH"]
        done = subprocess.run(["bash", "--norc", "-c", script, "bash", COMPLETION, "kshared", *words],
                              capture_output=True, text=True, timeout=10 * harness.SCALE, env=env)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return set(done.stdout.split())

    def test_completion(self):
        self.assertEqual(self.complete("ri"), {"ring"})
        self.assertEqual(self.complete("ring", "s"), {"stat", "send"})
        self.assertEqual(self.complete("help", "ring", "r"), {"recv", "rm"})
        for verb in ("stat", "watch", "send", "recv", "rm"):
            self.assertEqual(self.complete("ring", verb, ""), {"ring", "protected", "many"})
            self.assertEqual(self.complete("ring", verb, "pro"), {"protected"})
        self.assertEqual(self.complete("ring", "create", "x", "--shape", "b"), {"broadcast"})
        options = {word for verb in VERBS for word in self.complete("ring", verb, "-")}
        options |= self.complete("ring", "create", "x", "-")
        described = set(re.findall(r"--[a-z-]+", self.ok("help", "ring"))) - {"--at", "--help"}
        self.assertEqual(options, described, "completion and help name the same options")


class Rings(RingCase):
    def test_what_is_made_is_what_was_asked_for(self):
        expected = {"shape": "one-to-one", "protected": False, "blocking": False, "slots": 1024, "slot_bytes": 72,
                    "data_bytes": 4 << 20, "max_bytes": 2 << 20, "max_writers": 1, "max_readers": 1, "writers": 0,
                    "readers": 0, "dead": 0, "messages": 0, "bytes": 0, "lost": 0, "depth": 0,
                    "messages_per_second": 0.0, "bytes_per_second": 0.0, "peers": []}
        for i, (options, differs) in enumerate((
                ([], {}),
                (["--slots", "2", "--slot-size", "4K", "--data", "4096"],
                 {"slots": 2, "slot_bytes": 4096, "data_bytes": 4096, "max_bytes": 4088}),
                (["--shape", "many-to-one", "--data", "64K"],
                 {"shape": "many-to-one", "max_writers": 16, "data_bytes": 65536, "max_bytes": 32768}),
                (["--shape", "many-to-one", "--writers", "256", "--data", "4K"],
                 {"shape": "many-to-one", "max_writers": 256, "data_bytes": 4096, "max_bytes": 2048}),
                (["--shape", "broadcast", "--blocking", "--readers", "3"],
                 {"shape": "broadcast", "blocking": True, "max_readers": 3}),
                (["--shape", "broadcast", "--protected"], {"shape": "broadcast", "protected": True,
                                                           "max_readers": 16}))):
            with self.subTest(options):
                name = self.create(*options, suffix=str(i))
                self.assertEqual(self.stat(name), {"name": name, **expected, **differs})
                self.ok("ring", "rm", name)
                self.assertNotIn(name, self.ok("ls", "mem"), "NAME.ctl goes with it")

    def test_modes_and_owners(self):
        self.ok("ring", "create", "exact", "--mode", "666", umask=0o077)
        self.ok("ring", "create", "umask", umask=0o077)
        self.ok("ring", "create", "theirs", "--mode", "640", "--protected", uid=harness.USER_A)
        found = {ring["name"]: ring for ring in json.loads(self.ok("ring", "ls", "--json"))}
        self.assertEqual({name: (ring["mode"], ring["uid"]) for name, ring in found.items()},
                         {"exact": ("0666", 0), "umask": ("0600", 0), "theirs": ("0640", harness.USER_A)})
        self.assertEqual(set(found["exact"]), {"name", "mode", "uid", "gid", "size_bytes", "damaged", "shape",
                                               "protected", "blocking", "writers", "readers", "dead", "depth"})
        lines = self.ok("ring", "ls").splitlines()
        self.assertRegex(lines[0], r"^-rw-rw-rw- root +one-to-one +0>0 +0 exact$")
        self.assertRegex(lines[1], rf"^-rw-r----- {harness.USER_A} +one-to-one +0>0 +0 theirs$")
        for name in found:
            self.ok("ring", "rm", name)

    def test_ls_tells_rings_from_other_objects(self):
        connection = self.connect()
        for number in range(30):
            os.close(connection.mem_create(f"empty{number}", 4096))
        with os.fdopen(connection.mem_create("text", 4096), "r+b") as file:
            file.write(b"x" * 4096)
        os.close(connection.mem_create("none", 0, flags=harness.KMEM_RESIZABLE))
        os.mkdir(self.path("mem", "board"))
        for name in ("a", "board/b"):
            self.ok("ring", "create", name, "--protected")
        started = time.monotonic()
        self.assertEqual([ring["name"] for ring in json.loads(self.ok("ring", "ls", "--json"))], ["a", "board/b"])
        self.assertLess(time.monotonic() - started, 3 * harness.SCALE, "an empty object is no ring being made")
        done = self.cli("ring", "ls", uid=harness.USER_A)
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        self.assertIn("may not be read", done.stderr)
        for name in ("a", "board/b"):
            self.ok("ring", "rm", name)

    def test_who_may(self):
        """A sender reads and writes; so does a receiver, unless the ring is protected; who may read may look."""
        a, b = {"user": harness.USER_A, "group": harness.USER_A, "extra_groups": []}, harness.USER_B
        for protected in (False, True):
            name = self.create("--mode", "644", *(["--protected"] if protected else []), suffix=str(protected))
            self.assertEqual(json.loads(self.ok("ring", "stat", name, "--json", uid=b))["name"], name)
            self.ends(self.start("send", name, **a), FAILED, "permission denied")
            if not protected:
                self.ends(self.start("recv", name, **a), FAILED, "permission denied")
            else:
                sender = self.start("send", name, stdin=self.file(b"from root"))
                self.assertEqual(self.ends(self.start("recv", name, **a), 0), b"from root")
                self.ends(sender, 0)
            self.assertRefused(self.cli("ring", "rm", name, uid=b))
            os.chmod(self.path("mem", name), 0o600)
            for verb in ("stat", "send", "recv", "watch"):
                self.ends(self.start(verb, name, **a), FAILED, "permission denied")
            self.ok("ring", "rm", name)
        name = self.create("--mode", "666")
        sender = self.start("send", name, stdin=self.file(b"from a"), **a)
        self.assertEqual(self.ends(self.start("recv", name, user=b, group=b, extra_groups=[]), 0), b"from a")
        self.ends(sender, 0)

    def test_limits_of_the_folder(self):
        done = self.cli("ring", "create", "x", "--data", "1T")
        self.assertRefused(done)
        self.assertIn("limit", done.stderr)
        self.assertNotIn("x", self.ok("ls", "mem").split(), "nothing is left of it")

    def test_removed_while_in_use(self):
        name = self.create()
        sender = self.start("send", name, stdin=subprocess.PIPE)
        receiver = self.start("recv", name)
        self.wait_for(name, writers=1, readers=1)
        self.ok("ring", "rm", name)
        sender.stdin.write(b"goes on")
        sender.stdin.close()
        sender.stdin = None
        self.assertEqual(self.ends(receiver, 0), b"goes on")
        self.ends(sender, 0)

    def test_the_daemon_is_not_asked(self):
        name = self.create()
        sender = self.start("send", name, stdin=subprocess.PIPE)
        receiver = self.start("recv", name)
        self.wait_for(name, writers=1, readers=1)
        self.folder.kill_worker()
        sender.stdin.write(b"goes on")
        sender.stdin.close()
        sender.stdin = None
        self.assertEqual(self.ends(receiver, 0), b"goes on")
        self.ends(sender, 0)


class Looking(RingCase):
    def test_stat_tells_lag_losses_and_the_dead(self):
        name = self.create("--shape", "broadcast", "--slots", "16")
        listener = self.start("recv", name, "--lines", "--keep", stdout=self.small_pipe()[1])
        self.wait_for(name, readers=1)
        sender = self.start("send", name, "--lines", stdin=subprocess.PIPE)
        sender.stdin.write(b"first\n")
        sender.stdin.flush()
        self.wait_for(name, messages=1, depth=0)
        sender.stdin.write(b"".join(b"%05d %s\n" % (i, b"x" * 3000) for i in range(199)))
        sender.stdin.flush()
        seen = self.wait_for(name, messages=200, writers=1, readers=1, dead=0)
        listener.send_signal(signal.SIGSTOP)
        reader = [peer for peer in self.stat(name)["peers"] if peer["role"] == "reader"][0]
        self.assertEqual(set(reader), {"role", "place", "state", "pid", "messages", "messages_per_second", "lag",
                                       "lost"})
        self.assertEqual((reader["state"], reader["pid"]), ("alive", listener.pid))
        self.assertGreater(reader["lag"] + reader["lost"], 100)
        writer = [peer for peer in seen["peers"] if peer["role"] == "writer"][0]
        self.assertEqual((writer["state"], writer["pid"], writer["messages"]), ("alive", sender.pid, 200))
        self.assertEqual(set(writer), set(reader) - {"lag", "lost"})
        listener.kill()
        sender.kill()
        gone = self.wait_for(name, writers=0, readers=0, dead=2)
        self.assertEqual({peer["state"] for peer in gone["peers"]}, {"dead"})
        text = self.ok("ring", "stat", name)
        self.assertRegex(text, r"writers +0 of 1; readers 0 of 16; dead 2\n")
        self.assertRegex(text, rf"(?m)^reader 0 +dead +{listener.pid} ")

    def test_rates(self):
        name = self.create()
        sender = self.start("send", name, stdin=self.opened("/dev/zero", os.O_RDONLY))
        receiver = self.start("recv", name, stdout=self.opened("/dev/null", os.O_WRONLY))
        harness.wait_until(lambda: self.stat(name)["messages"] > 100, "bytes move")
        seen = self.stat(name)
        self.assertGreater(seen["bytes_per_second"], 1e6)
        self.assertGreater(seen["messages_per_second"], 10)
        for peer in seen["peers"]:
            self.assertGreater(peer["messages_per_second"], 10)
        sender.kill()
        self.ends(receiver, BROKEN, "its sender died")

    def test_watch_into_a_pipe(self):
        name = self.create()
        watch = self.start("watch", name, "-n", "0.02", "--json")
        lines = [json.loads(watch.stdout.readline()) for _ in range(5)]
        self.assertEqual([set(line) for line in lines], [set(self.stat(name))] * 5)
        watch.terminate()
        self.assertEqual(watch.wait(5), 0)
        watch = self.start("watch", name, "-n", "0.02")
        for _ in range(3):
            self.assertRegex(watch.stdout.readline().decode(),
                             r"^\S+T\S+ messages=0 rate=0.0/s bytes_rate=0.0/s depth=0 lost=0 writers=0 readers=0 dead=0$")
        watch.stdout.close()
        watch.stdout = None
        self.assertEqual(watch.wait(5), -signal.SIGPIPE)

    def on_terminal(self, *args, **options):
        """Started with a terminal as standard output and error: (process, the terminal)."""
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        env = harness.environment(TERM="xterm")
        process = self.start(*args, **{"stdout": slave, "stderr": slave, "env": env, **options})
        os.close(slave)
        return process, master

    def read_until(self, terminal, pattern):
        text = ""
        deadline = time.monotonic() + 10 * harness.SCALE
        while not re.search(pattern, text, re.S) and time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    text += os.read(terminal, 65536).decode()
                except OSError:
                    break
        self.assertRegex(text, re.compile(pattern, re.S))
        return text

    def test_watch_on_a_terminal(self):
        name = self.create()
        watch, terminal = self.on_terminal("watch", name, "-n", "0.05")
        self.read_until(terminal, r"\033\[\?1049h.*room .*depth .*dead 0")
        sender = self.start("send", name, stdin=subprocess.PIPE)
        self.read_until(terminal, rf"writer 0 +alive +{sender.pid}")
        watch.send_signal(signal.SIGINT)
        self.assertEqual(watch.wait(5), 0)
        self.read_until(terminal, r"\033\[\?1049l")

    def test_progress_on_a_terminal_only(self):
        name = self.create()
        receiver, terminal = self.on_terminal("recv", name, stdout=self.opened("/dev/null", os.O_WRONLY))
        self.read_until(terminal, r"\r0B, .*waiting for a sender")
        sender = self.start("send", name, stdin=self.opened("/dev/zero", os.O_RDONLY))
        self.read_until(terminal, r"\r[0-9.]+[KMGT]B, [0-9.]+[kMGT]?B/s")
        receiver.send_signal(signal.SIGINT)
        self.assertEqual(receiver.wait(5), -signal.SIGINT)
        self.assertTrue(self.read_until(terminal, r"\r\033\[K$").endswith("\r\033[K"), "the line is taken away")
        self.ends(sender, BROKEN, "ended in the middle")


class Hostile(RingCase):
    """Whoever may write a ring can write anything into it, at any time. What we say then may be wrong, but we say it."""

    timeout = 150

    def settle(self, process):
        """It ends with one of its own statuses, in time."""
        try:
            status = process.wait(15 * harness.SCALE)
        except subprocess.TimeoutExpired:
            self.fail(f"{process.args[3:]} hangs: {harness.process_state(process.pid)}")
        self.assertIn(status, (0, FAILED, BROKEN, TIMEOUT), f"{process.args[3:]}: {process.stderr.read()[:500]}")
        self.finish(process)

    def scribble(self, rng, path, count, below=None):
        size = below or os.path.getsize(path)
        with open(path, "r+b", buffering=0) as file:
            for _ in range(count):
                value = rng.choice((rng.randbytes(8), b"\0" * 8, b"\xff" * 8, rng.randrange(1 << 20).to_bytes(8, "little"),
                                    (1 << rng.randrange(64)).to_bytes(8, "little")))
                os.pwrite(file.fileno(), value, rng.randrange(size // 8) * 8)

    def all_commands(self, name, form):
        for words in (["stat", name], ["stat", name, "--json"], ["ls", "--json"],
                      ["send", name, "--timeout", "0.05", *form], ["recv", name, "--timeout", "0.05", *form]):
            self.settle(self.start(*words, stdin=self.file(b"some\nlines\n" * 100)))

    def test_garbage_in_the_head(self):
        rng = random_of(self)
        for turn in range(25):
            shape = rng.choice(("one-to-one", "many-to-one", "broadcast"))
            name = self.create("--shape", shape, "--data", "4096", "--slots", "8", suffix=str(turn))
            with open(self.path("mem", name), "r+b", buffering=0) as file:
                # Not the first word: without it, it is no ring at all.
                os.pwrite(file.fileno(), rng.randbytes(4), 8 + 4 * rng.randrange(14))
            self.all_commands(name, rng.choice(([], ["--lines"])))
            self.settle(self.start("rm", name))

    def test_garbage_everywhere(self):
        rng = random_of(self)
        for turn in range(25):
            shape = rng.choice(("one-to-one", "many-to-one", "broadcast"))
            options = rng.choice(([], ["--protected"]))
            name = self.create("--shape", shape, "--data", "4096", "--slots", "8", *options, suffix=str(turn))
            sender = self.start("send", name, "--timeout", "0.05", "--readers", "0", *(["--lines"]),
                                stdin=self.file(b"line\n" * 6))
            self.settle(sender)
            self.scribble(rng, self.path("mem", name + (".ctl" if options and turn % 2 else "")), 400)
            self.all_commands(name, rng.choice(([], ["--lines"], ["--raw"])))
            self.ok("rm", f"mem/{name}")
            if options:
                self.ok("rm", f"mem/{name}.ctl")

    def test_garbage_while_it_is_used(self):
        rng = random_of(self)
        for turn in range(12):
            shape = rng.choice(("one-to-one", "broadcast", "many-to-one"))
            form = ["--lines"] if shape == "many-to-one" else rng.choice(([], ["--lines"], ["--raw"]))
            name = self.create("--shape", shape, "--data", "65536", "--slots", "16", "--mode", "600", suffix=str(turn))
            both = [self.start("send", name, "--timeout", "0.2", "--readers", "1", *form,
                               stdin=self.file(b"line\n" * 400000)),
                    self.start("recv", name, "--timeout", "0.5", *form, stdout=self.opened("/dev/null", os.O_WRONLY)),
                    self.start("watch", name, "-n", "0.001", "--json", stdout=self.opened("/dev/null", os.O_WRONLY))]
            harness.wait_until(lambda: self.stat(name)["messages"] > 3 or both[0].poll() is not None, "it is used")
            for _ in range(50):
                self.scribble(rng, self.path("mem", name), 20, below=rng.choice((8192, 16384, 40000, None)))
            both[2].terminate()
            for process in both:
                self.settle(process)

    def test_objects_that_are_no_rings(self):
        rng = random_of(self)
        connection = self.connect()
        for number, (size, flags) in enumerate(((0, harness.KMEM_RESIZABLE), (7, 0), (4096, 0), (100000, 0),
                                                (4096, harness.KMEM_RESIZABLE))):
            name = self._testMethodName + str(number)
            with os.fdopen(connection.mem_create(name, size, flags=flags), "r+b") as file:
                file.write(rng.randbytes(size))
            self.all_commands(name, [])
            for verb in ("send", "recv", "stat", "rm"):
                self.assertRefused(self.cli("ring", verb, name))
            self.ok("mem", "rm", name)

    def test_a_head_for_a_smaller_object(self):
        """The true head of a large ring in a small object: what is beyond its end is not touched."""
        name = self.create("--data", "64M")
        with open(self.path("mem", name), "rb") as file:
            head = file.read(4096)
        with os.fdopen(self.connect().mem_create("small", 65536), "r+b") as file:
            file.write(head)
        self.all_commands("small", [])
        self.assertRefused(self.cli("ring", "recv", "small"))


if __name__ == "__main__":
    harness.main()
