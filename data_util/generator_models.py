"""Text-to-audio models as generators, through diffusers and transformers where those are installed.

Neither is needed, nor imported, by any other generator. Weights come from a local folder or from the hub.
"""

import math

import numpy as np

from data_util.generator_contract import InProcess, register, require


@register("audioldm2")
class AudioLdm2(InProcess):
    """AudioLDM 2, or another latent diffusion model of that interface (AudioLDM, MusicLDM), through diffusers.

    Every clip has its own random numbers, whatever else is in its batch.

    Args:
        model: folder of the weights, or their name on the hub; None: cvssp/audioldm2.
        seconds: length of a clip.
        steps: of the sampler; None: 200.
        guidance: classifier-free guidance scale; None: 3.5.
        negative_prompt: what is not to be heard; None: nothing said.
        device: "auto" (a GPU where there is one), or a name of torch.
        precision: "auto" (float16 on a GPU), or a name of torch.

    Raises:
        GenerationError: a package is missing.
    """

    def __init__(
        self, model=None, seconds=10.0, steps=None, guidance=None, negative_prompt=None, device="auto", precision="auto"
    ):
        require("audioldm2", "diffusers", "transformers")
        self.device, self.precision = device, precision
        self.settings = {
            "name": "audioldm2", "model": str(model or "cvssp/audioldm2"), "seconds": seconds,
            "steps": 200 if steps is None else steps, "guidance": 3.5 if guidance is None else guidance,
            "negative_prompt": negative_prompt, "precision": precision,
        }  # fmt: skip

    def load(self):
        """See :class:`InProcess`."""
        from diffusers import DiffusionPipeline

        device, dtype = _device_and_precision(self.device, self.precision)
        self.pipeline = DiffusionPipeline.from_pretrained(self.settings["model"], torch_dtype=dtype).to(device)
        self.pipeline.set_progress_bar_config(disable=True)

    def synthesise(self, prompts, seeds):
        """See :class:`InProcess`."""
        import torch

        negative = self.settings["negative_prompt"]
        audios = self.pipeline(
            prompt=prompts,
            negative_prompt=None if negative is None else [negative] * len(prompts),
            num_inference_steps=self.settings["steps"],
            guidance_scale=self.settings["guidance"],
            audio_length_in_s=self.settings["seconds"],
            num_waveforms_per_prompt=1,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        ).audios
        return list(np.asarray(audios)), self.pipeline.vocoder.config.sampling_rate


@register("musicgen")
class MusicGen(InProcess):
    """MusicGen, or another checkpoint of that architecture, through transformers.

    All clips of a batch share their random numbers, so what a clip sounds like depends on its batch, too; with
    ``batch_size=1`` it does not.

    Args:
        model: folder of the weights, or their name on the hub; None: facebook/musicgen-small.
        seconds: length of a clip, about 30 at most.
        guidance: classifier-free guidance scale; None: 3.
        temperature, top_k: of the sampling.
        device, precision: see :class:`AudioLdm2`.

    Raises:
        GenerationError: a package is missing.
    """

    def __init__(
        self, model=None, seconds=10.0, guidance=None, temperature=1.0, top_k=250, device="auto", precision="auto"
    ):
        require("musicgen", "transformers")
        self.device, self.precision = device, precision
        self.settings = {
            "name": "musicgen", "model": str(model or "facebook/musicgen-small"), "seconds": seconds,
            "guidance": 3.0 if guidance is None else guidance, "temperature": temperature, "top_k": top_k,
            "precision": precision,
        }  # fmt: skip

    def load(self):
        """See :class:`InProcess`."""
        from transformers import AutoProcessor, MusicgenForConditionalGeneration

        name = self.settings["model"]
        self.torch_device, dtype = _device_and_precision(self.device, self.precision)
        self.processor = AutoProcessor.from_pretrained(name)
        model = MusicgenForConditionalGeneration.from_pretrained(name)
        self.model = model.to(device=self.torch_device, dtype=dtype).eval()

    def synthesise(self, prompts, seeds):
        """See :class:`InProcess`."""
        import torch

        codec = self.model.config.audio_encoder
        delay = self.model.config.decoder.num_codebooks - 1  # of the last codebook, in tokens
        inputs = self.processor(text=prompts, padding=True, return_tensors="pt").to(self.torch_device)
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seeds[0])
            audio = self.model.generate(
                **inputs,
                do_sample=True,
                guidance_scale=self.settings["guidance"],
                temperature=self.settings["temperature"],
                top_k=self.settings["top_k"],
                max_new_tokens=math.ceil(self.settings["seconds"] * codec.frame_rate) + delay,
            )
        return list(audio.float().cpu().numpy()), codec.sampling_rate


def _device_and_precision(device, precision):
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "auto":
        precision = "float16" if str(device).startswith("cuda") else "float32"
    return device, getattr(torch, precision)
