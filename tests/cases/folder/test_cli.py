# SPDX-License-Identifier: GPL-2.0-or-later
"""The command: what it does when used well, and that bad input is a sentence, a status, and nothing changed."""

import json
import os
import re
import select
import signal
import socket
import subprocess

import harness

UNDER_VALGRIND = False

COMPLETION = os.path.join(harness.ROOT, "src/cli/completion")
COMMANDS = ["up", "down", "status", "doctor", "ls", "srv", "mem", "ring", "port", "ksm", "rm", "folder", "help"]
USAGE, FAILED = 2, 1

# Every line is refused: the status, and the words. {file}, {missing}, {full}, {longname} are filled in.
BAD = [
    (USAGE, ""), (USAGE, "no-such-command"), (USAGE, "--no-such-option ls"), (USAGE, "--at"), (USAGE, "-x ls"),
    (USAGE, "LS"), (USAGE, "l"),
    (USAGE, "ls a b"), (USAGE, "ls --no-such-option"), (USAGE, "ls -x"), (USAGE, "ls --json=yes"),
    (FAILED, "ls missing"), (FAILED, "ls srv/missing"), (FAILED, "ls srv/file/x"), (FAILED, "ls .."),
    (FAILED, "ls /srv"), (FAILED, "ls srv/"), (FAILED, "ls srv//file"), (FAILED, "ls srv/{longname}"),
    (USAGE, "status extra"), (USAGE, "status --no-such-option"), (USAGE, "doctor extra"), (USAGE, "doctor -x"),
    (USAGE, "down extra"), (USAGE, "down --no-such-option"), (USAGE, "down --lazy=1"),
    (USAGE, "rm"), (USAGE, "rm -r srv/file"), (FAILED, "rm srv"), (FAILED, "rm mem"), (FAILED, "rm missing"),
    (FAILED, "rm srv/missing"), (FAILED, "rm srv/full"), (FAILED, "rm srv/.."), (FAILED, "rm ../srv/file"),
    (FAILED, "rm /srv/file"), (FAILED, "rm srv/file/"), (FAILED, "rm srv/{longname}"), (FAILED, "rm mem/sealed/x"),
    (USAGE, "help no-such-command"), (USAGE, "help ls srv"), (USAGE, "help srv seal"), (USAGE, "help srv post x"),
    (USAGE, "srv"), (USAGE, "srv no-such-command"), (USAGE, "srv --json"),
    (USAGE, "srv post"), (USAGE, "srv post x"), (USAGE, "srv post --fd 0"), (USAGE, "srv post x y --fd 0"),
    (USAGE, "srv post x --fd"), (USAGE, "srv post x --fd 0 --file {file}"), (USAGE, "srv post x --fd 0 --fd 0"),
    (USAGE, "srv post x --fd -1"), (USAGE, "srv post x --fd +0"), (USAGE, "srv post x --fd 0x0"),
    (USAGE, "srv post x --fd zero"), (USAGE, "srv post x --fd 0 --no-such-option"),
    (USAGE, "srv post x --fd 99999999999"), (USAGE, "srv post x --fd 0 --mode 8"),
    (USAGE, "srv post x --fd 0 --mode 1000"),
    (USAGE, "srv post x --fd 0 --mode rw"), (USAGE, "srv post x --fd 0 --mode -1"), (USAGE, "srv post x --fd 0 --mode"),
    (USAGE, "srv post x --fd 0 --read-only"), (USAGE, "srv post x --file {file} --read-only --write-only"),
    (FAILED, "srv post x --fd 987"), (FAILED, "srv post x --file {missing}"), (FAILED, "srv post x --unix {missing}"),
    (FAILED, "srv post x --unix {file}"), (FAILED, "srv post x --tcp 127.0.0.1:1"),
    (FAILED, "srv post x --file {folder}/mem/sealed --read-only"), (FAILED, "srv post file --fd 0"),
    (FAILED, "srv post full --fd 0"), (FAILED, "srv post .. --fd 0"), (FAILED, "srv post a/../b --fd 0"),
    (FAILED, "srv post /x --fd 0"), (FAILED, "srv post missing/x --fd 0"), (FAILED, "srv post file/x --fd 0"),
    (FAILED, "srv post {longname} --fd 0"),
    (USAGE, "srv open"), (USAGE, "srv open file more"), (USAGE, "srv open file --"), (USAGE, "srv open file --fd 3"),
    (USAGE, "srv open file --fd x -- true"), (USAGE, "srv open file --read-only --write-only"),
    (USAGE, "srv open file --linger soon"), (USAGE, "srv open file --no-such-option"),
    (FAILED, "srv open missing"), (FAILED, "srv open full"), (FAILED, "srv open .."),
    (FAILED, "srv open reader --write-only"),
    (FAILED, "srv open socket --read-only"), (FAILED, "srv open socket --reopen"), (FAILED, "srv open {longname}"),
    (FAILED, "srv open file -- {missing}"), (FAILED, "srv open waiting"),
    (USAGE, "srv rm"), (USAGE, "srv rm file more"), (USAGE, "srv rm -f file"), (FAILED, "srv rm missing"),
    (FAILED, "srv rm full"), (FAILED, "srv rm .."), (FAILED, "srv rm {longname}"),
    (USAGE, "mem"), (USAGE, "mem no-such-command"), (USAGE, "mem create"), (USAGE, "mem create x"),
    (USAGE, "mem create x 4K more"), (USAGE, "mem create x -1"), (USAGE, "mem create x 4k2"), (USAGE, "mem create x K"),
    (USAGE, "mem create x 0x10"), (USAGE, "mem create x 1.5M"), (USAGE, "mem create x 99999999999T"),
    (USAGE, "mem create x 18446744073709551616"), (USAGE, "mem create x 4K --mode 999"),
    (USAGE, "mem create x 4K --huge 3M"), (USAGE, "mem create x 4K --no-such-option"),
    (USAGE, "mem create x 4K --huge"),
    (FAILED, "mem create x 4K --huge 2M"), (FAILED, "mem create sealed 4K"), (FAILED, "mem create .. 4K"),
    (FAILED, "mem create missing/x 4K"), (FAILED, "mem create {longname} 4K"), (FAILED, "mem create x 8388607T"),
    (USAGE, "mem seal"), (USAGE, "mem seal sealed"), (USAGE, "mem seal sealed grow more"),
    (USAGE, "mem seal sealed exec"),
    (USAGE, "mem seal sealed grow,"), (USAGE, "mem seal sealed grow,,write"), (USAGE, "mem seal sealed GROW"),
    (FAILED, "mem seal missing grow"), (FAILED, "mem seal sealed grow"), (FAILED, "mem seal .. grow"),
    (USAGE, "mem rm"), (USAGE, "mem rm sealed more"), (FAILED, "mem rm missing"), (FAILED, "mem rm board"),
]

# The same for `up`, which names the folder itself.
BAD_UP = [
    (USAGE, "up {new} more"), (USAGE, "up {new} --mode 999"), (USAGE, "up {new} --mode x"),
    (USAGE, "up {new} --max-bytes x"),
    (USAGE, "up {new} --max-bytes -1"), (USAGE, "up {new} --max-entries 4K"), (USAGE, "up {new} --max-entries"),
    (USAGE, "up {new} --max-bytes-uid 99999999T9"), (USAGE, "up {new} --no-such-option"),
    (USAGE, "--at {new} up {new}"),
    (FAILED, "up {file}"), (FAILED, "up {file}/below"), (FAILED, "up {folder}"), (FAILED, "up {missing}/below/it"),
]


class CliCase(harness.FolderCase):
    descriptor_slack = 1  # doctor has asked who publishes: the publisher ends a minute later

    @classmethod
    def prepare(cls):
        """Entries of several kinds that nothing in BAD may change."""
        with open(os.path.join(cls.folder.scratch, "file"), "w") as file:
            file.write("content\n")
        ours, theirs = socket.socketpair()
        reader, writer = os.pipe()
        fd = os.open(os.path.join(cls.folder.scratch, "file"), os.O_RDWR)
        with harness.Connection(cls.folder.dir) as connection:
            for name, posted in (("file", fd), ("socket", theirs.fileno()), ("reader", reader)):
                connection.srv_post(name, posted)
            os.mkdir(os.path.join(cls.folder.dir, "srv", "full"))
            connection.srv_post("full/inner", fd)
            os.mkdir(os.path.join(cls.folder.dir, "mem", "board"))
            os.close(connection.mem_create("sealed", 4096))
            connection.mem_seal("sealed", harness.KMEM_SEAL_SEAL)
        os.close(os.open(os.path.join(cls.folder.dir, "srv", "waiting"), os.O_WRONLY | os.O_CREAT))
        for posted in (reader, writer, fd):
            os.close(posted)
        ours.close()
        theirs.close()

    def listing(self):
        """Everything that is there, as the command tells it; without what looking changes."""
        found = {}
        for path in ("", "srv", "mem", "srv/full", "mem/board"):
            done = self.cli("ls", "--json", *([path] if path else []))
            self.assertEqual(done.returncode, 0, done.stderr)
            for entry in json.loads(done.stdout):
                entry.pop("opens")
                found[path, entry["name"]] = entry
        return found

    def ok(self, *args, **options):
        """A command that must succeed and say nothing on stderr. Return: what it printed."""
        done = self.cli(*args, **options)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def start(self, *args, **options):
        """A command that goes on running."""
        process = subprocess.Popen([*harness.program("kshared"), "--at", self.folder.dir, *args],
                                   env=harness.environment(), **options)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process


class BadInput(CliCase):
    def fill_in(self, line):
        words = {"file": self.scratch("file"), "missing": self.scratch("missing"), "longname": "n" * 256,
                 "folder": self.folder.dir, "new": self.scratch("new")}
        return [word.format(**words) for word in line.split()]

    @harness.timeout(120)
    def test_a_sentence_a_status_and_nothing_changed(self):
        before = self.listing()
        self.assertEqual(len(before), 12)
        for expected, line in BAD:
            with self.subTest(line or "(nothing)"):
                done = self.cli(*self.fill_in(line))
                self.assertRefused(done)
                self.assertEqual(done.returncode, expected, done.stderr)
                self.assertEqual(done.stderr.count("\n"), 1, "one sentence")
                self.assertEqual(self.listing(), before)

    def test_what_is_missing_is_named(self):
        for words in ("srv post missing/x --fd 0", "mem create missing/x 1"):
            self.assertIn("there is no such board", self.cli(*words.split()).stderr)
        self.assertIn("there is no such entry", self.cli("srv", "rm", "missing").stderr)

    def test_empty_words(self):
        before = self.listing()
        for args in (["rm", ""], ["srv", "post", "", "--fd", "0"], ["srv", "open", ""], ["srv", "rm", ""], ["mem",
                                                                                                            "rm", ""],
                     ["mem", "create", "", "4K"], ["mem", "create", "x", ""], ["mem", "seal", "sealed", ""], [""],
                     ["srv", "post", "x", "--fd", ""], ["srv", "post", "x", "--file", ""], ["srv", "post", "x",
                                                                                            "--tcp", ""],
                     ["srv", "post", "x", "--unix", ""], ["srv", "post", "x", "--fd", "0", "--mode", ""]):
            with self.subTest(args):
                self.assertRefused(self.cli(*args))
        self.assertEqual(self.listing(), before)

    def test_up(self):
        before = self.listing()
        for expected, line in BAD_UP:
            with self.subTest(line):
                done = subprocess.run([*harness.program("kshared"), *self.fill_in(line)], capture_output=True,
                                      text=True,
                                      timeout=10 * harness.SCALE, env=harness.environment())
                self.assertEqual(done.returncode, expected, done.stderr)
                self.assertRegex(done.stderr, r"^kshared.*: \S.*\n")
                self.assertFalse(os.path.exists(self.scratch("new")))
        self.assertEqual([path for path, _ in harness.mounts_below(self.folder.base)], [self.folder.dir])
        self.assertEqual(self.listing(), before)

    def test_where_no_folder_is(self):
        for command in ("ls", "status", "down", "rm srv/x", "srv rm x", "srv open x", "srv post x --fd 0", "mem rm x",
                        "mem create x 4K", "mem seal x grow"):
            for where in (self.scratch("missing"), self.scratch(), self.scratch("file"), "x" * 5000):
                with self.subTest(command, where=where[-20:]):
                    done = subprocess.run([*harness.program("kshared"), "--at", where, *command.split()], text=True,
                                          capture_output=True, timeout=10 * harness.SCALE, env=harness.environment(),
                                          stdin=subprocess.DEVNULL)
                    self.assertRefused(done)
                    self.assertEqual(done.returncode, FAILED)

    def test_what_is_not_permitted(self):
        before = self.listing()
        for line in ("rm srv/file", "srv rm file", "srv open file", "mem rm sealed", "mem seal sealed grow", "down",
                     "srv post full/x --fd 0", "mem create board/x 4K"):
            with self.subTest(line):
                done = self.cli(*line.split(), uid=harness.USER_A)
                self.assertRefused(done)
                self.assertEqual(done.returncode, FAILED)
        self.assertEqual(self.listing(), before)

    def test_one_of_several_paths(self):
        self.ok("srv", "post", "one", "--fd", "0")
        self.ok("srv", "post", "two", "--fd", "0")
        done = self.cli("rm", "srv/one", "srv/missing", "srv/two")
        self.assertRefused(done)
        self.assertIn("srv/missing", done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1)
        self.assertFalse({"one", "two"} & set(os.listdir(self.path("srv"))), "what could be removed was")

    def test_what_others_chose_does_not_reach_the_terminal(self):
        name = "evil\033[2J\n\u202e"
        self.connect().srv_post(name, 0)
        done = self.cli("srv", "post", name, "--fd", "0")
        self.assertRefused(done)
        self.assertNotIn("\033", done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1)
        self.assertNotIn("\033", self.ok("ls", "-l", "srv"))
        self.assertIn(name, [entry["name"] for entry in json.loads(self.ok("ls", "--json", "srv"))])
        self.ok("rm", "srv/" + name)

    def test_a_full_disk_is_told(self):
        with open("/dev/full", "w") as full:
            for command in (["ls", "srv"], ["ls", "-l", "srv"], ["ls", "--json", "srv"], ["status"], ["status",
                                                                                                      "--json"],
                            ["help"], ["doctor", "--json"], ["--version"]):
                with self.subTest(command):
                    done = subprocess.run([*harness.program("kshared"), "--at", self.folder.dir, *command], stdout=full,
                                          stderr=subprocess.PIPE, text=True, env=harness.environment())
                    self.assertEqual(done.returncode, FAILED)
                    self.assertRegex(done.stderr, r"^kshared: .*No space left")


class GoodInput(CliCase):
    def test_ls(self):
        self.assertEqual(self.ok("ls").split(), ["ksm", "mem", "port", "srv"])
        self.assertEqual(self.ok("ls", "srv").split(), ["file", "full", "reader", "socket", "waiting"])
        self.assertEqual(self.ok("ls", "srv/full"), "inner\n")
        self.assertEqual(self.ok("ls", "srv/file"), "file\n")
        self.assertEqual(self.ok("ls", "mem/board"), "")
        lines = {line.split()[-1]: line for line in self.ok("ls", "-l", "srv").splitlines()}
        self.assertRegex(lines["file"],
                         r"^-rw------- root +root +8 \d{4}-\d\d-\d\d \d\d:\d\d file +rw +\S+\[\d+\] +file$")
        self.assertRegex(lines["full"], r"^drwx")
        self.assertRegex(lines["socket"], r" socket +rw ")
        self.assertRegex(lines["reader"], r" pipe +r ")
        self.assertRegex(self.ok("ls", "-l", "mem/sealed"), r" 4096 .* seal,shrink,grow +sealed\n$")

    def test_ls_json(self):
        found = {entry["name"]: entry for entry in json.loads(self.ok("ls", "--json", "srv"))}
        self.assertEqual({name: entry["what"] for name, entry in found.items()},
                         {"file": "file", "socket": "socket", "reader": "pipe", "full": "", "waiting": "unposted"})
        entry = found["file"]
        self.assertEqual((entry["type"], entry["kind"], entry["mode"], entry["uid"], entry["size_bytes"],
                          entry["access"]),
                         ("entry", "srv", "0600", 0, 8, "rw"))
        self.assertEqual((found["full"]["type"], found["reader"]["access"]), ("directory", "r"))
        self.assertEqual(entry["id"], os.stat(self.path("srv", "file")).st_ino)
        sealed, = json.loads(self.ok("ls", "--json", "mem/sealed"))
        self.assertEqual(sealed["seals"], ["seal", "shrink", "grow"])

    def test_status(self):
        text = self.ok("status")
        self.assertIn(self.folder.dir, text)
        status = json.loads(self.ok("status", "--json"))
        self.assertEqual(status["mountpoint"], self.folder.dir)
        self.assertTrue(harness.is_alive(status["keeper_pid"]) and harness.is_alive(status["worker_pid"]))
        self.assertEqual(status["entries"], self.connect().status().entries)

    def test_doctor(self):
        done = self.cli("doctor", timeout=30)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertGreater(len(done.stdout.splitlines()), 5)
        done = self.cli("doctor", "--json", timeout=30)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertTrue(json.loads(done.stdout))

    def test_help(self):
        text = self.ok("help")
        for command in COMMANDS:
            self.assertRegex(text, rf"(?m)^  {command} ")
            self.assertIn(f"] {command}", self.ok("help", command))
            self.assertEqual(self.ok(command, "--help"), self.ok("help", command))
            self.assertEqual(self.ok(command, "-h"), self.ok("help", command))
        self.assertEqual(self.ok("--help"), text)
        for words in (("srv", "post"), ("srv", "rm"), ("mem", "seal")):
            self.assertEqual(self.ok("help", *words), self.ok("help", words[0]))
        self.assertRegex(self.ok("--version"), r"^kshared \d")

    def test_post_a_file_in_every_way(self):
        for option, access in ((None, "rw"), ("--read-only", "r"), ("--write-only", "w"), ("--append", "w")):
            with self.subTest(option):
                self.ok("srv", "post", "way", "--file", self.scratch("file"), "--mode", "640",
                        *([option] if option else []))
                entry, = json.loads(self.ok("ls", "--json", "srv/way"))
                self.assertEqual((entry["access"], entry["mode"], entry["what"]), (access, "0640", "file"))
                self.ok("srv", "rm", "way")

    def test_post_a_descriptor(self):
        reader, writer = os.pipe()
        os.write(writer, b"inherited")
        os.close(writer)
        self.ok("srv", "post", "inherited", "--fd", str(reader), pass_fds=[reader])
        os.close(reader)
        self.assertEqual(self.ok("srv", "open", "inherited"), "inherited")
        self.ok("rm", "srv/inherited")

    def test_post_connections(self):
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(self.scratch("listening"))
        unix.listen()
        tcp = socket.create_server(("127.0.0.1", 0))
        tcp6 = socket.create_server(("::1", 0), family=socket.AF_INET6)
        for name, listener, args in (("unix", unix, ["--unix", self.scratch("listening")]),
                                     ("tcp", tcp, ["--tcp", f"127.0.0.1:{tcp.getsockname()[1]}"]),
                                     ("localhost", tcp, ["--tcp", f"localhost:{tcp.getsockname()[1]}"]),
                                     ("ipv6", tcp6, ["--tcp", f"[::1]:{tcp6.getsockname()[1]}"])):
            with self.subTest(name):
                self.ok("srv", "post", name, *args)
                peer, _ = listener.accept()
                with peer:
                    process = self.start("srv", "open", name, "--linger", "5000", stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE)
                    process.stdin.write(b"question")
                    process.stdin.close()
                    self.assertEqual(peer.recv(100), b"question")
                    peer.send(b"answer")
                    self.assertEqual(process.stdout.read(6), b"answer")
                    peer.shutdown(socket.SHUT_RDWR)
                    self.assertEqual(process.stdout.read(), b"")
                    self.assertEqual(process.wait(10), 0)
                self.ok("srv", "rm", name)
        for listener in (unix, tcp, tcp6):
            listener.close()

    def test_open_with_a_command(self):
        script = 'test "$KSHARED_FD" = "$1"; eval "cat <&$1"'
        self.assertEqual(self.ok("srv", "open", "file", "--reopen", "--", "bash", "-euc", script, "bash", "3"),
                         "content\n")
        self.assertEqual(self.ok("srv", "open", "file", "--reopen", "--fd", "7", "--", "bash", "-euc", script, "bash",
                                 "7"),
                         "content\n")
        self.assertEqual(self.ok("srv", "open", "file", "--reopen", "--fd", "0", "--", "cat"), "content\n")
        self.assertEqual(self.cli("srv", "open", "file", "--", "sh", "-c", "exit 5").returncode, 5)
        listed = self.ok("srv", "open", "file", "--", "bash", "-c", 'ls /proc/$$/fd').split()
        self.assertEqual(listed, ["0", "1", "2", "3", "4"], "no other descriptor is handed on; 4 is ls's own")

    def test_open_of_a_file_prints_it(self):
        self.assertEqual(self.ok("srv", "open", "file", "--reopen", "--read-only"), "content\n")

    def test_mem(self):
        self.ok("mem", "create", "frames", "1M", "--mode", "644", "--resizable")
        entry, = json.loads(self.ok("ls", "--json", "mem/frames"))
        self.assertEqual((entry["size_bytes"], entry["mode"], entry["seals"]), (1 << 20, "0644", []))
        self.ok("mem", "seal", "frames", "shrink,grow")
        self.ok("mem", "seal", "frames", "write")
        entry, = json.loads(self.ok("ls", "--json", "mem/frames"))
        self.assertEqual(entry["seals"], ["shrink", "grow", "write"])
        self.ok("mem", "rm", "frames")
        self.assertNotIn("frames", os.listdir(self.path("mem")))
        for size, expected in (("0", 0), ("1", 1), ("4096", 4096), ("2K", 2048), ("1M", 1 << 20)):
            self.ok("mem", "create", "sized", size)
            self.assertEqual(os.stat(self.path("mem", "sized")).st_size, expected)
            self.ok("rm", "mem/sized")

    def test_a_mode_is_meant_exactly_and_the_default_less_the_umask(self):
        for words, expected in (([], 0o400), (["--mode", "666"], 0o666), (["--mode", "640"], 0o640)):
            self.ok("srv", "post", "masked", "--fd", "0", *words, umask=0o227)
            self.ok("mem", "create", "masked", "1", *words, umask=0o227)
            for kind in ("srv", "mem"):
                self.assertEqual(os.stat(self.path(kind, "masked")).st_mode & 0o777, expected)
                self.ok("rm", f"{kind}/masked")

    def test_boards(self):
        os.mkdir(self.path("srv", "b"))
        self.ok("srv", "post", "b/inner", "--fd", "0")
        self.assertEqual(self.ok("ls", "srv/b"), "inner\n")
        self.ok("rm", "srv/b/inner", "srv/b")
        self.assertFalse(os.path.exists(self.path("srv", "b")))

    def test_status_tells_the_limits_that_hold(self):
        """The user who runs the daemon has none of his own."""
        own = json.loads(self.ok("status", "--json"))
        self.assertEqual((own["max_entries_uid"], own["max_bytes_uid"]), (0, 0))
        self.assertEqual(len(re.findall(r"^  yours +\d+, no limit$", self.ok("status"), re.M)), 2)
        other = harness.run_as(harness.USER_A, lambda: json.loads(self.ok("status", "--json")))
        self.assertEqual(other["max_entries_uid"], 65536)
        self.assertGreater(other["max_bytes_uid"], 0)

    def test_where_the_folder_is(self):
        """--at, then $KSHARED_SOCKET, then $KSHARED_DIR; a folder or its socket."""
        for args, variables in ((["--at", self.folder.dir], {"KSHARED_DIR": "/nowhere"}),
                                (["--at", self.folder.socket()], {}), ([], {"KSHARED_DIR": self.folder.dir}),
                                ([], {"KSHARED_SOCKET": self.folder.socket(), "KSHARED_DIR": "/nowhere"})):
            with self.subTest(args=args, variables=variables):
                done = subprocess.run([*harness.program("kshared"), *args, "ls", "srv/file"], capture_output=True,
                                      text=True,
                                      env=harness.environment(**variables))
                self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "file\n", ""))

    def test_up_and_down(self):
        new = self.scratch("brought-up")
        at = [*harness.program("kshared"), "--at", new]

        def run(*args):
            return subprocess.run([*at, *args], capture_output=True, text=True, timeout=20 * harness.SCALE,
                                  env=harness.environment())

        self.addCleanup(run, "down", "--lazy")
        done = run("up", "--mode", "755", "--max-entries", "100", "--max-bytes", "1M")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertTrue(os.path.ismount(new))
        status = json.loads(run("status", "--json").stdout)
        self.assertEqual((status["max_entries"], status["max_bytes"]), (100, 1 << 20))
        self.assertEqual(run("up").returncode, FAILED)
        with open(os.path.join(new, "mem", "x"), "w"):
            done = run("down")
            self.assertRefused(done)
            self.assertTrue(os.path.ismount(new))
        done = run("down")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        self.assertFalse(os.path.ismount(new))
        self.assertFalse(harness.is_alive(status["keeper_pid"]) or harness.is_alive(status["worker_pid"]))
        self.assertRefused(run("down"))

    def test_a_lazy_down(self):
        new = self.scratch("lazy")
        at = [*harness.program("kshared"), "--at", new]
        subprocess.run([*at, "up"], check=True, timeout=20 * harness.SCALE, env=harness.environment())
        with open(os.path.join(new, "mem", "x"), "w"):
            done = subprocess.run([*at, "down", "--lazy"], capture_output=True, text=True, timeout=20 * harness.SCALE,
                                  env=harness.environment())
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertFalse(os.path.ismount(new))


class Interrupting(CliCase):
    def test_ctrl_c_in_open_leaves_nothing_behind(self):
        """Nor does it change what is posted, which the poster goes on using."""
        ours, theirs = socket.socketpair()
        self.connect().srv_post("talk", theirs.fileno())
        flags = theirs.getblocking()
        counts = self.folder.descriptor_counts()
        process = self.start("srv", "open", "talk", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
        ours.send(b"hello")
        self.assertEqual(harness.read_exactly(process.stdout.fileno(), 5), b"hello")
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(5), -signal.SIGINT)
        self.assertEqual(process.stderr.read(), b"")
        process.stdin.close()
        harness.wait_until(lambda: self.folder.descriptor_counts() == counts, "the daemon has closed what it had")
        self.assertEqual(theirs.getblocking(), flags)
        ours.send(b"still there")
        self.assertEqual(theirs.recv(100), b"still there")
        self.assertIn("talk", os.listdir(self.path("srv")))
        self.ok("rm", "srv/talk")
        ours.close()
        theirs.close()

    def test_ctrl_c_in_a_terminal(self):
        """The whole foreground group gets it, and the terminal is as it was."""
        master, slave = os.openpty()
        before = subprocess.run(["stty", "-g"], stdin=slave, capture_output=True, text=True, check=True).stdout
        ours, theirs = socket.socketpair()
        self.connect().srv_post("term", theirs.fileno())
        process = self.start("srv", "open", "term", stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                             preexec_fn=lambda: harness.libc.ioctl(0, 0x540E, 0))  # TIOCSCTTY
        os.write(master, b"typed\n")
        self.assertTrue(select.select([ours], [], [], 5)[0])
        os.write(master, b"\x03")
        self.assertEqual(process.wait(5), -signal.SIGINT)
        after = subprocess.run(["stty", "-g"], stdin=slave, capture_output=True, text=True, check=True).stdout
        self.assertEqual(after, before)
        self.ok("rm", "srv/term")
        for fd in (master, slave):
            os.close(fd)
        ours.close()
        theirs.close()

    def test_a_closed_pipe_ends_it_quietly(self):
        ours, theirs = socket.socketpair()
        self.connect().srv_post("deaf", theirs.fileno())
        process = self.start("srv", "open", "deaf", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
        process.stdout.close()
        ours.send(b"nobody listens")
        process.wait(5)
        self.assertEqual(process.stderr.read(), b"")
        process.stdin.close()
        process.stderr.close()
        self.ok("rm", "srv/deaf")


class Completion(CliCase):
    needs = ["bash"]

    def complete(self, *words):
        """What bash offers for the last of the words, which may be empty."""
        script = """
            PATH=$1:$PATH
            if [ -r /usr/share/bash-completion/bash_completion ]; then . /usr/share/bash-completion/bash_completion; fi
            for file in "$2"/*; do . "$file"; done
            shift 2
            spec=$(complete -p kshared)
            function=${spec#*-F }
            function=${function%% *}
            COMP_WORDS=("$@")
            COMP_CWORD=$(($# - 1))
            COMP_LINE="$*"
            COMP_POINT=${#COMP_LINE}
            COMP_TYPE=9
            COMP_KEY=9
            COMPREPLY=()
            compopt() { :; }  # the real one is for what is being typed
            "$function" kshared "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
            printf '%s\\n' "${COMPREPLY[@]}"
            """
        done = subprocess.run(["bash", "--norc", "-c", script, "bash", harness.BUILD, COMPLETION, "kshared", *words],
                              capture_output=True, text=True, timeout=10 * harness.SCALE,
                              env=harness.environment(KSHARED_DIR=self.folder.dir))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return {line.rstrip(" ") for line in done.stdout.splitlines() if line}

    def test_commands(self):
        self.assertLessEqual(set(COMMANDS), self.complete(""))
        self.assertEqual(self.complete("st"), {"status"})
        self.assertLessEqual({"post", "open", "rm"}, self.complete("srv", ""))
        self.assertLessEqual({"create", "seal", "rm"}, self.complete("mem", ""))
        self.assertEqual(self.complete("help", "srv", ""), {"post", "open", "rm"})
        self.assertEqual(self.complete("zzz"), set())

    def test_options(self):
        self.assertLessEqual({"--fd", "--unix", "--tcp", "--file", "--mode"}, self.complete("srv", "post", "x", "--"))
        self.assertEqual(self.complete("ls", "--j"), {"--json"})

    def test_folder_top(self):
        self.assertEqual(self.complete("folder", "t"), {"top"})
        shown = self.complete("folder", "top", "-")
        described = self.cli("help", "folder").stdout
        for option in re.findall(r"^  (-.), (--[a-z-]+)|^  (--[a-z-]+)", described, re.M):
            self.assertLessEqual(set(filter(None, option)), shown)
        self.assertIn("--one-file-system", shown)
        os.mkdir(self.scratch("a-directory"))
        self.assertEqual(self.complete("folder", "top", "-n", "5", self.scratch("a-")), {self.scratch("a-directory")})

    def test_names(self):
        self.assertEqual(self.complete("srv", "open", "f"), {"file", "full"})
        self.assertIn("sealed", self.complete("mem", "seal", "s"))
        self.assertIn("srv/file", self.complete("rm", "srv/f"))
        self.assertEqual(self.complete("srv", "open", "zzz"), set())

    def test_names_in_another_folder(self):
        self.assertIn("file", self.complete("--at", self.folder.dir, "srv", "open", "f"))
        self.assertEqual(self.complete("--at", self.scratch(), "srv", "open", "f"), set())


if __name__ == "__main__":
    harness.main()
