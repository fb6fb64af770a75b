# SPDX-License-Identifier: GPL-2.0-or-later
"""What fills a directory with random mounts in it: nothing is counted twice, and nothing is missing.

The reference goes down every path there is, and adds up each file and directory that it meets once. In a directory that is above itself
there nothing is counted but what is mounted in it. Mounts are in a name space of this process.

KSHARED_LAYOUTS: how many (250). KSHARED_SEED: the first one's seed (1); that of one that fails is printed.
"""

import contextlib
import ctypes
import fnmatch
import json
import os
import random
import stat
import subprocess
import sys
import tempfile

import harness
from folder import BUILD, WRAPPER, environment
from top import CLONE_NEWNS, MS_BIND, MS_PRIVATE, MS_REC, mount

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
import tap

LAYOUTS = int(os.environ.get("KSHARED_LAYOUTS", "250")) // int(harness.SCALE) or 1
SEED = int(os.environ.get("KSHARED_SEED", "1"))
TOOL = WRAPPER + [os.path.join(BUILD, "tests/unit/usage-tool")]
BATCH = 50
MOUNTS_MAX = 40
PLACES_MAX = 4000
EXPORTED = 10  # every tenth is exported, too
NAMES = "abcde"
DETACH = 2


def unmount(path):
    if harness.libc.umount2(os.fsencode(path), DETACH):
        raise OSError(ctypes.get_errno(), f"umount {path}")


class TooLarge(Exception):
    pass


class Layout:
    """Directories and files on a tmpfs or several, and what is mounted on what."""

    def __init__(self, top, seed):
        self.random = random.Random(seed)
        self.top = top
        self.mounted = 0
        mount("test", top, "tmpfs", options="mode=755")
        for path in ("in", "out"):
            os.mkdir(os.path.join(top, path))
        for _ in range(self.random.choice((5, 15, 30))):
            self.make()
        for _ in range(self.random.choice((1, 2, 4, 8, 12))):
            with contextlib.suppress(OSError):
                self.change()

    def places(self, directories):
        """All paths of directories, or of files, that can be seen; loops only once round."""
        found = []
        todo = [os.path.join(self.top, "in"), os.path.join(self.top, "out")]
        while todo:
            path = todo.pop()
            if path.count("/") > self.top.count("/") + 7:
                continue
            if not os.path.isdir(path):
                continue  # one of the first two is gone
            if directories:
                found.append(path)
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    elif not directories:
                        found.append(entry.path)
            if len(found) > PLACES_MAX:
                raise TooLarge
        return sorted(found)

    def any(self, directories=True):
        found = self.places(directories)
        if not found:
            raise FileNotFoundError
        return self.random.choice(found)

    def make(self, where=None):
        """A directory or a file somewhere."""
        path = os.path.join(where or self.any(), self.random.choice(NAMES))
        with contextlib.suppress(OSError):
            kind = self.random.randrange(5)
            if kind < 3:
                os.mkdir(path)
            elif kind < 4:
                with open(path, "xb") as file:
                    os.posix_fallocate(file.fileno(), 0, 4096 << self.random.randrange(8))
            else:
                os.link(self.any(False), path)

    def bind(self, directories):
        if self.mounted >= MOUNTS_MAX:
            return
        source, target = self.any(directories), self.any(directories)
        kind = self.random.randrange(4)
        if kind == 0:
            target = source
        elif kind == 1:  # in, or above, itself
            inside = [path for path in self.places(directories) if path.startswith(source + "/")]
            source, target = source, self.random.choice(inside or [target])
            if self.random.randrange(2):
                source, target = target, source
        mount(source, target, flags=MS_BIND | (MS_REC if self.random.randrange(3) == 0 else 0))
        with open("/proc/self/mountinfo", encoding="utf-8") as table:
            self.mounted = sum(self.top in line for line in table)

    def delete(self):
        """A directory or file that is mounted somewhere, perhaps, while it is."""
        path = self.any(self.random.randrange(2) == 0)
        if self.random.randrange(2):
            name = self.random.choice(NAMES)
            others = self.places(os.path.isdir(path))
            if not self.bind_one(path, self.random.choice(others)):
                return
            if self.random.randrange(2):
                with contextlib.suppress(OSError):
                    os.link(path, os.path.join(self.any(), name))
        if os.path.isdir(path):
            for name in os.listdir(path):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(path, name))
            os.rmdir(path)
        else:
            os.unlink(path)

    def bind_one(self, source, target):
        if self.mounted >= MOUNTS_MAX:
            return False
        mount(source, target, flags=MS_BIND)
        self.mounted += 1
        return True

    def change(self):
        kind = self.random.randrange(20)
        if kind < 11:
            self.bind(True)
        elif kind < 13:
            self.bind(False)
        elif kind < 15 and self.mounted < MOUNTS_MAX:
            path = self.any()
            mount("test", path, "tmpfs", options="mode=755")
            self.mounted += 1
            for _ in range(4):
                self.make(path)
        elif kind < 17:
            self.delete()
        elif kind < 18:
            os.rename(self.any(), os.path.join(self.any(), self.random.choice(NAMES)))
        else:
            self.make()


class Options:
    """Which entries are counted."""

    def __init__(self, choice, top):
        self.one = choice.randrange(5) == 0
        self.depth = choice.choice((0, 1, 2, 3)) if choice.randrange(4) == 0 else None
        self.patterns = []
        if choice.randrange(4) == 0:
            self.patterns.append(choice.choice(NAMES))
        if choice.randrange(3) == 0:
            way = [os.path.relpath(path, top) for path in descendants(top)]
            if way:
                path = choice.choice(way)
                self.patterns.append(choice.choice((path, path + "/*", path + "/" + choice.choice(NAMES) + "*")))

    def excludes(self, name, path):
        return any(fnmatch.fnmatchcase(path if "/" in pattern else name, pattern) for pattern in self.patterns)

    def arguments(self, tool):
        words = ["-x"] * self.one + (["-d", str(self.depth)] if self.depth is not None else [])
        for pattern in self.patterns:
            words += ["-e" if tool else "--exclude", pattern]
        return words


def descendants(top):
    """Directories below, not too deep."""
    found = []
    for path, directories, _ in os.walk(top):
        found += [os.path.join(path, name) for name in directories]
        if path.count("/") > top.count("/") + 4:
            directories.clear()
        if len(found) > PLACES_MAX:
            break
    return sorted(found)


def mount_of(path):
    """The number of the mount that it is in."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="utf-8") as info:
            return next(line for line in info if line.startswith("mnt_id:"))
    finally:
        os.close(fd)


def reference(top, options):
    """(bytes, number) of what can be seen."""
    status = os.lstat(top)
    own = status.st_dev
    blocks = {(own, status.st_ino): status.st_blocks}
    todo = [(top, "", 0, frozenset([(own, status.st_ino)]), False)]
    steps = 0
    while todo:
        directory, way, level, above, looping = todo.pop()
        steps += 1
        if steps > PLACES_MAX:
            raise TooLarge
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            below = f"{way}/{name}" if way else name
            if options.excludes(name, below):
                continue
            status = os.lstat(path)
            which = (status.st_dev, status.st_ino)
            if options.one and status.st_dev != own:
                continue
            loops = which in above or (looping and mount_of(path) == mount_of(directory))
            if not loops:
                blocks[which] = status.st_blocks
            if stat.S_ISDIR(status.st_mode) and (options.depth is None or level < options.depth):
                todo.append((path, below, level + 1, above | {which}, loops))
    return 512 * sum(blocks.values()), len(blocks)


def engine(top, options, threads):
    """((bytes, number), errors, everything it printed but times)."""
    done = subprocess.run(TOOL + ["-n", "1000", "-j", str(threads), *options.arguments(True), top], stdout=subprocess.PIPE, check=True,
                          text=True)
    lines = done.stdout.splitlines()
    total = next(line.split(" ") for line in lines if line.startswith("total "))
    errors = [line for line in lines if line.startswith("error ")]
    return (int(total[1]), int(total[3])), errors, [line for line in lines if line.split(" ")[0] not in ("rss", "ms")]


def exported(top, options):
    """(bytes, number) of what --export writes, as ncdu adds it up."""
    done = subprocess.run(harness.program("kshared") + ["folder", "top", "--export", *options.arguments(False), top], env=environment(),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True)
    links = set()
    size = number = 0
    todo = [(json.loads(done.stdout)[3], None)]
    while todo:
        item, dev = todo.pop()
        info = item[0] if isinstance(item, list) else item
        dev = info.get("dev", dev)
        if isinstance(item, list):
            todo += [(part, dev) for part in item[1:]]
        if "hlnkc" in info:
            if (dev, info["ino"]) in links:
                continue
            links.add((dev, info["ino"]))
        size += info.get("dsize", 0)
        number += 1
    return size, number


def check(base, seed):
    """What is wrong with the answers on one layout."""
    top = os.path.join(base, str(seed))
    os.mkdir(top)
    try:
        layout = Layout(top, seed)
        choice = random.Random(seed)
        place = os.path.join(top, "in") if choice.randrange(3) else choice.choice(layout.places(True) or [top])
        if not os.path.isdir(place):
            place = top
        plain = random.Random()
        plain.randrange = lambda _: 1
        for options in (Options(plain, place), Options(choice, place)):
            expected = reference(place, options)
            (got, errors, once), (_, _, again) = (engine(place, options, threads) for threads in (1, 8))
            what = f"seed {seed}, {place[len(top):]} {options.arguments(True)}"
            if got != expected:
                yield f"{what}: {got}, expected: {expected}"
            if errors:
                yield f"{what}: {errors}"
            if once != again:
                yield f"{what}: with 8 threads {again}, with one {once}"
            if seed % EXPORTED == 0 and exported(place, options)[0] != expected[0]:
                yield f"{what}: exported {exported(place, options)}, expected: {expected}"
    except TooLarge:
        pass
    finally:
        unmount(top)
        os.rmdir(top)


def main():
    if os.geteuid() != 0 or harness.libc.unshare(CLONE_NEWNS):
        print("1..0 # SKIP mounts are root's")
        return
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    checks = tap.Checks()
    with tempfile.TemporaryDirectory() as base:
        mount("test", base, "tmpfs")
        for first in range(SEED, SEED + LAYOUTS, BATCH):
            seeds = range(first, min(first + BATCH, SEED + LAYOUTS))
            checks.result(f"layouts {seeds[0]} to {seeds[-1]}", [problem for seed in seeds for problem in check(base, seed)])
        unmount(base)
    checks.finish()


if __name__ == "__main__":
    main()
