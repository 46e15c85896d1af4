import io
import math
import os
import tarfile
import zipfile

import pytest

from utkcmp import processes
from utkcmp.data import archives as sources
from utkcmp.data.archives import DataError, list_files, read_files, source_fingerprint
from utkcmp.processes import in_processes

FILES = {"UTKFace/a.jpg": b"a" * 3000, "UTKFace/b/c.jpg": b"c", "d.txt": b""}


def write_folder(folder, files=FILES):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_tar(path, files=FILES):
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as tar:
        for name, data in files.items():
            add(tar, name, data)
    return path


def add(tar, name, data=b"", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(data))


def write_zip(path, files=FILES):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("kind", ["folder", "x.tar.gz", "x.tgz", "x.tar", "x.zip", "X.ZIP"])
def test_every_kind_of_source_gives_the_same_files(tmp_path, kind):
    if kind == "folder":
        source = write_folder(tmp_path / kind)
    else:
        source = (write_zip if "zip" in kind.lower() else write_tar)(tmp_path / kind)
    assert dict(read_files(source)) == FILES
    assert list_files(source) == sorted(FILES)
    assert dict(read_files(str(source), {"d.txt"})) == {"d.txt": b""}
    assert not set(tmp_path.rglob("*.jpg")) or kind == "folder", "an archive was unpacked"


@pytest.mark.parametrize("write, name", [(write_folder, "f"), (write_tar, "f.tar")])
def test_hidden_files_are_no_part_of_the_data(tmp_path, write, name):
    hidden = {".DS_Store": b"1", "__MACOSX/._a.jpg": b"2", "UTKFace/.git/b.jpg": b"3"}
    assert dict(read_files(write(tmp_path / name, FILES | hidden))) == FILES


def test_a_member_named_from_the_current_folder_loses_the_dot(tmp_path):
    assert list_files(write_tar(tmp_path / "f.tar", {"./UTKFace/a.jpg": b"a"})) == ["UTKFace/a.jpg"]


def test_of_two_members_of_one_name_the_later_counts(tmp_path):
    with tarfile.open(tmp_path / "f.tar", "w") as tar:
        add(tar, "a.jpg", b"old")
        add(tar, "a.jpg", b"new")
    assert dict(read_files(tmp_path / "f.tar")) == {"a.jpg": b"new"}
    assert list_files(tmp_path / "f.tar") == ["a.jpg"]


OUTSIDE = ["../a.jpg", "/etc/a.jpg", "UTKFace/../../a.jpg", "..\\a.jpg", "C:\\a.jpg"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("write, kind", [(write_tar, "f.tar.gz"), (write_zip, "f.zip")])
def test_a_member_that_points_outside_spoils_the_archive(tmp_path, write, kind, name):
    source = write(tmp_path / kind, FILES | {name: b"x"})
    with pytest.raises(DataError, match="points outside") as error:
        list_files(source)
    assert str(source) in str(error.value) and repr(name) in str(error.value)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_a_link_or_device_spoils_a_tar(tmp_path, kind):
    with tarfile.open(tmp_path / "f.tar", "w") as tar:
        add(tar, "a.jpg", type=kind, linkname="a.jpg")
    with pytest.raises(DataError, match="'a.jpg', which points outside"):
        list(read_files(tmp_path / "f.tar"))


def test_a_link_spoils_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
        member = zipfile.ZipInfo("a.jpg")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(DataError, match="'a.jpg', which points outside"):
        list(read_files(tmp_path / "f.zip"))


def test_a_truncated_archive_is_seen_wherever_it_is_cut(tmp_path):
    files = {f"{i}.jpg": os.urandom(512) for i in range(5)}
    for name in ("f.tar.gz", "f.tar", "f.zip"):
        whole = (write_zip if name == "f.zip" else write_tar)(tmp_path / name, files).read_bytes()
        end = 11 * 512 if name == "f.tar" else len(whole)  # a tar is padded after its end mark
        for cut in [0, 1, 100, 512, 1024, 1100, 2048, end // 2, end - 1]:
            (tmp_path / name).write_bytes(whole[:cut])
            with pytest.raises(DataError, match=f"{name} is truncated or damaged .*: expected a"):
                list_files(tmp_path / name)


def test_a_damaged_archive_is_seen(tmp_path):
    for name, write in (("f.tar.gz", write_tar), ("f.tar", write_tar), ("f.zip", write_zip)):
        data = bytearray(
            write(tmp_path / name, {f"{i}.jpg": os.urandom(999) for i in range(9)}).read_bytes()
        )
        data[5 * 1536 + 10] ^= 0xFF  # in a tar: the name in the header of 5.jpg
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match="truncated or damaged"):
            list(read_files(tmp_path / name))


def test_a_missing_unknown_or_empty_source_is_one_sentence(tmp_path):
    (tmp_path / "faces.rar").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    write_zip(tmp_path / "empty.zip", {})
    got = {}
    for name in ("none", "faces.rar", "empty", "empty.zip"):
        with pytest.raises(DataError) as error:
            list_files(tmp_path / name)
        got[name] = str(error.value).removeprefix(str(tmp_path)).partition(": expected a folder")[0]
    assert got == {
        "none": "/none does not exist",
        "faces.rar": "/faces.rar is neither a folder nor a known archive",
        "empty": "/empty holds no files",
        "empty.zip": "/empty.zip holds no files",
    }


def test_a_linked_file_is_read_and_a_linked_folder_is_an_error(tmp_path):
    folder = write_folder(tmp_path / "data")
    (folder / "link.jpg").symlink_to(folder / "UTKFace/a.jpg")
    assert dict(read_files(folder))["link.jpg"] == FILES["UTKFace/a.jpg"]
    (folder / "loop").symlink_to(folder)
    with pytest.raises(DataError, match="loop is a linked folder"):
        list_files(folder)


def test_a_broken_link_or_a_pipe_is_an_error(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="a.jpg cannot be read"):
        list(read_files(tmp_path))
    (tmp_path / "a.jpg").unlink()
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="device or a pipe"):
        list(read_files(tmp_path))


@pytest.mark.parametrize(
    "write, name", [(write_folder, "f"), (write_tar, "f.tgz"), (write_zip, "f.zip")]
)
def test_no_more_than_the_limit_is_read_of_a_file(tmp_path, monkeypatch, write, name):
    monkeypatch.setattr(sources, "MAX_BYTES", 100)
    got = {name: len(data) for name, data in read_files(write(tmp_path / name))}
    assert got == {"UTKFace/a.jpg": 101, "UTKFace/b/c.jpg": 1, "d.txt": 0}


def test_a_name_that_no_table_can_hold_is_written_out(tmp_path):
    write_folder(tmp_path, {"a\n.jpg": b"1", os.fsdecode(b"\xe9.jpg"): b"2", "é.jpg": b"3"})
    assert dict(read_files(tmp_path)) == {"a\\n.jpg": b"1", "\\udce9.jpg": b"2", "é.jpg": b"3"}


def test_the_stamp_follows_the_files(tmp_path):
    folder, archive = write_folder(tmp_path / "f"), write_tar(tmp_path / "f.tar")
    before = source_fingerprint(folder), source_fingerprint(archive)
    assert (source_fingerprint(folder), source_fingerprint(archive)) == before
    os.utime(folder / "d.txt", ns=(1, 1))
    os.utime(archive, ns=(1, 1))
    assert source_fingerprint(folder) != before[0] and source_fingerprint(archive) != before[1]
    with pytest.raises(DataError, match="does not exist"):
        source_fingerprint(tmp_path / "none")


@pytest.mark.filterwarnings("ignore:.*have been cancelled")
@pytest.mark.parametrize("count", [100, processes.MANY])
def test_a_map_reads_only_a_little_ahead_and_can_be_left(count):
    taken = []
    mapped = in_processes(math.sqrt, (taken.append(i) or i for i in range(100_000)), count)
    assert next(mapped) == 0
    mapped.close()
    assert len(taken) <= processes.CHUNK * (processes.AHEAD * os.cpu_count() + 2)


@pytest.mark.parametrize("count", [100, processes.MANY])
def test_processes_map_in_order_and_pass_errors_on(count):
    assert list(in_processes(math.sqrt, range(count), count)) == [
        math.sqrt(x) for x in range(count)
    ]
    with pytest.raises(ValueError, match="math domain error"):
        list(in_processes(math.sqrt, range(5, 5 - count, -1), count))


def test_an_error_of_the_reading_ends_a_map_over_processes():
    def reading():
        yield from range(processes.MANY)
        raise DataError("the archive is truncated")

    with pytest.raises(DataError, match="the archive is truncated"):
        list(in_processes(math.sqrt, reading(), processes.MANY))
