"""Downloads that break off, checksums, and archives that try to escape, against a server on this machine."""

import hashlib
import http.server
import io
import os
import stat
import struct
import sys
import threading
import zipfile
from types import SimpleNamespace

import pytest

from data_util.archives import BadArchive, provide, unpack
from data_util.errors import DataMissing
from helpers import downloads
from helpers.downloads import fetch, require_checksum

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server(tmp_path):
    """A server whose files, drops and ranges a test decides; it keeps the requests it got."""
    state = SimpleNamespace(files={}, drop_after=[], statuses=[], ranges=True, tag='"one"', requests=[])

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            name = self.path.lstrip("/").partition("?")[0]
            state.requests.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
            if state.statuses:
                return self.send_error(state.statuses.pop(0))
            if name not in state.files:
                return self.send_error(404)
            body, start, wanted = state.files[name], 0, self.headers.get("Range")
            if wanted and state.ranges and self.headers.get("If-Range") in (None, state.tag):
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    return self.send_error(416)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            if state.tag:
                self.send_header("ETag", state.tag)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            limit = state.drop_after.pop(0) if state.drop_after else len(body)
            self.wfile.write(body[start : start + limit])

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        state.address = f"http://127.0.0.1:{running.server_port}"
        yield state
        running.shutdown()


def zipped(**members):
    """Bytes of a zip with these members; "/" in a name is written "__"."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def left_in(folder):
    """All files below a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# -- downloads --------------------------------------------------------------------------------------------------------
def test_dropped_connections_are_continued(server, tmp_path):
    server.files["a.bin"], server.drop_after = CONTENT, [1000, 2000]
    fetch(f"{server.address}/a.bin", tmp_path / "a.bin", wait=0)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert left_in(tmp_path) == ["a.bin"]
    assert [request[1:] for request in server.requests] == [
        (None, None),
        ("bytes=1000-", '"one"'),
        ("bytes=3000-", '"one"'),
    ]


def test_next_call_continues_and_never_shows_a_part(server, tmp_path):
    server.files["a.bin"], server.drop_after = CONTENT, [1000, 0]
    with pytest.raises(OSError, match=r"1000 bytes are kept"):
        fetch(f"{server.address}/a.bin", tmp_path / "a.bin", retries=1, wait=0)
    assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "a.bin.partial").stat().st_size == 1000
    fetch(f"{server.address}/a.bin", tmp_path / "a.bin", wait=0)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=1000-"


@pytest.mark.parametrize("change", ["tag", "address", "no ranges"])
def test_part_of_another_file_is_not_continued(server, tmp_path, change):
    server.files.update({"a.bin": CONTENT, "b.bin": CONTENT[::-1]})
    server.drop_after = [1000]
    with pytest.raises(OSError, match="1000 bytes"):
        fetch(f"{server.address}/a.bin", tmp_path / "a.bin", retries=0)
    name = "b.bin" if change == "address" else "a.bin"
    server.tag = '"two"' if change == "tag" else server.tag
    server.ranges = change != "no ranges"
    server.files["a.bin"] = CONTENT[::-1]
    fetch(f"{server.address}/{name}", tmp_path / "a.bin", wait=0)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT[::-1]


def test_shorter_file_on_the_server_is_fetched_anew(server, tmp_path):
    server.tag, server.files["a.bin"], server.drop_after = None, CONTENT, [1000]
    with pytest.raises(OSError, match="1000 bytes"):
        fetch(f"{server.address}/a.bin", tmp_path / "a.bin", retries=0)
    for content in (CONTENT[:2000], CONTENT[:500]):
        server.files["a.bin"] = content
        fetch(f"{server.address}/a.bin", tmp_path / "a.bin", wait=0)
        assert (tmp_path / "a.bin").read_bytes() == content


def test_busy_server_is_asked_again_a_refusal_is_final(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(downloads.time, "sleep", waits.append)
    server.files["a.bin"], server.statuses = CONTENT, [503, 429]
    fetch(f"{server.address}/a.bin", tmp_path / "a.bin")
    assert waits == [1.0, 2.0]
    with pytest.raises(OSError, match=r"missing\.bin: 404"):
        fetch(f"{server.address}/missing.bin", tmp_path / "missing.bin")
    assert waits == [1.0, 2.0]
    assert left_in(tmp_path) == ["a.bin"]


def test_offline_is_one_attempt(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads.time, "sleep", lambda _: pytest.fail("waits for a server that is not there"))
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:9/a\.bin: .*refused"):
        fetch("http://127.0.0.1:9/a.bin", tmp_path / "a.bin")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("kind", ["sha256", "md5", None])
def test_checksum(server, tmp_path, kind):
    server.files["a.bin"] = CONTENT
    digits = hashlib.new(kind or "sha256", CONTENT).hexdigest()
    fetch(f"{server.address}/a.bin", tmp_path / "a.bin", f"{kind}:{digits}" if kind else digits)
    wrong = f"{kind or 'sha256'}:{'0' * len(digits)}"
    server.files["b.bin"] = CONTENT
    with pytest.raises(ValueError, match=f"b.bin: .*{digits}, expected {wrong}"):
        fetch(f"{server.address}/b.bin", tmp_path / "b.bin", wrong)
    assert left_in(tmp_path) == ["a.bin"]


def test_checksum_that_is_none(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(ValueError, match="'crc:123'"):
        require_checksum(tmp_path / "a", "crc:123", "a")


# -- archives ---------------------------------------------------------------------------------------------------------
def test_zip_goes_beside_what_is_there(tmp_path):
    (tmp_path / "out" / "set").mkdir(parents=True)
    (tmp_path / "out" / "set" / "old.txt").write_text("old")
    (tmp_path / "a.zip").write_bytes(zipped(set__new="new", set__deep__er="deeper"))
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert left_in(tmp_path / "out") == ["set/deep/er", "set/new", "set/old.txt"]


@pytest.mark.parametrize("name", ["../escaped", "set/../../escaped", "/escaped", "C:/escaped", "..\\escaped"])
def test_zip_that_escapes_is_refused(tmp_path, name):
    (tmp_path / "a.zip").write_bytes(zipped(set__good="x", **{name: "x"}))
    with pytest.raises(BadArchive, match="outside"):
        unpack(tmp_path / "a.zip", tmp_path / "out" / "below")
    assert left_in(tmp_path) == ["a.zip"]


def test_link_in_a_zip_is_refused(tmp_path):
    link = zipfile.ZipInfo("set/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BadArchive, match=r"'set/link' is a link"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert left_in(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("damage", ["cut", "flip", "text"])
def test_damaged_zip(tmp_path, damage):
    whole = bytearray(zipped(set__a="a" * 500, set__b="b" * 500))
    whole[100] ^= damage == "flip"
    (tmp_path / "a.zip").write_bytes({"cut": whole[:-300], "flip": whole, "text": b"<html>"}[damage])
    with pytest.raises(BadArchive, match=r"a\.zip: damaged"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert left_in(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("names", "place"),
    [(("a", "a/b"), "a/b"), (("a/b", "a"), "a"), (("a", "a/"), "a"), (("set/a", "set/a/b/c"), "set/a/b")],
)
def test_zip_with_a_name_for_file_and_folder(tmp_path, names, place):
    (tmp_path / "a.zip").write_bytes(zipped(**{name: "" if name.endswith("/") else "x" for name in names}))
    with pytest.raises(BadArchive, match=rf"a\.zip: members clash at '{place}', a file and a folder"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert left_in(tmp_path / "out") == []


def test_zip_of_unknown_compression(tmp_path):
    whole = bytearray(zipped(a="a"))
    for header, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        struct.pack_into("<H", whole, whole.index(header) + place, 9)  # Deflate64
    (tmp_path / "a.zip").write_bytes(whole)
    with pytest.raises(BadArchive, match="by hand"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_large_zip_with_wrapped_offsets(tmp_path):
    # As the archive tool of macOS writes them: the third member begins beyond 4 GiB, behind a hole of nearly that size.
    whole = bytearray(zipped(a="first", b="second", c="third"))
    second, shift = whole.index(b"PK\x03\x04", 4), 2**32 - 50
    entry = whole.index(b"PK\x01\x02")
    for position in (entry + 47, entry + 2 * 47):  # entries with names of one letter
        place = struct.unpack_from("<I", whole, position + 42)[0]
        struct.pack_into("<I", whole, position + 42, (place + shift) % 2**32)
    end = whole.index(b"PK\x05\x06")
    struct.pack_into("<I", whole, end + 16, (entry + shift) % 2**32)
    with open(tmp_path / "a.zip", "wb") as file:
        file.write(whole[:second])
        file.seek(second + shift)
        file.write(whole[second:])
    if os.stat(tmp_path / "a.zip").st_blocks * 512 > 2**24:
        pytest.skip("this file system has no holes")
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert [(tmp_path / "out" / name).read_text() for name in "abc"] == ["first", "second", "third"]


def test_7z(tmp_path):
    py7zr = pytest.importorskip("py7zr")
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as archive:
        archive.writestr(b"deep", "set/deep/er")
    unpack(tmp_path / "a.7z", tmp_path / "out")
    assert (tmp_path / "out/set/deep/er").read_bytes() == b"deep"
    whole = (tmp_path / "a.7z").read_bytes()
    for content in (whole[: len(whole) // 2], whole[:40], b"<html>", b""):
        (tmp_path / "a.7z").write_bytes(content)
        with pytest.raises(BadArchive, match=r"a\.7z"):
            unpack(tmp_path / "a.7z", tmp_path / "bad")
    assert left_in(tmp_path / "bad") == []


@pytest.mark.parametrize("of_names", [False, True])
def test_7z_with_a_password(tmp_path, of_names):
    py7zr = pytest.importorskip("py7zr")
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w", password="secret", header_encryption=of_names) as archive:
        archive.writestr(b"deep", "set/deep")
    with pytest.raises(BadArchive, match=r"a\.7z: it needs a password; nothing was unpacked, do it by hand$"):
        unpack(tmp_path / "a.7z", tmp_path / "out")
    assert left_in(tmp_path / "out") == []


def test_7z_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "py7zr", None)
    (tmp_path / "a.7z").write_bytes(b"7z\xbc\xaf\x27\x1c")
    with pytest.raises(BadArchive, match="install the package py7zr"):
        unpack(tmp_path / "a.7z", tmp_path / "out")


@pytest.mark.parametrize("name", ["../escaped", "/escaped"])
def test_7z_that_escapes_is_refused(tmp_path, name, monkeypatch):
    py7zr = pytest.importorskip("py7zr")
    honest = "x" * len(name)
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as archive:
        archive.set_encoded_header_mode(False)
        archive.writestr(b"escaped", honest)
    whole = (tmp_path / "a.7z").read_bytes()
    forged = bytearray(whole.replace(honest.encode("utf-16-le"), name.encode("utf-16-le")))
    assert forged != whole
    _renew_7z_checksums(forged)
    (tmp_path / "a.7z").write_bytes(forged)
    with pytest.raises(BadArchive, match="outside"):
        unpack(tmp_path / "a.7z", tmp_path / "out" / "below")
    assert left_in(tmp_path) == ["a.7z"]


def test_link_in_a_7z_is_refused(tmp_path):
    py7zr = pytest.importorskip("py7zr")
    (tmp_path / "link").symlink_to("/etc/passwd")
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as archive:
        archive.write(tmp_path / "link", "set/link")
    with pytest.raises(BadArchive, match="is a link"):
        unpack(tmp_path / "a.7z", tmp_path / "out")


def _renew_7z_checksums(content):
    """Of the header at the end, and of the start header that holds it."""
    offset, size = struct.unpack_from("<QQ", content, 12)
    header = bytes(content[32 + offset : 32 + offset + size])
    struct.pack_into("<I", content, 28, zipfile.crc32(header))
    struct.pack_into("<I", content, 8, zipfile.crc32(bytes(content[12:32])))


# -- data sets --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("top", ["", "Some_Set__", "a__b__"])
def test_provided_from_a_download(server, tmp_path, top):
    server.files["set.zip"] = zipped(**{f"{top}names.csv": "x", f"{top}audio__a": "a", "MACOSX__b": "b"})
    provide(tmp_path / "data" / "set", f"{server.address}/set.zip?download=1", "names.csv")
    there = left_in(tmp_path / "data")
    assert there == ["downloads.json", *(["set/MACOSX/b"] if not top else []), "set/audio/a", "set/names.csv"]
    provide(tmp_path / "data" / "set", "http://127.0.0.1:9/set.zip", "names.csv")
    assert len(server.requests) == 1


def test_second_download_must_be_like_the_first(server, tmp_path):
    server.files["set.zip"] = zipped(set__names="x")
    provide(tmp_path / "set", f"{server.address}/set.zip", "names")
    (tmp_path / "set" / "names").unlink()
    (tmp_path / "set").rmdir()
    server.files["set.zip"] = zipped(set__names="y")
    with pytest.raises(ValueError, match=r"set\.zip: checksum .* as noted in .*downloads\.json"):
        provide(tmp_path / "set", f"{server.address}/set.zip", "names")
    assert left_in(tmp_path) == ["downloads.json"]


def test_archive_that_is_there_needs_no_network(tmp_path):
    (tmp_path / "set.zip").write_bytes(zipped(set__names="x"))
    provide(tmp_path / "set", "http://127.0.0.1:9/set.zip", "names", download=False)
    assert (tmp_path / "set/names").read_text() == "x"
    assert (tmp_path / "set.zip").is_file()


def test_given_checksum_counts_for_an_archive_that_is_there(tmp_path):
    (tmp_path / "set.zip").write_bytes(zipped(set__names="x"))
    with pytest.raises(ValueError, match=r"set\.zip: checksum md5:"):
        provide(tmp_path / "set", "http://127.0.0.1:9/set.zip", "names", checksum="0" * 32)
    assert left_in(tmp_path) == ["set.zip"]


@pytest.mark.parametrize("download", [True, False])
def test_offline_line_says_what_to_put_where(tmp_path, download):
    with pytest.raises(DataMissing) as caught:
        provide(tmp_path / "set", "http://127.0.0.1:9/set.zip", "names", download=download)
    message = str(caught.value)
    assert f"put set.zip (http://127.0.0.1:9/set.zip) into {tmp_path}" in message
    assert f"or its content into {tmp_path / 'set'}" in message
    assert "\n" not in message
    assert left_in(tmp_path) == []


def test_wrong_archive_leaves_nothing(server, tmp_path):
    server.files["set.zip"] = zipped(other="x")
    with pytest.raises(BadArchive, match="no 'names'"):
        provide(tmp_path / "set", f"{server.address}/set.zip", "names")
    assert left_in(tmp_path) == ["downloads.json"]
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("damaged", [zipped(set__names="x")[:-30], b"<html>busy</html>", zipped(other="x")],
                         ids=["cut off", "no archive", "another one"])  # fmt: skip
def test_damaged_download_is_fetched_again(server, tmp_path, damaged):
    server.files["set.zip"] = damaged
    with pytest.raises(BadArchive):
        provide(tmp_path / "set", f"{server.address}/set.zip", "names")
    server.files["set.zip"] = zipped(set__names="x")
    provide(tmp_path / "set", f"{server.address}/set.zip", "names")
    assert (tmp_path / "set/names").read_text() == "x"


def test_archive_to_be_unpacked_by_hand_is_kept(server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "py7zr", None)
    server.files["set.7z"] = b"7z\xbc\xaf\x27\x1c"
    for _ in range(2):
        with pytest.raises(BadArchive, match="install the package py7zr"):
            provide(tmp_path / "set", f"{server.address}/set.7z", "names")
    assert left_in(tmp_path) == ["downloads.json", "set.7z"]
    assert len(server.requests) == 1


def test_damaged_archive_that_was_there_is_kept(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"<html>")
    with pytest.raises(BadArchive, match="damaged"):
        provide(tmp_path / "set", "http://127.0.0.1:9/set.zip", "names")
    assert (tmp_path / "set.zip").read_bytes() == b"<html>"


def test_one_of_several_processes_downloads(server, tmp_path):
    server.files["set.zip"] = zipped(set__names="x")
    arguments = (tmp_path / "set", f"{server.address}/set.zip", "names")
    threads = [threading.Thread(target=provide, args=arguments) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    assert left_in(tmp_path) == ["downloads.json", "set/names"]
