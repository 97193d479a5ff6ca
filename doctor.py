"""Looks over a machine: what works, what is missing, and the one command that mends each thing.

    python doctor.py        or: make doctor, python -m helpers.doctor

The exit status is 1 where the main job, `python -m ex_stage1 with demo`, cannot run.
"""

import os
import sys
from pathlib import Path

import configs
from helpers.doctor import (
    BAD,
    NAME,
    Check,
    check_decoders,
    check_disk,
    check_gpu,
    check_import,
    check_login,
    check_packages,
    check_paths,
    check_python,
    table,
    verdict,
)
from published import table as published

ROOT = Path(__file__).resolve().parent
REQUIREMENTS = ROOT / "requirements.txt"
MAIN_JOB = "ex_stage1"
VOCAL = ("Vim_Sketch_Dataset", "qvim-dev")  # of ex_qvim and ex_clotho: their defaults, known without their packages
CLOTHO = "clotho"
CHECK = f"{NAME} -m {MAIN_JOB} check_data"


def check_data() -> list[Check]:
    """The folders of the data sets."""
    paths = [path.replace("{base_path}", configs.DATASET_PATH) for path in configs.T4_PATHS.values()]
    desed = [path for path in paths if path.startswith(configs.DATASET_PATH)]
    vocal = [Path(configs.DATA_PATH) / name for name in VOCAL]
    others = [Path(configs.DATA_PATH) / name for name in configs.TAGGING if name != "folder"]
    where = os.path.dirname(configs.DATASET_PATH) or "."
    return [
        check_paths(f"DESED and MAESTRO in {configs.DATASET_PATH}", desed, f"export DATASET_PATH=FOLDER; {CHECK}"),
        check_paths(f"tagging data in {configs.DATA_PATH}", others, "export DATA_PATH=FOLDER"),
        check_paths(f"vocal imitations in {configs.DATA_PATH}", vocal, f"{NAME} -m ex_qvim check_data"),
        check_paths("Clotho", [Path(configs.DATA_PATH) / CLOTHO], f"{NAME} -m ex_clotho with data.dataset=FOLDER"),
        check_disk(where, "DATASET_PATH"),
    ]


def check_resources() -> list[Check]:
    """What is published, set by set."""
    sets = {}
    for resource in published().values():
        sets.setdefault(resource.set, []).append(Path(configs.RESOURCES_PATH) / resource.file)
    return [
        check_paths(f"published for {name}", paths, f"{NAME} download_resources.py --only {name}")
        for name, paths in sets.items()
    ]


def main() -> int:
    """Prints the table; the exit status."""
    checks = [check_python(), *check_packages(REQUIREMENTS)]
    if not verdict(checks):
        checks.append(check_import(MAIN_JOB, ROOT, REQUIREMENTS.name))
    checks += [check_gpu(), *check_decoders(), check_login()]
    checks += [check_disk("outputs"), check_disk(configs.RESOURCES_PATH, "RESOURCES_PATH")]
    checks += [*check_data(), *check_resources()]
    print("\n".join(table(checks)))
    print(f"\n`{NAME} -m {MAIN_JOB} with demo` {'cannot run: mend what is BAD' if verdict(checks) else 'can run'}")
    if any(check.state == BAD and "pip install" in check.mend for check in checks):
        print(f"all packages at once: {NAME} -m pip install --requirement {REQUIREMENTS.name}")
    return verdict(checks)


if __name__ == "__main__":
    sys.exit(main())
