"""Imports run one way, heavy or framework libraries stay where they belong, and scripts start fast."""

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.stem for path in ROOT.glob("ex_*.py"))
SHARED = (  # by scripts
    "stages", "taggers", "strong_stage", "sound_search", "caption_scoring", "clotho_studies", "published",
    "doctor",
)  # fmt: skip
OURS = {"models", "data_util", "helpers", "configs", *SHARED, *SCRIPTS}
ALLOWED = {
    "models": {"models", "helpers"},
    "data_util": {"data_util", "helpers"},
    "helpers": {"helpers"},
    "configs": set(),
}
LIGHTNING_IN = {
    "helpers/callbacks.py",
    "helpers/logger.py",
    "helpers/pruning.py",
    "helpers/runs.py",
    "helpers/seeded.py",
    "helpers/storing.py",
    "helpers/tagging.py",
    *(f"{script}.py" for script in SCRIPTS),
}
SACRED_IN = {"helpers/ingredients.py", *(f"{script}.py" for script in SCRIPTS)}


def imported(path):
    """Top-level names of all modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def sources(folder):
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", ["models", "data_util", "helpers"])
def test_imports_run_one_way(folder):
    assert sources(folder)
    for path in sources(folder):
        ours = {name.split(".")[0] for name in imported(path)} & OURS
        assert ours <= ALLOWED[folder], f"{path.relative_to(ROOT)} imports {ours - ALLOWED[folder]}"


def test_scripts_do_not_know_each_other():
    for name in (*SHARED, *SCRIPTS):
        others = set(SCRIPTS) - {name}
        assert not {module.split(".")[0] for module in imported(ROOT / f"{name}.py")} & others


def test_plugins_do_not_know_each_other():
    plugins = [path.parent for path in ROOT.glob("models/*/__init__.py")]
    for plugin in plugins:
        for path in plugin.glob("*.py"):
            for name in imported(path):
                others = [other.name for other in plugins if other != plugin]
                assert not any(name.startswith(f"models.{other}") for other in others), f"{path} imports {name}"


def test_configs_is_data_only():
    assert {name.split(".")[0] for name in imported(ROOT / "configs.py")} <= set(sys.stdlib_module_names)


def test_frameworks_stay_in_their_places():
    for folder in ("models", "data_util", "helpers"):
        for path in sources(folder):
            name = str(path.relative_to(ROOT))
            tops = {module.split(".")[0] for module in imported(path)}
            assert "lightning" not in tops or name in LIGHTNING_IN, name
            assert "sacred" not in tops or name in SACRED_IN, name


@pytest.mark.parametrize("script", [*SHARED, *SCRIPTS])
def test_scripts_are_short(script):
    assert len((ROOT / f"{script}.py").read_text().splitlines()) <= 300


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_imports_under_ten_seconds(script):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", f"import {script}"], cwd=ROOT, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time: what else the machine does must not decide. About 5 s of it are usual.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
