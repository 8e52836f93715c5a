"""Fetching from a server on this machine: what arrives is whole, checked and safe, or nothing is there."""

from __future__ import annotations

import errno
import hashlib
import io
import random
import re
import socket
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from anomaly_bench.bench.catalog import load_dataset
from anomaly_bench.cli import main
from anomaly_bench.data import fetch
from anomaly_bench.data.base import AnomalyDataModule
from anomaly_bench.data.fetch import Archive
from anomaly_bench.data.mvtec import OFFICIAL
from anomaly_bench.errors import UserError

NAMES = [f"{name}/train/{index}.png" for name in ("bolt", "nut") for index in range(3)]
FILES = {name: random.Random(name).randbytes(512) for name in NAMES}  # bytes that do not compress
WRAPPED = {f"inner/{name}": content for name, content in FILES.items()}
ARRIVED = {f"all/things/{name}": content for name, content in FILES.items()}


def tar(files: dict[str, bytes], mode: str = "w:gz", odd: tuple[bytes, str] | None = None) -> bytes:
    """A .tar archive; `odd` are kind and target of one more entry."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        if odd:
            member = tarfile.TarInfo("bolt/odd")
            member.type, member.linkname = odd
            archive.addfile(member)
    return buffer.getvalue()


def zipped(files: dict[str, bytes], kind: int = stat.S_IFREG) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = kind << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Site:
    """A server of one file, with quirks, and a data root to fetch it into."""

    def __init__(self, root: Path) -> None:
        self.content, self.etag, self.status, self.root, self.url = tar(FILES), '"first"', 200, root, ""
        self.ranges, self.says_length, self.shift = True, True, 0  # `shift`: answers begin so many bytes too late
        self.cuts: list[int] = []  # bytes after which the next connections break off
        self.sent: list[tuple[str | None, int]] = []  # Range and number of bytes of every answer

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted, whole, begin = request.headers["Range"], len(self.content), 0
        partial = self.ranges and wanted and request.headers["If-Range"] in (None, self.etag)
        if partial:
            begin = int(wanted.removeprefix("bytes=").removesuffix("-")) + self.shift
        if self.status != 200 or begin > whole:
            request.send_error(416 if begin > whole else self.status)
            return
        request.send_response(206 if partial else 200)
        headers = {"Content-Range": f"bytes {begin}-{whole - 1}/{whole}" if partial else "", "ETag": self.etag}
        for name, value in (headers | {"Content-Length": str(whole - begin) if self.says_length else ""}).items():
            if value:
                request.send_header(name, value)
        body = self.content[begin:][: self.cuts.pop(0) if self.cuts else None]
        self.sent.append((wanted, len(body)))  # before the headers leave: they alone may bring the next request
        request.end_headers()
        request.wfile.write(body)

    def things(self, digits: str | None) -> Any:
        """A data set of bolts and nuts, published here with that checksum."""

        class Things(AnomalyDataModule):
            revision = 1
            archive = Archive("Things", self.url, "https://x.example/page", "all/things", ("train",), "free",
                              "Nobody 1999", digits, "the maker")  # fmt: skip

            @classmethod
            def category_names(cls, data_root: Path) -> list[str]:
                return ["bolt", "nut"]

            @classmethod
            def category_folder(cls, data_root: Path, category: str) -> Path:
                if not (data_root / "all/things" / category).is_dir():
                    raise UserError("not here.")
                return data_root / "all/things" / category

        return Things

    def get(self, *, published: str | None = "", **given: Any) -> str:
        """Fetch it, published with the right checksum unless another (or None) is given; what is printed."""
        lines: list[str] = []
        given = {"url": None, "sha256": None, "allow_unverified": False, "say": lines.append} | given
        dataset = self.things(sha256(self.content) if published == "" else published)
        fetch.fetch_data_set(dataset, self.root, **given)
        return "\n".join(lines)

    def arrives(self, **given: Any) -> str:
        """As `get`; all of the data set is in its folder then, and there is nothing else."""
        printed = self.get(**given)
        assert files_below(self.root) == ARRIVED
        assert [path.name for path in self.root.iterdir()] == ["all"]
        return printed

    def refusal(self, **given: Any) -> str:
        with pytest.raises(UserError) as caught:
            self.get(**given)
        sentence = str(caught.value)
        assert "\n" not in sentence
        assert sentence.endswith(".")
        return sentence


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    site, connect = Site(tmp_path), socket.create_connection

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    def connect_here(address: tuple[str, int], *rest: Any, **named: Any) -> socket.socket:
        assert address[0] == "127.0.0.1", "no test may leave this machine"
        return connect(address, *rest, **named)

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetch, "WAIT_S", 0.0)
    monkeypatch.setattr(socket, "create_connection", connect_here)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site.url = f"http://127.0.0.1:{server.server_port}/things.tar.gz"
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield site
        server.shutdown()


ZIP = zipped(FILES)
MAC = zipped(WRAPPED | {"__MACOSX/._x": b"x"}, kind=0)
GOOD = [tar(FILES, "w"), tar(FILES, "w:xz"), tar(WRAPPED, "w:bz2"), ZIP, MAC]


@pytest.mark.parametrize("content", GOOD, ids=["tar", "tar.xz", "tar.bz2, wrapped", "zip", "zip of macOS"])
def test_an_archive_becomes_its_folder_and_leaves_nothing_else(site: Site, content: bytes) -> None:
    site.content = content
    assert f"SHA-256 {sha256(content)}: as the maker has it." in site.arrives()


def test_licence_and_citation_are_printed_before_the_first_request(site: Site) -> None:
    early: list[str] = []
    site.arrives(say=lambda text: None if site.sent else early.append(text))
    assert "licence: free\ncite: Nobody 1999" in early[0]


def test_a_wrong_checksum_leaves_nothing(site: Site) -> None:
    assert f"SHA-256 {sha256(site.content)}, not {'0' * 64}," in site.refusal(published="0" * 64)
    assert list(site.root.iterdir()) == []


def test_a_cut_download_goes_on_where_it_was_cut(site: Site) -> None:
    site.cuts = [700, 0, 300]
    site.arrives()
    rest = len(site.content) - 1000
    assert site.sent == [(None, 700), ("bytes=700-", 0), ("bytes=700-", 300), ("bytes=1000-", rest)]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_line_that_stays_bad_ends_the_call_and_the_next_call_goes_on(site: Site, ranges: bool) -> None:
    """A server that knows no ranges sends everything again, and what it sends replaces what there is."""
    site.ranges, site.cuts = ranges, [700, *[0 if ranges else 700] * fetch.TRIES]
    assert "run the same command again to go on." in site.refusal()
    assert len(site.sent) == 1 + fetch.TRIES
    site.arrives()
    assert site.sent[-1] == ("bytes=700-", len(site.content) - (700 if ranges else 0))


OLD, TURNED = tar(FILES, "w"), tar(dict(reversed(FILES.items())), "w")  # of one length
CHANGES = [('"second"', TURNED, ""), ("", ZIP, ""), ("", b"short", ""), ('"first"', OLD, "?another ö")]


@pytest.mark.parametrize(("etag", "content", "query"), CHANGES)
def test_bytes_of_two_files_are_never_mixed(site: Site, etag: str, content: bytes, query: str) -> None:
    """The server's file changes between two calls (without an ETag its length gives it away), or the address does."""
    site.etag, site.content, site.cuts = etag and '"first"', OLD, [700, *[0] * fetch.TRIES]
    site.refusal(published=sha256(content))
    site.etag, site.content = etag, content
    if content == b"short":
        assert "neither a .tar nor a .zip" in site.refusal()
    else:
        site.arrives(url=site.url + query)
    assert site.sent[-1][1] == len(content)


@pytest.mark.parametrize("quirk", [{"shift": 5, "cuts": [700]}, {"says_length": False}], ids=repr)
def test_a_server_with_odd_answers_is_understood_or_asked_anew(site: Site, quirk: dict[str, Any]) -> None:
    vars(site).update(quirk)
    site.arrives()
    assert site.sent[-1] == (None, len(site.content))


ESCAPES = ["bolt/../../../evil", "/tmp/evil", "bolt\\..\\..\\evil", "C:evil"]
LINKS = {"out": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE}
BOMB = FILES | {"bolt/odd": bytes(10**6)}
BLOCKS = tar({"bolt/odd": random.Random(0).randbytes(10**6)}, "w:bz2")  # two of bzip2's
EVIL = {
    **{f"tar with {name}": (tar(FILES | {name: b"x"}), "leads out of its folder") for name in ESCAPES},
    **{f"zip with {name}": (zipped(FILES | {name: b"x"}), "leads out of its folder") for name in ESCAPES},
    **{f"tar, link {name}": (tar(FILES, odd=(kind, "../../..")), "link or a device") for name, kind in LINKS.items()},
    "tar, link inside": (tar(FILES, odd=(tarfile.SYMTYPE, "train/0.png")), "link or a device"),
    "zip, link": (zipped({"bolt": b"/etc"}, kind=stat.S_IFLNK), "link or a device"),
    "tar, bomb": (tar(BOMB), "grows more than 20 times"),
    "zip, bomb": (zipped(BOMB), "grows more than 20 times"),
    "nothing": (b"", "neither a .tar nor a .zip"),
    "cut gzip": (tar(FILES)[:-300], "is damaged"),
    "other bytes in a bzip2": (BLOCKS[:-9000] + bytes(9000), "is damaged"),
    "other bytes in a zip": (ZIP.replace(FILES[NAMES[1]][:40], bytes(40)), "is damaged"),
    "another data set": (tar({"bolt/train/0.png": b"x", "screw/train/0.png": b"x"}), "lacks nut of Things"),
    "empty folders": (tar({"bolt/x": b"x", "nut/x": b"x"}), "lacks bolt, nut of Things"),
}


@pytest.mark.parametrize("evil", EVIL)
def test_a_bad_archive_writes_nothing_anywhere(site: Site, evil: str, tmp_path: Path) -> None:
    (site.content, words), site.root = EVIL[evil], tmp_path / "a" / "b"
    assert words in site.refusal()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize("status", [404, 403, 503, None])
def test_a_server_that_refuses_gets_a_sentence_with_the_way_by_hand(site: Site, status: int | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/x"
    site.status = status or 200
    sentence = site.refusal(url=site.url if status else nobody)
    assert re.search(rf"cannot be had \(.*{status or 'refused'}.*\); get the archive from https://x.exam", sentence)
    assert f"pass it with --url file:///PATH, or unpack its content into {site.root}/all/things." in sentence
    assert list(site.root.iterdir()) == []


def test_another_address_may_be_a_file_and_paths_may_have_blanks_and_umlauts(site: Site, tmp_path: Path) -> None:
    place = tmp_path / "Größe \u3042"
    place.mkdir()
    (place / "my things.zip").write_bytes(ZIP)
    site.root, url = place / "data röot", f"file://{place}/my things.zip"
    assert f"not {sha256(site.content)}" in site.refusal(url=url)
    assert "as --sha256 has it." in site.arrives(url=url, sha256=sha256(ZIP).upper())
    assert site.sent == []


def test_data_that_are_there_already_are_left_alone(site: Site) -> None:
    site.get()
    (site.root / "all/things/bolt/mine.txt").write_text("kept")
    before = files_below(site.root)
    assert site.get() == f"Things is already in {site.root}: nothing to do."
    assert len(site.sent) == 1
    assert files_below(site.root) == before


def test_a_folder_with_only_a_part_is_neither_completed_nor_replaced(site: Site) -> None:
    part = site.root / "all/things/nut/train"
    part.mkdir(parents=True)
    assert site.refusal() == f"{part.parents[1]} lacks bolt; move it away, or choose another --data-root."
    assert part.exists()
    assert site.sent == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")], ids=repr)
def test_an_interrupted_extraction_leaves_the_download(site: Site, error: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    extract, errors = tarfile.TarFile.extract, iter([None, None, error])

    def stop_at_the_third(*given: Any, **named: Any) -> None:
        extract(*given, **named)
        if stop := next(errors):
            raise stop

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extract", stop_at_the_third)
        with pytest.raises((UserError, KeyboardInterrupt), match=getattr(error, "strerror", None)):
            site.get()
    left = sorted(str(path.relative_to(site.root)) for path in site.root.rglob("*"))
    assert left == [".fetch-all-things", ".fetch-all-things/archive", ".fetch-all-things/source.json"]
    site.arrives()
    assert len(site.sent) == 1, "the archive was there"


def test_without_a_published_checksum_nothing_is_used_silently(site: Site, tmp_path: Path) -> None:
    digits = sha256(site.content)
    assert f"nobody has published a checksum of {site.url}; its SHA-256 is {digits}" in site.refusal(published=None)
    assert not (site.root / "all").exists()
    site.arrives(published=None, sha256=digits)
    assert len(site.sent) == 1
    site.root = tmp_path / "2"
    assert f"UNVERIFIED: SHA-256 {digits}, expected nothing" in site.arrives(published=None, allow_unverified=True)


@pytest.mark.parametrize("given", [{"url": "things.zip"}, {"url": "ftp://x/y"}, {"sha256": "12ab"}], ids=repr)
def test_options_that_cannot_be_meant_are_refused_at_once(site: Site, given: dict[str, str]) -> None:
    assert f"not '{next(iter(given.values()))}'." in site.refusal(**given)
    assert site.sent == []


PUBLISHED = {"btad": ("01", "02", "03"), "cifar10": (".",), "mvtec": tuple(OFFICIAL)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_data_module_finds_what_its_archive_holds(site: Site, name: str) -> None:
    dataset: Any = load_dataset(name)
    archive: Archive = dataset.archive
    assert archive.url.startswith("https://")
    assert re.fullmatch("[0-9a-f]{64}", str(archive.sha256))
    site.content = zipped({f"top/{folder}/{entry}/x": b"" for folder in PUBLISHED[name] for entry in archive.holds})
    words = ["data", "fetch", name, "--data-root", str(site.root), "--url", site.url, "--allow-unverified-data"]
    assert main(words) == 0
    for category in dataset.category_names(site.root):
        assert dataset.category_folder(site.root, category).is_relative_to(site.root / archive.folder)


def test_the_command_line_ends_with_a_sentence_and_2(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.status = 404
    for name, sentence in (("mvtec", "404: Not Found"), ("folder", "there is nothing to fetch"), ("mvtek", "mvtec")):
        assert main(["data", "fetch", name, "--data-root", str(site.root), "--url", site.url]) == 2
        assert re.fullmatch(rf"error: .*{sentence}.*\n", capsys.readouterr().err)
