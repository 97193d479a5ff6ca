"""Run folders, loggers and progress, none of which ever asks a question or needs an account."""

import csv
import itertools
import logging
import netrc
import os
import re
import sys
import time
from pathlib import Path

log = logging.getLogger(__name__)

STAMP = r"\d{8}-\d{6}(-\d+)?"  # as run_folder makes it


def place(config) -> tuple:
    """What the folder of a run follows from: ``trainer.default_root_dir``, ``wandb.project`` and ``wandb.name``."""
    return config["trainer"]["default_root_dir"], config["wandb"]["project"], config["wandb"]["name"]


def run_folder(root, project, name, resumed=None) -> Path:
    """Folder of one run: ``<root>/<project>/<name>``, with a time stamp when the run has no name of its own.

    Args:
        root: ``trainer.default_root_dir``.
        project: ``wandb.project``.
        name: ``wandb.name``; None gives a time stamp. A name that is taken gets one as well, so that a second run
            does not write over the first.
        resumed: path of the checkpoint that the run continues from; if that is one of a run, its folder is used again.
    """
    if resumed is not None and Path(resumed).parent.name == "checkpoints":
        return Path(resumed).parent.parent
    stamp = time.strftime("%Y%m%d-%H%M%S")
    taken = [_safe(name), f"{_safe(name)}-{stamp}"] if name else [stamp]
    names = itertools.chain(taken, (f"{taken[-1]}-{number}" for number in itertools.count(2)))
    return next(folder for each in names if not (folder := Path(root) / _safe(project) / each).exists())


def last_checkpoint(root, project, name=None) -> Path:
    """The newest ``last.ckpt`` of the runs with that name, of all runs of the project without one.

    Raises:
        FileNotFoundError: there is none.
    """
    folder = Path(root) / _safe(project)
    of_name = re.compile(rf"{re.escape(_safe(name))}(-{STAMP})?" if name else ".*")
    found = [path for path in folder.glob("*/checkpoints/last.ckpt") if of_name.fullmatch(path.parts[-3])]
    if not found:
        where = folder / _safe(name) if name else folder / "*"
        raise FileNotFoundError(f"ckpt_path=last: there is no {where}/checkpoints/last.ckpt yet, leave ckpt_path out")
    return max(found, key=lambda path: path.stat().st_mtime)


def resume_from(ckpt_path, root, project, name=None) -> Path | None:
    """The checkpoint that ``ckpt_path`` means: a file, "last", or None.

    Raises:
        FileNotFoundError: there is none.
    """
    if ckpt_path is None:
        return None
    path = last_checkpoint(root, project, name) if ckpt_path == "last" else Path(ckpt_path)
    if not path.is_file():
        raise FileNotFoundError(f"ckpt_path={ckpt_path}: no such file; a checkpoint or 'last' is expected")
    return path


def _safe(name) -> str:
    return re.sub(r"[^\w.,=+-]+", "_", str(name))


def logged_in(host="api.wandb.ai") -> bool:
    """Whether wandb would reach its server without asking for a key."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_logger(folder, config, name=None, project="dcase23_task4", offline=False, tags=(), id=None):
    """A wandb logger where the user is logged in or asks for an offline run, else None.

    Args:
        folder: run folder.
        config: the whole config, stored with the run.
        name, project, offline, tags, id: as in ``wandb.init``.
    """
    if not offline and not logged_in():
        log.info("wandb: not logged in, metrics go to %s/metrics.csv alone", folder)
        return None
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(
        name=name, project=project, offline=offline, tags=list(tags), id=id, save_dir=folder, config=config
    )
    logger.experiment.define_metric("trainer/global_step")
    logger.experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return logger


def loggers(folder, wandb=None, step=0) -> list:
    """CSV always, wandb where there is one.

    Args:
        folder: run folder.
        wandb: a further logger.
        step: the optimizer step from which a run goes on; what ``metrics.csv`` has of those before stays in it.
    """
    from lightning.pytorch.loggers import CSVLogger

    path, rows = Path(folder) / "metrics.csv", []
    if path.is_file():
        with open(path, newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) < step]
    logger = CSVLogger(save_dir=folder, name=None, version="")  # its first use removes the file
    for row in rows:
        logger.log_metrics({key: value for key, value in row.items() if value}, int(row["step"]))
    if rows:
        logger.save()
    return [logger, wandb] if wandb else [logger]


def progress_bar():
    """Lightning's rich bar on a terminal, plain lines elsewhere."""
    from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

    return RichProgressBar() if sys.stdout.isatty() else TQDMProgressBar(refresh_rate=20)


def quiet_libraries():
    """Silences notes of libraries on matters that are settled here (a warning is for something a user can mend)."""
    import warnings

    for message in (
        ".*pkg_resources is deprecated.*",
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*`weights_only` was not set.*",
        ".*Experiment logs directory .* exists and is not empty.*",
        ".*number of training batches .* is smaller than the logging interval.*",
        ".*is not resumable.*",  # the batch sampler is told where to go on
        ".*isinstance.treespec, LeafSpec.*",
        ".*Trying to infer the `batch_size`.*",
        ".*in eval mode at the start of training.*",  # the frozen transformer
        ".*lr_scheduler.step.*before.*optimizer.step.*",
        ".*epoch parameter in `scheduler.step.*",
        ".*recommended to use .*sync_dist=True.*",  # metrics are computed once, from the clips of all ranks
    ):
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed", "faiss.loader"):
        logging.getLogger(name).setLevel(logging.WARNING)
