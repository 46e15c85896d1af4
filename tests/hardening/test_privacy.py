"""Publishable files reveal neither the names of the face files nor paths of the machine."""

import re
import sys
from pathlib import Path

import pytest

from utkcmp.run import PROJECT


@pytest.fixture
def published(whole_report):
    """The contents of all files that a published run may expose."""
    folders = ("report", "notebooks", "tensorboard")
    paths = [path for name in folders for path in (whole_report.folder / name).rglob("*")]
    paths = [path for path in paths if path.is_file()] + [whole_report.run_json]
    return {path: path.read_bytes() for path in paths}


def held(published: dict[Path, bytes], words) -> dict[str, str]:
    """The words that occur in a file, with the name of that file."""
    anyone = re.compile(b"|".join(re.escape(word.encode()) for word in words))
    items = [(path.name, data) for path, data in published.items()]
    return {found.decode(): name for name, data in items for found in anyone.findall(data)}


def test_no_name_of_a_face_file_is_in_what_a_run_leaves(published, marked_faces, whole_report):
    names = {path.name.partition(".")[0] for path in marked_faces.iterdir()}
    assert len(names) == 134 and not held(published, names)
    digests = set(whole_report.read_faces().sha256.str[:12])
    assert len(held(published, digests)) > 5  # used instead of names


def test_no_absolute_path_is_in_what_a_run_leaves(published, marked_faces, outputs):
    prefix, home = Path(sys.prefix), f"{Path.home()}/"
    places = [marked_faces, outputs, PROJECT, prefix, prefix.resolve(), home]
    assert not held(published, map(str, places))
