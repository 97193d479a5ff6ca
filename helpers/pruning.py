"""What the training of a trial tells its sweep: a value of the validation after every epoch."""

from collections.abc import Callable

from lightning.pytorch.callbacks import Callback


class ReportValidation(Callback):
    """Reports a metric of the validation by epoch; where the report raises, as for a pruned trial, training ends.

    The trainer then tidies up as after any error: handlers of signals and loggers are as before the training.

    Args:
        report: callable (epoch, value).
        metric: name of a logged value, such as ``val/mAP@10``.

    Raises:
        ValueError: the validation does not log that metric, or several processes train, each of which would report.
    """

    def __init__(self, report: Callable[[int, float], None], metric: str):
        self.report, self.metric = report, metric

    def on_fit_start(self, trainer, module):
        if trainer.world_size > 1:
            raise ValueError(
                f"a trial of a sweep trains in one process, found {trainer.world_size}: "
                "set trainer.devices=1 and start the sweep once per device"
            )

    def on_validation_end(self, trainer, module):
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if self.metric not in trainer.callback_metrics:
            names = ", ".join(sorted(trainer.callback_metrics))
            raise ValueError(f"the validation gives no '{self.metric}', expected one of {names}")
        self.report(trainer.current_epoch, float(trainer.callback_metrics[self.metric]))
