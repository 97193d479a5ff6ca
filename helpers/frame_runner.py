"""Frame-wise models as functions of waveforms, for inference."""

import copy

import torch

from helpers.tagging_runners import Member, Runner, fewest_samples, fingerprint, require_precision, usable_device

WINDOW_SECONDS = 10.0  # to which the number of frames of a model refers


class FrameRunner(Runner):
    """A :class:`models.strong.StrongModel` run by PyTorch: waveforms [B, samples] -> logits, numpy arrays float32.

    The first array holds the frames [B, classes, frames], the second one the clips [B, classes of the weak head]. A
    frame has the same length in clips of any length: the tokens of the backbone are matched to as many as fit.

    Args:
        member: name, front end and model. In bfloat16 are the matrix products and convolutions of the model.
        sample_rate: Hz of the waveforms; None: that of the front end.
        workers, precision, device: as of :class:`helpers.tagging_runners.TorchRunner`.

    Attributes:
        window_seconds: length of a clip as in training.
        frame_seconds: length of a frame.
        further ones as of :class:`helpers.tagging_runners.Runner`.

    Raises:
        ValueError: unknown precision, a device that is not there, or a model without heads.
    """

    def __init__(self, member: Member, sample_rate=None, workers=1, precision="f32", device="cpu"):
        require_precision(precision)
        if member.net.strong_head is None:
            raise ValueError(f"{member.name} has head_type=None, expected a model with a head for sound events")
        self.device, self.reduced = usable_device(device), precision == "bf16"
        super().__init__(workers if self.device.type == "cpu" else 1)
        mel, net = member.mel.eval().to(self.device), member.net.eval().to(self.device)
        self.identity = f"{type(self).__name__} {precision} {member.name} {fingerprint(mel, net)}"
        self.name, self.mel = member.name, mel
        self.net = copy.copy(net)  # shares all tensors, but has its own number of frames
        self.sample_rate = mel.input_rate = sample_rate or mel.sample_rate
        if hasattr(mel, "per_clip_range"):
            mel.per_clip_range = True  # what a clip gets must not depend on its neighbours
        self.n_classes, self.embed_dim = net.strong_head.out_features, net.weak_head.out_features
        self.min_samples = -(-fewest_samples(mel, net) * self.sample_rate // mel.sample_rate)
        self.window_seconds, self.frame_seconds = WINDOW_SECONDS, WINDOW_SECONDS / net.seq_len

    def submit(self, waveforms):
        """As :meth:`helpers.tagging_runners.Runner.submit`; all windows of a detection are of one length."""
        self.net.seq_len = round(waveforms.shape[1] / (self.frame_seconds * self.sample_rate))
        return super().submit(waveforms)

    @torch.inference_mode()
    def run(self, waveforms):
        mel = self.mel(torch.from_numpy(waveforms).to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.reduced):
            predictions = self.net(mel)
        return tuple(logits.float().cpu().numpy() for logits in predictions)
