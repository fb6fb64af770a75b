# SPDX-License-Identifier: GPL-2.0-or-later
"""What fills a directory, on random trees: the totals are du's to the byte, and each entry's are a plain reference's.

KSHARED_TREES: how many trees (1000). KSHARED_SEED: the first one's seed (1); that of one that fails is printed.
"""

import collections
import contextlib
import os
import random
import socket
import stat
import subprocess
import sys
import tempfile

from folder import BUILD, WRAPPER
from processes import SCALE

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
import tap

TREES = int(os.environ.get("KSHARED_TREES", "1000")) // int(SCALE)
SEED = int(os.environ.get("KSHARED_SEED", "1"))
TOOL = WRAPPER + [os.path.join(BUILD, "tests/unit/usage-tool")]
BATCH = 50
ON_DISK = 5  # every fifth tree is where TMPDIR is, the others on a tmpfs
PATH_LIMIT = 3500
MEASURES = ("disk", "apparent", "count")

Sum = collections.namedtuple("Sum", MEASURES)


class Maker:
    """One random tree."""

    def __init__(self, top, seed):
        self.random = random.Random(seed)
        self.top = os.fsencode(top)
        self.directories = [self.top]
        self.files = []
        os.mkdir(self.top)

    def name(self):
        """Any bytes that a name may have; short ones mostly."""
        kind = self.random.randrange(8)
        if kind == 0:
            length = self.random.choice((1, 2, 100, 255))
            return bytes(self.random.choice(b"\x01\n\t\x1b\x7f\x80\xff \\\"'*-.~") for _ in range(length))
        if kind == 1:
            return ("ä€\U0001f600\u202e" * 20)[:self.random.randrange(1, 60)].encode()
        return b"%x" % self.random.randrange(1 << self.random.choice((4, 8, 32)))

    def place(self):
        """A new path in some directory, if it is not too long."""
        # The newest directories are taken more often, so that trees get deep.
        index = max(self.random.randrange(len(self.directories)) for _ in range(self.random.choice((1, 1, 4))))
        path = os.path.join(self.directories[index], self.name())
        bad = len(path) > PATH_LIMIT or os.path.basename(path) in (b".", b"..") or os.path.lexists(path)
        return None if bad else path

    def write(self, path):
        """A file with data here and there."""
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
        with contextlib.closing(os.fdopen(fd, "wb")) as file:
            for _ in range(self.random.choice((0, 1, 1, 1, 2, 3))):
                offset = self.random.choice((0, 0, 1, 4096, 1 << 20, 1 << 33))
                # Allocated at once: what is to be allocated later may take more then.
                os.posix_fallocate(file.fileno(), offset, self.random.choice((1, 511, 4096, 4097, 30000)))
            if self.random.randrange(4) == 0:
                os.ftruncate(file.fileno(), self.random.choice((0, 3, 5000, 1 << 40)))
        self.files.append(path)

    def add(self, path):
        kind = self.random.randrange(20)
        if kind < 7:
            os.mkdir(path)
            self.directories.append(path)
        elif kind < 12 or not self.files:
            self.write(path)
        elif kind < 17:
            os.link(self.random.choice(self.files), path, follow_symlinks=False)
        elif kind < 18:
            os.symlink(self.random.choice((self.top, b".", b"/", b"missing")), path)
            self.files.append(path)
        elif kind < 19:
            os.mkfifo(path)
        else:
            self.socket(path)

    def socket(self, path):
        """A socket's path must be short: it is made at the top, and moved."""
        short = os.path.join(os.path.dirname(self.top), b"s")
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(short)
        os.rename(short, path)

    def make(self):
        deep = self.random.randrange(40) == 0
        for _ in range(self.random.choice((0, 3, 30, 60, 120))):
            path = self.place()
            if path:
                self.add(path)
        while deep and len(self.directories[-1]) < PATH_LIMIT:
            self.directories.append(os.path.join(self.directories[-1], b"d"))
            if not os.path.lexists(self.directories[-1]):
                os.mkdir(self.directories[-1])
        if deep and self.files:
            os.link(self.files[0], os.path.join(self.directories[-1], b"end"), follow_symlinks=False)


def reference(top, depth, files):
    """(total, {name: Sum}): one after the other, with nothing but lists and dictionaries."""
    parts = []  # (entry, Sum, inode or None)
    todo = [(os.fsencode(top), None, 0)]
    names = collections.defaultdict(set)
    status = os.lstat(top)
    parts.append((None, Sum(status.st_blocks * 512, status.st_size, 1), None))
    while todo:
        directory, entry, level = todo.pop()
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            own = name if entry is None else entry
            is_dir = stat.S_ISDIR(status.st_mode)
            if files:
                own = os.path.relpath(path, os.fsencode(top))
            inode = None if is_dir or status.st_nlink == 1 else (status.st_dev, status.st_ino)
            if inode:
                names[inode].add(own)
            if not (files and is_dir):
                parts.append((own, Sum(status.st_blocks * 512, status.st_size, 1), inode))
            else:
                parts.append((None, Sum(status.st_blocks * 512, status.st_size, 1), None))
            if is_dir and level < depth:
                todo.append((path, name if entry is None else entry, level + 1))
    sums = collections.defaultdict(lambda: Sum(0, 0, 0))
    counted = set()
    for entry, part, inode in parts:
        if inode and (inode in counted or entry != min(names[inode])):
            continue
        counted.add(inode)
        sums[entry] = Sum(*map(sum, zip(sums[entry], part)))
    total = Sum(*map(sum, zip(*sums.values())))
    sums.pop(None)
    return total, sums


def largest(sums, measure, number):
    """What is to be listed."""
    return sorted(sums.items(), key=lambda item: (-getattr(item[1], measure), item[0]))[:number]


def engine(top, *options):
    """(total, [(name, Sum)], errors) from the engine."""
    done = subprocess.run(TOOL + [*options, top], stdout=subprocess.PIPE, check=True, text=True)
    lines = [line.split(" ") for line in done.stdout.splitlines()]
    items = [(bytes.fromhex(line[5]), Sum(*map(int, line[1:4]))) for line in lines if line[0] == "item"]
    total = next(Sum(*map(int, line[1:])) for line in lines if line[0] == "total")
    return total, items, [line for line in lines if line[0] in ("error", "skip")]


def du(tops, *options):
    """du's totals, in the order of the trees."""
    done = subprocess.run(["du", "-s0", *options, "--", *tops], stdout=subprocess.PIPE, check=True,
                          env=dict(os.environ, LC_ALL="C"))
    return [int(line.split(b"\t")[0]) for line in done.stdout.split(b"\0")[:-1]]


def check(top, seed, totals):
    """What is wrong with the engine's answers on one tree."""
    choice = random.Random(seed)
    number = choice.choice((1, 3, 10, 1000))
    by = choice.randrange(3)
    options = ["-n", str(number), "-b", str(by), "-j", str(choice.choice((1, 2, 8, 32)))]
    depth = choice.choice((0, 1, 2, 5, 1 << 30))
    files = choice.randrange(2) == 1
    for deep, each in ((1 << 30, False), (depth, files)):
        more = ["-d", str(min(deep, (1 << 32) - 1))] + ["-f"] * each
        total, items, errors = engine(top, *options, *more)
        expected, sums = reference(top, deep, each)
        what = f"seed {seed}, {options + more}"
        if deep == 1 << 30 and total != totals:
            yield f"{what}: {total}, du: {totals}"
        if total != expected:
            yield f"{what}: {total}, expected: {expected}"
        if items != largest(sums, MEASURES[by], number):
            yield f"{what}: {items}, expected: {largest(sums, MEASURES[by], number)}"
        if errors:
            yield f"{what}: {errors}"


def batch(places, seeds):
    """What is wrong with any of them. Batches, since du counts many in one run."""
    problems = []
    tops = []
    for seed in seeds:
        tops.append(os.path.join(places[seed % ON_DISK == 0], str(seed)))
        Maker(tops[-1], seed).make()
    measured = [du(tops, "-B1"), du(tops, "-B1", "--apparent-size"), du(tops, "--inodes")]
    for top, seed, *totals in zip(tops, seeds, *measured):
        problems += check(top, seed, Sum(*totals))
    subprocess.run(["rm", "-rf", *tops], check=True)
    return problems


def main():
    checks = tap.Checks()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as shm, tempfile.TemporaryDirectory() as disk:
        for first in range(SEED, SEED + TREES, BATCH):
            seeds = range(first, min(first + BATCH, SEED + TREES))
            checks.result(f"trees {seeds[0]} to {seeds[-1]}", batch((shm, disk), seeds))
    checks.finish()


if __name__ == "__main__":
    main()
