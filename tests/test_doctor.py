"""The doctor: what it calls missing, the command beside it, and when the main job cannot run."""

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import configs
import doctor
import ex_clotho
from data_util import vocal_listings
from helpers import doctor as checks
from helpers.doctor import BAD, NAME, NOTE, OK, Check

ROOT = Path(__file__).parents[1]
LIST = """# what everything needs
torch==2.11.0
pandas>=2,<3   # tables
# for single commands: a line says so
onnx>=1.17     # export
# development
pytest>=8      # test runner
"""


@pytest.fixture
def installed(monkeypatch):
    """Versions of the packages that are installed, to be changed by a test."""
    versions = {"torch": "2.11.0+cpu", "pandas": "2.3.3", "onnx": "1.20", "pytest": "8.0rc1"}

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    return versions


@pytest.fixture
def requirements(tmp_path):
    (tmp_path / "requirements.txt").write_text(LIST)
    return tmp_path / "requirements.txt"


@pytest.mark.parametrize(
    ("version", "clauses", "fits"),
    [
        ("2.11.0+cpu", "==2.11.0", True),
        ("2.11", "==2.11.0", True),
        ("2.11.1", "==2.11.0", False),
        ("2.3.3", ">=2,<3", True),
        ("3.0.0", ">=2,<3", False),
        ("1.9", ">=1.17", False),
        ("65.5.0", "<81", True),
        ("8.0rc1", ">=8", True),
        ("1.0", "", True),
    ],
)
def test_versions(version, clauses, fits):
    assert checks.satisfies(version, clauses) == fits


def test_packages_that_are_there(installed, requirements):
    found = checks.check_packages(requirements)
    assert [(check.what, check.state) for check in found] == [(name, OK) for name in installed]
    assert checks.verdict(found) == 0


def test_packages_that_are_missing_or_of_another_version(installed, requirements):
    del installed["torch"], installed["onnx"]
    installed["pandas"] = "3.0.1"
    torch, pandas, onnx, _ = found = checks.check_packages(requirements)
    assert torch == Check("torch", BAD, "not installed", f'{NAME} -m pip install "torch==2.11.0"')
    assert pandas == Check("pandas", BAD, "3.0.1, expected pandas>=2,<3", f'{NAME} -m pip install "pandas>=2,<3"')
    assert onnx == Check("onnx", NOTE, "not installed (export)", f'{NAME} -m pip install "onnx>=1.17"')
    assert checks.verdict(found) == 1


def test_the_real_list_is_understood():
    found = {entry.name: entry for entry in checks.requirements(ROOT / "requirements.txt")}
    assert found["torch"].clauses.startswith("==")
    assert found["lightning"].needed
    assert not found["onnx"].needed
    assert not found["ruff"].needed


def test_a_script_that_cannot_be_imported(tmp_path):
    (tmp_path / "works.py").write_text("")
    (tmp_path / "fails.py").write_text("print('hello')\nraise OSError('libcudart.so: cannot open')\n")
    assert checks.check_import("works", tmp_path, "r.txt").state == OK
    broken = checks.check_import("fails", tmp_path, "r.txt")
    assert broken[1:3] == (BAD, "OSError: libcudart.so: cannot open")
    assert broken.mend == f"{NAME} -m pip install --force-reinstall --requirement r.txt"


def fake_torch(available):
    device = SimpleNamespace(name="Card", total_memory=24e9)
    cuda = SimpleNamespace(is_available=lambda: available, device_count=lambda: 2,
                           get_device_properties=lambda number: device)  # fmt: skip
    return SimpleNamespace(cuda=cuda, __version__="2.11.0")


def test_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", fake_torch(True))
    assert checks.check_gpu() == Check("GPU", OK, "Card 24 GB, Card 24 GB")
    monkeypatch.setitem(sys.modules, "torch", fake_torch(False))
    monkeypatch.setattr(checks.shutil, "which", lambda name: None)
    assert checks.check_gpu().found.startswith("none: demos run on")
    monkeypatch.setattr(checks.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert "does not reach the one that is there" in checks.check_gpu().found
    monkeypatch.setitem(sys.modules, "torch", None)
    assert checks.check_gpu().state == NOTE
    assert "torch cannot tell" in checks.check_gpu().found


def test_decoders(monkeypatch):
    soundfile = SimpleNamespace(available_formats=lambda: {"WAV": "", "FLAC": "", "OGG": ""},
                                __libsndfile_version__="1.0.31")  # fmt: skip
    monkeypatch.setitem(sys.modules, "soundfile", soundfile)
    files, mp3 = checks.check_decoders()
    assert files[1:3] == (NOTE, "libsndfile 1.0.31 without MP3")
    assert "soundfile>=0.13" in files.mend
    assert mp3.what == "minimp3py"
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (files,) = checks.check_decoders()
    assert files.state == BAD


def test_login(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert checks.check_login().state == OK
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", "/none")
    assert checks.check_login() == Check(
        "wandb", NOTE, "not logged in: metrics go to metrics.csv alone", f"{NAME} -m wandb login"
    )


@pytest.mark.parametrize(("gigabytes", "state"), [(100, OK), (5, NOTE), (0.5, BAD)])
def test_disk(gigabytes, state, tmp_path, monkeypatch):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=gigabytes * 1e9))
    found = checks.check_disk(tmp_path / "not" / "yet", "RESOURCES_PATH")
    assert found.state == state
    assert found.mend == ("" if state == OK else "export RESOURCES_PATH=/another/disk/yet")


def test_a_folder_that_may_not_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)
    found = checks.check_disk(tmp_path / "outputs")
    assert found[1:3] == (BAD, f"{tmp_path} may not be written to")


def test_paths(tmp_path):
    paths = [tmp_path / str(number) for number in range(5)]
    assert checks.check_paths("data", paths, "get them") == Check(
        "data", NOTE, f"0 of 5 there (missing: {paths[0]}, {paths[1]}, {paths[2]}, ...)", "get them"
    )
    for path in paths:
        path.mkdir()
    assert checks.check_paths("data", paths, "get them") == Check("data", OK, "all 5 there")


def test_the_table_shows_what_mends():
    lines = checks.table([Check("a", OK, "1.0"), Check("long name", BAD, "none", "mend it")])
    assert lines == ["ok    a          1.0", "BAD   long name  none", "                 -> mend it"]


def quick(monkeypatch):
    """The doctor without its slow parts."""
    monkeypatch.setattr(doctor, "check_import", lambda *arguments: Check("import", OK, "works"))
    monkeypatch.setattr(doctor, "check_gpu", lambda: Check("GPU", NOTE, "none"))


def test_the_whole_table(monkeypatch, tmp_path, capsys):
    quick(monkeypatch)
    monkeypatch.setattr(configs, "RESOURCES_PATH", str(tmp_path))
    (tmp_path / "pseudo-labels").mkdir()
    assert doctor.main() == 0
    shown = capsys.readouterr().out
    assert re.search(r"^note +published for stages +1 of 15 there", shown, re.MULTILINE)
    assert f"-> {NAME} download_resources.py --only stages" in shown
    assert f"-> export DATASET_PATH=FOLDER; {NAME} -m ex_stage1 check_data" in shown
    assert shown.endswith(f"`{NAME} -m ex_stage1 with demo` can run\n")


def test_data_folders(monkeypatch, tmp_path):
    monkeypatch.setattr(configs, "DATA_PATH", str(tmp_path))
    for name in (vocal_listings.VIMSKETCH, Path(ex_clotho.ex.defaults()["data.dataset"]).name):
        (tmp_path / name).mkdir()
    found = {check.what: check for check in doctor.check_data()}
    assert found[f"vocal imitations in {tmp_path}"][1:] == (
        NOTE,
        f"1 of 2 there (missing: {tmp_path / vocal_listings.DEVELOPMENT})",
        f"{NAME} -m ex_qvim check_data",
    )
    assert found["Clotho"].state == OK


def test_a_broken_environment(monkeypatch, installed, requirements, capsys):
    quick(monkeypatch)
    del installed["torch"]
    monkeypatch.setattr(doctor, "REQUIREMENTS", requirements)
    assert doctor.main() == 1
    shown = capsys.readouterr().out
    assert re.search(
        r'^BAD +torch +not installed\n +-> .*python.* -m pip install "torch==2.11.0"$', shown, re.MULTILINE
    )
    assert "import" not in [line.split()[1] for line in shown.splitlines() if line[:2] in ("ok", "BA")]
    *_, verdict, hint = shown.splitlines()
    assert verdict == f"`{NAME} -m ex_stage1 with demo` cannot run: mend what is BAD"
    assert hint == f"all packages at once: {NAME} -m pip install --requirement requirements.txt"


def test_the_module_is_the_command(tmp_path):
    """-S: no site-packages, so packages are missing."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-S", "-m", "helpers.doctor"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert re.search(r"^BAD +torch +not installed$", done.stdout, re.MULTILINE)
    assert "-m ex_stage1 with demo` cannot run" in done.stdout


def test_an_interpreter_without_any_package(tmp_path):
    """-I -S: neither site-packages nor the environment."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import doctor; sys.exit(doctor.main())"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert re.search(r'^BAD +torch +not installed\n +-> .*python.* -m pip install "torch==', done.stdout, re.MULTILINE)
