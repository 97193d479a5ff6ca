"""What the README shows works: its commands parse, its code runs, its tables are true."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from sacred.arg_parser import get_config_updates

import ex_audioset
import ex_clotho
import ex_qvim
import ex_stage1
import ex_stage2
import models
from models import registry

README = (Path(__file__).parents[1] / "README.md").read_text()
EXPERIMENTS = {script.ex.path: script.ex for script in (ex_stage1, ex_stage2, ex_audioset, ex_qvim, ex_clotho)}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands():
    lines = [line.split(" #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line]


SCRIPT_COMMANDS = [
    *(line for line in commands() if line.startswith("python -m ex_")),
    *re.findall(r"^\|.*\| `(python -m ex_.*)` \|$", README, re.MULTILINE),
]


def test_there_are_commands():
    assert len(SCRIPT_COMMANDS) >= 6
    assert {"make demo", "make test"} <= set(commands())


@pytest.mark.parametrize("line", SCRIPT_COMMANDS)
def test_commands_parse(line):
    _, _, script, *words = shlex.split(line)
    ex = EXPERIMENTS[script]
    command = words.pop(0) if words and words[0] != "with" else ex.default_command
    assert command in ex.commands
    updates, named = get_config_updates(words[1:])
    assert set(named) <= set(ex.named_configs)
    ex._create_run(command, updates, named)  # raises for a key that is not known
    if "arch" in updates:
        assert updates["arch"] in models.names()


def test_architecture_in_twenty_lines(monkeypatch):
    monkeypatch.setattr(registry, "_ARCHITECTURES", dict(registry._ARCHITECTURES))
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {"__name__": "models.tiny"})
    mel, net = models.build("tiny", {"tiny": {"width": 8}})
    assert net(mel(torch.randn(1, 32000))).shape[2] == net.embed_dim == 8
    assert "width" in models.sections()["tiny"]


def test_architectures_of_the_table_are_registered():
    table = README.split("## Architectures")[1].split("A new architecture")[0]
    named = [name for name in re.findall(r"`(\w+)`", table) if re.match(r"(atst|fpasst$|beats$|mn\d|frame_mn)", name)]
    for name in named:
        if not name.endswith(("_strong", "_checkpoint")):
            assert name in models.names()


def test_modules_of_the_commands_exist():
    for line in commands():
        match = re.match(r"python -m ([\w.]+)", line)
        if match and match[1] != "pip":
            path = Path(__file__).parents[1] / match[1].replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
