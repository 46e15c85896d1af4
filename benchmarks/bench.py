"""Measure what the project promises of its speed: each row beside what it is held against.

    make bench [DATA=UTKFace.tar.gz]         make bench-long DATA=UTKFace.tar.gz

Prints one table and writes outputs/bench.json. Rows on real faces are left out without them; the
long one trains two networks until they order faces well.
"""

import argparse
import os
import platform
import sys
from functools import partial
from pathlib import Path

from benchmarks import faces, learning, networks
from benchmarks.rows import use_processor_time
from utkcmp.files import write_json
from utkcmp.report.publish import END, replace_block
from utkcmp.run import PROJECT, environment, outputs_root

BEGIN = "<!-- speed: written by `make bench-long BENCH=--readme` -->"

GROUPS = {
    "pairs": faces.pairs_rows,
    "decoding": faces.decoding_rows,
    "training": networks.training_rows,
    "evaluation": networks.evaluation_rows,
    "transfer": networks.transfer_rows,
}
ON_REAL_FACES = {"data": faces.data_rows, "memory": faces.memory_rows}
LONG = {"learning": learning.learning_rows}


def machine() -> dict:
    """The machine, its software, and its load average at the end."""
    here = environment()
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": here["cpu_threads"],
        "device": here["device"],
        "load": round(os.getloadavg()[0], 1),
        "torch": here["packages"]["torch"],
        "commit": here["git_commit"],
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def table(rows: list[dict]) -> str:
    """One line a row, and whether it holds."""
    width = max(len(one["name"]) for one in rows)
    return "\n".join(
        f"{one['name']:{width}}  {one['ours']:10.4g} {one['against']:10.4g} {one['unit']:8}"
        f"{one['ratio']:9.4g}  {one['target']:14} {'holds' if one['holds'] else 'FALLS SHORT'}"
        for one in rows
    )


def plain(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{float(f'{value:.3g}'):,g}"


def readme_block(here: dict, rows: list[dict]) -> str:
    """The rows as the table of docs/speed.md, between its marking lines."""
    lines = [
        f"| {one['name']} | {plain(one['ours'])} {one['unit']} | {plain(one['against'])} "
        f"{one['unit']} | "
        f"{one['ratio']:.3g} | {one['target']}{'' if one['holds'] else ': **falls short**'} |"
        for one in rows
    ]
    device = here["processor"] if here["device"] == "cpu" else here["device"]
    measured = f"{device}, {here['cores']} cores, PyTorch {here['torch']}, commit {here['commit']}"
    head = ["| what | ours | against | ratio | target |", "|---|---|---|---|---|"]
    return "\n".join([BEGIN, *head, *lines, "", f"Measured on: {measured}.", END])


def keep(rows: list[dict]) -> None:
    """Write what has been measured so far, so that a failing row does not cost the others."""
    write_json({"machine": machine(), "rows": rows}, outputs_root() / "bench.json")


def main(arguments: list[str] | None = None) -> int:
    source = os.environ.get("UTKFACE")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="group", help="only these rows")
    parser.add_argument("--long", action="store_true", help="the row that trains two networks, too")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="count the seconds that the two sides compute, for a machine that is busy otherwise",
    )
    parser.add_argument("--readme", action="store_true", help="and put it into docs/speed.md")
    given = parser.parse_args(arguments)
    if given.processor_time:
        use_processor_time()
    calls = dict(GROUPS)
    if source:
        on_faces = ON_REAL_FACES | (LONG if given.long else {})
        calls |= {name: partial(call, source) for name, call in on_faces.items()}
    if unknown := set(given.groups) - set(calls):
        parser.error(f"no rows are called {', '.join(unknown)}: expected {', '.join(calls)}")
    rows = []
    for name in given.groups or calls:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        rows += calls[name]()
        keep(rows)
    print(table(rows))
    if given.readme:
        replace_block(PROJECT / "docs" / "speed.md", readme_block(machine(), rows))
    return 0 if all(one["holds"] for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
