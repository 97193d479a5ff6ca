"""Resources: the table of what is published, and its downloads against a server on this machine."""

import re
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from types import SimpleNamespace

import pytest

import configs
import download_resources as download
import models
import published
from helpers import downloads
from tests import test_archives
from tests.test_archives import left_in, zipped

ROOT = Path(__file__).parents[1]
CONTENT = bytes(range(256)) * 40
SHA256 = f"sha256:{'0' * 64}"  # of nothing that is served
server = test_archives.server

# name: file, bytes, checksum; the columns that the tests vary
ROWS = {
    "plain": ("pretrained_models/plain.ckpt", "", ""),
    "sized": ("pretrained_models/sized.ckpt", str(len(CONTENT)), ""),
    "hashed": ("pretrained_models/hashed.ckpt", "", SHA256),
    "odd": ("pretrained_models/odd_mAP=0.5(2).pt", "", ""),
    "dirs": ("dirs", "", ""),
}


@pytest.fixture
def resources(server, tmp_path, monkeypatch):
    """A table of a few resources on the server, whose waits take no time; yields the arguments of the command line."""
    lines = ["\t".join(published.Resource._fields)]
    for name, (file, size, checksum) in ROWS.items():
        path = urllib.parse.quote(Path(file).name) if "/" in file else f"{file}.zip"
        lines.append("\t".join((name, file, f"{server.address}/{path}", size, checksum, "MIT", "few", f"arch={name}")))
    (tmp_path / "table.tsv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(published, "TABLE", tmp_path / "table.tsv")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    published.table.cache_clear()
    server.files.update({f"{name}.ckpt": CONTENT for name in ("plain", "sized", "hashed")})
    server.files["odd_mAP%3D0.5%282%29.pt"] = b"odd"
    server.files["dirs.zip"] = zipped(dirs__one="response", beside__it="rubbish")
    yield SimpleNamespace(root=tmp_path / "resources", arguments=["--root", str(tmp_path / "resources")])
    published.table.cache_clear()


def fetched(resources):
    """What is there beside the record of downloads."""
    return [name for name in left_in(resources.root) if not name.endswith(downloads.RECORD)]


# -- downloads --------------------------------------------------------------------------------------------------------
def test_a_file_and_an_archive(resources, capsys):
    assert download.main(["--only", "plain", "dirs", *resources.arguments]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == ["dirs: fetched", "plain: fetched"]
    assert fetched(resources) == ["dirs/one", "pretrained_models/plain.ckpt"]
    assert (resources.root / "pretrained_models/plain.ckpt").read_bytes() == CONTENT
    assert (resources.root / "dirs/one").read_text() == "response"
    assert download.main(["--only", "plain", "dirs", *resources.arguments]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == ["dirs: is there", "plain: is there"]


def test_a_server_that_drops_connections_and_is_busy(server, resources):
    server.drop_after, server.statuses = [1000, 0, 3000], [503, 429]
    assert download.main(["--only", "sized", *resources.arguments]) == 0
    assert (resources.root / "pretrained_models/sized.ckpt").read_bytes() == CONTENT
    assert [wanted for _, wanted, _ in server.requests if wanted] == ["bytes=1000-", "bytes=1000-", "bytes=4000-"]


def test_a_broken_download_goes_on_with_the_next_call(server, resources, capsys):
    server.drop_after = [1000, *[0] * 10]
    assert download.main(["--only", "plain", *resources.arguments]) == 1
    assert re.search("error: plain: .* 1000 bytes are kept, start it again", capsys.readouterr().err)
    assert fetched(resources) == ["pretrained_models/plain.ckpt.partial", "pretrained_models/plain.ckpt.partial.json"]
    server.drop_after = []
    assert download.main(["--only", "plain", *resources.arguments]) == 0
    assert server.requests[-1][1] == "bytes=1000-"
    assert fetched(resources) == ["pretrained_models/plain.ckpt"]


@pytest.mark.parametrize(
    ("name", "served", "message"),
    [
        ("sized", CONTENT[:-1], f"sized.ckpt: {len(CONTENT) - 1} bytes, expected {len(CONTENT)}; the file is not used"),
        ("hashed", CONTENT, f"hashed.ckpt: checksum sha256:.*, expected {SHA256}; the file is not used"),
        ("plain", None, "404"),
        ("dirs", zipped(dirs__one="1")[:-30], "damaged .* nothing was unpacked"),
        ("dirs", b"<html>busy</html>", "damaged .* nothing was unpacked"),
        ("dirs", zipped(**{"..__..__escaped": "1"}), "would be written outside its folder"),
    ],
    ids=["short", "altered", "missing", "cut off", "no archive", "escaping"],  # an archive holds the time of its making
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(name, served, message, server, resources, tmp_path, capsys):
    file = "dirs.zip" if name == "dirs" else f"{name}.ckpt"
    server.files[file] = served
    if served is None:
        del server.files[file]
    assert download.main(["--only", name, "odd", *resources.arguments]) == 1
    said = capsys.readouterr()
    assert re.fullmatch(rf"error: {name}: .*{message}.*\n", said.err)
    assert said.out == "odd: fetched\n"  # the others come all the same
    assert fetched(resources) == ["pretrained_models/odd_mAP=0.5(2).pt"]
    assert not list(tmp_path.rglob("escaped"))


def test_a_mended_archive_is_taken(server, resources):
    right, server.files["dirs.zip"] = server.files["dirs.zip"], b"no archive"
    assert download.main(["--only", "dirs", *resources.arguments]) == 1
    server.files["dirs.zip"] = right
    assert download.main(["--only", "dirs", *resources.arguments]) == 0


def test_an_archive_without_a_folder_becomes_one(server, resources):
    server.files["dirs.zip"] = zipped(one="1", two__three="2")
    assert download.main(["--only", "dirs", *resources.arguments]) == 0
    assert fetched(resources) == ["dirs/one", "dirs/two/three"]


def test_the_first_download_is_noted_and_a_later_one_compared(server, resources, capsys):
    path = resources.root / "pretrained_models/plain.ckpt"
    assert download.main(["--only", "plain", *resources.arguments]) == 0
    path.unlink()
    assert download.main(["--only", "plain", *resources.arguments]) == 0
    path.unlink()
    server.files["plain.ckpt"] = CONTENT[::-1]
    assert download.main(["--only", "plain", *resources.arguments]) == 1
    assert "as noted in" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sized", f"2 bytes, expected {len(CONTENT)}"),
        ("hashed", f"checksum sha256:[0-9a-f]{{64}}, expected {SHA256}"),
        ("plain", f"2 bytes, expected {len(CONTENT)} as noted in .*{re.escape(downloads.RECORD)}"),
    ],
)
@pytest.mark.parametrize("mirror", [False, True])
def test_a_wrong_file_that_is_there_is_named_and_stays(name, expected, mirror, server, resources, capsys):
    path = resources.root / ("" if mirror else "pretrained_models") / f"{name}.ckpt"
    arguments = ["--only", name, *(["--mirror", str(resources.root)] if mirror else resources.arguments)]
    if name == "plain":
        assert download.main(arguments) == 0
        capsys.readouterr()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x\n")
    asked = len(server.requests)
    assert download.main(arguments) == 1
    message = f"error: {name}: {re.escape(str(path))}: {expected}; remove it, and the next call fetches it\n"
    assert re.fullmatch(message, capsys.readouterr().err)
    assert path.read_bytes() == b"x\n"
    assert len(server.requests) == asked
    path.unlink()
    if name != "hashed":  # of which the server has no right one
        assert download.main(arguments) == 0
        assert path.read_bytes() == CONTENT


def test_a_damaged_record_is_one_line(resources, capsys):
    assert download.main(["--only", "plain", *resources.arguments]) == 0
    (resources.root / "pretrained_models" / downloads.RECORD).write_text("{")
    for more in ([], ["--list"]):
        capsys.readouterr()
        assert download.main(["--only", "plain", *more, *resources.arguments]) == 1
        assert re.fullmatch(r"error: .*downloads\.json: no JSON .*, remove it .*\n", capsys.readouterr().err)


def test_the_first_digits_of_a_checksum_will_do(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    kind, digits = downloads.digest(tmp_path / "a").split(":")
    downloads.require_checksum(tmp_path / "a", f"{kind}:{digits[:8]}", "a")
    with pytest.raises(ValueError, match="checksum"):
        downloads.require_checksum(tmp_path / "a", f"{kind}:{'0' * 8}", "a")
    with pytest.raises(ValueError, match="expected sha256:<64 hex digits>"):
        downloads.require_checksum(tmp_path / "a", f"{kind}:{digits[:7]}", "a")


def test_downloads_run_at_once():
    together = threading.Barrier(download.AT_ONCE)
    rows = [SimpleNamespace(name=str(number)) for number in range(download.AT_ONCE)]
    assert download.fetch_all(rows, lambda row: together.wait(timeout=20) >= 0)


# -- mirrors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["folder", "file", "http"])
def test_a_mirror_is_made_and_read(kind, server, resources, tmp_path, capsys):
    mirror = tmp_path / "a mirror"
    assert download.main(["--mirror", str(mirror), "--only", "plain", "sized", "odd", "dirs"]) == 0
    files = ["dirs.zip", "downloads.json", "odd_mAP=0.5(2).pt", "plain.ckpt", "sized.ckpt"]
    assert left_in(mirror) == files
    assert download.main(["--mirror", str(mirror), "--only", "plain"]) == 0
    assert "plain: is there" in capsys.readouterr().out

    served, server.files = server.files, {}
    base = {"folder": str(mirror), "file": mirror.as_uri(), "http": f"{server.address}/copy/"}[kind]
    if kind == "http":
        server.files = {f"copy/{name}": content for name, content in served.items()}
    assert download.main(["--only", "plain", "odd", "dirs", "--base-url", base, *resources.arguments]) == 0
    assert fetched(resources) == ["dirs/one", "pretrained_models/odd_mAP=0.5(2).pt", "pretrained_models/plain.ckpt"]
    assert (resources.root / "pretrained_models/odd_mAP=0.5(2).pt").read_bytes() == b"odd"
    assert download.main(["--only", "hashed", "--base-url", base, *resources.arguments]) == 1
    assert "hashed.ckpt" in capsys.readouterr().err


def test_weights_come_from_a_mirror_when_they_are_needed(resources, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "plain.ckpt").write_bytes(b"weights")
    monkeypatch.setenv("RESOURCES_URL", str(mirror))
    monkeypatch.setattr(configs, "RESOURCES_PATH", str(resources.root))
    published.provide_weights(None)
    published.provide_weights(SimpleNamespace(file="elsewhere/mine.ckpt"))
    published.provide_weights(SimpleNamespace(file="pretrained_models/plain.ckpt"))
    assert (resources.root / "pretrained_models/plain.ckpt").read_bytes() == b"weights"
    with pytest.raises(FileNotFoundError, match=r"odd_mAP=0.5\(2\).pt: no such weights file, and no download \(file:"):
        published.provide_weights(SimpleNamespace(file="pretrained_models/odd_mAP=0.5(2).pt"))


# -- the table --------------------------------------------------------------------------------------------------------
def test_the_table_is_sound():
    rows = list(published.table().values())
    assert len({row.file for row in rows}) == len({row.published_name for row in rows}) == len(rows) > 80
    for row in rows:
        assert row.address.startswith("https://"), row
        assert row.is_archive or row.published_name == Path(row.file).name, row
        assert row.checksum is None or re.fullmatch("sha256:[0-9a-f]{8,64}|md5:[0-9a-f]{32}", row.checksum), row
        assert row.licence, row
        assert row.set in ("stages", "tagging", "events", "retrieval"), row
        assert set(re.findall(r"(?<!\S)arch=([^\s;]+)", row.needed_by)) <= set(models.names()), row
    stages = [row.name for row in rows if row.set == "stages"]
    assert len([name for name in stages if re.match("atst|passt|beats", name)]) == 10
    for script, arch in published.ARCH_OF.items():
        assert re.search(rf'^    arch = "{arch}"', (ROOT / f"{script}.py").read_text(), re.MULTILINE), script


DATA = ["pseudo-labels", "dirs", "exclude", "external_strong_split"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("arch=atst_frame stage=2", [*DATA, "atst_as_strong", "atst_stage1"]),
        ("python -m ex_stage1 with arch=beats", [*DATA, "beats_as"]),
        ("ex_stage1", [*DATA, "atst_as_strong"]),
        ("ex_stage1 with demo", []),
        ("ex_stage1 with atst_frame.pretrained_name=None", [*DATA, "atst_as"]),
        ("arch=fpasst stage=1 fpasst.pretrained_name=None", [*DATA, "deit_base"]),
        ("arch=fpasst stage=1 t4_wrapper.pretrained_name=fpasst_strong_1", [*DATA, "fpasst_strong_1"]),
        ("ex_stage2 with t4_wrapper.model_init_id=atst_stage1", [*DATA, "atst_stage1"]),
        ("ex_stage2 with t4_wrapper.model_init_id=mine", DATA),
        ("ex_stage2 store_predictions with pretrained_name=passt_stage2", ["passt_stage2"]),
        ("ex_audioset inference with arch=mn04_as audio_path=x.wav", ["mn04_as"]),
        ("arch=mn10_as pretrained_name=own", ["mn10_as"]),
        ("arch=mn10_as pretrained_name=mn10_im", ["mn10_im"]),
        ("""ex_audioset inference with 'ensemble=("mn40_as(2)", "dymn20_as")'""", ["dymn20_as", "mn40_as(2)"]),
        ("ex_audioset with audioset", ["mn10_as", "teacher_logits", "teacher_index"]),
        ("ex_audioset with audioset_strong arch=asit", ["ASIT_weak"]),
        ("ex_audioset evaluate with audioset_strong arch=atst_frame", ["ATST-F_strong_1"]),
        ("ex_clotho", ["cnn14_clotho"]),
        ("ex_qvim with arch=cnn14", ["cnn14"]),
        ("arch=frame_mn16", []),
    ],
)
def test_what_a_command_needs(command, expected):
    assert published.needed_by(command) == expected


@pytest.mark.parametrize(
    ("command", "essence"),
    [
        ("python3 -m ex_stage1", "stage=1"),
        (".venv/bin/python -m ex_stage2 with arch=fpasst", "arch=fpasst stage=2"),
        ("nohup python -m ex_stage1 > log.txt 2>&1 &", "stage=1"),
        ("cd there && CUDA_VISIBLE_DEVICES=1 torchrun -m ex_stage1 main with multi_gpu", "stage=1"),
        ("python ex_stage1.py with arch=beats", "arch=beats stage=1"),
        ("python ./ex_stage1.py with 'arch=\"beats\"'", "arch=beats stage=1"),
        ("python -m ex_stage1 -F runs with arch=beats", "arch=beats stage=1"),
        ("python -m ex_stage1 --name first with arch=beats --file_storage=runs -u", "arch=beats stage=1"),
        ("python -m ex_audioset -F runs evaluate with audioset_strong arch=asit", "evaluate audioset_strong arch=asit"),
    ],
)
def test_a_command_as_shells_get_it(command, essence):
    assert published.needed_by(essence)
    assert published.needed_by(command) == published.needed_by(essence)


def test_a_mistyped_script():
    with pytest.raises(ValueError, match="unknown script 'ex_stage3', known: ex_stage1, ex_stage2, "):
        published.needed_by("python -m ex_stage3")


def test_a_command_is_provided_for(server, resources, capsys):
    assert download.main(["--for", "arch=odd", *resources.arguments]) == 0
    assert fetched(resources) == ["pretrained_models/odd_mAP=0.5(2).pt"]
    capsys.readouterr()
    assert download.main(["--for", "arch=frame_mn16", *resources.arguments]) == 0
    assert capsys.readouterr().out == "nothing that is published is needed\n"
    assert download.main(["--for", "arch='none", *resources.arguments]) == 1
    assert capsys.readouterr().err == "error: No closing quotation\n"
    assert download.main(["--for", "arch=beatz", *resources.arguments]) == 1
    assert capsys.readouterr().err.startswith("error: unknown arch 'beatz', did you mean beats")


def test_names_sets_and_files_are_known(capsys):
    assert [row.name for row in download.chosen(["atst_as.ckpt", "dirs", "atst_as", "mn10_as_mAP_471"])] == [
        "atst_as",
        "dirs",
        "mn10_as",
    ]
    assert len(download.chosen(["all"])) == len(published.table())
    assert {row.set for row in download.chosen(["stages"])} == {"stages"}
    assert download.main(["--only", "atst_ass"]) == 1
    assert "unknown resource 'atst_ass' (sets: all, stages, " in capsys.readouterr().err


def test_the_list_says_what_is_there(resources, capsys):
    assert download.main(["--only", "plain", *resources.arguments]) == 0
    capsys.readouterr()
    assert download.main(["--list", *resources.arguments]) == 0
    head, *lines = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head[:3] == ["NAME", "SET", "SIZE"]
    assert lines[0][:3] == ["plain", "few", "there"]
    assert [line[2] for line in lines[1:]] == ["missing"] * 4
    (resources.root / "pretrained_models/plain.ckpt").write_bytes(b"x")
    (resources.root / "pretrained_models/sized.ckpt").write_bytes(b"xy")
    assert download.main(["--list", *resources.arguments]) == 0
    wrong = [re.split(" {2,}", line)[:4] for line in capsys.readouterr().out.splitlines()[1:3]]
    assert wrong == [
        ["plain", "few", "wrong size", f"1 of {len(CONTENT)} bytes"],
        ["sized", "few", "wrong size", f"2 of {len(CONTENT)} bytes"],
    ]
    assert lines[0][-2:] == ["arch=plain", published.table()["plain"].address]
    assert download.main(["--list", "--only", "dirs", *resources.arguments]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_list_starts_without_heavy_libraries():
    code = "import sys, download_resources as d; d.main(['--list']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "mn10_as_mAP_471.pt" in done.stdout
    assert "atst_as_strong.ckpt" in done.stdout
