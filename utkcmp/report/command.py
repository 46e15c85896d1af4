"""The command that runs the outdated notebooks with papermill and renders the report.

    utkcmp-report -f params/quick.yaml -p epochs=3 --data UTKFace.tar.gz

Executed notebooks are in ``outputs/<run>/notebooks/``, the report in ``outputs/<run>/report/``.
"""

import argparse
import logging
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utkcmp.data.archives import DataError
from utkcmp.files import RunError
from utkcmp.params import ParameterError, load_files, parse_override
from utkcmp.report.execute import GOES_ON, clock
from utkcmp.report.plan import ReportError
from utkcmp.report.runner import ENVIRONMENT_DATA, make_report
from utkcmp.run import PROJECT, outputs_root

INTERRUPTED = f"interrupted: {GOES_ON}"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="utkcmp-report", description="Run the notebooks and render the report."
    )
    add = parser.add_argument
    add("-f", "--file", action="append", default=[], help="parameter file; later ones override")
    add("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="overrides")
    add("--data", help="folder or archive of faces, instead of what the parameters say")
    add("--only", action="append", default=[], metavar="NOTEBOOK", help="this and those it needs")
    add("--no-run", action="store_true", help="only render what has been run")
    return parser.parse_args(argv)


def _command(args: argparse.Namespace, given: Mapping[str, Any]) -> dict[str, str]:
    """The command that reproduces this run; of paths outside the project only the name is kept.

    given: the parameters. If they take the data from ``$UTKFACE``, ``DATA`` states its value.
    """
    files, ours = [Path(file).resolve() for file in args.file], PROJECT / "params"
    from_environment = given.get("data") == ENVIRONMENT_DATA
    source = os.environ.get(ENVIRONMENT_DATA[1:]) if from_environment else args.data
    words = {
        "PARAMS": [f"params/{one.name}" if one.parent == ours else one.name for one in files],
        "SET": [
            re.sub(r"=\s*[/~].*/", "=/path/to/", re.sub(r",\s+", ",", text))
            for text in args.parameter
        ],
        "DATA": [f"/path/to/{Path(source).name}"] if source else [],
    }
    line = [f"{name}={shlex.quote(' '.join(word))}" for name, word in words.items() if word]
    return {"make": " ".join(["make report", *line])}


def main(argv: list[str] | None = None, **options: Any) -> int:
    """Run the command line; returns 0, 1 for any error, 130 if interrupted.

    options: passed to ``make_report``.
    """
    args = _arguments(argv)
    started = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    for name in ("papermill", "asyncio", "traitlets"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ["UTKCMP_OUTPUTS"] = str(outputs_root().resolve())  # kernels run in another folder
    try:
        for place, file in enumerate(args.file):
            if (PROJECT / file).is_file() and not Path(file).exists():  # shipped with the package
                args.file[place] = str(PROJECT / file)
        given = load_files(args.file) | dict(map(parse_override, args.parameter))
        if args.data:
            given["data"] = str(Path(args.data).resolve())
        options |= {"only": args.only, "execute_notebooks": not args.no_run}
        index = make_report(given, command=_command(args, given), **options)
    except KeyboardInterrupt:
        print(f"\n{INTERRUPTED}", file=sys.stderr)
        return 130
    except (ReportError, ParameterError, DataError, RunError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        where, reason = error.filename or outputs_root(), error.strerror or str(error)
        print(f"{where}: {reason.lower()}; fix that and run again: {GOES_ON}", file=sys.stderr)
        return 1
    shown = index.relative_to(Path.cwd()) if index.is_relative_to(Path.cwd()) else index
    print(f"{shown}   {clock(time.monotonic() - started)}")
    return 0
