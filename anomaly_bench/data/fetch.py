"""`anomaly-bench data fetch`: a published archive downloaded, checked, unpacked and put in place, or nothing at all.

Steps       <data-root>/.fetch-<folder>/archive    grows as bytes arrive, and is what a later call resumes
            <data-root>/.fetch-<folder>/<draft>/   filled once the SHA-256 is right
            <data-root>/<folder>                   appears by one rename, when every category is there
Download    a loop of our own over the standard library: neither pooch (1.9) nor torchvision (0.26) resumes, both begin
            again at byte 0, and an archive may have 5 GB. Range and If-Range are RFC 9110's, sections 14.2 and 13.1.5.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import shutil
import stat
import string
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from anomaly_bench.errors import UserError

if TYPE_CHECKING:
    from anomaly_bench.data.base import AnomalyDataModule

TIMEOUT_S = 60.0  # of silence; a slow connection is not a dead one
TRIES = 5  # in a row that bring no new byte
WAIT_S = 1.0  # before the second try, doubled before every further one
CHUNK = 1 << 20  # bytes
GROWTH = 20  # images hardly compress: files that have more than so many times the archive's bytes are an attack


@dataclass(frozen=True)
class Archive:
    """What a data module says of its published archive, a .tar (with any compression that Python reads) or a .zip.

    Attributes:
        title: the data set's name in sentences.
        url: the archive's address.
        page: where a reader finds it in a browser.
        folder: what it becomes below the data root; a single folder around its content is taken off.
        holds: names that are in the folder of every category.
        licence: the terms, in one line.
        citation: what to cite, in one line.
        sha256: 64 hexadecimal digits, or None where nobody has published any.
        sha256_source: who has published them.
    """

    title: str
    url: str
    page: str
    folder: str
    holds: tuple[str, ...]
    licence: str
    citation: str
    sha256: str | None = None
    sha256_source: str = ""


class _RefusedError(Exception):
    """The server has no archive at that address, or keeps it to itself."""


class _CutError(Exception):
    """A connection that breaks off, or does not come about; what has arrived is kept."""


class _BadArchiveError(UserError):
    """What came is of no use, and is removed; after any other error a download is kept."""


def fetch_data_set(
    dataset: type[AnomalyDataModule],
    data_root: Path,
    *,
    url: str | None,
    sha256: str | None,
    allow_unverified: bool,
    say: Callable[[str], None],
) -> None:
    """Put a data set below the data root; does nothing where all of it is there already.

    Args:
        dataset: a data module; one with an `archive` can be fetched.
        data_root: folder that holds the data sets, made where there is none.
        url: used instead of the archive's own address.
        sha256: used instead of the archive's own checksum.
        allow_unverified: go on, and say so, where the checksum differs or there is none to compare with.
        say: prints a line.

    Raises:
        UserError: nothing can be fetched, or what came is not the data set; only a download to resume is kept.
    """
    archive = _archive_of(dataset)
    url, sha256 = _checked(url or archive.url, sha256 or archive.sha256)
    missing, target = _missing(dataset, archive, data_root), data_root / archive.folder
    if not missing:
        say(f"{archive.title} is already in {data_root}: nothing to do.")
        return
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} lacks {', '.join(missing)}; move it away, or choose another --data-root.")
    say(f"{archive.title}\nlicence: {archive.licence}\ncite: {archive.citation}\nfrom: {url}")
    workplace = data_root / f".fetch-{archive.folder.replace('/', '-')}"
    try:
        file = _download(url, workplace, archive, target)
        say(_verify(file, url, archive, sha256, allow_unverified=allow_unverified))
        _put_in_place(file, dataset, archive, target)
    except _BadArchiveError:
        shutil.rmtree(workplace, ignore_errors=True)
        raise
    except OSError as error:  # of the disk: those of the network are none any more
        place = error.filename or data_root
        raise UserError(f"cannot write to {place} ({error.strerror}); make room, or change --data-root.") from error
    shutil.rmtree(workplace, ignore_errors=True)
    say(f"{archive.title} is now in {target}; `anomaly-bench data check` counts its images.")


def _archive_of(dataset: type[AnomalyDataModule]) -> Archive:
    archive = dataset.archive
    if archive is None:
        name = dataset.__module__.rpartition(".")[2]
        raise UserError(f"'{name}' is generated, or your own: there is nothing to fetch; choose a published data set.")
    return archive


def _checked(url: str, sha256: str | None) -> tuple[str, str | None]:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        raise UserError(f"--url takes http://, https:// and file:// addresses, not '{url}'.")
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UserError(f"--sha256 takes 64 hexadecimal digits, not '{sha256}'.")
    # A blank or an umlaut may stand in a path typed by hand.
    return urllib.parse.quote(url, safe=string.punctuation), sha256 and sha256.lower()


def _missing(dataset: type[AnomalyDataModule], archive: Archive, data_root: Path) -> list[str]:
    """The categories that the data module does not find, or only as empty folders."""
    missing = list(dataset.category_names(data_root))
    for name in tuple(missing):
        with suppress(UserError):
            folder = dataset.category_folder(data_root, name)
            if all((folder / entry).exists() for entry in archive.holds):
                missing.remove(name)
    return missing


class _Part:
    """The bytes that have arrived, and beside them a note of where they come from."""

    def __init__(self, workplace: Path, url: str) -> None:
        self.url, self.file, self.note = url, workplace / "archive", workplace / "source.json"
        self.answered = False  # in this call
        self.total: int | None = None  # bytes, once a server has said so
        self.validator: str | None = None  # the server's name for this very version of the file
        try:
            noted = json.loads(self.note.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            noted = {}
        if noted.get("url") == url:
            self.total, self.validator = noted["total"], noted["validator"]
        else:  # bytes of another address
            self.drop()

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def drop(self) -> None:
        self.file.unlink(missing_ok=True)

    def write_note(self, total: int | None, validator: str | None) -> None:
        self.total, self.validator = total, validator
        self.note.write_text(json.dumps({"url": self.url, "total": total, "validator": validator}), encoding="utf-8")


def _download(url: str, workplace: Path, archive: Archive, target: Path) -> Path:
    """The whole archive; begins where an earlier call, or a cut connection, left off."""
    part = _Part(workplace, url)
    most, tries = part.size, 0
    while part.size != part.total:
        try:
            _receive(part, archive.title)
        except (_RefusedError, _CutError) as error:
            if isinstance(error, _RefusedError) or not part.answered:
                raise UserError(
                    f"{url} cannot be had ({error}); get the archive from {archive.page} in a browser and pass it with "
                    f"--url file:///PATH, or unpack its content into {target}."
                ) from error
            tries = 0 if part.size > most else tries + 1
            most = max(most, part.size)
            if tries == TRIES:
                raise UserError(f"{url} keeps breaking off ({error}); run the same command again to go on.") from error
            time.sleep(WAIT_S * 2**tries)
    return part.file


def _receive(part: _Part, title: str) -> None:
    """One request, for the bytes that are missing; a server that knows no ranges sends all of them."""
    have = part.size
    wanted = {"Range": f"bytes={have}-", "If-Range": part.validator} if have else {}
    with _open(part, wanted) as response:
        part.answered = True
        begin, total = _extent(response)
        if begin not in (0, have) or (begin and part.total not in (None, total)):
            part.drop()
            raise _CutError("these are not the bytes that are missing")
        part.file.parent.mkdir(parents=True, exist_ok=True)
        with part.file.open("ab") as file:
            file.truncate(begin)
            tag = response.headers.get("ETag", "")  # a weak one, W/"...", must not be asked with
            part.write_note(total, tag if tag.startswith('"') else response.headers.get("Last-Modified"))
            for chunk in _chunks(response, title, begin, total):
                file.write(chunk)
    if part.total is None:  # never said, and the answer ended in an orderly way
        part.write_note(part.size, part.validator)
    if part.size != part.total:
        raise _CutError("the connection ended early")


def _open(part: _Part, wanted: dict[str, str | None]) -> Any:
    headers = {"User-Agent": "anomaly-bench", **wanted}  # some servers turn Python's own name away
    request = urllib.request.Request(part.url, headers={name: value for name, value in headers.items() if value})
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.answered = True
            part.drop()
            raise _CutError("the file has become shorter") from error
        raise (_RefusedError if error.code < 500 else _CutError)(error) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _CutError(getattr(error, "reason", error)) from error


def _chunks(response: Any, title: str, begin: int, total: int | None) -> Iterator[bytes]:
    # disable=None: no bar where nobody looks on
    with tqdm(desc=title, initial=begin, total=total, unit="B", unit_scale=True, disable=None) as bar:
        try:
            while chunk := response.read(CHUNK):
                yield chunk
                bar.update(len(chunk))
        except (OSError, http.client.HTTPException) as error:
            raise _CutError(str(error)) from error


def _extent(response: Any) -> tuple[int, int | None]:
    """Number of the first byte in this answer (-1: not said), and bytes of the whole file where the server says."""
    if response.status == http.client.PARTIAL_CONTENT:
        found = re.match(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        return (int(found[1]), int(found[2])) if found else (-1, None)
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _verify(file: Path, url: str, archive: Archive, sha256: str | None, *, allow_unverified: bool) -> str:
    """A line on the checksum; raises where it differs, and where there is none to compare with."""
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found == sha256:
        return f"SHA-256 {found}: as {archive.sha256_source if sha256 == archive.sha256 else '--sha256'} has it."
    if allow_unverified:
        return f"UNVERIFIED: SHA-256 {found}, expected {sha256 or 'nothing, for none is published'}; used all the same."
    if sha256 is None:
        raise UserError(
            f"nobody has published a checksum of {url}; its SHA-256 is {found}: compare it with somebody else's and "
            "pass --sha256, or accept it with --allow-unverified-data (the archive is kept, and not downloaded again)."
        )
    raise _BadArchiveError(
        f"{url} gave {file.stat().st_size} bytes with SHA-256 {found}, not {sha256}, and they were removed; try again, "
        "or pass another --url, or --sha256 if its publishers have replaced it."
    )


def _put_in_place(file: Path, dataset: type[AnomalyDataModule], archive: Archive, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=file.parent) as draft:
        unpacked, root = Path(draft, "unpacked"), Path(draft, "root")
        unpacked.mkdir()
        _unpack(file, unpacked)
        staged = root / archive.folder
        staged.parent.mkdir(parents=True)
        _content(unpacked).rename(staged)
        if missing := _missing(dataset, archive, root):
            raise _BadArchiveError(f"the archive lacks {', '.join(missing)} of {archive.title}; choose another --url.")
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.rename(target)


def _content(unpacked: Path) -> Path:
    """Archives differ in whether a single folder is around everything; macOS adds one of its own."""
    entries = [path for path in unpacked.iterdir() if path.name != "__MACOSX"]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else unpacked


def _unpack(file: Path, folder: Path) -> None:
    """Unpack an archive that nobody vouches for; stops before the first entry that is unsafe."""
    try:
        if tarfile.is_tarfile(file):
            _unpack_tar(file, folder)
        elif zipfile.is_zipfile(file):
            _unpack_zip(file, folder)
        else:
            raise _BadArchiveError("what came is neither a .tar nor a .zip archive; choose another --url.")
    except Exception as error:  # each format's library has errors of its own for damage; only the disk's have numbers
        if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise _BadArchiveError(f"the archive is damaged ({error}); try again, or choose another --url.") from error


def _unpack_tar(file: Path, folder: Path) -> None:
    left = GROWTH * file.stat().st_size
    with tarfile.open(file) as tar:
        for member in tar:
            left -= member.size
            _check_entry(member.name, left, plain=member.isreg() or member.isdir())
            tar.extract(member, folder, filter="data")  # the library's own fence, behind ours


def _unpack_zip(file: Path, folder: Path) -> None:
    left = GROWTH * file.stat().st_size
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            left -= entry.file_size
            kind = stat.S_IFMT(entry.external_attr >> 16)  # Unix's, or 0 from other systems
            _check_entry(entry.filename, left, plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
            archive.extract(entry, folder)  # reads no more than the declared size


def _check_entry(name: str, left: int, *, plain: bool) -> None:
    path = PureWindowsPath(name)  # splits at both kinds of slash, and knows drives
    if path.anchor or ".." in path.parts:
        raise _BadArchiveError(f"the archive's entry '{name}' leads out of its folder; do not use this archive.")
    if not plain:
        raise _BadArchiveError(f"the archive's entry '{name}' is a link or a device; do not use this archive.")
    if left < 0:
        raise _BadArchiveError(f"the archive grows more than {GROWTH} times when unpacked; do not use this archive.")
