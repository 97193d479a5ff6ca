"""Making a trainer from its config section, and the course of a run: fit, then test the best checkpoint."""

import logging
import os
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_summary import ModelSummary

from helpers import checkpoints, logger
from helpers.announce import first_process
from helpers.callbacks import Energy, LastCheckpoint
from helpers.sweeps import Pruned

log = logging.getLogger(__name__)

# Entries of the public `trainer` section beside those of Lightning's Trainer.
TRAINER_EXTRAS = {
    "weights_summary": "full",  # written to model_summary.txt; "top" lists the outermost modules alone, null nothing
    "reload_dataloaders_every_epoch": True,  # start the workers anew every epoch; False keeps them
    "last_every_n_steps": 500,  # optimizer steps between two saves of last.ckpt
}


def start(rank=0):
    """Sets up logging of this process; ``rank`` numbers the machine where no launcher does."""
    os.environ.setdefault("NODE_RANK", str(rank))
    logging.basicConfig(format="%(message)s")
    for name in ("helpers", "models", "data_util"):
        logging.getLogger(name).setLevel(logging.INFO if first_process() else logging.ERROR)
    logger.quiet_libraries()


def make_trainer(entries, folder, loggers, monitor=None, callbacks=()) -> L.Trainer:
    """A Lightning trainer for the entries of a ``trainer`` section.

    Args:
        entries: arguments of ``L.Trainer`` and :data:`TRAINER_EXTRAS`.
        folder: run folder; checkpoints go to ``<folder>/checkpoints``.
        loggers: list of Lightning loggers.
        monitor: (metric name, "max" or "min") of the best checkpoint; None keeps the last one alone.
        callbacks: further callbacks.
    """
    entries = {**TRAINER_EXTRAS, **entries}
    entries.pop("weights_summary")
    entries.pop("reload_dataloaders_every_epoch")
    every = entries.pop("last_every_n_steps")
    files = Path(folder) / "checkpoints"
    own = [LastCheckpoint(files, every), Energy(), *callbacks, *(entries.pop("callbacks") or ())]
    if entries.get("enable_progress_bar") is not False:
        own.append(logger.progress_bar())
    entries["enable_checkpointing"] = bool(monitor) and entries["enable_checkpointing"] is not False
    if entries["enable_checkpointing"]:
        name, mode = monitor
        # At the end of the validation, before last.ckpt is written, which must know the best score of its own epoch.
        own.append(ModelCheckpoint(
            files, filename="best", monitor=name, mode=mode, save_on_train_epoch_end=False,
            enable_version_counter=False,
        ))  # fmt: skip
    if on_cpu(entries["accelerator"]) and str(entries["precision"]).startswith("16"):
        log.info("precision: there is no 16-bit float arithmetic on a CPU, training in 32 bits")
        entries["precision"] = "32-true"
    if on_cpu(entries["accelerator"]) and entries.get("sync_batchnorm"):
        log.info("sync_batchnorm: torch has it on accelerators alone, every process keeps its own statistics")
        entries["sync_batchnorm"] = False
    entries.update(
        logger=loggers,
        callbacks=own,
        default_root_dir=str(folder),
        use_distributed_sampler=False,  # the loaders give every rank its own part
        enable_model_summary=False,
        log_every_n_steps=entries["log_every_n_steps"] or 10,
    )
    try:
        return L.Trainer(**entries)
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ValueError(f"trainer: {str(error).splitlines()[0]}") from error


def on_cpu(accelerator) -> bool:
    """Whether that ``trainer.accelerator`` means the CPU on this machine."""
    return accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())


@rank_zero_only
def write_summary(module, folder, detail):
    """Writes the parameter table of a module to ``<folder>/model_summary.txt``."""
    if detail:
        depth = {"full": -1, "top": 1}.get(detail)
        if depth is None:
            raise ValueError(f"trainer.weights_summary: 'full', 'top' or None expected, got {detail!r}")
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "model_summary.txt").write_text(str(ModelSummary(module, max_depth=depth)) + "\n")


def weights_of(config) -> str | None:
    """The file that decides on the network of a run: the checkpoint it goes on from, else its ``pretrained_name``.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    path = logger.resume_from(config["ckpt_path"], *logger.place(config))
    return config["pretrained_name"] if path is None else str(path)


def read_checkpoint(path, train=True) -> dict:
    """What a run goes on from, looked at before the trainer does, whose errors would not say what is wrong.

    Args:
        path: the checkpoint; None gives an empty dictionary.
        train: whether training is to go on from there.

    Raises:
        ValueError: the file is truncated, or without what is needed.
    """
    if path is None:
        return {}
    content = checkpoints.read(path)
    needed = ("state_dict", "global_step", *(("config", "optimizer_states", "loops") if train else ()))
    missing = next((entry for entry in needed if entry not in content), None)
    if missing:
        raise ValueError(f"ckpt_path: {path} has no entry '{missing}', expected a checkpoint of a run of this script")
    return content


class Loaders(L.LightningDataModule):
    """Loaders that know where in an epoch a run goes on.

    Args:
        train: callable (rank, world_size, epoch, start) -> DataLoader whose first batch is number ``start`` of that
            epoch; its batch sampler follows ``set_epoch``.
        validation, test: callables (rank, world_size) -> DataLoader over this rank's part.
    """

    def __init__(self, train=None, validation=None, test=None):
        super().__init__()
        self._make = {"train": train, "validation": validation, "test": test}
        self._next = (0, 0)

    def _ranks(self):
        return self.trainer.global_rank, self.trainer.world_size

    def train_dataloader(self):
        epoch, start = self._next
        if self.trainer.current_epoch > epoch:  # less: the trainer asks before its own progress is restored
            epoch, start = self.trainer.current_epoch, 0
        return self._make["train"](*self._ranks(), epoch, start)

    def val_dataloader(self):
        return self._make["validation"](*self._ranks())

    def test_dataloader(self):
        return self._make["test"](*self._ranks())

    def state_dict(self):
        """(epoch, batch) that comes next. Whole batches only: checkpoints are written between two of them."""
        loop = self.trainer.fit_loop
        done = loop.epoch_loop.batch_progress.current.processed
        if done >= self.trainer.num_training_batches:
            return {"next": (loop.epoch_progress.current.ready, 0)}
        return {"next": (self.trainer.current_epoch, done)}

    def load_state_dict(self, state_dict):
        self._next = tuple(state_dict["next"])


def best_checkpoint(trainer) -> str | None:
    """Path of the best checkpoint so far, None when nothing was validated."""
    for callback in trainer.checkpoint_callbacks:
        if callback.best_model_path and Path(callback.best_model_path).is_file():
            return callback.best_model_path
    return None


def require_own(path):
    """Raises ValueError where a file is there that no run of ours has written, as a published checkpoint is."""
    if Path(path).is_file() and "config" not in checkpoints.read(path):
        raise ValueError(f"save_as: {path} is there already and not from a run of this script, choose another name")


@rank_zero_only
def keep(trainer, folder, path):
    """Copies the best checkpoint of a run, or the last where none is chosen, without the state of its training.

    Args:
        trainer, folder: of the run.
        path: the new file; it can be what another run starts from, is evaluated or gets predictions from.
    """
    content = checkpoints.read(best_checkpoint(trainer) or Path(folder) / "checkpoints" / "last.ckpt")
    checkpoints.save(
        path, {entry: value for entry, value in content.items() if entry not in checkpoints.STATE_OF_TRAINING}
    )
    log.info("the tested checkpoint is kept as %s", path)


class Run:
    """One run of an experiment: its folder, its seed, and the checkpoint that it goes on from.

    Making one seeds all generators; :meth:`fit_and_test` does the rest.

    Args:
        config: of the experiment: ``trainer``, ``wandb``, ``seed``, ``ckpt_path``, ``save_as``, ``test_untrained``. The
            seed of a checkpoint takes the place of its own.
        train: whether to train, or to test alone.
        kept_in: folder of what ``save_as`` names.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is damaged, or ``save_as`` is the name of a file that no run has written.
    """

    def __init__(self, config, train=True, *, kept_in):
        self.config, self.train, self.trainer = config, train, None
        where = logger.place(config)
        self.ckpt_path = logger.resume_from(config["ckpt_path"], *where)
        self.folder = logger.run_folder(*where, resumed=self.ckpt_path)
        self._resumed = read_checkpoint(self.ckpt_path, train)
        config["seed"] = self._resumed.get("config", {}).get("seed", config["seed"])
        self._kept = train and config["save_as"] and f"{kept_in}/{config['save_as']}.ckpt"
        if self._kept:
            require_own(self._kept)
        L.seed_everything(config["seed"], verbose=False)

    def fit_and_test(self, module, loaders, monitor, callbacks=(), test=True) -> dict:
        """Tests before training if asked for, trains, tests the best checkpoint, and keeps it if asked for.

        Args:
            module, loaders: of this run.
            monitor, callbacks: see :func:`make_trainer`.
            test: whether to test.

        Returns:
            "untrained" and "trained" -> metrics by name, as far as they were tested.
        """
        config = self.config
        if self._resumed:
            checkpoints.load_exact(module, self._resumed["state_dict"], name=str(self.ckpt_path))
        online = logger.wandb_logger(self.folder, config, **config["wandb"])
        loggers = logger.loggers(self.folder, online, self._resumed.get("global_step", 0))
        self.trainer = make_trainer(config["trainer"], self.folder, loggers, monitor, callbacks)
        write_summary(module, self.folder, config["trainer"]["weights_summary"])
        ended = 1
        try:
            results = course(
                self.trainer, module, loaders, ckpt_path=self.ckpt_path, train=self.train, test=test,
                untrained=self.train and config["test_untrained"],
            )  # fmt: skip
            ended = 0
        except Pruned:  # as it should
            ended = 0
            raise
        finally:
            if online:
                online.experiment.finish(exit_code=ended)
        if self._kept:
            keep(self.trainer, self.folder, self._kept)
        return results

    def best_score(self) -> float:
        """The best value of the validation.

        Raises:
            ValueError: there was none.
        """
        found = self.trainer.checkpoint_callback.best_model_score
        if found is None:
            entries = self.config["trainer"]
            every, epochs = entries["check_val_every_n_epoch"], entries["max_epochs"]
            raise ValueError(
                f"trainer.check_val_every_n_epoch is {every}, expected at most trainer.max_epochs = {epochs}: "
                "nothing was validated"
            )
        return float(found)

    @property
    def shows(self) -> bool:
        """Whether this process is the one that shows the results."""
        return self.trainer.is_global_zero


def course(trainer, module, loaders, *, ckpt_path=None, train=True, test=True, untrained=False):
    """Tests before training if asked for, trains, tests the best checkpoint.

    Args:
        trainer, module, loaders: of this run.
        ckpt_path: go on from this checkpoint.
        train, test: whether to.
        untrained: also test the module as it is now.

    Returns:
        "untrained" and "trained" -> metrics by name, as far as they were tested.
    """
    results = {}
    if untrained and ckpt_path is None:
        results["untrained"] = _test(trainer, module, loaders)
    if train:
        trainer.fit(module.train(), datamodule=loaders, ckpt_path=ckpt_path, weights_only=True)
        ckpt_path = best_checkpoint(trainer)
    if test:
        results["trained"] = _test(trainer, module, loaders, ckpt_path)
    return results


def _test(trainer, module, loaders, ckpt_path=None):
    trainer.test(module, datamodule=loaders, ckpt_path=ckpt_path, weights_only=True, verbose=False)
    return dict(module.results)
