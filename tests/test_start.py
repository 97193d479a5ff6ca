"""The first seconds of a script: a line before the slow imports, and no library that this command does not need."""

import ast
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.announce import RANKS, announce, first_process
from tests.conftest import ModuleTimes

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.stem for path in ROOT.glob("ex_*.py"))
# What single commands need: they import it themselves.
OPTIONAL = {
    "diffusers", "faiss", "h5py", "matplotlib", "onnx", "onnxruntime", "onnxscript", "openvino", "optuna", "py7zr",
    "safetensors", "sed_scores_eval", "sklearn", "starlette", "transformers", "uvicorn", "wandb",
}  # fmt: skip
# Prints what the scripts import beside Lightning and sacred, which bring some of OPTIONAL along.
IMPORTED = f"""
import importlib, sys
import lightning, sacred
before = set(sys.modules)
for script in {SCRIPTS}:
    importlib.import_module(script)
print(*(name.partition(".")[0] for name in set(sys.modules) - before))
"""


def at_import(statements):
    """Top-level names of the modules that statements import when they are executed, functions aside."""
    for node in statements:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            yield from at_import(node.body)


def sources():
    folders = ("models", "data_util", "helpers")
    return [*ROOT.glob("*.py"), *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]


def test_optional_libraries_are_imported_where_they_are_used():
    assert len(sources()) > 100
    for path in sources():
        assert not OPTIONAL & set(at_import(ast.parse(path.read_text()).body)), path.relative_to(ROOT)


def test_scripts_import_no_optional_library():
    done = subprocess.run([sys.executable, "-c", IMPORTED], cwd=ROOT, check=True, capture_output=True, text=True)
    imported = set(done.stdout.split())
    assert {"data_util", "helpers", "models", "torchaudio"} <= imported
    assert not OPTIONAL & imported


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_line_is_the_first_import(script):
    first = next(at_import(ast.parse((ROOT / f"{script}.py").read_text()).body))
    assert first == "helpers"
    assert "import helpers.announce" in (ROOT / f"{script}.py").read_text().split('"""')[2][:40]


def test_the_line_comes_before_the_libraries():
    command = [sys.executable, "-X", "importtime", "-m", "ex_stage1", "print_config"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    lines = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
    announced = lines.index("ex_stage1: loading libraries, which takes some seconds")
    assert announced < min(lines.index(library) for library in ("numpy", "torch", "lightning", "sacred"))
    assert announced < 200  # modules of Python itself


def test_one_process_announces(monkeypatch, capsys):
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)
    announce("/somewhere/ex_qvim.py")
    assert capsys.readouterr().err == "ex_qvim: loading libraries, which takes some seconds\n"
    announce("/somewhere/pytest.py")
    announce("")
    monkeypatch.setenv("LOCAL_RANK", "1")
    announce("ex_qvim.py")
    assert capsys.readouterr().err == ""
    assert not first_process()


def test_seconds_of_modules_are_added_up():
    times, lines = ModuleTimes(), []
    terminal = SimpleNamespace(section=lines.append, line=lines.append)
    reports = {"tests/test_a.py::one": 0.25, "tests/test_b.py::two[x]": 1.0, "tests/test_a.py::C::d": 0.5}
    for name, seconds in reports.items():
        times.pytest_runtest_logreport(SimpleNamespace(nodeid=name, duration=seconds))
    times.pytest_terminal_summary(terminal)
    assert lines == ["seconds by module: 1.8 in all", "     1.0 tests/test_b.py", "     0.8 tests/test_a.py"]
