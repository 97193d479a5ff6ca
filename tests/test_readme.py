"""What the README and docs/ show works: commands parse, code runs, links lead somewhere, tables are true."""

import re
import runpy
import shlex
import sys
from pathlib import Path
from types import MappingProxyType

import pytest
import soundfile
import torch
from sacred.arg_parser import get_config_updates

import configs
import ex_audioset
import ex_clotho
import ex_qvim
import ex_stage1
import ex_stage2
import models
from data_util import tagging, tagging_checks, task4_files
from models import registry
from tests.runs import NamedRuns
from tests.tagging_sets import noise

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {"README.md": README, **{f"docs/{path.name}": path.read_text() for path in sorted(ROOT.glob("docs/*.md"))}}
EXPERIMENTS = {script.ex.path: script.ex for script in (ex_stage1, ex_stage2, ex_audioset, ex_qvim, ex_clotho)}
WELL_KNOWN = ("git", "source", "export", "cd", ".ci/run")


def blocks(language, page=README):
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def commands(page):
    """Lines of the bash blocks, without comments and with those that a backslash continues."""
    lines = "\n".join(blocks("bash", page)).replace("\\\n", " ").splitlines()
    lines = [re.sub(r"\s#.*", "", line).strip() for line in lines]
    return [line for line in lines if line and not line.startswith("#")]


COMMANDS = [(name, line) for name, page in PAGES.items() for line in commands(page)]
# Also those that stand in tables and in the text, where they are complete.
MENTIONED = [
    (name, line)
    for name, page in PAGES.items()
    for line in re.findall(r"`((?:python|make) [^`…]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))
]
ALL = list(dict.fromkeys(COMMANDS + MENTIONED))
SCRIPT_COMMANDS = [line for _, line in ALL if line.startswith("python -m ex_")]


def test_every_page_is_linked_and_shows_commands():
    assert len(PAGES) >= 8
    assert {"make demo", "make test"} <= set(commands(README))
    assert len(README.splitlines()) <= 150
    for name in PAGES:
        assert name == "README.md" or f"({name})" in README or "table" in name
    for script in EXPERIMENTS:
        assert sum(line.startswith(f"python -m {script}") for line in SCRIPT_COMMANDS) >= 3


@pytest.mark.parametrize("line", dict.fromkeys(SCRIPT_COMMANDS))
def test_commands_parse(line):
    _, _, script, *words = shlex.split(line)
    ex = EXPERIMENTS[script]
    command = words.pop(0) if words and words[0] != "with" else ex.default_command
    assert command in ex.commands
    updates, named = get_config_updates(words[1:])
    assert set(named) <= set(ex.named_configs)
    if updates.get("arch") == "tiny":  # which the README adds
        return
    ex._create_run(command, updates, named)  # raises for a key that is not known
    if "arch" in updates:
        assert updates["arch"] in models.names()


def test_every_command_is_on_a_page():
    text = "\n".join(PAGES.values())
    for script, ex in EXPERIMENTS.items():
        own = {command for command in ex.commands if not command.startswith(("print_", "save_"))} - {"main"}
        for command in own:
            assert f"python -m {script} {command}" in text or f"`{command}`" in text, f"{script} {command}"


PROGRAM = re.compile(r"python (?:-m (?!ex_|pip)([\w.]+)|(\w+)\.py)(.*)")  # with options of its own
PROGRAMS = sorted({(one[1] or one[2], one[3]) for _, line in ALL if (one := PROGRAM.match(line))})


@pytest.mark.parametrize(("module", "words"), PROGRAMS)
def test_programs_know_their_options(module, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert not ended.value.code
    usage = capsys.readouterr().out
    assert usage.startswith("usage")
    for option in (word for word in shlex.split(words) if word.startswith("-")):
        assert option in usage.split(), f"{module} has no option {option}"


def test_other_programs_are_well_known():
    """Anything else in a bash block is a make target or a common program."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name, line in ALL:
        first, *rest = shlex.split(line)
        if first == "make":
            assert {word for word in rest if "=" not in word} <= targets, line
        elif first == "python":
            assert PROGRAM.match(line) or line in SCRIPT_COMMANDS or rest[:2] == ["-m", "pip"], line
        else:
            assert first in WELL_KNOWN, f"{name}: {line}"


@pytest.mark.parametrize("name", PAGES)
def test_links_and_pictures_are_there(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[name]):
        if not link.startswith("http"):
            file, _, anchor = link.partition("#")
            assert ((ROOT / name).parent / file).exists(), link
            if anchor:
                headings = re.findall(r"^#+ (.*)$", ((ROOT / name).parent / file).read_text(), re.MULTILINE)
                assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, link
    for picture in (ROOT / "docs" / "images").glob("*"):
        assert picture.stat().st_size < 150_000
        assert any(picture.name in page for page in PAGES.values())


def test_architecture_in_twenty_lines(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "_ARCHITECTURES", dict(registry._ARCHITECTURES))
    code = blocks("python")[0]
    assert len([line for line in code.splitlines() if line]) <= 20
    exec(compile(code, "README.md", "exec"), {"__name__": "models.tiny"})
    mel, net = models.build("tiny", {"tiny": {"width": 8}})
    assert net(mel(torch.randn(1, 32000))).shape[2] == net.embed_dim == 8
    assert "width" in models.sections()["tiny"]
    assert sorted(map(id, net.parameters())) == sorted(id(one) for group in net.layer_groups() for one in group)
    runs = NamedRuns(tmp_path, ex_audioset.ex, arch="tiny", tiny={"width": 8})
    costs = runs.process(code=code, command=["complexity"])
    assert costs.returncode == 0, costs.stderr
    assert "tiny" in costs.stdout


def test_data_set_in_twenty_lines(monkeypatch, tmp_path):
    code = blocks("python")[1]
    assert len([line for line in code.splitlines() if line]) <= 20
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    for module in (tagging, tagging_checks, ex_audioset):
        monkeypatch.setattr(module, "DATASETS", MappingProxyType({**tagging.DATASETS, **names["ENTRY"]}))
    monkeypatch.setattr(configs, "TAGGING", {**configs.TAGGING, **names["RECIPE"]})
    for part, labels in {"train": "bark meow bark meow", "test": "meow bark"}.items():
        files = [f"{part}{number}.wav,{label}" for number, label in enumerate(labels.split())]
        (tmp_path / f"{part}.csv").write_text("file,label\n" + "\n".join(files))
        for number, row in enumerate(files):
            (tmp_path / "audio").mkdir(exist_ok=True)
            soundfile.write(tmp_path / "audio" / row.split(",")[0], noise(5, number), 32000)
    clips = tagging.evaluation_set("pets", tmp_path)
    assert clips.classes == ("bark", "meow")
    assert [clips[number]["target"].tolist() for number in range(2)] == [[0, 1], [1, 0]]
    torch.set_num_threads(1)
    recipe = ex_audioset.recipe("pets")
    assert (recipe["data"]["clip_length"], recipe["optimizer"]["lr"]) == (5.0, 6e-5)
    recipe["data"].update(root=str(tmp_path), batch_size=2, num_workers=0)
    runs = NamedRuns(tmp_path, ex_audioset.ex, arch="mn01_as", mn_mel={"n_mels": 32, "hopsize": 640})
    found = runs.run(**{**recipe, "pretrained_name": None}, trainer={"max_epochs": 1, "limit_train_batches": 1})
    assert 0 <= found["test/accuracy"] <= 1


def test_architectures_of_the_table_are_registered():
    table = PAGES["docs/developing.md"].split("## Architectures")[1].split("An architecture is")[0]
    first = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")][1:]
    named = [name for cell in first for name in re.findall(r"`(\w+)`", cell)]
    assert len(named) >= 12
    assert set(named) <= set(models.names())


def rows_of(page):
    """First cell -> all cells, without their quotes, of all rows of tables."""
    rows = [row.strip("|").split(" |") for row in page.splitlines() if row.startswith("|")]
    return {row[0].strip(" `"): [cell.strip(" `") for cell in row] for row in rows}


def test_counts_of_clips_are_those_of_check_data():
    rows = rows_of(PAGES["docs/data.md"])
    for name, entry in task4_files.DATASETS.items():
        assert (rows[name][1] == str(entry.expected)) if entry.expected else not rows[name][1].isdigit()
        paths = configs.T4_PATHS | configs.T4_EVAL_PATHS
        assert rows[name][2] == paths[entry.folder].removeprefix("{base_path}/")
        assert rows[name][3] == (paths[entry.table].removeprefix("{base_path}/") if entry.table else "none")
    assert set(tagging.DATASETS) <= set(rows)
    for name, parts in tagging_checks.PUBLISHED.items():
        assert [rows[name][1 + number] for number, part in enumerate(("train", "val", "test")) if part in parts] == [
            str(count) for count in parts.values()
        ]
