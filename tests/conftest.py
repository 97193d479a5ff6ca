"""Fixtures shared by all tests."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[1]
os.environ["RESOURCES_URL"] = "http://127.0.0.1:9"  # no test waits for, or gets, anything from elsewhere


class ModuleTimes:
    """Adds up the seconds of every test module and shows them at the end of a run of several."""

    def __init__(self):
        self.seconds = Counter()

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid.partition("::")[0]] += report.duration

    def pytest_terminal_summary(self, terminalreporter):
        if len(self.seconds) > 1:
            terminalreporter.section(f"seconds by module: {sum(self.seconds.values()):.1f} in all")
            for module, seconds in self.seconds.most_common():
                terminalreporter.line(f"{seconds:8.1f} {module}")


def pytest_configure(config):
    config.pluginmanager.register(ModuleTimes(), "module-times")


@pytest.fixture(scope="session")
def real_data():
    """Folder of the small set of real recordings; it is not part of the repository."""
    folder = Path(os.environ.get("REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "MANIFEST.tsv").is_file():
        pytest.skip(f"no real recordings at {folder} (set REAL_DATA to their folder)")
    return folder


@pytest.fixture(autouse=True)
def _same_threads():
    """Two threads everywhere: sums come out in the same order on every machine."""
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _console_of_its_own(monkeypatch):
    """Rich keeps one console for the whole process, as wide as the terminal was for the first test that used it."""
    monkeypatch.setattr("rich._console", None)


@pytest.fixture(scope="session")
def task4_tree(tmp_path_factory):
    """``t4_paths`` of a synthetic DESED + MAESTRO tree, and the seconds of its clips. Not to be changed."""
    from data_util.events import FrameGrid
    from tests.synthetic import make_task4

    seconds = 1.28
    folder = tmp_path_factory.mktemp("task4")
    return make_task4(folder, clips=6, seconds=seconds, grid=FrameGrid(audio_len=seconds)), seconds


@pytest.fixture
def stage1(tmp_path, task4_tree, _same_threads):
    """Runs of ex_stage1 on that tree, see :class:`tests.runs.StageRuns`; on one thread, so small is the network."""
    from tests.runs import StageRuns

    torch.set_num_threads(1)
    return StageRuns(tmp_path, *task4_tree)


@pytest.fixture
def stage2(tmp_path, task4_tree, _same_threads):
    """The same of ex_stage2."""
    from tests.runs import StageRuns

    torch.set_num_threads(1)
    return StageRuns(tmp_path, *task4_tree, script="ex_stage2")
