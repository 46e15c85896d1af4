import io
import math
import os
import tarfile
import zipfile

import pytest

from utkcmp import processes
from utkcmp.data import archives
from utkcmp.data.archives import DataError, files_of, read_file, source_fingerprint
from utkcmp.params import ParameterError, Params
from utkcmp.processes import in_processes

FILES = {"UTKFace/a.jpg": b"a" * 3000, "UTKFace/b/c.jpg": b"c", "d.txt": b""}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Where archives are unpacked; nothing half-unpacked is ever left there."""
    folder = tmp_path_factory.mktemp("outputs")
    monkeypatch.setenv("UTKCMP_OUTPUTS", str(folder))
    yield folder / "cache"
    left = (folder / "cache").iterdir() if (folder / "cache").exists() else ()
    assert all(path.name.startswith("unpacked-") for path in left)


def contents(source) -> dict[str, bytes]:
    return {name: read_file(path) for name, path in files_of(source).items()}


def write_folder(folder, files=FILES):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_tar(path, files=FILES, mode=None):
    with tarfile.open(path, mode or ("w" if path.suffix == ".tar" else "w:gz")) as tar:
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


KINDS = {
    **{"folder": write_folder, "x.zip": write_zip, "X.ZIP": write_zip, "x.tar": write_tar},
    **{"x.tar.gz": write_tar, "x.tgz": write_tar},
    **{name: lambda path: write_tar(path, mode="w:xz") for name in ("x.tar.xz", "x.txz")},
    **{name: lambda path: write_tar(path, mode="w:bz2") for name in ("x.tbz2", "x.tar.bz2")},
    "unpacked by a browser.tar.gz": lambda path: write_tar(path, mode="w"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_gives_the_same_files(tmp_path, kind):
    source = KINDS[kind](tmp_path / kind)
    assert list(files_of(source)) == sorted(FILES)
    assert contents(str(source)) == FILES


def test_an_archive_is_unpacked_once_and_anew_when_it_has_changed(tmp_path, cache, monkeypatch):
    source = write_zip(tmp_path / "x.zip")
    files_of(source)
    with monkeypatch.context() as patch:
        patch.setattr(archives, "_unpack", lambda *_: pytest.fail("unpacked again"))
        files_of(source)
    write_zip(source, {"new.jpg": b"1"})
    assert list(files_of(source)) == ["new.jpg"] and len(list(cache.iterdir())) == 2


def test_an_interrupted_unpacking_leaves_nothing(tmp_path, cache, monkeypatch):
    source = write_zip(tmp_path / "x.zip")

    def stopped(source, folder, left):
        (folder / "half.jpg").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(archives, "_unpack", stopped)
        files_of(source)
    assert not list(cache.iterdir()) and contents(source) == FILES


def test_archives_in_an_archive_are_unpacked_too(tmp_path):
    """As a cloud drive packs a folder of part1.tar.gz, part2.tar.gz, ..."""
    part = write_tar(tmp_path / "part1.tar.gz").read_bytes()
    source = write_zip(tmp_path / "drive.zip", {"drive/part1.tar.gz": part, "drive/a.txt": b"1"})
    expect = {f"drive/part1.tar.gz/{name}": data for name, data in FILES.items()}
    assert contents(source) == expect | {"drive/a.txt": b"1"}


def test_hard_links_inside_a_tar_are_files(tmp_path):
    with tarfile.open(tmp_path / "f.tar.gz", "w:gz") as tar:
        add(tar, "./a.jpg", b"a" * 2000)
        add(tar, "./b/c.jpg", type=tarfile.LNKTYPE, linkname="./a.jpg")
        add(tar, "./b/c.jpg", b"later")
        add(tar, "./d.jpg", type=tarfile.LNKTYPE, linkname="./a.jpg")
    expect = {"a.jpg": b"a" * 2000, "b/c.jpg": b"later", "d.jpg": b"a" * 2000}
    assert contents(tmp_path / "f.tar.gz") == expect


@pytest.mark.parametrize("write, name", [(write_folder, "f"), (write_tar, "f.tar")])
def test_hidden_files_are_no_part_of_the_data(tmp_path, write, name):
    hidden = {".DS_Store": b"1", "__MACOSX/._a.jpg": b"2", "UTKFace/.git/b.jpg": b"3"}
    assert contents(write(tmp_path / name, FILES | hidden)) == FILES


def test_of_two_members_of_one_name_the_later_counts(tmp_path):
    with tarfile.open(tmp_path / "f.tar", "w") as tar:
        add(tar, "./a.jpg", b"old")
        add(tar, "a.jpg", b"new")
    assert contents(tmp_path / "f.tar") == {"a.jpg": b"new"}


OUTSIDE = ["../a.jpg", "/etc/a.jpg", "UTKFace/../../a.jpg", "..\\a.jpg", "C:\\a.jpg"]


@pytest.mark.parametrize("write, kind", [(write_tar, "f.tar.gz"), (write_zip, "f.zip")])
def test_a_member_that_points_outside_spoils_the_archive(tmp_path, write, kind):
    for name in OUTSIDE:
        source = write(tmp_path / kind, FILES | {name: b"x"})
        with pytest.raises(DataError, match="points outside") as error:
            files_of(source)
        assert str(source) in str(error.value) and repr(name) in str(error.value)


def test_a_link_or_device_spoils_an_archive(tmp_path):
    links = {"../x": tarfile.LNKTYPE, "/etc/passwd": tarfile.LNKTYPE, "a": tarfile.SYMTYPE}
    for target, kind in [*links.items(), ("a", tarfile.CHRTYPE), ("a", tarfile.FIFOTYPE)]:
        with tarfile.open(tmp_path / "f.tar", "w") as tar:
            add(tar, "a.jpg", type=kind, linkname=target)
        with pytest.raises(DataError, match="'a.jpg'.* points outside"):
            files_of(tmp_path / "f.tar")
    with tarfile.open(tmp_path / "f.tar", "w") as tar:
        add(tar, "a.jpg", type=tarfile.LNKTYPE, linkname="gone.jpg")
    with pytest.raises(DataError, match="'gone.jpg' not found"):
        files_of(tmp_path / "f.tar")
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
        member = zipfile.ZipInfo("a.jpg")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(DataError, match="'a.jpg', which points outside"):
        files_of(tmp_path / "f.zip")


def test_a_truncated_archive_is_seen_wherever_it_is_cut(tmp_path):
    files = {f"{i}.jpg": os.urandom(512) for i in range(5)}
    for name in ("f.tar.gz", "f.tar", "f.zip"):
        whole = (write_zip if name == "f.zip" else write_tar)(tmp_path / name, files).read_bytes()
        end = 11 * 512 if name == "f.tar" else len(whole)  # a tar is padded after its end mark
        for cut in [0, 1, 100, 512, 1024, 1100, 2048, end // 2, end - 1]:
            (tmp_path / name).write_bytes(whole[:cut])
            with pytest.raises(DataError, match=f"{name} is truncated or damaged .*: expected a"):
                files_of(tmp_path / name)


def test_a_damaged_archive_is_seen(tmp_path):
    for name, write in (("f.tar.gz", write_tar), ("f.tar", write_tar), ("f.zip", write_zip)):
        data = bytearray(
            write(tmp_path / name, {f"{i}.jpg": os.urandom(999) for i in range(9)}).read_bytes()
        )
        data[5 * 1536 + 10] ^= 0xFF  # in a tar: the name in the header of 5.jpg
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match="truncated or damaged"):
            files_of(tmp_path / name)


def test_a_missing_unknown_or_empty_source_is_one_sentence(tmp_path):
    (tmp_path / "faces.rar").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    write_zip(tmp_path / "empty.zip", {})
    got = {}
    for name in ("none", "faces.rar", "empty", "empty.zip"):
        with pytest.raises(DataError) as error:
            files_of(tmp_path / name)
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
    assert contents(folder)["link.jpg"] == FILES["UTKFace/a.jpg"]
    (folder / "loop").symlink_to(folder)
    with pytest.raises(DataError, match="loop is a linked folder"):
        files_of(folder)


def test_a_broken_link_or_a_pipe_is_an_error(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="a.jpg cannot be read"):
        contents(tmp_path)
    (tmp_path / "a.jpg").unlink()
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="device or a pipe"):
        contents(tmp_path)


@pytest.mark.parametrize(
    "write, name", [(write_folder, "f"), (write_tar, "f.tgz"), (write_zip, "f.zip")]
)
def test_no_more_than_the_limit_is_read_of_a_file(tmp_path, monkeypatch, write, name):
    monkeypatch.setattr(archives, "MAX_BYTES", 100)
    got = {name: len(data) for name, data in contents(write(tmp_path / name)).items()}
    assert got == {"UTKFace/a.jpg": 101, "UTKFace/b/c.jpg": 1, "d.txt": 0}


@pytest.mark.parametrize("limit, value", [("MAX_TOTAL", 3000), ("MAX_MEMBERS", 2)])
@pytest.mark.parametrize("write, name", [(write_tar, "f.tgz"), (write_zip, "f.zip")])
def test_an_archive_that_unpacks_to_more_than_the_limit_is_refused(
    tmp_path, monkeypatch, write, name, limit, value
):
    monkeypatch.setattr(archives, limit, value)
    with pytest.raises(DataError, match=f"{name} unpacks to more than .*expected a smaller"):
        files_of(write(tmp_path / name))


def test_a_name_that_no_table_can_hold_is_written_out(tmp_path):
    files = {"a\n.jpg": b"1", os.fsdecode(b"\xe9.jpg"): b"2", "é.jpg": b"3"}
    for source in (write_folder(tmp_path / "f", files), write_tar(tmp_path / "f.tar", files)):
        expect = {"a\\n.jpg": b"1", "\\udce9.jpg": b"2", "é.jpg": b"3"}
        assert contents(source) == expect


def test_the_fingerprint_follows_the_files(tmp_path):
    folder, archive = write_folder(tmp_path / "f"), write_tar(tmp_path / "f.tar")
    before = source_fingerprint(folder), source_fingerprint(archive)
    assert (source_fingerprint(folder), source_fingerprint(archive)) == before
    os.utime(folder / "d.txt", ns=(1, 1))
    os.utime(archive, ns=(1, 1))
    assert source_fingerprint(folder) != before[0] and source_fingerprint(archive) != before[1]
    with pytest.raises(DataError, match="does not exist"):
        source_fingerprint(tmp_path / "none")


# ---- work in processes ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*have been cancelled")
@pytest.mark.parametrize("count", [100, processes.MANY])
def test_a_map_in_processes_is_a_map(count):
    """In order, with its errors and those of its items, reading only a little ahead."""
    assert list(in_processes(math.sqrt, range(count), count))[-1] == math.sqrt(count - 1)
    with pytest.raises(ValueError, match="math domain error"):
        list(in_processes(math.sqrt, range(5, 5 - count, -1), count))
    with pytest.raises(ValueError, match="invalid literal"):
        list(in_processes(math.sqrt, map(int, [*range(count), "x"]), count))
    taken = []
    mapped = in_processes(math.sqrt, (taken.append(i) or i for i in range(100_000)), count)
    assert next(mapped) == 0
    mapped.close()
    assert len(taken) <= processes.CHUNK * (processes.AHEAD * os.cpu_count() + 2)


def test_a_tar_may_begin_like_a_zip_and_a_zip_may_come_from_windows(tmp_path):
    names = {f"PK{name}": data for name, data in FILES.items()}
    assert contents(write_tar(tmp_path / "f.tar", names)) == names
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        for name, data in {"UTKFace/": b"", "UTKFace/a.jpg": b"1"}.items():
            member = zipfile.ZipInfo("x")
            member.filename = name.replace("/", "\\")
            archive.writestr(member, data)
    assert contents(tmp_path / "w.zip") == {"UTKFace/a.jpg": b"1"}


def test_an_empty_variable_is_no_folder(monkeypatch):
    monkeypatch.setenv("UTKFACE", "")
    with pytest.raises(ParameterError, match="that variable is not set"):
        archives.data_source(Params(data="$UTKFACE"))
