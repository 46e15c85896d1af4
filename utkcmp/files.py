"""Files: written whole or not at all, and read with care; JSON, CSV and plain YAML."""

import contextlib
import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import yaml


class RunError(ValueError):
    """A file of a run that cannot be used: one sentence with its path and what to do."""


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place only if the block succeeds.

    >>> with atomic(Path(tempfile.mkdtemp()) / "a.txt") as temporary:
    ...     _ = temporary.write_text("whole or not at all")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    temporary = Path(name)
    with hold(handle):
        try:
            yield temporary
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def hold(handle: int) -> Iterator[None]:
    """Mark an open temporary file or folder as in use for a block, and close it.

    The mark, a lock of the system's, ends with the process, however that ends.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed left half-written beside ``path``."""
    name = f".{glob.escape(path.name)}.????????{glob.escape(path.suffix)}"  # as tempfile names it
    for left in path.parent.glob(name):
        with contextlib.suppress(OSError):  # another process uses it, or has just removed it
            with hold(os.open(left, os.O_RDONLY)):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Give an empty folder that takes the place of ``folder`` if the block succeeds."""
    for left in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left, ignore_errors=True)  # by a process that was killed
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield new
        new.chmod(0o755)
        if folder.exists():
            folder.rename(new.with_name(new.name + ".old"))
        new.rename(folder)
    finally:
        for left in (new, new.with_name(new.name + ".old")):
            shutil.rmtree(left, ignore_errors=True)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table without its index, whole or not at all."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises OSError if it cannot be read, ValueError if it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{path.name} is no JSON") from None


def read_table(path: Path, columns: Iterable[str] = (), numbers: Iterable[str] = (), **options):
    """A CSV file of a run as a DataFrame; options are those of ``pandas.read_csv``.

    columns: those it must have; numbers: those that, if they are there, must hold numbers only.
    Raises RunError where it does not, FileNotFoundError where there is no such file.
    """
    try:
        table = pd.read_csv(path, **options)
        missing = [name for name in columns if name not in table]
        if missing:
            raise ValueError(f"no column {missing[0]!r}")
        for name in table.columns.intersection(list(numbers)):
            pd.to_numeric(table[name])
    except FileNotFoundError:
        raise
    except Exception as error:  # pandas and converters raise whatever broken text leads to
        reason = (str(error).splitlines() or ["no table"])[0][:100]
        raise RunError(
            f"{path} is damaged ({reason}): expected the table that a report wrote; remove it, and "
            "the next report makes it anew"
        ) from None
    return table


class NotPlainError(ValueError):
    """YAML that is not taken: what is wrong with it, and ``line``, from 1, or None."""

    def __init__(self, reason: str, mark: yaml.Mark | None = None):
        super().__init__(reason)
        self.line = mark.line + 1 if mark else None


def parse_yaml(text: str) -> Any:
    """The value of some YAML: text, numbers, true and false, null, lists and mappings of these.

    A date is text. Raises NotPlainError where the YAML is not valid, a name stands twice, or a part
    stands for another one (an alias): a few lines of aliases unfold to gigabytes.

    >>> parse_yaml("run: 2024-05-01")
    {'run': '2024-05-01'}
    """
    try:
        return yaml.load(text, _Loader)
    except NotPlainError:
        raise
    except Exception as error:  # wrong values make PyYAML raise whatever it stumbles over
        raise NotPlainError("is not valid YAML", getattr(error, "problem_mark", None)) from None


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in forms if not tag.endswith(":timestamp")]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise NotPlainError("holds an alias, expected the value itself", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    reason = f"states {key.value[:40]!r} twice, expected it once"
                    raise NotPlainError(reason, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)
