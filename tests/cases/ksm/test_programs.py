#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Unmodified programs, all of whose memory is merged while they run: what they hold is the same before, during and after, also
when their allocators give memory back, when they fork, and when they go on to change it."""

import os
import random
import shutil
import subprocess
import time

import harness
import merging

FILE_TIMEOUT = 600
UNDER_VALGRIND = False
ROUNDS = 3
KEYS = 10000 # in redis
INTERPRETER = "/usr/bin/python3"

# Blocks of which many are equal, and which are looked through again and again; prints a digest of all for each line it reads.
PYTHON = """
import gc, hashlib, random, sys
numbers = random.Random(1)
blocks = [bytes([i % 40]) * 6000 if i % 3 else numbers.randbytes(6000) for i in range(4000)]
table = {i: str(i % 100) * 50 for i in range(50000)}
for line in sys.stdin:
    if line == "change\\n":
        for i in range(0, len(blocks), 5):
            blocks[i] = bytes([i % 7]) * (3000 + i % 5000)
        for i in range(0, 50000, 7):
            table[i] = table[i][1:] + "x"
        gc.collect()
    digest = hashlib.sha256(b"".join(blocks))
    for key in table:
        digest.update(table[key].encode())
    print(digest.hexdigest(), flush=True)
"""


class Talk:
    """A program that answers each line with one."""

    def __init__(self, case, *command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        preexec_fn=merging.die_with_parent)
        self.pid = self.process.pid
        case.addCleanup(self.end)

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer, f"it has ended: {self.process.poll()}"
        return answer


class Programs(harness.FolderCase):
    timeout = 200.0
    descriptor_slack = 1 # the merger, which the first partition starts

    def setUp(self):
        self.merger = merging.Merger(self.folder)
        self.addCleanup(self.merger.forget)

    def merge(self, pid, at_least=0):
        result, = self.merger("merge", "real", [pid], "--force")
        self.assertGreaterEqual(result["merged"], at_least)

    def test_python(self):
        python = Talk(self, INTERPRETER, "-c", PYTHON)
        before = python.ask("digest")
        self.merge(python.pid, 1500)
        for _ in range(ROUNDS):
            self.assertEqual(python.ask("digest"), before)
            self.merge(python.pid)
        # The same changes in a process that nobody touches.
        other = Talk(self, INTERPRETER, "-c", PYTHON)
        for _ in range(ROUNDS):
            self.assertEqual(python.ask("change"), other.ask("change"))
            self.merge(python.pid)
            self.assertEqual(python.ask("digest"), other.ask("digest"))

    def test_python_while_it_runs(self):
        python = Talk(self, INTERPRETER, "-c", PYTHON)
        before = python.ask("digest")
        for _ in range(ROUNDS):
            python.process.stdin.write("digest\n" * 3)
            python.process.stdin.flush()
            self.merge(python.pid)
            for _ in range(3):
                self.assertEqual(python.process.stdout.readline().strip(), before)

    def test_sqlite(self):
        shell = Talk(self, "sqlite3", ":memory:")
        shell.process.stdin.write(
            "PRAGMA temp_store = MEMORY;\n"
            "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, body BLOB);\n"
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)\n"
            "  INSERT INTO t SELECT i, 'name ' || i % 100, zeroblob(500) || hex(i % 50) FROM n;\n"
            "CREATE INDEX by_name ON t (name);\n")
        digest = ("SELECT count(*), sum(id), sum(length(body)), max(name), sum(unicode(substr(hex(body), -3))), "
                  "(SELECT group_concat(c) FROM (SELECT name || count(*) c FROM t GROUP BY name)) FROM t;")
        before = shell.ask(digest)
        self.assertTrue(before.startswith("60000|"), before[:100])
        self.merge(shell.pid, 1)
        for _ in range(ROUNDS):
            self.assertEqual(shell.ask(digest), before)
            self.merge(shell.pid)
            # In and out again: everything is written, pages are freed and used again.
            shell.process.stdin.write("BEGIN; UPDATE t SET body = body || 'x', name = name || 'y'; "
                                      "DELETE FROM t WHERE id % 3 = 0; ROLLBACK;\n")
        self.assertEqual(shell.ask(digest), before)
        self.assertEqual(shell.ask("PRAGMA integrity_check;"), "ok")
        self.assertEqual(shell.ask("DELETE FROM t WHERE id > 1000; VACUUM; SELECT count(*) FROM t;"), "1000")
        self.merge(shell.pid)
        self.assertEqual(shell.ask("PRAGMA integrity_check;"), "ok")


class Redis(harness.FolderCase):
    timeout = 200.0
    descriptor_slack = 1 # the merger, which the first partition starts
    needs = ["redis-server", "redis-cli"]

    def setUp(self):
        self.merger = merging.Merger(self.folder)
        self.addCleanup(self.merger.forget)
        self.socket = self.scratch(f"redis-{os.getpid()}.sock")
        self.directory = self.scratch(f"redis-{os.getpid()}")
        os.mkdir(self.directory)
        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", self.socket, "--dir", self.directory, "--save", "",
             "--enable-debug-command", "yes", "--activedefrag", "no", "--logfile", os.path.join(self.directory, "log")],
            stdin=subprocess.DEVNULL, preexec_fn=merging.die_with_parent)
        self.addCleanup(self.end)
        harness.wait_until(lambda: os.path.exists(self.socket) and self.cli_ask("PING") == "PONG", "redis", timeout=20)

    def end(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory)

    def cli_ask(self, *words, **options):
        done = subprocess.run(["redis-cli", "-s", self.socket, *words], capture_output=True, text=True, check=False,
                              timeout=60, **options)
        self.assertIsNone(self.process.poll(), "redis has died")
        return done.stdout.strip()

    def fill(self, first, last):
        """Values of which most are alike."""
        numbers = random.Random(first)
        lines = "".join(f"SET key:{i} {chr(97 + i % 20) * 4000 if i % 4 else numbers.randbytes(1000).hex()}\n"
                        for i in range(first, last))
        self.assertIn("errors: 0", self.cli_ask("--pipe", input=lines))

    def digest(self):
        answer = self.cli_ask("DEBUG", "DIGEST")
        self.assertRegex(answer, r"^[0-9a-f]{40}$")
        return answer

    def merge(self):
        return self.merger("merge", "real", [self.process.pid], "--force")[0]["merged"]

    def test_what_it_holds_stays(self):
        self.fill(0, KEYS)
        before = self.digest()
        self.assertGreater(self.merge(), 1000)
        for _ in range(ROUNDS):
            self.assertEqual(self.digest(), before)
            self.merge()
        self.assertEqual(self.digest(), before)

    def test_its_allocator_gives_memory_back_after_the_merge(self):
        expected = {}
        for merged in (False, True, True):
            self.fill(0, KEYS)
            if merged:
                self.merge()
            self.cli_ask("FLUSHALL")
            self.assertEqual(self.cli_ask("MEMORY", "PURGE"), "OK")
            # What was given back is used again, for tables that the allocator takes to be zeros.
            for size in (KEYS, 5 * KEYS, 20 * KEYS):
                self.assertEqual(self.cli_ask("DEBUG", "POPULATE", str(size), "again", "100"), "OK")
                digest = self.digest()
                self.assertEqual(digest, expected.setdefault(size, digest))
                if merged:
                    self.merge()
            self.cli_ask("FLUSHALL")

    def test_a_forked_child_of_it_saves_all(self):
        self.fill(0, KEYS)
        before = self.digest()
        self.merge()
        self.assertIn("Background saving started", self.cli_ask("BGSAVE"))
        self.merge_while_it_saves()
        self.assertIn("rdb_last_bgsave_status:ok", self.cli_ask("INFO", "persistence"))
        self.assertEqual(self.cli_ask("DEBUG", "RELOAD", "NOSAVE"), "OK")
        self.assertEqual(self.digest(), before)

    def merge_while_it_saves(self):
        end = time.monotonic() + 60
        while "rdb_bgsave_in_progress:1" in self.cli_ask("INFO", "persistence"):
            self.merge()
            self.assertLess(time.monotonic(), end, "saving does not end")


if __name__ == "__main__":
    harness.main()
