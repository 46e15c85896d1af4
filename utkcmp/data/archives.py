"""What a parameter file may hold, checked before anything runs.

A parameter has one meaning in every notebook. Files are flat YAML; later files override earlier
ones and single values override all files, both here and with papermill's ``-f`` and ``-p``.
"""

import contextlib
import gzip
import hashlib
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Container, Iterator
from pathlib import Path, PurePosixPath

from utkcmp.params import EMBEDDED, ParameterError, Params
from utkcmp.run import outputs_root


def data_source(params: Params) -> Path:
    """The folder or archive that ``data`` names; draws the embedded faces where it says so.

    Raises ParameterError if ``data`` holds an environment variable that is not set.
    """
    if params.data == EMBEDDED:
        from utkcmp.data.synthetic import draw_sample

        folder = outputs_root() / "cache" / f"embedded-{params.n_faces}-{params.seed}"
        return draw_sample(folder, n=params.n_faces, seed=params.seed)
    expanded = os.path.expandvars(params.data)
    if "$" in expanded:
        raise ParameterError(
            f"data is {params.data!r} but that variable is not set: give the faces by "
            "DATA=/path/to/UTKFace.tar.gz (a folder or an archive), or set UTKFACE"
        )
    return Path(expanded).expanduser()


KINDS = "a folder, .tar.gz, .tgz, .tar or .zip with images named like 25_0_1_20170116174525125.jpg"
MAX_BYTES = 64 * 2**20  # what is read of one file
MAX_HEADER = 2**20  # bytes of a tar's long name or of the attributes of a member
HEADERS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
HEADERS += (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)

Entry = tuple[str, Callable[[], bytes]]  # a file's name and how to read it, now or never


class DataError(ValueError):
    """Data that cannot be used: one sentence with the path, what is wrong and what was expected."""


def list_files(source: str | Path) -> list[str]:
    """All files of ``source``, sorted: posix paths below the folder or inside the archive.

    Raises DataError for a source that is missing, of another kind, without files, truncated or
    damaged, or that points outside itself (see ``read_files``).
    """
    with _readable(source):
        names = sorted({name for name, _ in _entries(Path(source))})
    if not names:
        raise DataError(f"{source} holds no files: expected {KINDS}")
    return names


def read_files(
    source: str | Path, files: Container[str] | None = None
) -> Iterator[tuple[str, bytes]]:
    """Read the files of a folder, .tar.gz, .tgz, .tar or .zip: gives (name, content) of each.

    files: the names to read (a set, say); None reads all. They come in the source's own order. Of
    a file above MAX_BYTES (64 MiB) the first MAX_BYTES + 1 bytes are given. Where an archive holds
    a name twice, the later one counts, as it does when it is unpacked. Folders are read with all
    their subfolders; a linked file is read, a linked subfolder is an error.
    Raises DataError as ``list_files`` does: for a whole archive if a member of it is a link or a
    device, or if its name is absolute or leads upwards.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.txt").write_text("some text")
    >>> dict(read_files(folder))
    {'a.txt': b'some text'}
    """
    with _readable(source):
        for name, read in _entries(Path(source)):
            if files is None or name in files:
                yield name, read()


def paths_of(folder: Path) -> dict[str, Path]:
    """The files of a folder by the names that ``list_files`` gives them. Raises DataError too."""
    with _readable(folder):
        return dict(_walk(folder))


def source_fingerprint(source: str | Path) -> str:
    """A cheap fingerprint of ``source`` (hex), from names, sizes and times but not the content.

    A changed file shows by its size or time: sha256 over every (name, size, time in ns) of a
    folder, or over (absolute path, size, time in ns) of an archive. Raises DataError as
    ``list_files`` does for a folder, and for an archive that is missing or of another kind.
    """
    source = Path(source)
    with _readable(source):
        if source.is_dir():
            paths = sorted((name, path) for name, path in _walk(source))
        else:
            _opener(source)
            paths = [(str(source.resolve()), source)]
        lines = [f"{name}\0{s.st_size}\0{s.st_mtime_ns}\n" for name, s in _stats(paths)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# ---- one way through each kind of source ---------------------------------------------------------


@contextlib.contextmanager
def _readable(source) -> Iterator[None]:
    """Turn whatever a broken folder or archive raises into one DataError."""
    try:
        yield
    except DataError:
        raise
    except RuntimeError as error:  # zipfile: a password is needed, or an unknown compression
        raise DataError(f"{source} cannot be unpacked ({error}): expected {KINDS}") from None
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile):
            raise _damaged(source, error) from None
        path, reason = error.filename or source, error.strerror or error
        raise DataError(f"{path} cannot be read ({reason}): expected {KINDS}") from None
    except Exception as error:  # tarfile, zipfile and what they unpack by raise many kinds
        raise _damaged(source, error) from None


def _damaged(source, error: Exception) -> DataError:
    return DataError(f"{source} is truncated or damaged ({error}): expected {KINDS}")


def _entries(source: Path) -> Iterator[Entry]:
    if source.is_dir():
        return ((name, lambda path=path: _head(path)) for name, path in sorted(_walk(source)))
    return _opener(source)(source)


def _opener(source: Path) -> Callable[[Path], Iterator[Entry]]:
    if not source.exists():
        raise DataError(f"{source} does not exist: expected {KINDS}")
    name = source.name.lower()
    if name.endswith((".tar.gz", ".tgz", ".tar")) and source.is_file():
        return _tar
    if name.endswith(".zip") and source.is_file():
        return _zip
    raise DataError(f"{source} is neither a folder nor a known archive: expected {KINDS}")


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    def stop(error: OSError):
        raise error

    for parent, folders, files in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not _hidden(name)]
        for name in folders:
            if os.path.islink(os.path.join(parent, name)):
                path = Path(parent, name)
                raise DataError(f"{path} is a linked folder: expected folders that hold the files")
        for name in files:
            if not _hidden(name):
                path = Path(parent, name)
                yield printable(path.relative_to(folder).as_posix()), path


def _head(path: Path) -> bytes:
    if not path.is_file() and path.exists():
        raise DataError(f"{path} is a device or a pipe: expected image files")
    with open(path, "rb") as file:
        return file.read(MAX_BYTES + 1)


def _stats(paths) -> Iterator[tuple[str, os.stat_result]]:
    return ((name, os.stat(path)) for name, path in paths)


class _StrictTarInfo(tarfile.TarInfo):
    """tarfile takes a damaged or missing header for the end of the archive; here it is an error.

    So are sparse files and headers of great length, which tarfile would hold in memory.
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


def _tar(source: Path) -> Iterator[Entry]:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(source, "rb"))
        if not source.name.lower().endswith(".tar"):
            file = stack.enter_context(gzip.GzipFile(fileobj=file))
        tar = tarfile.open(fileobj=file, mode="r|", tarinfo=_StrictTarInfo)
        for member in stack.enter_context(tar):
            name = _inside(source, member.name, member.isfile() or member.isdir())
            if name and member.isfile():
                yield name, lambda member=member: tar.extractfile(member).read(MAX_BYTES + 1)
        while file.read(2**20):  # to the end, where gzip holds its checksum
            pass


def _zip(source: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(source) as archive:
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            name = _inside(source, member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
            if name and not member.is_dir():
                yield name, lambda member=member: _unzip(archive, member)


def _unzip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as file:
        return file.read(MAX_BYTES + 1)


def _inside(source: Path, name: str, plain: bool) -> str | None:
    """A member's name as a clean relative path; None if hidden, DataError if it leads outside."""
    path = PurePosixPath(name.replace("\\", "/"))
    if not plain or path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name):
        raise DataError(
            f"{source} holds the member {name!r}, which points outside the archive or is no plain "
            "file: expected image files and folders only"
        )
    return None if any(map(_hidden, path.parts)) else printable(path.as_posix())


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def printable(name: str) -> str:
    """``name`` with control characters and bytes that are no UTF-8 written out, as in ``\\n``."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
