"""Measure what the project promises of its speed: each row beside what it is held against.

    make bench [DATA=UTKFace.tar.gz]

Prints one table and writes outputs/bench.json. Rows on real faces are left out without them.
"""

import json
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from utkcmp.faces import index_faces
from utkcmp.images import cache_images
from utkcmp.pairs import sample_pairs
from utkcmp.run import atomic, environment, outputs_root

MB = 1e6


def measured(function: Callable, *arguments, repeats: int = 1) -> tuple[float, float]:
    """Median seconds of a call and the megabytes it adds at most, in a process of its own."""
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
    before, seconds = _resident(), []
    for _ in range(repeats):
        started = time.perf_counter()
        function(*arguments)
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    send.send((statistics.median(seconds), max(0.0, peak - before) / MB))


def _resident() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def bound(name: str, ours: float, against: float, unit: str) -> dict:
    """A row that holds where ``ours`` does not pass the bound ``against``."""
    ratio = ours / against
    return {
        "name": name,
        "ours": round(ours, 4),
        "against": against,
        "unit": unit,
        "ratio": round(ratio, 4),
        "target": f"at most {against:g} {unit}",
        "holds": ratio <= 1,
    }


def draw_pairs(faces: int, count: int) -> None:
    ages = np.random.default_rng(0).integers(1, 117, faces).astype(np.int16)
    assert len(sample_pairs(ages, data_size=count)) == count


def pairs_rows() -> list[dict]:
    rows = []
    for faces, seconds, megabytes in ((16_500, 0.3, 100), (10_000_000, 10, 1000)):
        took, added = measured(draw_pairs, faces, 100_000, repeats=3)
        name = f"100,000 pairs of {faces:,} faces"
        rows += [bound(name, took, seconds, "s"), bound(f"{name}, memory", added, megabytes, "MB")]
    return rows


def prepare_faces(source: str, cache: str) -> None:
    faces = index_faces(source, cache=cache, progress=False)
    cache_images(source, faces, 64, cache=cache, progress=False)


def data_rows(source: str) -> list[dict]:
    folder = tempfile.mkdtemp()
    try:
        first, _ = measured(prepare_faces, source, folder)
        again, _ = measured(prepare_faces, source, folder)
    finally:
        shutil.rmtree(folder)
    return [
        bound("index and cache of the faces at 64 px, first time", first, 60, "s"),
        bound("index and cache of the faces at 64 px, second time", again, 1, "s"),
    ]


def machine() -> dict:
    """What the figures were measured on."""
    here = environment()
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "device": here["device"],
        "torch": here["packages"]["torch"],
        "commit": here["git_commit"],
    }


def main() -> int:
    rows = pairs_rows()
    if source := os.environ.get("UTKFACE"):
        rows += data_rows(source)
    width = max(len(one["name"]) for one in rows)
    for one in rows:
        verdict = "holds" if one["holds"] else "FALLS SHORT"
        print(
            f"{one['name']:{width}}  {one['ours']:9.3f} {one['unit']:2}   "
            f"{one['target']:15} {verdict}"
        )
    with atomic(outputs_root() / "bench.json") as temporary:
        temporary.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    return 0 if all(one["holds"] for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
