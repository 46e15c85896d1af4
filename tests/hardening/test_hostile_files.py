"""Malicious images, file names and archives, in the index, the dataset and the comparison."""

import gzip
import io
import json
import os
import stat
import struct
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hostile import STAMP, broken_images, face, hostile_names, odd_images, png, stored

from utkcmp.compare import command
from utkcmp.compare.answers import Order
from utkcmp.compare.figures import order_figure
from utkcmp.compare.photos import REASONS, PhotoError, faces_in, only_face, read_photo
from utkcmp.data.archives import MAX_BYTES, DataError, files_of, read_file
from utkcmp.data.datasets import UTKDataset
from utkcmp.data.decode import ImageError, decode
from utkcmp.data.image_cache import cache_images
from utkcmp.data.index import index_faces
from utkcmp.files import atomic
from utkcmp.run import WEIGHTS, Run, outputs_root

GIGABYTE = 2**20  # in KiB, the unit of ru_maxrss
BROKEN, ODD = broken_images(), odd_images()
SOME = [what for number, what in enumerate(BROKEN) if number % 9 == 0]  # a few of each kind


@pytest.fixture(autouse=True)
def outputs_here(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("UTKCMP_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))


def in_a_child(code: str, *arguments) -> dict:
    """Run code in a child process; returns its variable ``told`` and ``most``, its peak KiB.

    The child is limited to 8 GiB of address space and 10 minutes of processor time.
    """
    script = "import json, resource, sys\n"
    script += "resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))\n"
    script += "resource.setrlimit(resource.RLIMIT_CPU, (600, 600))\n" + textwrap.dedent(code)
    script += "\nfrom pathlib import Path"
    script += "\nown = Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]"
    script += "\nothers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss"
    script += "\nprint(json.dumps({'told': told, 'most': max(int(own), others)}))"
    command = [sys.executable, "-W", "default", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout.splitlines()[-1])


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


# ---- images --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of the whole corpus and two good faces, all with valid names."""
    folder = tmp_path_factory.mktemp("corpus")
    images = [*BROKEN.values(), *ODD.values(), stored(face(1)), stored(face(2))]
    for number, content in enumerate(images):
        (folder / f"{number % 90 + 1}_0_1_{int(STAMP) + number}.jpg").write_bytes(content)
    return folder


def test_the_index_names_a_reason_for_each_and_the_data_set_gives_the_others(corpus):
    before = everything(corpus)
    faces = index_faces(corpus, progress=False)
    assert everything(corpus) == before
    status = dict(zip(faces.taken, faces.status, strict=True))
    got = [status[str(int(STAMP) + number)] for number in range(len(faces))]
    for what, said in zip(BROKEN, got, strict=False):
        assert said in REASONS, f"{what}: {said}"
    assert dict(zip(ODD, got[len(BROKEN) :], strict=False)) == dict.fromkeys(ODD, "ok")
    pairs = UTKDataset(corpus, data_size=40)
    assert len(pairs.faces) == len(ODD) + 2
    assert all(image.mode == "RGB" for image, _ in pairs.faces)


def says_one_sentence(content: bytes, folder: Path, capfd):
    """Check PhotoError in Python and, from the command, exit status 1 and one line."""
    path = folder / "a photo.jpg"
    path.write_bytes(content)
    with pytest.raises(PhotoError, match="expected") as caught:
        read_photo(path)
    for name in ("config.json", WEIGHTS):
        (folder / name).touch()
    status = command.main([str(path), str(path), "--model", str(folder)])
    out, err = capfd.readouterr()
    assert status == 1 and out == "" and err == f"utkcmp.compare: {caught.value}\n"
    assert len(err.splitlines()) == 1


def test_a_comparison_says_one_sentence(tmp_path, capfd):
    for what in SOME:
        says_one_sentence(BROKEN[what], tmp_path, capfd)


@pytest.mark.slow
def test_a_comparison_says_one_sentence_of_each(tmp_path, capfd):
    for content in BROKEN.values():
        says_one_sentence(content, tmp_path, capfd)


def test_a_face_beside_something_broken_is_found():
    for what in ("EXIF of 60,000 bytes of noise", "JPEG with a program behind it"):
        assert only_face(ODD[what]).crop.size == (200, 200)


def test_random_damage_is_a_face_or_a_sentence():
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "HEIF"):
        whole = stored(face().resize((64, 64)), kind)
        for _ in range(40):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), 5):
                data[place] = rng.integers(256)
            start, length = rng.integers(0, len(data)), rng.integers(0, 40)
            data[start : start + length] = rng.bytes(int(rng.integers(0, 40)))
            try:
                assert decode(bytes(data)).mode == "RGB"
            except ImageError as error:
                assert str(error) in REASONS


@pytest.mark.slow
@pytest.mark.parametrize("bits, colours", [(8, 0), (16, 0), (8, 2), (8, 6)])
def test_the_largest_images_that_are_taken_fit_a_small_machine(tmp_path, bits, colours):
    """250 million pixels in less than a megabyte: grey, 16-bit, RGB and RGBA."""
    side = 15_800
    row = bytes(1 + side * bits // 8 * {0: 1, 2: 3, 6: 4}[colours])
    packer = gzip.zlib.compressobj(1)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    content = png(side, side, b"IDAT" + body, bits=bits, colours=colours)
    (tmp_path / "20_0_1_.png").write_bytes(content)
    got = in_a_child(
        """
        from utkcmp.data.index import index_faces
        told = index_faces(sys.argv[1], progress=False).status.tolist()
        """,
        tmp_path,
    )
    assert got["told"] == ["ok"] and got["most"] < 1.5 * GIGABYTE


# ---- names ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    folder = tmp_path_factory.mktemp("named")
    for number, name in enumerate(hostile_names()):
        (folder / name).write_bytes(stored(face(number % 3).resize((32, 32)), quality=50 + number))
    return folder


def test_any_name_is_indexed_stored_and_read_back(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    faces = index_faces(named, cache=tmp_path / "cache", progress=False)
    assert len(faces) == len(hostile_names()) and (faces.status == "ok").all()
    assert faces.file.map(str.isprintable).all()
    again = index_faces(named, cache=tmp_path / "cache", progress=False)
    assert faces.equals(again)
    run = Run(tmp_path / "run")
    with atomic(run.faces_csv) as temporary:
        faces.assign(split="train", evaluate=True).to_csv(temporary, index=False)
    assert run.read_faces().file.tolist() == faces.file.tolist()
    assert cache_images(named, faces, 16, tmp_path / "cache").shape[0] == len(faces)
    pairs = UTKDataset(named)
    assert all(pairs.faces[row][0].size == (32, 32) for row in range(len(faces)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "run"]  # no name acted as a path


def test_any_name_is_one_printable_line_of_the_answer(named, tmp_path, capfd):
    for name in ("config.json", WEIGHTS):
        (tmp_path / name).touch()
    for path in sorted(named.iterdir()):
        (tmp_path / path.name).write_bytes(b"no picture")
        arguments = [str(tmp_path / path.name)] * 2 + ["--model", str(tmp_path)]
        assert command.main([*arguments, "--json"]) == 1
        out, err = capfd.readouterr()
        assert err.endswith("\n") and err[:-1].isprintable()
        assert json.loads(out)["reason"] in err


def test_any_name_can_be_drawn(named):
    seen = [faces_in(path, aligned=True)[0] for path in sorted(named.iterdir())]
    order = Order(seen, np.full(len(seen) - 1, 0.7), calibrated=True)
    order_figure(order).savefig(io.BytesIO())
    assert str(order).count("\n") == len(seen)


def test_a_pipe_and_a_device_are_no_photos(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", Path("/dev/zero")):
        with pytest.raises(PhotoError, match="is a device or a pipe: expected a photo"):
            read_photo(path)
    with pytest.raises(PhotoError, match="cannot be read"):
        read_photo("a\0b.jpg")


# ---- archives ------------------------------------------------------------------------------------

GOOD = f"25_0_1_{STAMP}.jpg"


def tar_of(path: Path, *members: tuple[str, bytes, dict]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content, fields in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            tar.addfile(member, io.BytesIO(content))
    return path


def zip_of(path: Path, *members: tuple[str, bytes, int]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in members:
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            archive.writestr(member, content)
    return path


def hostile_archives(folder: Path, canary: Path) -> list[Path]:
    """Archives with a good face and a member outside the archive or of a special type."""
    good, up = stored(face()), f"../{canary.name}/a.jpg"
    link = {"type": tarfile.SYMTYPE, "linkname": str(canary)}
    kinds = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    tars = [[(name, b"x", {})] for name in (up, f"{canary}/a.jpg", f"a/../../{canary.name}/a.jpg")]
    tars += [[("link", b"", link), ("link/a.jpg", b"x", {})]]
    tars += [[("a.jpg", b"", {"type": tarfile.LNKTYPE, "linkname": f"{canary}/kept"})]]
    tars += [[("a.jpg", b"", {"type": kind, "devmajor": 1, "devminor": 5})] for kind in kinds]
    paths = [
        tar_of(folder / f"{number}.tar.gz", (GOOD, good, {}), *members)
        for number, members in enumerate(tars)
    ]
    zips = [(name, b"x", 0o100644) for name in (up, f"{canary}/a.jpg", "..\\a.jpg", "C:\\a.jpg")]
    kinds = (stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)
    zips += [("a.jpg", str(canary).encode(), kind | 0o777) for kind in kinds]
    return paths + [
        zip_of(folder / f"{number}.zip", (GOOD, good, 0o100644), member)
        for number, member in enumerate(zips)
    ]


def test_no_archive_writes_outside_or_makes_anything(tmp_path):
    canary, folder, cache = (tmp_path / name for name in ("canary", "archives", "cache"))
    canary.mkdir()
    folder.mkdir()
    (canary / "kept").write_bytes(b"kept")
    archives = hostile_archives(folder, canary)
    before = everything(tmp_path)
    for path in archives:
        with pytest.raises(DataError, match="points outside the archive"):
            index_faces(path, cache=cache, progress=False)
        with pytest.raises(DataError):
            UTKDataset(path)
    assert everything(tmp_path) == before and len(archives) >= 17
    assert list((outputs_root() / "cache").iterdir()) == []


def long_header(kind: bytes, size: int) -> bytes:
    """A tar header that announces a long name or long attributes."""
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def zeros_after(start: bytes, count: int) -> bytes:
    """A gzip file of ``start`` and ``count`` MiB of zeros, made by repeating one compressed MiB."""
    return gzip.compress(start) + gzip.compress(bytes(2**20)) * count


HEADERS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)


def test_a_tar_whose_headers_unpack_to_gigabytes(tmp_path):
    """tarfile would read them into memory."""
    for number, kind in enumerate(HEADERS):
        start = long_header(kind, 3 * 2**30)
        (tmp_path / f"{number}.tar.gz").write_bytes(zeros_after(start, 3 * 1024))
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**34)}
    data = b"99999999999\n" + b"0\n" * 10**6
    tar_of(tmp_path / "sparse.tar.gz", ("a.jpg", data, {"pax_headers": sparse}))
    old = long_header(tarfile.GNUTYPE_SPARSE, 512)
    (tmp_path / "old.tar.gz").write_bytes(zeros_after(old, 1))
    got = in_a_child(
        """
        from pathlib import Path
        from utkcmp.data.archives import DataError
        from utkcmp.data.index import index_faces
        told = []
        for path in sorted(Path(sys.argv[1]).iterdir()):
            try:
                index_faces(path, progress=False)
            except DataError as error:
                told.append(str(error))
        """,
        tmp_path,
    )
    assert [("a header of" in said, "a sparse file" in said) for said in got["told"]] == [
        *[(True, False)] * 4,
        *[(False, True)] * 2,
    ]
    assert got["most"] < GIGABYTE


INDEX = """
from utkcmp.data.index import index_faces
faces = index_faces(sys.argv[1], progress=False)
told = faces.status.value_counts().to_dict()
"""


def holey(path: Path, count: int) -> Path:
    """A tar.gz with a good face and a member of ``count`` MiB of zeros."""
    good = stored(face())
    head, hole = tarfile.TarInfo(GOOD), tarfile.TarInfo(f"26_0_1_{STAMP}.jpg")
    head.size, hole.size = len(good), count * 2**20
    start = head.tobuf() + good + bytes(-len(good) % 512) + hole.tobuf()
    path.write_bytes(zeros_after(start, count) + gzip.compress(bytes(1024)))
    return path


@pytest.mark.slow
def test_a_hole_of_ten_gigabytes_in_a_tar(tmp_path):
    got = in_a_child(INDEX, holey(tmp_path / "a.tar.gz", 10 * 1024))
    assert got["told"] == {"ok": 1, "too large": 1} and got["most"] < GIGABYTE


def test_a_hole_of_ten_gigabytes_in_a_zip(tmp_path):
    """Repeated deflate blocks of zeros; a zip member need not be read to its end."""
    block = gzip.zlib.compressobj(9, wbits=-15)
    block = block.compress(bytes(2**26)) + block.flush(gzip.zlib.Z_FULL_FLUSH)
    body, name = block * 160 + b"\x03\0", f"26_0_1_{STAMP}.jpg".encode()
    size = 160 * 2**26
    big = struct.pack("<HHQQ", 1, 16, size, len(body))
    common = struct.pack("<HHHHHIII", 45, 0, 8, 0, 0, 0, 2**32 - 1, 2**32 - 1)
    common += struct.pack("<HH", len(name), len(big))
    local = b"PK\3\4" + common + name + big + body
    entry = b"PK\1\2" + struct.pack("<H", 45) + common + bytes(14) + name + big
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local), 0)
    path = tmp_path / "hole.zip"
    path.write_bytes(local + entry + end)
    assert zipfile.ZipFile(path).infolist()[0].file_size == 10 * 2**30
    (only,) = files_of(path).values()
    assert len(read_file(only)) == MAX_BYTES + 1
    (packed,) = (outputs_root() / "cache").rglob("*.jpg")
    assert packed.stat().st_blocks < 100  # of 512 bytes: a sparse file


def many_members(path: Path, count: int = 100_000) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(GOOD, stored(face()))
            for number in range(count):
                archive.writestr(f"{number}.jpg", b"")
        return path
    names = (f"{number}.jpg" for number in range(count))
    return tar_of(path, (GOOD, stored(face()), {}), *((name, b"", {}) for name in names))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a.tar.gz", "a.zip"])
def test_a_hundred_thousand_members(tmp_path, kind):
    got = in_a_child(INDEX, many_members(tmp_path / kind))
    assert got["told"] == {"ok": 1, "name without age": 100_000} and got["most"] < GIGABYTE


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz", "a.zip"])
def test_random_damage_to_an_archive_is_files_or_a_sentence(tmp_path, kind):
    rng, path = np.random.default_rng(0), tmp_path / kind
    files = [(f"{number}.jpg", rng.bytes(300)) for number in range(4)]
    if kind == "a.zip":
        whole = zip_of(path, *((*one, 0o100644) for one in files)).read_bytes()
    else:
        whole = tar_of(path, *((*one, {}) for one in files)).read_bytes()
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            assert len(files_of(path)) <= 4
        except DataError as error:
            assert str(error).startswith(str(path))
