# SPDX-License-Identifier: GPL-2.0-or-later
"""The question "ipc" of bench/run: messages between two processes, the ring beside other ways to send them.

bench-ipc measures; see bench/ipc/ipc.c. Here are the tables, which have a line for each way and a column for each size, what is wanted
of the ring, and the graphs.
"""

import os
import statistics
import subprocess
import sys

from folder import BUILD

SIZES = (64, 1024, 4096, 65536, 1048576)
SMALL = (8, 32, 48, 56)
LOADS = {"idle": "nothing else to do", "busy": "both processors have another process that never sleeps"}
RING, FLOOR = "kshared ring", "floor: a cache line to and fro"
ADAPTIVE = f"{RING}|adaptive"
ROUNDS = 2  # in a pass; even, so that each lane is early as often as late
WARM_US, RUN_US = 10_000, 40_000
QUICK = 20  # so many times shorter
TIMEOUT = 600
AERON = 37.1  # M msg/s of 64 bytes, one way: measured once by hand; it is no Debian package

# Work: title, which ways of waiting are lines of its table.
TABLES = [
    ("one way", "One way: M messages/s; GB/s at 64 KiB and 1 MiB", ("spinning", "blocking", "adaptive")),
    ("round trip p50", "Round trip, spinning: µs, median (quartiles of the rounds' medians), 99th percentile",
     ("spinning", "adaptive")),
    ("round trip p50", "Round trip, blocking: the same", ("blocking", "adaptive")),
    ("hand-over", "Handing over alone, payload not touched: ns for a message", ("spinning", "blocking", "adaptive")),
]


def measure(quick):
    """One pass. Return: (measurements, remarks); None if it failed."""
    command = [os.path.join(BUILD, "bench", "ipc", "bench-ipc"),
               "--warm-us", str(WARM_US // (QUICK if quick else 1)), "--run-us", str(RUN_US // (QUICK if quick else 1)),
               "--rounds", str(1 if quick else ROUNDS)]
    for size in SMALL + SIZES:
        command += ["--size", str(size)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        print(f"bench: ipc did not end within {TIMEOUT} s", file=sys.stderr)
        return None
    if done.returncode:
        print(f"bench: ipc ended with status {done.returncode}", file=sys.stderr)
        return None
    measurements, remarks = [], compared()
    for line in done.stdout.splitlines():
        if line.startswith("# "):
            remarks.append(line[2:])
        else:
            group, lane, number, value = line.split("\t")
            measurements.append((group, lane, int(number), float(value)))
    return measurements, remarks


def compared():
    """What was compared with, and what was not."""
    versions = []
    for package in ("libboost-dev", "libzmq3-dev", "libnng-dev", "libck-dev", "iceoryx"):
        answer = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], check=False,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if answer.returncode == 0 and answer.stdout:
            versions.append(f"{package} {answer.stdout}")
    said = [f"Aeron and iceoryx2 are no packages of Debian and were not measured; Aeron's {AERON} M messages/s are of "
            "another day on a machine like this one",
            "POSIX mq has no 1 MiB: RLIMIT_MSGQUEUE counts whole queues. ck_ring has no way to sleep"]
    return said + ([f"compared with {', '.join(versions)}"] if versions else [])


# ---- figures ----


class Figures:
    """Groups as in bench/run, asked for by work, load and size."""

    def __init__(self, groups, quartiles):
        self.groups = groups
        self.quartiles = quartiles

    def lanes(self, work, load, size):
        return self.groups.get(f"{work}|{load}|{size}", {})

    def median(self, work, load, size, lane):
        found = self.lanes(work, load, size).get(lane)
        return statistics.median(found.values.values()) if found else None

    def ratio(self, work, load, size, lane, base):
        """Median of the ratios within a round."""
        lanes = self.lanes(work, load, size)
        if lane not in lanes or base not in lanes:
            return None
        return statistics.median(lanes[lane].ratios(lanes[base]))

    def beside(self, work, load, size, lane, others):
        """The lane's ratio to whichever of the others is the fastest beside it: (ratio, name)."""
        found = [(ratio, other) for other in others
                 if (ratio := self.ratio(work, load, size, lane, other)) is not None]
        return max(found, default=None)

    def peers(self, work, load, size, waits):
        """The lanes that are neither the ring's nor a floor."""
        return [lane for lane in self.lanes(work, load, size)
                if not lane.startswith((RING, "floor")) and lane.split("|")[1] in waits]


def say_size(size):
    for unit, scale in (("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size // scale} {unit}"
    return f"{size} B"


def say_lane(lane):
    name, wait = lane.split("|")
    return name if name.startswith("floor") else f"{name}, {wait}"


def three(value):
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def spread(scaled):
    low, middle, high = sorted(scaled)
    return f"{three(middle)} ({three(low)}–{three(high)})"


def cell(figures, work, load, size, lane):
    found = figures.lanes(work, load, size).get(lane)
    if not found:
        return "–"
    parts = figures.quartiles(list(found.values.values()))
    if work == "one way":
        return spread([(size if size >= 65536 else 1000) / part for part in parts])
    if work == "hand-over":
        return spread(list(parts))
    last = figures.median("round trip p99", load, size, lane)
    return f"{spread([part / 1000 for part in parts])}, {three(last / 1000)}"


def all_lanes(figures, work, load, waits):
    found = {}
    for size in SIZES:
        for lane in figures.lanes(work, load, size):
            if lane.split("|")[1] in waits:
                found[lane] = True
    return sorted(found, key=lambda lane: (not lane.startswith(RING), not lane.startswith("floor")))


def small_rows(figures):
    rows = []
    for size in SMALL + (64,):
        floor = figures.quartiles(list(figures.lanes("round trip p50", "idle", size)[FLOOR + "|spinning"].values.values()))
        ours = figures.quartiles(list(figures.lanes("round trip p50", "idle", size)[RING + "|spinning"].values.values()))
        ratio = figures.ratio("round trip p50", "idle", size, RING + "|spinning", FLOOR + "|spinning")
        rows.append((say_size(size), spread(list(floor)), spread(list(ours)), f"{ratio:.2f}"))
    return rows


# ---- what is wanted ----


def cells(figures, works, load, sizes, lane, others, limit):
    """[(ratio, limit, where)]. @others: gives the lanes to compare with, by work and size."""
    found = []
    for work in works:
        for size in sizes:
            beside = figures.beside(work, load, size, lane, others(work, size))
            if beside:
                found.append((beside[0], limit, f"of {say_lane(beside[1])}, {work.replace(' p50', '')}, {say_size(size)}"))
    return found


def flat(figures, lane):
    values = [value for size in SIZES if (value := figures.median("hand-over", "idle", size, lane))]
    return [(max(values) / min(values), 1.3, "from 64 B to 1 MiB")] if len(values) == len(SIZES) else []


def aeron(figures):
    best = min((value, wait) for wait in ("spinning", "adaptive")
               if (value := figures.median("one way", "idle", 64, f"{RING}|{wait}")))
    return [(best[0] * AERON / 1000, 1, f"of its time, {best[1]}")]


def goals(figures):
    """[(what is wanted, measured, met)]. A ratio is of times, so below 1 the ring is faster."""
    spinning, blocking, every = f"{RING}|spinning", f"{RING}|blocking", ("spinning", "blocking", "adaptive")
    works = ("one way", "round trip p50", "hand-over")

    def floor(work, size):
        return [FLOOR + "|spinning"]

    wanted = [("spinning round trip ≤ 1.25 × the floor at 64 B, ≤ 1.1 × up to 48 B",
               cells(figures, works[1:2], "idle", (8, 32, 48), spinning, floor, 1.1) +
               cells(figures, works[1:2], "idle", (64,), spinning, floor, 1.25))]
    for load in LOADS:
        def peers(work, size, load=load):
            return figures.peers(work, load, size, ("blocking",) if work == works[1] else every)

        def own(work, size):
            return [spinning, blocking]

        wanted += [
            (f"blocking round trip ≤ the best peer's, {load}",
             cells(figures, works[1:2], load, SIZES, blocking, peers, 1)),
            (f"adaptive ≤ 1.15 × the better of spinning and blocking, {load}",
             cells(figures, works, load, SIZES, ADAPTIVE, own, 1.15)),
            (f"one way ahead of every peer, adaptive, {load}", cells(figures, works[:1], load, SIZES, ADAPTIVE, peers, 1)),
        ]
    wanted.append((f"one way at 64 B ahead of Aeron's {AERON} M messages/s", aeron(figures)))
    for peer, size, times in (("UNIX stream", 64, 25), ("UNIX seqpacket", 1048576, 1.6)):
        def of_peer(work, size, peer=peer):
            return [f"{peer}|spinning", f"{peer}|blocking"]

        wanted.append((f"one way at {say_size(size)} at least {times} times {peer} (≤ {1 / times:.3f})",
                       cells(figures, works[:1], "idle", (size,), ADAPTIVE, of_peer, 1 / times)))
    wanted += [(f"handing over flat within 1.3 ×, {lane.split('|')[1]}", flat(figures, lane)) for lane in (spinning, ADAPTIVE)]
    found = []
    for what, held in wanted:
        missed = [f"{ratio:.3g} {where}" for ratio, limit, where in held if ratio > limit]
        top = max(held, key=lambda one: one[0] / one[1])
        found.append((what, f"{len(held) - len(missed)} of {len(held)}; " +
                      ("; ".join(missed) if missed else f"at most {top[0]:.3g} {top[2]}"), not missed))
    return found


def sections(groups, quartiles, table):
    """The figures as Markdown."""
    figures, parts = Figures(groups, quartiles), []
    for load, about in LOADS.items():
        parts.append(f"### {load.capitalize()}: {about}")
        for work, title, waits in TABLES:
            rows = [[say_lane(lane)] + [cell(figures, work, load, size, lane) for size in SIZES]
                    for lane in all_lanes(figures, work, load, waits)]
            parts += [title + ".", table([""] + [say_size(size) for size in SIZES], rows)]
    if all(figures.lanes("round trip p50", "idle", size) for size in SMALL):
        parts += ["### Short messages, idle: round trip spinning, ns",
                  table(("", "floor", "kshared ring", "ratio within a round"), small_rows(figures))]
    parts += ["### Wanted", "Ratios are of times, within a round: below 1 the ring is faster.",
              table(("wanted", "cells that meet it; which do not", ""),
                    [(what, measured, "met" if met else "**missed**") for what, measured, met in goals(figures)])]
    return "\n\n".join(parts)


# ---- the graphs ----

COLOURS = ["#d62728", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf", "#aa4499", "#117733",
           "#ddaa33", "#661100"]
PANELS = [
    ("one way", ("spinning", "blocking", "adaptive"), "one way: GB/s"),
    ("round trip p50", ("spinning", "adaptive"), "round trip, spinning: µs"),
    ("round trip p50", ("blocking", "adaptive"), "round trip, blocking: µs"),
    ("hand-over", ("spinning", "blocking", "adaptive"), "handing over alone: ns"),
]


def draw(groups, load, path, quartiles):
    """Every way by size: one line for each, of a peer's ways to wait the faster one."""
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "kshared"
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot
    figures = Figures(groups, quartiles)
    figure, panels = pyplot.subplots(2, 2, figsize=(11, 8))
    colours = {}
    for axes, (work, waits, label) in zip(panels.flat, PANELS):
        series = {}
        for lane in all_lanes(figures, work, load, waits):
            name = lane.split("|")[0]
            series.setdefault(f"{RING}, adaptive" if lane == ADAPTIVE else name, []).append(lane)
        for name, of_name in series.items():
            points = []
            for size in SIZES:
                best = min(((figures.median(work, load, size, lane), lane) for lane in of_name
                            if lane in figures.lanes(work, load, size)), default=None)
                if best:
                    parts = quartiles(list(figures.lanes(work, load, size)[best[1]].values.values()))
                    scale = {"one way": lambda ns, size=size: size / ns, "hand-over": lambda ns: ns}.get(work, lambda ns: ns / 1000)
                    points.append((size, *sorted(map(scale, parts))))
            ours = name.startswith(RING)
            colour = colours.setdefault(name, "#2a6fb0" if ours else "#000000" if name.startswith("floor")
                                        else COLOURS[len(colours) % len(COLOURS)])
            axes.errorbar([p[0] for p in points], [p[2] for p in points],
                          yerr=[[p[2] - p[1] for p in points], [p[3] - p[2] for p in points]], label=name, color=colour,
                          linewidth=2.6 if ours else 1, marker="o" if ours else ".",
                          linestyle=":" if name.startswith("floor") else "--" if name != RING and ours else "-", capsize=2)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(SIZES, [say_size(size) for size in SIZES])
        axes.minorticks_off()
        axes.set_title(label, fontsize=10)
        axes.grid(True, which="major", linewidth=0.3)
    handles = {label: handle for axes in panels.flat for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=5, fontsize=8)
    figure.suptitle(f"Messages between two processes, {load}; of each the faster way to wait", fontsize=11)
    figure.tight_layout(rect=(0, 0.07, 1, 0.98))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
