"""AudioGen and EzAudio as programs for the generator ``command``: JSON lines in, wav files out.

    <python of AudioGen's environment> data_util/generator_programs.py audiogen tasks.jsonl
    <python of EzAudio's environment> data_util/generator_programs.py ezaudio tasks.jsonl --repository ~/EzAudio

It runs in the environment of the generator and needs nothing of ours. Defaults are the settings of the published study:
AudioGen medium with top-k 250, temperature 1, guidance 3, 30 s, at 44.1 kHz and of equal loudness; EzAudio s3_xl with
10 s, 200 steps, guidance 5, rescaling 0.75 and the same seed 42 for all clips.
"""

import argparse
import json
import os
import sys


def audiogen(tasks, options):
    """Makes clips with AudioGen [Kreuk et al., "AudioGen: Textually Guided Audio Generation", ICLR 2023]."""
    import torch
    from audiocraft.data.audio import audio_write
    from audiocraft.data.audio_utils import convert_audio
    from audiocraft.models import AudioGen

    model = AudioGen.get_pretrained(options.model or "facebook/audiogen-medium")
    model.set_generation_params(
        top_k=250, temperature=1.0, cfg_coef=3.0 if options.guidance is None else options.guidance,
        duration=options.seconds or 30.0,
    )  # fmt: skip
    for start in range(0, len(tasks), options.batch_size):
        batch = tasks[start : start + options.batch_size]
        torch.manual_seed(batch[0]["seed"])
        for task, audio in zip(batch, model.generate([task["prompt"] for task in batch])):
            audio = convert_audio(audio.cpu(), model.sample_rate, options.sample_rate, 1)
            audio_write(task["path"], audio, options.sample_rate, strategy="loudness", add_suffix=False)


def ezaudio(tasks, options):
    """Makes clips with EzAudio [Hai et al., "EzAudio", 2024]."""
    import soundfile
    import torch
    from api.ezaudio import EzAudio

    model = EzAudio(model_name=options.model or "s3_xl", device="cuda" if torch.cuda.is_available() else "cpu")
    for task in tasks:
        rate, audio = model.generate_audio(
            task["prompt"], length=options.seconds or 10, guidance_rescale=0.75, ddim_steps=options.steps,
            guidance_scale=5 if options.guidance is None else options.guidance,
            random_seed=task["seed"] if options.seed is None else options.seed,
        )  # fmt: skip
        soundfile.write(task["path"], audio, rate)


def main(arguments=None):
    """Reads the tasks and makes their clips."""
    parser = argparse.ArgumentParser(description="Makes wav files of captions.")
    parser.add_argument("generator", choices=("audiogen", "ezaudio"))
    parser.add_argument("tasks", help="file of JSON lines with prompt, path and seed; - for standard input")
    parser.add_argument("--model", help="another model of that generator, or a folder of its weights")
    parser.add_argument("--seconds", type=int, help="length of a clip")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance")
    parser.add_argument("--steps", type=int, default=200, help="of the sampler (EzAudio)")
    parser.add_argument("--seed", type=int, help="for all clips, instead of one for each (EzAudio; published: 42)")
    parser.add_argument("--batch-size", type=int, default=8, help="clips made at once (AudioGen)")
    parser.add_argument("--sample-rate", type=int, default=44100, help="Hz (AudioGen)")
    parser.add_argument("--repository", help="folder of the generator's code, where it is no installed package")
    options = parser.parse_args(arguments)
    with sys.stdin if options.tasks == "-" else open(options.tasks, encoding="utf-8") as file:
        tasks = [json.loads(line) for line in file if line.strip()]
    # In place of this file's folder, whose modules have names of their own; EzAudio reads files below its folder.
    sys.path[0] = os.path.abspath(os.path.expanduser(options.repository or "."))
    os.chdir(sys.path[0])
    {"audiogen": audiogen, "ezaudio": ezaudio}[options.generator](tasks, options)


if __name__ == "__main__":
    main()
