# SPDX-License-Identifier: GPL-2.0-or-later
"""`ring send` and `ring recv` with --lines, --null and --raw: messages, which stay until somebody receives them."""

import os
import random
import signal
import subprocess

import harness
from ring import BROKEN, FAILED, TIMEOUT, RingCase

UNDER_VALGRIND = False


class Messages(RingCase):
    def send(self, name, data, *options):
        self.ends(self.start("send", name, *options, stdin=self.file(data)), 0)

    def recv(self, name, *options):
        return self.ends(self.start("recv", name, *options), 0)

    def test_lines_stay_until_received(self):
        name = self.create()
        self.send(name, b"one\n\nthree\n", "--lines")
        self.send(name, b"four\nno newline", "--lines")
        self.assertEqual(self.stat(name)["depth"], 5, "a line is a message")
        self.assertEqual(self.recv(name, "--lines"), b"one\n\nthree\nfour\nno newline\n")
        self.assertEqual(self.stat(name)["depth"], 0)

    def test_null_and_raw(self):
        name = self.create()
        self.send(name, b"a\nb\0\0c\0", "--null")
        self.assertEqual(self.stat(name)["depth"], 3)
        self.assertEqual(self.recv(name, "-0"), b"a\nb\0\0c\0")
        self.send(name, b"\0raw\n" * 1000, "--raw")
        self.assertEqual(self.recv(name, "--raw"), b"\0raw\n" * 1000)
        self.send(name, b"x\ny\n", "--lines")
        self.assertEqual(self.recv(name, "--raw"), b"xy")

    def test_many_lines_of_any_length(self):
        rng = random.Random(3)
        name = self.create("--data", "65536", "--slots", "16")
        lengths = [0, 1, 119, 120, 121, 4095, 4096, 32767, 32768] + [rng.randrange(300) for _ in range(20000)]
        text = b"".join(bytes([33 + n % 90]) * n + b"\n" for n in lengths)
        sender = self.start("send", name, "--lines", stdin=self.file(text))
        self.assertTrue(self.recv(name, "--lines") == text)
        self.ends(sender, 0)
        self.assertEqual(self.stat(name)["messages"], len(lengths))

    def test_a_line_that_is_too_long(self):
        name = self.create("--data", "4096")
        sender = self.start("send", name, "--lines", stdin=self.file(b"good\n" + b"x" * 2049 + b"\n"))
        self.ends(sender, FAILED, "longer than the ring's longest message")
        self.ends(self.start("recv", name, "--lines", "--timeout", "5"), BROKEN, "a sender died")

    def test_neither_mode_takes_the_other_for_its_own(self):
        name = self.create()
        self.send(name, b"a line that is longer than what stands before a piece of a stream\n", "--lines")
        self.send(name, b"short\n", "--lines")
        for _ in range(2):
            self.ends(self.start("recv", name), FAILED, "use --lines, --null or --raw")
            self.assertEqual(self.stat(name)["depth"], 2, "nothing was taken")
        self.recv(name, "--lines")

    def test_ends_of_senders_before_us_are_not_ours(self):
        name = self.create("--shape", "many-to-one", "--writers", "4")
        self.send(name, b"", "--lines")
        killed = [self.start("send", name, "--lines", stdin=subprocess.PIPE) for _ in range(3)]
        self.wait_for(name, writers=3)
        for process in killed:
            process.kill()
        self.wait_for(name, writers=0, dead=3)
        receiver = self.start("recv", name, "--lines")
        self.wait_for(name, readers=1)
        self.send(name, b"now\n", "--lines")
        self.assertEqual(self.ends(receiver, 0), b"now\n")

    def test_the_receiver_ends_with_the_last_sender(self):
        name = self.create("--shape", "many-to-one")
        senders = [self.start("send", name, "--lines", stdin=subprocess.PIPE) for _ in range(3)]
        self.wait_for(name, writers=3)
        receiver = self.start("recv", name, "--lines")
        for i, sender in enumerate(senders):
            self.assertIsNone(receiver.poll())
            sender.stdin.write(b"%d\n" % i)
            sender.stdin.close()
            sender.stdin = None
            self.ends(sender, 0)
            self.assertEqual(harness.read_exactly(receiver.stdout.fileno(), 2), b"%d\n" % i)
        self.assertEqual(self.ends(receiver, 0), b"")

    def test_keep(self):
        name = self.create("--shape", "many-to-one")
        receiver = self.start("recv", name, "--lines", "--keep")
        for word in (b"one\n", b"two\n"):
            self.send(name, word, "--lines")
            self.assertEqual(harness.read_exactly(receiver.stdout.fileno(), 4), word)
        sender = self.start("send", name, "--lines", stdin=subprocess.PIPE)
        self.wait_for(name, writers=1)
        sender.kill()
        sender.wait()
        self.assertIn(b"a sender died", receiver.stderr.readline())
        self.send(name, b"six\n", "--lines")
        self.assertEqual(harness.read_exactly(receiver.stdout.fileno(), 4), b"six\n")
        receiver.terminate()
        self.ends(receiver, -signal.SIGTERM)

    def test_a_new_receiver_gets_what_the_last_one_left(self):
        name = self.create("--data", "4096", "--slots", "16")
        # More than twenty receivers can put into their pipes before they are killed.
        lines = 250000
        text = b"".join(b"%06d\n" % i for i in range(lines))
        sender = self.start("send", name, "--lines", stdin=self.file(text))
        got = []
        for _ in range(20):
            receiver = self.start("recv", name, "--lines")
            got += harness.read_exactly(receiver.stdout.fileno(), 700).splitlines()
            receiver.kill()
            rest = receiver.stdout.read()
            receiver.wait()
            got += rest.splitlines()
        got += self.recv(name, "--lines").splitlines()
        self.ends(sender, 0)
        # What a receiver has written but not released comes again; nothing is left out.
        self.assertEqual(set(got), set(text.splitlines()))
        self.assertLess(len(got) - lines, 20 * 64 + 1)

    @harness.timeout(90)
    def test_many_senders_that_die(self):
        """One receiver, senders killed at random: each one's lines come whole and in order, from the first, without a gap."""
        rng = random.Random(11)
        name = self.create("--shape", "many-to-one", "--writers", "4", "--data", "16384", "--slots", "64")
        with open(self.scratch("collected"), "wb") as out:
            receiver = self.start("recv", name, "--lines", "--keep", stdout=out)
        self.wait_for(name, readers=1)
        whole = set()
        for turn in range(15):
            senders = {}
            for i in range(4):
                who = f"{turn}.{i}"
                text = "".join(f"{who} {n} {'x' * (n % 150)} end\n" for n in range(12000)).encode()
                senders[who] = self.start("send", name, "--lines", stdin=self.file(text, who))
            for who, sender in senders.items():
                if rng.random() < 0.6:
                    try:
                        sender.wait(rng.random() * 0.02)
                    except subprocess.TimeoutExpired:
                        sender.kill()
                if sender.wait(20) == 0:
                    whole.add(who)
                else:
                    self.assertEqual(sender.returncode, -signal.SIGKILL, sender.stderr.read())
                self.finish(sender)
        self.wait_for(name, depth=0, writers=0)
        receiver.terminate()
        receiver.wait(5)
        count = {}
        with open(self.scratch("collected")) as file:
            for line in file:
                who, n, *xs, end = line.split()
                self.assertEqual((int(n), end, len("".join(xs))), (count.get(who, 0), "end", int(n) % 150), line)
                count[who] = int(n) + 1
        for who in whole:
            self.assertEqual(count[who], 12000, f"{who} was told that all is there")
        self.assertTrue(5 < len(whole) < 60, f"{len(whole)} of 60 were whole")

    def test_broadcast(self):
        name = self.create("--shape", "broadcast", "--blocking", "--readers", "2")
        receivers = [self.start("recv", name, "--lines") for _ in range(2)]
        self.wait_for(name, readers=2)
        self.ends(self.start("recv", name, "--lines"), FAILED, "all places are taken")
        text = b"".join(b"%d\n" % i for i in range(8000))
        self.send(name, text, "--lines")
        for receiver in receivers:
            self.assertTrue(self.ends(receiver, 0) == text)

    def test_losses_are_counted_and_said(self):
        name = self.create("--shape", "broadcast", "--slots", "16")
        reader, writer = self.small_pipe()
        sender = self.start("send", name, "--lines", "--readers", "1", stdin=subprocess.PIPE)
        receiver = self.start("recv", name, "--lines", stdout=writer)
        os.close(writer)
        self.wait_for(name, readers=1)
        sender.stdin.write(b"first\n")
        sender.stdin.flush()
        self.assertEqual(harness.read_exactly(reader, 6), b"first\n")
        text = [b"%d %s" % (i, b"x" * 99) for i in range(5000)]
        sender.stdin.write(b"\n".join(text) + b"\n")
        sender.stdin.close()
        sender.stdin = None
        self.ends(sender, 0)
        got = b""
        while piece := os.read(reader, 65536):
            got += piece
        self.ends(receiver, BROKEN, f"{5000 - len(got.splitlines())} messages were lost in all")
        self.assertLess(len(got.splitlines()), 5000)
        self.assertEqual([line for line in got.splitlines() if line not in text], [], "what came is whole")

    def test_timeouts(self):
        name = self.create("--data", "4096", "--slots", "2")
        self.ends(self.start("recv", name, "--lines", "--timeout", "0.1"), TIMEOUT, "nothing was received")
        sender = self.start("send", name, "--lines", "--timeout", "0.1", stdin=self.file(b"1\n2\n3\n4\n"))
        self.ends(sender, TIMEOUT, "there is no room")

    def test_streams_need_one_sender(self):
        name = self.create("--shape", "many-to-one")
        for verb in ("send", "recv"):
            self.ends(self.start(verb, name), FAILED, "would be mixed")
        self.ends(self.start("recv", name, "--lines", "--history"), FAILED, "--history is for a broadcast")


if __name__ == "__main__":
    harness.main()
