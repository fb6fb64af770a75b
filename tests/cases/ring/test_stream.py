# SPDX-License-Identifier: GPL-2.0-or-later
"""`ring send < FILE` and `ring recv > FILE` as a pipe: every byte, the end, and the truth when either of them goes."""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import random
import signal
import subprocess

import harness
from ring import BROKEN, FAILED, TIMEOUT, RingCase

UNDER_VALGRIND = False
FILE_TIMEOUT = 400
MIB = 1 << 20
DATA = random.Random(6).randbytes(9 * MIB + 12345)


class Stream(RingCase):
    def pass_on(self, name, data, send=(), recv=()):
        """A stream from end to end, both of which must succeed."""
        sender = self.start("send", name, *send, stdin=self.file(data))
        receiver = self.start("recv", name, *recv)
        got = self.ends(receiver, 0)
        self.ends(sender, 0)
        self.assertEqual(len(got), len(data))
        self.assertEqual(hashlib.sha256(got).digest(), hashlib.sha256(data).digest())

    @harness.timeout(120)
    def test_every_byte_of_any_length(self):
        name = self.create()
        piece = (256 << 10) - 24
        for length in (0, 1, 23, 24, 25, 87, 88, 95, 96, 97, 4096, piece - 1, piece, piece + 1, 2 * piece, 4 * MIB,
                       len(DATA)):
            with self.subTest(length):
                self.pass_on(name, DATA[:length])
        self.assertEqual(self.stat(name)["depth"], 0)

    @harness.timeout(120)
    def test_through_rings_of_every_size(self):
        for slots, slot, data in ((2, 64, 4096), (2, 4096, 4096), (4, 128, 8192), (1 << 16, 64, 1 << 20),
                                  (16, 64, 64 << 20)):
            with self.subTest(slots=slots, slot=slot, data=data):
                name = self.create("--slots", str(slots), "--slot-size", str(slot), "--data", str(data),
                                   suffix=f"{slots}-{slot}-{data}")
                self.pass_on(name, DATA[:MIB + 77])
                self.ok("ring", "rm", name)

    def test_whoever_comes_first_waits(self):
        name = self.create()
        receiver = self.start("recv", name)
        self.wait_for(name, readers=1)
        self.ends(self.start("send", name, stdin=self.file(b"receiver first")), 0)
        self.assertEqual(self.ends(receiver, 0), b"receiver first")
        sender = self.start("send", name, stdin=self.file(b"sender first"))
        self.wait_for(name, depth=3)
        self.assertIsNone(sender.poll(), "it ends when all has been received")
        self.assertEqual(self.ends(self.start("recv", name), 0), b"sender first")
        self.ends(sender, 0)

    def test_one_stream_is_one_receivers(self):
        name = self.create()
        for i in range(5):
            sender = self.start("send", name, stdin=self.file(b"%d" % i))
            self.assertEqual(self.ends(self.start("recv", name), 0), b"%d" % i)
            self.ends(sender, 0)

    def test_bytes_come_as_they_are_written(self):
        name = self.create()
        sender = self.start("send", name, stdin=subprocess.PIPE)
        receiver = self.start("recv", name)
        for word in (b"one", b"two\n", b"\0three"):
            sender.stdin.write(word)
            sender.stdin.flush()
            self.assertEqual(harness.read_exactly(receiver.stdout.fileno(), len(word)), word)
        sender.stdin.close()
        sender.stdin = None
        self.assertEqual(self.ends(receiver, 0), b"")
        self.ends(sender, 0)

    def test_between_programs(self):
        name = self.create()
        command = " ".join([*harness.program("kshared"), "--at", self.folder.dir, "ring"])
        script = f"(seq 1 300000 | {command} send {name}; echo sent $?) & {command} recv {name} | sort -n | tail -1; wait"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30)
        self.assertEqual((sorted(done.stdout.split()), done.stderr), (["0", "300000", "sent"], ""))

    def test_slow_output(self):
        name = self.create("--data", "65536")
        reader, writer = self.small_pipe()
        sender = self.start("send", name, stdin=self.file(DATA[:MIB]))
        receiver = self.start("recv", name, stdout=writer)
        os.close(writer)
        got = b""
        while piece := os.read(reader, 999):
            got += piece
        self.assertEqual(got, DATA[:MIB])
        self.ends(receiver, 0)
        self.ends(sender, 0)

    def test_input_and_output_that_do_not_wait(self):
        name = self.create()
        (their_input, our_writer), (our_reader, their_output) = self.small_pipe(), self.small_pipe()
        for fd in (their_input, their_output):
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)
        sender = self.start("send", name, stdin=their_input)
        receiver = self.start("recv", name, stdout=their_output)
        os.close(their_input)
        os.close(their_output)
        feeder = self.child(lambda: [os.close(our_reader), os.write(our_writer, DATA[:50000])])
        os.close(our_writer)
        got = b""
        while piece := os.read(our_reader, 4096):
            got += piece
        self.assertEqual(got, DATA[:50000])
        feeder.result()
        self.ends(receiver, 0)
        self.ends(sender, 0)

    def test_a_stop_in_the_middle(self):
        name = self.create("--data", "8192")
        sender = self.start("send", name, stdin=self.file(DATA[:MIB]))
        receiver = self.start("recv", name)
        for process in (sender, receiver, sender):
            process.send_signal(signal.SIGSTOP)
            self.stat(name)
            process.send_signal(signal.SIGCONT)
        self.assertEqual(self.ends(receiver, 0), DATA[:MIB])
        self.ends(sender, 0)


class Ends(RingCase):
    """Who goes before the end: the other one says so, with status 3, and soon."""

    def half_way(self, name, number):
        """A sender whose input goes on, and a receiver; something has passed."""
        before = self.stat(name)["messages"]
        sender = self.start("send", name, stdin=subprocess.PIPE)
        receiver = self.start("recv", name)
        sender.stdin.write(b"x" * number)
        sender.stdin.flush()
        if number:
            self.assertEqual(harness.read_exactly(receiver.stdout.fileno(), number), b"x" * number)
        else:
            self.wait_for(name, messages=before + 1, depth=0)
        return sender, receiver

    def again(self, name):
        sender = self.start("send", name, stdin=self.file(DATA))
        receiver = self.start("recv", name)
        out, err = receiver.communicate(timeout=20)
        self.assertEqual(receiver.returncode, 0, err)
        self.assertRegex(err.decode(), r"^(kshared: .* only a part is left out; waiting for the next\n)?$")
        self.ends(sender, 0)
        self.assertTrue(out == DATA, "the next stream is whole")

    def test_the_sender_is_killed(self):
        name = self.create()
        for number, how in ((100, signal.SIGKILL), (100, signal.SIGINT), (0, signal.SIGKILL), (7, signal.SIGTERM)):
            with self.subTest(number=number, how=how):
                sender, receiver = self.half_way(name, number)
                sender.send_signal(how)
                sender.wait(5)
                self.ends(receiver, BROKEN, f"its sender died, after {number} bytes")
                self.again(name)

    def test_the_sender_cannot_read_its_input(self):
        name = self.create()
        receiver = self.start("recv", name)
        self.wait_for(name, readers=1)
        # Address 0 of a process: EIO.
        self.ends(self.start("send", name, stdin=self.opened("/proc/self/mem", os.O_RDONLY)), FAILED, "Input/output")
        self.ends(receiver, BROKEN, "not whole")
        self.again(name)

    def test_the_receiver_is_killed(self):
        name = self.create()
        for how in (signal.SIGKILL, signal.SIGINT):
            sender, receiver = self.half_way(name, 100)
            receiver.send_signal(how)
            receiver.wait(5)
            sender.stdin.close()
            sender.stdin = None
            self.ends(sender, BROKEN, "ended in the middle of the stream")
            self.again(name)

    def test_the_receiver_is_killed_while_there_is_no_room(self):
        name = self.create("--data", "4096")
        _, writer = self.small_pipe()
        sender = self.start("send", name, stdin=self.file(DATA))
        receiver = self.start("recv", name, stdout=writer)
        self.wait_for(name, readers=1)
        harness.wait_until(lambda: self.stat(name)["messages_per_second"] == 0, "nothing moves")
        receiver.kill()
        self.ends(sender, BROKEN, "ended in the middle of the stream")
        self.again(name)

    def test_the_receiver_has_enough(self):
        """As `recv | head -c 10`: it ends as programs do, and the sender with it."""
        name = self.create()
        reader, writer = self.small_pipe()
        sender = self.start("send", name, stdin=self.file(DATA))
        receiver = self.start("recv", name, stdout=writer)
        os.close(writer)
        harness.read_exactly(reader, 10)
        os.close(reader)
        self.ends(receiver, -signal.SIGPIPE)
        self.ends(sender, BROKEN, "ended in the middle of the stream")
        self.again(name)

    def test_a_broken_pipe_where_it_is_ignored(self):
        name = self.create()
        reader, writer = self.small_pipe()
        sender = self.start("send", name, stdin=self.file(DATA))
        os.close(reader)
        receiver = self.start("recv", name, stdout=writer,
                              preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN), restore_signals=False)
        self.ends(receiver, FAILED, "standard output: Broken pipe")
        self.ends(sender, BROKEN, "ended in the middle")

    def test_the_output_is_full(self):
        name = self.create()
        sender = self.start("send", name, stdin=self.file(DATA))
        receiver = self.start("recv", name, stdout=self.opened("/dev/full", os.O_WRONLY))
        self.ends(receiver, FAILED, "standard output: No space left")
        self.ends(sender, BROKEN, "ended in the middle")
        self.again(name)

    def test_a_full_tmpfs(self):
        """A tmpfs with a size, as /dev/shm: what does not fit is no success of anybody's."""
        name = self.create()

        def on_tmpfs():
            if harness.libc.unshare(0x00020000):
                raise OSError(ctypes.get_errno(), "unshare")
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "test", "/dev/shm"], check=True)
            with open("/dev/shm/out", "wb") as out:
                done = self.cli_to(name, out)
            return done.returncode, done.stderr, os.path.getsize("/dev/shm/out")

        sender = self.start("send", name, stdin=self.file(DATA))
        status, text, size = self.child(on_tmpfs).result(20)
        self.assertEqual(status, FAILED)
        self.assertIn("No space left", text)
        self.assertLessEqual(size, 2 * MIB)
        self.ends(sender, BROKEN, "ended in the middle")
        self.again(name)

    def cli_to(self, name, out):
        return subprocess.run([*harness.program("kshared"), "--at", self.folder.dir, "ring", "recv", name], stdout=out,
                              stderr=subprocess.PIPE, text=True, timeout=15, env=harness.environment())

    def test_another_receiver_takes_over(self):
        """It does not get the stream's beginning: so it does not take the rest for whole, and the sender is told."""
        name = self.create()
        sender, receiver = self.half_way(name, 100)
        sender.send_signal(signal.SIGSTOP)  # so that it sees nothing of what happens
        receiver.kill()
        receiver.wait()
        second = self.start("recv", name)
        self.wait_for(name, readers=1)
        sender.send_signal(signal.SIGCONT)
        sender.stdin.write(b"y" * 100)
        sender.stdin.close()
        sender.stdin = None
        self.assertEqual(self.ends(second, BROKEN, "another receiver has had the beginning"), b"")
        self.ends(sender, BROKEN, "ended in the middle of the stream")
        self.again(name)

    def test_the_rest_of_a_stream_is_left_out(self):
        name = self.create()
        sender, receiver = self.half_way(name, 100)
        receiver.kill()
        receiver.wait()
        sender.stdin.write(b"y" * 100)
        sender.stdin.flush()
        self.wait_for(name, messages=3)
        sender.kill()
        sender.wait()
        receiver = self.start("recv", name)
        sender = self.start("send", name, stdin=self.file(b"whole"))
        self.assertEqual(self.ends(receiver, 0, "only a part is left out"), b"whole")
        self.ends(sender, 0)

    def test_what_dead_senders_have_left(self):
        """Streams that were never begun to be received and have no end are left out; one that is all there is received."""
        name = self.create()
        for word in (b"one", b"two"):
            before = self.stat(name)["depth"]
            sender = self.start("send", name, stdin=subprocess.PIPE)
            sender.stdin.write(word)
            sender.stdin.flush()
            self.wait_for(name, depth=before + 2)
            sender.kill()
            sender.wait()
        sender = self.start("send", name, stdin=self.file(b"three"))
        self.wait_for(name, depth=7)
        sender.kill()
        sender.wait()
        self.assertEqual(self.ends(self.start("recv", name), 0, "left out"), b"three")
        self.ends(self.start("recv", name, "--timeout", "0.1"), TIMEOUT, "nothing moved")

    def test_another_stream_follows_unseen(self):
        """A receiver that does not see its sender die, because another one is there at once."""
        name = self.create()
        sender, receiver = self.half_way(name, 100)
        receiver.send_signal(signal.SIGSTOP)
        sender.kill()
        sender.wait()
        second = self.start("send", name, stdin=self.file(DATA))
        self.wait_for(name, writers=1)
        receiver.send_signal(signal.SIGCONT)
        self.ends(receiver, BROKEN, "another stream follows, after 100 bytes")
        self.assertTrue(self.ends(self.start("recv", name), 0) == DATA)
        self.ends(second, 0)

    @harness.timeout(120)
    def test_kills_at_random_times(self):
        """Whatever is killed when: status 0 of either end means that the receiver has every byte, and then all goes on."""
        rng = random.Random(int(os.environ.get("KSHARED_SEED", "7")))
        name = self.create("--data", "65536", "--slots", "8")
        data, whole = DATA[:3 * MIB], {"sender": 0, "receiver": 0}
        for turn in range(60):
            sender = self.start("send", name, stdin=self.file(data))
            receiver = self.start("recv", name, stdout=self.output())
            victim = rng.choice((sender, receiver, None))
            if victim:
                self.end_at_last(victim, rng.random() ** 3 * 0.05)
                # The other one notices, or goes on waiting for the next.
                self.end_at_last(receiver if victim is sender else sender, 0.5)
            statuses = sender.wait(20), receiver.wait(20)
            with open(self.scratch("output"), "rb") as file:
                got = file.read()
            if statuses[0] == 0 or statuses[1] == 0:
                self.assertTrue(got == data, f"turn {turn}: {statuses}, {len(got)} bytes")
            if victim is None:
                self.assertEqual(statuses, (0, 0), f"turn {turn}: {sender.stderr.read()} {receiver.stderr.read()}")
            elif statuses[1] != 0:
                self.assertTrue(data.startswith(got), f"turn {turn}: what came is a beginning")
            whole["sender"] += statuses[0] == 0
            whole["receiver"] += statuses[1] == 0
            self.finish(sender)
            self.finish(receiver)
        self.assertGreater(whole["receiver"], 5)
        self.assertLess(whole["receiver"], 60, "some were killed in time")

    @staticmethod
    def end_at_last(process, seconds):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.kill()

    def output(self):
        return self.opened(self.scratch("output"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def test_timeouts(self):
        name = self.create()
        self.ends(self.start("recv", name, "--timeout", "0.1"), TIMEOUT, "nothing was received")
        sender = self.start("send", name, "--timeout", "0.1", stdin=self.file(b"x"))
        self.ends(sender, TIMEOUT, "not all has been received")
        self.ends(self.start("send", name, "--timeout", "0.1", stdin=self.file(DATA)), TIMEOUT, "there is no room")
        self.again_after_rests(name)

    def again_after_rests(self, name):
        """Of what senders that gave up have left, what is whole is received."""
        self.assertEqual(self.ends(self.start("recv", name), 0), b"x")
        self.again(name)

    def test_only_one_at_a_time(self):
        name = self.create()
        sender, receiver = self.half_way(name, 1)
        self.ends(self.start("send", name), FAILED, "another one is at this end")
        self.ends(self.start("recv", name), FAILED, "another one is at this end")
        sender.stdin.close()
        sender.stdin = None
        self.assertEqual(self.ends(receiver, 0), b"")
        self.ends(sender, 0)

    def test_what_is_wrong_is_found_before_the_ring_is_touched(self):
        name = self.create()
        before = self.stat(name)
        self.ends(self.start("send", name, stdin=self.opened("/tmp", os.O_RDONLY)), FAILED, "it is a directory")
        self.ends(self.start("send", name, stdin=self.opened("/dev/null", os.O_WRONLY)), FAILED, "the other way")
        self.ends(self.start("recv", name, stdout=self.opened("/dev/null", os.O_RDONLY)), FAILED, "the other way")
        self.ends(self.start("recv", name, preexec_fn=lambda: os.close(1)), FAILED, "standard output: Bad file")
        self.assertEqual(self.stat(name), before)


class Broadcast(RingCase):
    def test_every_receiver_has_all(self):
        for options in (["--blocking", "--data", "65536"], ["--blocking", "--protected"], ["--data", "64M"]):
            with self.subTest(options):
                name = self.create("--shape", "broadcast", *options, suffix=str(len(" ".join(options))))
                sender = self.start("send", name, "--readers", "3", stdin=self.file(DATA))
                receivers = [self.start("recv", name, stdout=self.opened(self.scratch(f"out{i}"), os.O_RDWR | os.O_CREAT
                                                                         | os.O_TRUNC)) for i in range(3)]
                for i, receiver in enumerate(receivers):
                    self.ends(receiver, 0)
                    with open(self.scratch(f"out{i}"), "rb") as file:
                        self.assertTrue(file.read() == DATA)
                self.ends(sender, 0)

    def test_who_is_too_slow_is_told(self):
        name = self.create("--shape", "broadcast", "--data", "65536")
        reader, writer = self.small_pipe()
        sender = self.start("send", name, stdin=subprocess.PIPE)
        receiver = self.start("recv", name, stdout=writer)
        os.close(writer)
        sender.stdin.write(b"first")
        sender.stdin.flush()
        self.assertEqual(harness.read_exactly(reader, 5), b"first")
        sender.stdin.write(DATA)
        sender.stdin.close()
        sender.stdin = None
        self.ends(sender, 0)
        while os.read(reader, 65536):
            pass
        self.ends(receiver, BROKEN, "too slow")

    def test_who_comes_late_gets_the_next_one(self):
        name = self.create("--shape", "broadcast", "--blocking")
        sender = self.start("send", name, stdin=subprocess.PIPE)
        first = self.start("recv", name)
        sender.stdin.write(b"one")
        sender.stdin.flush()
        self.assertEqual(harness.read_exactly(first.stdout.fileno(), 3), b"one")
        late = self.start("recv", name)
        self.wait_for(name, readers=2)
        sender.stdin.close()
        sender.stdin = None
        self.ends(sender, 0)
        self.assertEqual(self.ends(first, 0), b"")
        self.ends(self.start("send", name, stdin=self.file(b"two")), 0)
        self.assertEqual(self.ends(late, 0, "left out"), b"two")

    def test_history(self):
        name = self.create("--shape", "broadcast")
        self.ends(self.start("send", name, "--readers", "0", stdin=self.file(b"before")), 0)
        self.assertEqual(self.ends(self.start("recv", name, "--history"), 0), b"before")

    def test_one_receiver_goes_and_the_others_do_not_mind(self):
        name = self.create("--shape", "broadcast", "--blocking", "--data", "65536")
        reader, writer = self.small_pipe()
        sender = self.start("send", name, "--readers", "2", stdin=self.file(DATA))
        slow = self.start("recv", name, stdout=writer)
        fast = self.start("recv", name)
        harness.read_exactly(reader, 10)
        slow.kill()
        self.assertTrue(self.ends(fast, 0) == DATA)
        self.ends(sender, BROKEN, "ended in the middle")

    def test_too_few_receivers(self):
        name = self.create("--shape", "broadcast", "--readers", "2")
        self.ends(self.start("send", name, "--timeout", "0.1"), TIMEOUT, "too few receivers")
        self.ends(self.start("send", name, "--readers", "3"), FAILED, "room for 2 readers")


if __name__ == "__main__":
    harness.main()
