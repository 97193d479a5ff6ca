"""Config sections from signatures, errors that name the nearest key, and what sacred users expect."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sacred.utils import ConfigError

from helpers.ingredients import Scripted, Section

SCRIPT = """
from helpers.ingredients import Scripted, Section


def build(size=1, shape=(1, 2)):
    return size, shape


part = Section("part", build, size=3)
ex = Scripted("script", [part])


@ex.config
def settings():
    arch = "a"  # the architecture
    loss = dict(kind="bce", deep=dict(p=0.5))


@ex.named_config
def small():
    part = dict(size=1)


@ex.automain
def main(arch, loss, seed):
    if arch == "unknown":
        raise ValueError("unknown arch 'unknown'")
    if arch == "bug":
        [].pop()
    if arch.startswith("/"):
        open(arch, "w")
    print("built", part(), arch, loss["deep"]["p"], seed)
    return part()[0]
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)

    def run(*arguments, **environment):
        root = Path(__file__).parents[1]
        variables = {**os.environ, "PYTHONPATH": str(root), **environment}
        return subprocess.run(
            [sys.executable, "-m", "script", *arguments], cwd=tmp_path, env=variables, capture_output=True, text=True
        )

    run.folder = tmp_path
    return run


def make(scale=1.0, other=None):
    return scale, other


def use(data, scale=2.0, extra="x"):
    return data, scale, extra


def test_section_takes_defaults_from_signatures_and_deviations():
    section = Section("part", make, use, extra="y")
    assert section.entries == {"scale": 1.0, "other": None, "extra": "y"}
    with pytest.raises(TypeError, match="no target takes sclae"):
        Section("other", make, sclae=3)


def test_section_calls_targets_with_what_they_take():
    section = Section("part", make, use, scale=5.0)
    ex = Scripted("test", [section])
    seen = {}

    @ex.main
    def main():
        seen["first"] = section()
        seen["second"] = section("data", target=use)
        seen["extra"] = section("data", target=use, extra="z")

    ex.run(config_updates={"part": {"other": 7}})
    assert seen == {"first": (5.0, 7), "second": ("data", 5.0, "x"), "extra": ("data", 5.0, "z")}


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"prat": {"scale": 1}}, "'prat.scale', did you mean 'part.scale'"),
        ({"part": {"scael": 1}}, "'part.scael', did you mean 'part.scale'"),
        ({"loss": {"deep": {"q": 1}}}, "'loss.deep.q', did you mean 'loss.deep.p'"),
    ],
)
def test_unknown_keys_name_the_nearest(update, message):
    ex = Scripted("test", [Section("part", make)])
    ex.add_config({"loss": {"deep": {"p": 1}}})
    ex.main(lambda: None)
    with pytest.raises(ConfigError, match=message):
        ex.run(config_updates=update)


def test_command_line(script):
    done = script("with", "small", "part.shape=(3, 4)", "loss.deep.p=0.1", "seed=7")
    assert done.returncode == 0, done.stderr
    assert "built (1, [3, 4]) a 0.1 7" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["with", "part.sizes=2"], "error: unknown config key 'part.sizes', did you mean 'part.size'?"),
        (["with", "smal"], "error: unknown named config 'smal', did you mean 'small'?"),
    ],
)
def test_mistakes_are_one_line(script, arguments, line):
    done = script(*arguments)
    assert done.returncode == 1
    assert done.stderr.strip() == line


def test_errors_of_the_system_name_the_file(script):
    done = script("with", "arch=/")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: /: Is a directory"
    assert "Traceback" not in done.stderr


def test_print_config_and_file_observer(script):
    shown = script("print_config", "with", "small")
    assert "the architecture" in shown.stdout
    assert "size = 1" in shown.stdout
    script("-F", "runs", "with", "small")
    record = script.folder / "runs" / "1"
    assert json.loads((record / "config.json").read_text())["part"]["size"] == 1
    assert "built (1," in (record / "cout.txt").read_text()


def test_only_rank_zero_observes(script):
    done = script("-F", "runs", "with", "small", LOCAL_RANK="1")
    assert done.returncode == 0, done.stderr
    assert not (script.folder / "runs").exists()


def test_other_errors_keep_their_trace(script):
    done = script("with", "arch=bug")
    assert done.returncode == 1
    assert "IndexError" in done.stderr


def test_zero_and_one_are_taken_for_what_the_entry_holds():
    ex = Scripted("test", [Section("part", lambda apply=True, n=3: None)])
    seen = {}

    @ex.main
    def main(_config):
        seen.update(_config["part"])

    ex.run(config_updates={"part.apply": 0, "part": {"n": 1}})
    assert seen == {"apply": False, "n": 1}
    assert seen["apply"] is False
    assert seen["n"] is not True
