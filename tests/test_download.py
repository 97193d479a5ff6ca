"""Downloads, against a server on this machine."""

import functools
import http.server
import threading
import zipfile

import pytest

import download_resources as download


@pytest.fixture
def server(tmp_path):
    """Serves ``tmp_path/served``; yields (folder, address)."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.func.log_message = lambda *arguments: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_file_and_archive(server, tmp_path, capsys):
    folder, address = server
    (folder / "atst_as.ckpt").write_bytes(b"weights")
    with zipfile.ZipFile(folder / "dirs.zip", "w") as archive:
        archive.writestr("dirs/one.wav", b"response")
    arguments = ["--base-url", address, "--root", str(tmp_path / "resources")]
    assert download.main(["--only", "atst_as", "dirs", *arguments]) == 0
    assert (tmp_path / "resources/pretrained_models/atst_as.ckpt").read_bytes() == b"weights"
    assert (tmp_path / "resources/dirs/one.wav").read_bytes() == b"response"
    assert not (tmp_path / "resources/dirs.zip").exists()
    assert download.main(["--only", "atst_as", *arguments]) == 0
    assert "is there" in capsys.readouterr().out


def test_missing_file_is_one_line_and_leaves_nothing(server, tmp_path, capsys):
    _, address = server
    assert download.main(["--only", "atst_as", "--base-url", address, "--root", str(tmp_path / "resources")]) == 1
    assert "atst_as" in capsys.readouterr().err
    assert not list((tmp_path / "resources").rglob("*.ckpt"))


def test_archive_that_escapes_is_refused(server, tmp_path, capsys):
    folder, address = server
    with zipfile.ZipFile(folder / "dirs.zip", "w") as archive:
        archive.writestr("../../escaped.txt", b"x")
    assert download.main(["--only", "dirs", "--base-url", address, "--root", str(tmp_path / "a/b")]) == 1
    assert "outside" in capsys.readouterr().err
    assert not list(tmp_path.rglob("escaped.txt"))


def test_unknown_name(capsys):
    assert download.main(["--only", "atst_ass"]) == 1
    assert "atst_ass" in capsys.readouterr().err


def test_plugin_checkpoints_are_listed(capsys):
    assert download.main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert "mn10_as_mAP_471.pt" in shown
    assert "atst_as_strong.ckpt" in shown
