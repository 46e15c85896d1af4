"""Reading folders and archives of faces; archives are unpacked once, into the cache."""

import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from utkcmp.files import printable, replaced
from utkcmp.params import EMBEDDED, ParameterError, Params
from utkcmp.run import outputs_root

KINDS = (
    "a folder, .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz with images named like "
    "25_0_1_20170116174525125.jpg"
)
ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))\Z", re.IGNORECASE)
COMPRESSIONS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
MAX_BYTES = 2**28  # read from one file
MAX_TOTAL, MAX_MEMBERS = 2**35, 2_000_000  # unpacked bytes and files of an archive, nested included
MAX_HEADER = 2**20  # bytes of a tar's long name or extended header
ZIPS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")  # how they begin
HEADERS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
HEADERS += (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


class DataError(ValueError):
    """Unusable data; the message gives the path, the fault and what was expected."""


def data_source(params: Params) -> Path:
    """The folder or archive that ``data`` names, or the folder of embedded faces, drawn if missing.

    Raises ParameterError if ``data`` contains an unset environment variable.
    """
    if params.data == EMBEDDED:
        from utkcmp.data.synthetic import draw_sample

        folder = outputs_root() / "cache" / f"embedded-{params.n_faces}-{params.seed}"
        return draw_sample(folder, n=params.n_faces, seed=params.seed)
    path = os.path.expandvars(params.data)
    if "$" in path or not path.strip():
        raise ParameterError(
            f"data is {params.data!r} but that variable is not set: give the faces by "
            "DATA=/path/to/UTKFace.tar.gz (a folder or an archive), or set UTKFACE"
        )
    return Path(path).expanduser()


def files_of(source: str | Path) -> dict[str, Path]:
    """The files of a folder or archive: paths by their sorted names relative to it.

    An archive (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz), with nested ones, is unpacked once into
    ``outputs/cache``, again if it has changed. Members above MAX_BYTES (256 MiB) become sparse
    files; of duplicate names the last counts. Symbolic links to files are followed.
    Raises DataError for a source that is missing, of another kind, empty, truncated or damaged, for
    linked folders, and for archives with devices, symbolic links, absolute paths or ``..``, or of
    more than 32 GiB or 2,000,000 files unpacked.
    """
    folder = Path(source)
    with _readable(source):
        if not folder.is_dir():
            folder = outputs_root() / "cache" / f"unpacked-{source_fingerprint(source)[:24]}"
            if not folder.is_dir():
                with replaced(folder) as fresh:
                    _unpack(Path(source), fresh, [MAX_TOTAL, MAX_MEMBERS])
        found = dict(sorted(_walk(folder)))
    if not found:
        raise DataError(f"{source} holds no files: expected {KINDS}")
    return found


def read_file(path: Path) -> bytes:
    """A file's first MAX_BYTES + 1 bytes. Raises DataError if it cannot be read."""
    with _readable(path):
        if path.exists() and not path.is_file():
            raise _UnusableError("is a device or a pipe: expected image files")
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)


def source_fingerprint(source: str | Path) -> str:
    """A cheap fingerprint of ``source`` (hex): SHA-256 over names, sizes and modification times.

    Of a folder, those of its files; of an archive, its own. Raises DataError as ``files_of`` does,
    but does not open archives.
    """
    source = Path(source)
    with _readable(source):
        if not source.exists():
            raise _UnusableError(f"does not exist: expected {KINDS}")
        if not source.is_dir() and not (source.is_file() and ARCHIVE.search(source.name)):
            raise _UnusableError(f"is neither a folder nor a known archive: expected {KINDS}")
        paths = sorted(_walk(source)) if source.is_dir() else [(str(source.resolve()), source)]
        stats = ((name, path.stat()) for name, path in paths)
        lines = [f"{name}\0{s.st_size}\0{s.st_mtime_ns}\n" for name, s in stats]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class _UnusableError(Exception):
    """What is wrong with a source; the message continues its path."""


@contextlib.contextmanager
def _readable(source) -> Iterator[None]:
    """Turn any error from a broken folder or archive into a DataError."""
    try:
        yield
    except DataError:
        raise
    except _UnusableError as error:
        raise DataError(f"{source} {error}") from None
    except tarfile.FilterError as error:
        raise DataError(f"{source}: {error}, which points outside the archive: {KINDS}") from None
    except RuntimeError as error:  # zipfile: encrypted, or unknown compression
        raise DataError(f"{source} cannot be unpacked ({error}): expected {KINDS}") from None
    except Exception as error:  # tarfile, zipfile and decompressors raise many kinds
        if isinstance(error, OSError) and error.errno:
            path, reason = error.filename or source, error.strerror
            raise DataError(f"{path} cannot be read ({reason}): expected {KINDS}") from None
        raise DataError(f"{source} is truncated or damaged ({error}): expected {KINDS}") from None


def _unpack(source: Path, folder: Path, left: list[int], nested: bool = False) -> None:
    """Unpack an archive and those nested in it. left: bytes and members still allowed."""
    archives = set()
    for name, size, extract in _members(source):
        path, archive = folder / name, bool(ARCHIVE.search(name)) and not nested
        path.unlink(missing_ok=True)  # it may be a hard link to another file
        if size > MAX_BYTES and not archive:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.truncate(path, MAX_BYTES + 1)  # sparse: readers reject it by size
            continue
        left[:] = left[0] - size, left[1] - 1
        if min(left) < 0:
            limits = f"{MAX_TOTAL // 2**30} GiB or {MAX_MEMBERS:,} files"
            raise _UnusableError(f"unpacks to more than {limits}: expected a smaller archive")
        extract(path=folder)
        archives |= {path} if archive else set()
    for path in archives:
        packed = path.rename(path.with_name(f".{path.name}"))
        path.mkdir()
        _unpack(packed, path, left, nested=True)
        packed.unlink()


def _members(source: Path) -> Iterator[tuple[str, int, Callable]]:
    """Each file of an archive: its clean name, its unpacked size, and a function to extract it."""
    with open(source, "rb") as file:
        start = file.read(8)
    if start.startswith(ZIPS) or not start and source.name.lower().endswith(".zip"):
        with zipfile.ZipFile(source) as archive:
            for member in (one for one in archive.infolist() if one.filename[-1:] not in "/\\"):
                plain = stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG)
                if name := _inside(member.filename, plain):
                    member.filename = name
                    yield name, member.file_size, partial(archive.extract, member)
        return
    kinds = (opener for magic, opener in COMPRESSIONS.items() if start.startswith(magic))
    opener = next(kinds, open)  # browsers may decompress it but keep its name
    with (
        opener(source, "rb") as file,
        tarfile.open(fileobj=file, mode="r|", tarinfo=_StrictTarInfo) as archive,
    ):
        for member in (one for one in archive if not one.isdir()):
            if name := _inside(member.name, member.isfile() or member.islnk()):
                member.name = name
                extract = partial(archive.extract, member, set_attrs=False, filter="data")
                yield name, member.size, extract
        while file.read(2**20):  # up to gzip's checksum
            pass


class _StrictTarInfo(tarfile.TarInfo):
    """Raises an error for damaged headers, which tarfile takes for the end of the archive, and for
    sparse files and huge headers, which it would hold in memory.
    """

    @classmethod
    def frombuf(cls, *arguments):
        member = super().frombuf(*arguments)
        if member.type in HEADERS and member.size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {member.size} bytes")
        if member.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a sparse file")
        return member

    def _proc_gnusparse_10(self, *arguments):
        raise tarfile.ReadError("a sparse file")

    @classmethod
    def fromtarfile(cls, tar):
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def _inside(name: str, plain: bool) -> str | None:
    """A member's name as a clean relative path, None if hidden. Raises if it leads outside."""
    path = PurePosixPath(name.replace("\\", "/"))
    if not plain or path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name):
        raise _UnusableError(
            f"holds the member {name!r}, which points outside the archive or is no plain file: "
            "expected image files and folders only"
        )
    return None if any(map(_hidden, path.parts)) else printable(path.as_posix())


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """The relative names and the paths of the files below a folder."""

    def stop(error: OSError):
        raise error

    for parent, folders, files in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not _hidden(name)]
        for path in (Path(parent, name) for name in folders):
            if path.is_symlink():
                raise DataError(f"{path} is a linked folder: expected folders that hold the files")
        for path in (Path(parent, name) for name in files if not _hidden(name)):
            yield printable(path.relative_to(folder).as_posix()), path


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
