"""Rows of the table, and how they are measured: both sides in turn, or a call in its own process.

Whatever else the machine does slows two sides that run in short turns alike. So a ratio is the
median of the rounds' ratios, and ``ours`` and ``against`` are medians over the rounds. Where that
is not enough, ``use_processor_time`` leaves out of two sides on a CPU what others take.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

MB = 1e6
Rounds = list[tuple[float, float]]  # seconds of our side and of the other, one pair a round


_clock = time.perf_counter


def use_processor_time() -> None:
    """Count the seconds that this process computes, summed over its threads, in place of time."""
    global _clock
    _clock = time.process_time


def clock() -> float:
    return _clock()


def seconds(function: Callable) -> float:
    started = clock()
    function()
    return clock() - started


def in_turn(ours: Callable, against: Callable, rounds: int) -> Rounds:
    """Call both sides ``rounds`` times, and once before that does not count."""
    return [(seconds(ours), seconds(against)) for _ in range(rounds + 1)][1:]


def row(
    name: str, unit: str, ours: float, against: float, ratio: float, *, least=None, most=None
) -> dict:
    """A row that holds where ``ratio`` is at least ``least``, or at most ``most``."""
    return {
        "name": name,
        "ours": round(float(ours), 4),
        "against": round(float(against), 4),
        "unit": unit,
        "ratio": round(float(ratio), 4),
        "target": f"at most {most:g}" if least is None else f"at least {least:g}",
        "holds": bool(ratio <= most if least is None else ratio >= least),
    }


def faster(name: str, rounds: Rounds, least: float) -> dict:
    """A row of seconds; the ratio says how many times faster our side is."""
    ratio = statistics.median(against / ours for ours, against in rounds)
    return row(name, "s", *_medians(rounds), ratio, least=least)


def slower(name: str, rounds: Rounds, most: float) -> dict:
    """A row of seconds; the ratio says how many times as long our side takes."""
    ratio = statistics.median(ours / against for ours, against in rounds)
    return row(name, "s", *_medians(rounds), ratio, most=most)


def rate(name: str, rounds: Rounds, amount: int, unit: str, least: float) -> dict:
    """A row of ``amount`` a second; the ratio says what share of the other's rate ours is."""
    ratio = statistics.median(against / ours for ours, against in rounds)
    ours, against = (amount / middle for middle in _medians(rounds))
    return row(name, unit, ours, against, ratio, least=least)


def bound(name: str, ours: float, against: float, unit: str) -> dict:
    """A row of a figure that may be ``against`` at most."""
    return row(name, unit, ours, against, ours / against, most=1)


def _medians(rounds: Rounds) -> tuple[float, float]:
    ours, against = map(statistics.median, zip(*rounds, strict=True))
    return ours, against


def measured(function: Callable, *arguments, repeats: int = 1) -> tuple[float, float, float]:
    """A call in a process of its own: median seconds, the megabytes it adds, and its peak of them.

    They are resident memory at its highest; pages of mapped files that are in use count.
    """
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(send, function, arguments, repeats))
    process.start()
    send.close()
    try:
        return receive.recv()
    finally:
        process.join()


def _measure(send, function, arguments, repeats) -> None:
    before = _status("VmRSS")
    took = [seconds(lambda: function(*arguments)) for _ in range(repeats)]
    peak = _status("VmHWM")  # not ru_maxrss, in which that of the starting process lives on
    send.send((statistics.median(took), max(0.0, peak - before) / MB, peak / MB))


def _status(name: str) -> int:
    """A figure of this process from /proc, bytes: VmRSS, what is resident, or VmHWM, its peak."""
    fields = Path("/proc/self/status").read_text().split()
    return int(fields[fields.index(f"{name}:") + 1]) * 1024
