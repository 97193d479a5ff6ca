"""Trainer callbacks shared by the experiments: checkpoints that survive anything, and energy."""

import logging
import os
import signal
import subprocess
import threading
from pathlib import Path

from lightning.pytorch.callbacks import Callback

log = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[1]


def revision(folder=REPOSITORY) -> str | None:
    """Git revision of a checkout, with ``-dirty`` behind it where tracked files differ; None where there is none."""

    def git(*words):
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        top, commit = git("rev-parse", "--show-toplevel", "HEAD").splitlines()
        if Path(top).resolve() != Path(folder).resolve():  # a checkout of something else around an installed copy
            return None
        return commit + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


class LastCheckpoint(Callback):
    """Keeps ``last.ckpt`` fresh: every n optimizer steps, after every epoch, and when the run is told to stop.

    A file is written under another name and renamed, so ``last.ckpt`` is whole at any moment. Ctrl-C and SIGTERM
    are taken at the end of the running optimizer step: between two steps (not between two batches whose gradients are
    summed up) the state is one that a run can go on from. After the last step of an epoch comes its validation
    first, which a run that went on from there would leave out.

    All checkpoints of the run get the entries ``revision``, the git revision of the code at its start, and ``metric``:
    name, mode and best value so far of the metric that is monitored, else of the module's ``headline``; None before
    the first validation.

    Args:
        folder: where ``last.ckpt`` goes.
        every_n_steps: optimizer steps between two saves; 0 saves after epochs only.
    """

    def __init__(self, folder, every_n_steps=500):
        self.path = Path(folder) / "last.ckpt"
        self.every_n_steps = every_n_steps
        self._step = 0
        self._signal = None
        self._stopping = False
        self._just_saved = False
        self._former = {}
        self._revision = self._metric = None

    def save(self, trainer):
        """Writes the checkpoint; every rank must call it."""
        temporary = self.path.with_suffix(".partial")
        trainer.save_checkpoint(temporary, weights_only=False)
        if trainer.is_global_zero:
            os.replace(temporary, self.path)
        self._just_saved = True

    def setup(self, trainer, module, stage):
        self.path = Path(trainer.strategy.broadcast(str(self.path)))
        self._revision = revision()

    def on_validation_end(self, trainer, module):
        monitored = [(each.monitor, each.mode) for each in trainer.checkpoint_callbacks if each.monitor]
        name, mode = next(iter([*monitored, getattr(module, "headline", None) or (None, None)]))
        if name not in trainer.callback_metrics or trainer.sanity_checking:
            return
        known = [] if self._metric is None else [self._metric["best"]]
        best = {"max": max, "min": min}[mode]([float(trainer.callback_metrics[name]), *known])
        self._metric = {"name": name, "mode": mode, "best": best}

    def on_save_checkpoint(self, trainer, module, checkpoint):
        checkpoint["revision"], checkpoint["metric"] = self._revision, self._metric

    def state_dict(self):
        return {"metric": self._metric}

    def load_state_dict(self, state_dict):
        self._metric = state_dict["metric"]

    def on_train_start(self, trainer, module):
        self._step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            # Instead of the trainer's own handler, which lets the ranks wait for each other in mid-step.
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._stop)

    def _stop(self, number, frame):
        if self._signal is not None:  # the second time it is meant at once
            raise KeyboardInterrupt
        self._signal = number
        log.warning("stopping after this step (once more to stop at once)")

    def _decide(self, trainer):
        """Settles whether to stop; a signal may reach one rank alone."""
        asked = self._signal is not None
        self._stopping = trainer.strategy.reduce_boolean_decision(asked, all=False) if trainer.world_size > 1 else asked

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == self._step or batch_idx + 1 == trainer.num_training_batches:
            return
        self._step = trainer.global_step
        self._decide(trainer)
        if self._stopping or (self.every_n_steps and self._step % self.every_n_steps == 0):
            self.save(trainer)

    def on_train_epoch_end(self, trainer, module):
        self._decide(trainer)
        self.save(trainer)
        self._after_step(trainer)

    # The values of a step are logged between its end and these.

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self._after_step(trainer)

    def on_validation_start(self, trainer, module):
        self._after_step(trainer)

    def _after_step(self, trainer):
        if self._just_saved:  # whoever goes on from the checkpoint finds what was logged before it
            for logger in trainer.loggers:
                logger.save()
        self._just_saved = False
        if self._stopping:
            log.warning("saved %s, go on with ckpt_path=last", self.path)
            raise SystemExit(130 if self._signal == signal.SIGINT else 143)

    def on_train_end(self, trainer, module):
        self._restore_handlers()

    def on_exception(self, trainer, module, exception):
        self._restore_handlers()

    def _restore_handlers(self):
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}


class Energy(Callback):
    """Logs the energy of training and testing in kWh where it can be measured (codecarbon, else NVML).

    The names are ``train/tot_energy_kWh`` and ``test/tot_energy_kWh``.
    """

    def __init__(self):
        self._meter = None

    def on_train_start(self, trainer, module):
        self._meter = _meter()

    def on_test_start(self, trainer, module):
        self._meter = _meter()

    def on_train_end(self, trainer, module):
        self._log(trainer, "train/tot_energy_kWh")

    def on_test_epoch_end(self, trainer, module):
        self._log(trainer, "test/tot_energy_kWh")

    def _log(self, trainer, name):
        if self._meter is not None and trainer.is_global_zero:
            value = self._meter()
            for logger in trainer.loggers:
                logger.log_metrics({name: value}, step=trainer.global_step)
        self._meter = None


def _meter():
    """A function that tells the kWh used since this call, None where nothing measures."""
    try:
        from codecarbon import OfflineEmissionsTracker

        tracker = OfflineEmissionsTracker(country_iso_code="AUT", log_level="error", save_to_file=False)
        tracker.start()

        def measured():
            tracker.stop()
            return float(tracker._total_energy.kWh)

        return measured
    except ImportError:
        pass
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        millijoules = [pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles]

        def measured():
            now = [pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles]
            return sum(after - before for after, before in zip(now, millijoules)) / 3.6e9

        return measured if handles else None
    except Exception as error:  # no driver, an old card: energy is a bonus
        log.debug("no energy meter: %s", error)
        return None
