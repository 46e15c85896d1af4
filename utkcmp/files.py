"""Atomic writes of files and folders, and strict readers of JSON, CSV and YAML."""

import contextlib
import glob
import json
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import yaml

DAY = 86_400  # seconds; another machine's temporary file of this age counts as abandoned


class RunError(ValueError):
    """An unusable file of a run; the message gives its path and the remedy."""


def printable(text: str) -> str:
    """``text`` with unprintable characters escaped, as in ``\\n``."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def percent(share: float) -> str:
    """A confidence as text, never rounded up.

    >>> percent(0.599), percent(0.9996)
    ('59%', 'over 99%')
    """
    return "over 99%" if 0.99 < share < 1 else f"{int(100 * share + 1e-9)}%"


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside ``path`` that replaces it only if the block succeeds.

    >>> import tempfile
    >>> with atomic(Path(tempfile.mkdtemp()) / "a.txt") as temporary:
    ...     _ = temporary.write_text("whole or not at all")
    """
    with _temporary(path) as temporary:
        temporary.touch(exist_ok=False)
        yield temporary
        temporary.replace(path)


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces ``folder`` only if the block succeeds."""
    with _temporary(folder) as new, _temporary(folder) as old:
        new.mkdir()
        yield new
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process has just made it
                raise


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` whose name holds the process and host; remove it at the end.

    Leftovers of killed processes are removed too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    form = rf"\.{re.escape(path.name)}\.(\d+)@(.*)\.[0-9a-f]{{8}}{re.escape(path.suffix)}"
    for left in path.parent.glob(f".{glob.escape(path.name)}.*@*"):
        with contextlib.suppress(OSError):  # removed meanwhile by another process
            if name := re.fullmatch(form, left.name):
                ours, recent = name[2] == platform.node(), time.time() - left.stat().st_mtime < DAY
                if not (psutil.pid_exists(int(name[1])) if ours else recent):
                    _remove(left)
    token = f"{os.getpid()}@{platform.node()}.{uuid.uuid4().hex[:8]}"
    temporary = path.with_name(f".{path.name}.{token}{path.suffix}")
    try:
        yield temporary
    except OSError as error:
        if str(error.filename) == str(temporary):  # report the path that the caller knows
            error.filename = str(path)
        raise
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table atomically, without its index."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


def write_json(value: Any, path: Path, **options) -> None:
    """Write a value as JSON atomically; options are those of ``json.dumps``."""
    text = json.dumps(value, indent=2, **options)
    with atomic(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises OSError, or ValueError if it is not valid JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{path.name} is no JSON") from None


def is_made_with(table: Path, settings: dict) -> bool:
    """Whether ``table`` exists and was made with ``settings``, as the JSON file beside it records.

    If not, removes the table and records ``settings`` for the next one.
    """
    note = table.with_suffix(".json")
    with contextlib.suppress(OSError, ValueError):
        if read_json(note) == settings:
            return table.exists()
    table.unlink(missing_ok=True)
    write_json(settings, note)
    return False


def read_table(path: Path, columns: Iterable[str] = (), numbers: Iterable[str] = (), **options):
    """Read a CSV file of a run as a DataFrame; options are those of ``pandas.read_csv``.

    columns: required columns; numbers: columns that, if present, must be numeric.
    Raises FileNotFoundError, or RunError if the table is damaged.
    """
    try:
        table = pd.read_csv(path, **options)
        for name in columns:
            if name not in table:
                raise ValueError(f"no column {name!r}")
        table[table.columns.intersection(list(numbers))].apply(pd.to_numeric)
        return table
    except FileNotFoundError:
        raise
    except Exception as error:  # broken text makes pandas raise many kinds
        reason = (str(error).splitlines() or ["no table"])[0][:100]
        raise RunError(
            f"{path} is damaged ({reason}): expected the table that a report wrote; remove it, and "
            "the next report makes it anew"
        ) from None


class NotPlainError(ValueError):
    """YAML that is refused: the reason, and ``line`` (from 1) or None."""

    def __init__(self, reason: str, mark: yaml.Mark | None = None):
        super().__init__(reason)
        self.line = mark.line + 1 if mark else None


def parse_yaml(text: str) -> Any:
    """Parse YAML of strings, numbers, booleans, null, and lists and mappings of these.

    Unlike in YAML 1.1, ``0400`` is 400, and dates and ``1:30`` are strings. Raises NotPlainError
    for invalid YAML, duplicate keys, aliases (a few lines can expand to gigabytes) and the
    ambiguous yes, no, on and off.

    >>> parse_yaml("{run: 2024-05-01, n_faces: 0400}")
    {'run': '2024-05-01', 'n_faces': 400}
    """
    try:
        return yaml.load(text, _Loader)
    except NotPlainError:
        raise
    except Exception as error:  # PyYAML raises many kinds
        raise NotPlainError("is not valid YAML", getattr(error, "problem_mark", None)) from None


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # replaces those of YAML 1.1

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise NotPlainError("holds an alias, expected the value itself", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for name, mark in ((str(key.value), key.start_mark) for key, _ in node.value):
            if name in seen:
                raise NotPlainError(f"states {name[:40]!r} twice, expected it once", mark)
            seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_word(self, node):
        expected = "which has two meanings: expected true, false or a quoted word"
        raise NotPlainError(f"holds {node.value}, {expected}", node.start_mark)


for tag, form, construct in (
    ("null", "~|null|Null|NULL|", _Loader.construct_yaml_null),
    ("bool", "true|True|TRUE|false|False|FALSE", _Loader.construct_yaml_bool),
    ("word", "(?i:yes|no|on|off)", _Loader.construct_word),
    ("int", "[-+]?[0-9]+", lambda _, node: int(node.value)),
    (
        "float",
        r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        lambda _, node: float(re.sub(r"\.(?=[inIN])", "", node.value)),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{form})$"), None)
    _Loader.add_constructor(f"tag:yaml.org,2002:{tag}", construct)
