"""Rows of the table, and how they are measured: two sides in turn, or a call in its own process.

Other load on the machine slows both sides alike if they alternate quickly, so a ratio is the median
of the rounds' ratios; ``ours`` and ``against`` are medians over the rounds. Where that is not
enough, ``use_processor_time`` excludes the time of other processes from CPU measurements.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

MB = 1e6
Rounds = list[tuple[float, float]]  # seconds of our side and of the other, one pair per round
_clock = time.perf_counter


def use_processor_time() -> None:
    """Measure this process's CPU time, summed over its threads, instead of elapsed time."""
    global _clock
    _clock = time.process_time


def clock() -> float:
    return _clock()


def seconds(function: Callable) -> float:
    started = clock()
    function()
    return clock() - started


def in_turn(ours: Callable, against: Callable, rounds: int) -> Rounds:
    """Time both sides ``rounds`` times, after a warm-up."""
    return [(seconds(ours), seconds(against)) for _ in range(rounds + 1)][1:]


def row(
    name: str, unit: str, ours: float, against: float, ratio: float, *, least=None, most=None
) -> dict:
    """A row that holds if ``ratio`` is at least ``least``, or at most ``most``."""
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
    """A row of seconds; the ratio is how many times faster our side is."""
    ratio = statistics.median(against / ours for ours, against in rounds)
    return row(name, "s", *_medians(rounds), ratio, least=least)


def slower(name: str, rounds: Rounds, most: float) -> dict:
    """A row of seconds; the ratio is how many times as long our side takes."""
    ratio = statistics.median(ours / against for ours, against in rounds)
    return row(name, "s", *_medians(rounds), ratio, most=most)


def rate(name: str, rounds: Rounds, amount: int, unit: str, least: float) -> dict:
    """A row of ``amount`` per second; the ratio is our rate over the other's."""
    ratio = statistics.median(against / ours for ours, against in rounds)
    ours, against = (amount / middle for middle in _medians(rounds))
    return row(name, unit, ours, against, ratio, least=least)


def bound(name: str, ours: float, against: float, unit: str) -> dict:
    """A row of a quantity that may be ``against`` at most."""
    return row(name, unit, ours, against, ours / against, most=1)


def _medians(rounds: Rounds) -> tuple[float, float]:
    ours, against = map(statistics.median, zip(*rounds, strict=True))
    return ours, against


def measured(function: Callable, *arguments, repeats: int = 1) -> tuple[float, float, float]:
    """A call in its own process: median seconds, megabytes added at its peak, and the whole peak.

    Memory is resident memory, including the pages of mapped files in use.
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
    peak = _status("VmHWM")  # not ru_maxrss, which includes the parent's peak
    send.send((statistics.median(took), max(0.0, peak - before) / MB, peak / MB))


def _status(name: str) -> int:
    """Resident memory (VmRSS) of this process or its peak (VmHWM), from /proc, bytes."""
    fields = Path("/proc/self/status").read_text().split()
    return int(fields[fields.index(f"{name}:") + 1]) * 1024
