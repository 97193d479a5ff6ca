"""Making of generated audio: names, resumption, failures, and the generators."""

import fcntl
import importlib.machinery
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_util.captions import Captioned
from data_util.errors import DataMissing
from data_util.generation import LOCK, MANIFEST, SETTINGS, Manifest, generate, wanted_clips
from data_util.generator_contract import BatchFailed, GenerationError, Task, register
from data_util.generators import GENERATORS, Command, Procedural, factory
from data_util.synthetic import find_generated, missing_generated, mix
from tests.conftest import REPOSITORY

RATE = 8000
ROWS = [
    Captioned("Größe 1.wav", ("A dog barks.", "A cat meows over wind.")),
    Captioned("b.wav", ("Water runs.", "Someone walks; $(echo no) \"quoted\" 'text'")),
    Captioned("c.flac", ("An alarm rings twice.", "Birds chirp.")),
]
NAMES = [f"{stem}_cap_{column}.wav" for column in (1, 2) for stem in ("Größe 1", "b", "c")]


class Tones:
    """Writes a tone of the pitch of the seed; ``spoil`` says of a prompt what goes wrong."""

    def __init__(self, spoil=None):
        self.settings, self.spoil, self.calls = {"name": "tones"}, spoil or {}, []

    def __call__(self, tasks):
        self.calls.append([task.prompt for task in tasks])
        reasons = []
        for task in tasks:
            wrong = self.spoil.get(task.prompt)
            if wrong == "raise":
                raise BatchFailed("out of memory")
            audio = np.sin(np.arange(RATE // 4) * (1 + task.seed % 97) / 100) / 2
            if wrong == "silent":
                audio[:] = 0
            if wrong == "short":
                audio = audio[:10]
            if wrong != "nothing":
                soundfile.write(task.path, audio, RATE)
            reasons.append("refused" if wrong == "refuse" else None)
        return reasons


def clips_in(folder):
    return sorted(path.name for path in Path(folder).iterdir() if path.suffix == ".wav")


def manifest_of(folder):
    return {line["file"]: line for line in map(json.loads, (Path(folder) / MANIFEST).read_text("utf-8").splitlines())}


# -- what is made -----------------------------------------------------------------------------------------------------
def test_clips_are_found_and_mixed_like_published_ones(tmp_path):
    done = generate(ROWS, tmp_path / "out", Tones(), batch_size=4)
    assert (done.made, done.kept, done.failed) == (6, 0, {})
    assert clips_in(tmp_path / "out/development") == sorted(NAMES)
    found = find_generated(ROWS, tmp_path / "out")
    assert missing_generated(ROWS, found) == []
    mixture = mix(ROWS, ["x"] * 3, found, replication_factor=2)
    assert sorted(clip.row.file for clip in mixture if clip.column) == sorted(NAMES)
    assert not [path for path in (tmp_path / "out/development").iterdir() if path.name.startswith(".generating")]


def test_a_folder_for_each_caption(tmp_path):
    generate(ROWS, tmp_path / "Clotho_caption_{column}", Tones(), columns=[2])
    assert not (tmp_path / "Clotho_caption_1").exists()
    assert clips_in(tmp_path / "Clotho_caption_2/development") == sorted(NAMES[3:])
    done = generate(ROWS, tmp_path / "Clotho_caption_{column}", Tones())
    assert (done.made, done.kept, len(done.folders)) == (3, 3, 2)
    assert find_generated(ROWS, tmp_path / "Clotho_caption_{column}")[1].keys() == {1, 2}


def test_a_clip_depends_on_nothing_but_its_caption_and_name(tmp_path):
    generator = Procedural(seconds=0.5, sample_rate=RATE)
    generate(ROWS, tmp_path / "a", generator, batch_size=5)
    generate(ROWS[::-1], tmp_path / "b", generator, batch_size=1)
    generate(ROWS, tmp_path / "c", generator, clip_seed=25)
    a, b, c = ([(tmp_path / name / "development" / clip).read_bytes() for clip in NAMES] for name in "abc")
    assert a == b
    assert not set(a) & set(c)
    assert len(set(a)) == 6


def test_manifest_says_how_a_clip_was_made(tmp_path):
    generate(ROWS, tmp_path, Tones({"Birds chirp.": "refuse"}), split="", clip_seed=3, sample_rate=16000)
    kept = json.loads((tmp_path / SETTINGS).read_text())
    assert kept == {"generator": {"name": "tones"}, "seed": 3, "sample_rate": 16000}
    lines = manifest_of(tmp_path)
    assert list(lines) == sorted(NAMES)
    seeds = {clip.file: clip.seed for _, clip in wanted_clips(ROWS, tmp_path, 3)}
    assert len(set(seeds.values())) == 6
    assert all(0 <= seed < 2**31 for seed in seeds.values())
    assert lines["c_cap_2.wav"] == {
        "file": "c_cap_2.wav", "prompt": "Birds chirp.", "seed": seeds["c_cap_2.wav"], "failed": "refused",
    }  # fmt: skip
    assert lines["Größe 1_cap_1.wav"] == {
        "file": "Größe 1_cap_1.wav", "prompt": "A dog barks.", "seed": seeds["Größe 1_cap_1.wav"], "seconds": 0.25,
        "sample_rate": 16000,
    }  # fmt: skip
    assert soundfile.info(tmp_path / "b_cap_1.wav").samplerate == 16000


@pytest.mark.parametrize(("columns", "found"), [([3], "3"), ([0], "0"), (3, "3"), ("all", "'all'")])
def test_columns_are_checked(tmp_path, columns, found):
    with pytest.raises(ValueError, match=rf"generator.columns has {found}, expected numbers of captions, 1 to 2"):
        generate(ROWS, tmp_path, Tones(), columns=columns)


def test_bad_requests(tmp_path):
    with pytest.raises(ValueError, match=r"generator.batch_size is 0, expected at least 1"):
        generate(ROWS, tmp_path, Tones(), batch_size=0)
    with pytest.raises(DataMissing, match=r"0 captions"):
        generate([], tmp_path, Tones())


# -- going on ---------------------------------------------------------------------------------------------------------
KILLED = """
import sys, time
from data_util.generation import generate
from tests.test_generation import ROWS, Tones

class Slow(Tones):
    def __call__(self, tasks):
        if len(self.calls) == 2:
            tasks[0].path.write_bytes(b"RIFF half a file")
            print("ready", flush=True)
            time.sleep(60)
        return super().__call__(tasks)

generate(ROWS, sys.argv[1], Slow(), batch_size=2, split="")
"""


def test_after_a_kill_finished_clips_are_not_made_again(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    finished = {name: (tmp_path / name).stat().st_ino for name in clips_in(tmp_path)}
    assert list(finished) == sorted(NAMES[:4])
    with open(tmp_path / MANIFEST, "a") as file:
        file.write('{"file": "c_cap')  # as a killed process may leave it
    generator = Tones()
    done = generate(ROWS, tmp_path, generator, batch_size=2, split="")
    assert (done.made, done.kept) == (2, 4)
    assert generator.calls == [[ROWS[1].captions[1], ROWS[2].captions[1]]]
    assert {name: (tmp_path / name).stat().st_ino for name in finished} == finished
    assert clips_in(tmp_path) == sorted(NAMES) == list(manifest_of(tmp_path))
    assert not list(tmp_path.glob(".generating*"))


def test_a_finished_folder_needs_no_generator_call(tmp_path):
    generate(ROWS, tmp_path, Tones(), split="")
    again = Tones()
    done = generate(ROWS, tmp_path, again, split="")
    assert (done.made, done.kept, again.calls) == (0, 6, [])


def test_other_captions_are_made_anew_and_foreign_files_kept(tmp_path):
    soundfile.write(tmp_path / "b_cap_2.wav", np.full(RATE, 0.25), RATE)
    generate(ROWS, tmp_path, Tones(), split="")
    assert soundfile.read(tmp_path / "b_cap_2.wav")[0][0] == 0.25
    assert "b_cap_2.wav" not in manifest_of(tmp_path)
    changed = [Captioned("Größe 1.wav", ("A dog growls.", ROWS[0].captions[1])), *ROWS[1:]]
    generator = Tones()
    done = generate(changed, tmp_path, generator, split="")
    assert (done.made, generator.calls) == (1, [["A dog growls."]])
    assert manifest_of(tmp_path)["Größe 1_cap_1.wav"]["prompt"] == "A dog growls."


def test_other_settings_are_refused(tmp_path):
    generate(ROWS, tmp_path, Tones(), split="")
    with pytest.raises(ValueError, match=r"made with other settings \(seed: 24 there, 25 asked for\)"):
        generate(ROWS, tmp_path, Tones(), split="", clip_seed=25)
    with pytest.raises(ValueError, match=r"generator.name: \"tones\" there, \"procedural\" asked for"):
        generate(ROWS, tmp_path, Procedural(), split="")


def test_two_processes_do_not_fill_one_folder(tmp_path):
    with open(tmp_path / LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"is being filled by another process"):
            generate(ROWS, tmp_path, Tones(), split="")


def test_manifest_keeps_the_last_line_of_a_clip(tmp_path, caplog):
    path = tmp_path / MANIFEST
    path.write_text('{"file": "b", "failed": "x"}\n{"file": "a"}\n[1]\n{"file": "b", "seconds": 1}\n')
    assert Manifest(path).lines == {"a": {"file": "a"}, "b": {"file": "b", "seconds": 1}}
    assert path.read_text() == '{"file": "a"}\n{"file": "b", "seconds": 1}\n'
    assert caplog.text.count("a line is damaged") == 1


# -- failures ---------------------------------------------------------------------------------------------------------
def test_failed_clips_are_listed_and_tried_again(tmp_path, caplog):
    spoil = {"A dog barks.": "silent", "Water runs.": "short", "Birds chirp.": "nothing", ROWS[1].captions[1]: "refuse"}
    done = generate(ROWS, tmp_path, Tones(spoil), split="")
    assert done.made == 2
    assert done.failed == {
        "Größe 1_cap_1.wav": "is silent throughout",
        "b_cap_1.wav": "0.001 s long, expected at least 0.1 s",
        "b_cap_2.wav": "refused",
        "c_cap_2.wav": "no file",
    }
    assert "4 of 6 clips could not be made, the next start tries again: 'Größe 1_cap_1.wav'" in caplog.text
    assert "b_cap_2.wav: refused" in caplog.text
    (tmp_path / "c_cap_1.wav").unlink()
    generator = Tones()
    done = generate(ROWS, tmp_path, generator, split="", batch_size=2)
    assert (done.made, done.kept, done.failed) == (5, 1, {})
    assert generator.calls[0] == ["An alarm rings twice.", "A dog barks."]  # what failed before comes last
    assert all("failed" not in line for line in manifest_of(tmp_path).values())


@pytest.mark.parametrize("size", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("bad", range(6))
def test_one_bad_caption_costs_no_other_clip(tmp_path, size, bad):
    captions = [row.captions[column] for column in (0, 1) for row in ROWS]
    generator = Tones({captions[bad]: "raise"})
    done = generate(ROWS, tmp_path, generator, split="", batch_size=size)
    assert done.failed == {NAMES[bad]: "out of memory"}
    assert clips_in(tmp_path) == sorted(set(NAMES) - {NAMES[bad]})


def test_a_generator_that_makes_nothing_is_given_up(tmp_path):
    rows = [Captioned(f"{number:03d}.wav", (f"caption {number}",)) for number in range(100)]
    broken = Tones({row.captions[0]: "raise" for row in rows})
    with pytest.raises(GenerationError, match=r"7 calls of the generator made no clip: out of memory"):
        generate(rows, tmp_path, broken, split="")
    assert len(broken.calls) == 7
    generator = Tones()
    assert generate(rows, tmp_path, generator, split="").made == 100
    assert generator.calls[-1][-3:] == ["caption 5", "caption 6", "caption 7"]  # those that failed alone


# -- generators -------------------------------------------------------------------------------------------------------
def test_registry():
    assert list(GENERATORS)[:4] == ["audioldm2", "musicgen", "procedural", "command"]
    assert factory("procedural") is Procedural
    with pytest.raises(GenerationError, match=r"generator.name is 'wavenet', expected one of audioldm2, musicgen"):
        factory("wavenet")
    with pytest.raises(ValueError, match=r"there is a generator 'command' already"):
        register("command")(Command)


def test_procedural_clips_sound_like_their_captions(tmp_path):
    prompts = ["A dog barks loudly.", "A dog barks faintly.", "Nothing known", "Water runs."]
    tasks = [Task(prompt, 5, tmp_path / f"{number}.wav") for number, prompt in enumerate(prompts)]
    assert Procedural(seconds=1.5, sample_rate=RATE)(tasks) == [None] * 4
    loud, faint, nothing, water = (soundfile.read(task.path)[0] for task in tasks)
    assert [len(audio) for audio in (loud, faint, nothing, water)] == [12000] * 4
    peaks = [np.abs(audio).max() for audio in (loud, faint, nothing)]
    assert peaks[0] / peaks[1] == pytest.approx(10 ** (16 / 20), rel=0.05)  # 16 dB between loud and faint
    assert peaks[2] < 0.01
    assert Procedural().settings["sample_rate"] == 44100


@pytest.mark.parametrize(("name", "package"), [("audioldm2", "diffusers"), ("musicgen", "transformers")])
def test_missing_package_is_named(monkeypatch, name, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    message = rf"generator.name={name} needs the package {package}: python -m pip install {package}"
    with pytest.raises(GenerationError, match=message):
        factory(name)()


def stub(monkeypatch, name, **content):
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


class Pipeline:
    """The interface of AudioLDM2Pipeline."""

    vocoder = types.SimpleNamespace(config=types.SimpleNamespace(sampling_rate=16000))

    @classmethod
    def from_pretrained(cls, name, torch_dtype):
        if name == "none":
            raise OSError("none is no folder\nand no name on the hub")
        cls.loaded = (name, str(torch_dtype))
        return cls()

    def to(self, device):
        self.device = device
        return self

    def set_progress_bar_config(self, disable):
        assert disable

    def __call__(self, prompt, negative_prompt, generator, audio_length_in_s, **options):
        type(self).call = {"prompt": prompt, "negative_prompt": negative_prompt, **options}
        draws = [own.initial_seed() for own in generator]
        audio = [np.random.default_rng(seed).normal(size=int(16000 * audio_length_in_s)) for seed in draws]
        return types.SimpleNamespace(audios=np.array(audio, dtype=np.float32))


def test_audioldm2_through_the_interface_of_diffusers(monkeypatch, tmp_path):
    stub(monkeypatch, "diffusers", DiffusionPipeline=Pipeline)
    generator = factory("audioldm2")(model=tmp_path, seconds=0.5, steps=7, negative_prompt="noise", device="cpu")
    tasks = [Task("a", 3, tmp_path / "a.wav"), Task("b", 4, tmp_path / "b.wav")]
    assert generator(tasks) == [None, None]
    assert Pipeline.loaded == (str(tmp_path), "torch.float32")
    assert Pipeline.call == {
        "prompt": ["a", "b"], "negative_prompt": ["noise", "noise"], "num_inference_steps": 7, "guidance_scale": 3.5,
        "num_waveforms_per_prompt": 1,
    }  # fmt: skip
    audio, rate = soundfile.read(tasks[1].path)
    expected = np.random.default_rng(4).normal(size=8000)
    assert rate == 16000
    np.testing.assert_allclose(audio, 0.99 * expected / np.abs(expected).max(), atol=1e-4)  # no sample is clipped
    assert generator.settings["negative_prompt"] == "noise"
    with pytest.raises(GenerationError, match=r"'audioldm2' cannot be loaded \(OSError: none is no folder\)$"):
        factory("audioldm2")(model="none", device="cpu")(tasks)


class MusicModel:
    """The interface of MusicgenForConditionalGeneration."""

    config = types.SimpleNamespace(
        audio_encoder=types.SimpleNamespace(frame_rate=50, sampling_rate=32000),
        decoder=types.SimpleNamespace(num_codebooks=4),
    )

    @classmethod
    def from_pretrained(cls, name):
        return cls()

    def to(self, device, dtype):
        return self

    def eval(self):
        return self

    def generate(self, input_ids, do_sample, guidance_scale, temperature, top_k, max_new_tokens):
        import torch

        assert (do_sample, guidance_scale, temperature, top_k) == (True, 3.0, 0.9, 250)
        audio = torch.rand(len(input_ids), 1, (max_new_tokens - 3) * 640) - 0.5
        if input_ids[0] == 13:
            audio[0] = float("nan")
        return audio


class Inputs(dict):
    def to(self, device):
        return self


class Processor:
    @classmethod
    def from_pretrained(cls, name):
        return lambda text, padding, return_tensors: Inputs(input_ids=list(map(len, text)))


def test_musicgen_through_the_interface_of_transformers(monkeypatch, tmp_path):
    import torch

    stub(monkeypatch, "transformers", AutoProcessor=Processor, MusicgenForConditionalGeneration=MusicModel)
    generator = factory("musicgen")(seconds=0.5, temperature=0.9, device="cpu")
    tasks = [Task("a", 3, tmp_path / "a.wav"), Task("b", 4, tmp_path / "b.wav")]
    before = torch.random.get_rng_state()
    assert generator(tasks) == [None, None]
    assert torch.equal(torch.random.get_rng_state(), before)
    own = torch.Generator().manual_seed(3)
    expected = torch.rand(2, 16000, generator=own).numpy() - 0.5
    for task, audio in zip(tasks, expected):
        written, rate = soundfile.read(task.path)
        assert rate == 32000
        np.testing.assert_allclose(written, audio, atol=1e-4)
    assert generator([Task("x" * 13, 3, tmp_path / "c.wav")]) == ["holds values that are no finite numbers"]
    with pytest.raises(BatchFailed, match=r"^AssertionError"):
        factory("musicgen")(device="cpu")(tasks)


# -- programs ---------------------------------------------------------------------------------------------------------
PROGRAM = """
import json, sys, time, wave

mode, source = sys.argv[1], sys.argv[2]
lines = open(source) if source != "-" else sys.stdin
for number, task in enumerate(map(json.loads, lines)):
    if number == 1 and mode == "exit":
        sys.exit("cannot go on")
    if number == 1 and mode == "skip":
        continue
    with wave.open(task["path"], "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
        file.writeframes((task["seed"] % 1000 + len(task["prompt"])).to_bytes(2, "little") * 2000)
    if number == 1 and mode == "hang":
        print("at work", flush=True)
        time.sleep(60)
print("done\\nall said")
if mode == "echo":
    print(sys.argv[3:])
"""


@pytest.fixture
def program(tmp_path):
    """Words of the command that runs the program above, which lies in a folder with blanks in its name."""
    path = tmp_path / "a folder/program.py"
    path.parent.mkdir()
    path.write_text(PROGRAM)
    return [sys.executable, "-S", str(path)]


@pytest.mark.parametrize("source", ["{input}", "-"])
def test_program_gets_tasks_and_writes_clips(tmp_path, program, source):
    done = generate(ROWS, tmp_path / "out", Command([*program, "plain", source]), split="", batch_size=4)
    assert (done.made, done.failed) == (6, {})
    for _, clip in wanted_clips(ROWS, tmp_path):
        audio, _ = soundfile.read(tmp_path / "out" / clip.file, dtype="int16")
        assert set(audio) == {clip.seed % 1000 + len(clip.prompt)}, clip  # seed and prompt arrived unchanged


def test_command_as_one_text(tmp_path, program):
    generator = Command(f"{shlex.join(program)} echo {{input}} 'out={{output}} seed={{seed}};ls' {{program}}")
    tasks = [Task("x", 17, tmp_path / "x.wav"), Task("y", 18, tmp_path / "y.wav")]
    assert generator(tasks) == [None, None]
    said = (tmp_path / "output.log").read_text().splitlines()[-1]
    program_path = str(REPOSITORY / "data_util/generator_programs.py")
    assert said == str([f"out={tmp_path} seed=17;ls", program_path])


def test_program_that_leaves_out_a_clip(tmp_path, program):
    done = generate(ROWS, tmp_path, Command([*program, "skip", "{input}"]), split="", batch_size=3)
    assert done.failed == dict.fromkeys(["b_cap_1.wav", "b_cap_2.wav"], "exit status 0, but no file: all said")


def test_program_that_fails_on_the_way(tmp_path, program, caplog):
    generator = Command([*program, "exit", "{input}"])
    tasks = [Task("x", 1, tmp_path / "x.wav"), Task("y", 2, tmp_path / "y.wav")]
    with pytest.raises(BatchFailed, match=r"^exit status 1: cannot go on$"):
        generator(tasks)
    # In halves of halves every clip is once the first, which succeeds.
    done = generate(ROWS, tmp_path / "out", generator, split="", batch_size=6)
    assert (done.made, done.failed) == (6, {})


def test_program_that_takes_too_long_is_ended(tmp_path, program):
    tasks = [Task("x", number, tmp_path / f"{number}.wav") for number in range(3)]
    with pytest.raises(BatchFailed, match=r"^not ready after generator.timeout = 4 s$"):
        Command([*program, "hang", "-"], timeout=4)(tasks)
    assert [task.path.is_file() for task in tasks] == [True, False, False]  # the second may have been half written


def test_program_that_is_killed(tmp_path):
    with pytest.raises(BatchFailed, match=r"^ended by signal 9: memory$"):
        Command(["/bin/sh", "-c", "echo memory; kill -9 $$"])([Task("x", 1, tmp_path / "x.wav")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"generator.command is not set"),
        ({"command": "make {inputs}"}, r"has \{inputs\}, expected no other than \{input\}, \{output\}, \{seed\}"),
        ({"command": "make", "cwd": "/no/such"}, r"generator.cwd = /no/such: no such folder"),
    ],
)
def test_bad_commands(options, message):
    with pytest.raises(GenerationError, match=message):
        Command(**options)


def test_no_such_program(tmp_path):
    with pytest.raises(GenerationError, match=r"'/no/such/program' cannot be run \(No such file or directory\)"):
        generate(ROWS, tmp_path, Command("/no/such/program {input}"), split="")


STUBS = {
    "torch/__init__.py": """
        import types
        cuda = types.SimpleNamespace(is_available=lambda: False)
        seeds = []
        manual_seed = seeds.append
        """,
    "api/ezaudio.py": """
        class EzAudio:
            def __init__(self, model_name, device):
                assert (model_name, device) == ("s3_xl", "cpu")
            def generate_audio(self, text, length, guidance_scale, guidance_rescale, ddim_steps, random_seed):
                assert (length, guidance_scale, guidance_rescale, ddim_steps) == (10, 5, 0.75, 200)
                return 24000, [random_seed / 1000] * 24000
        """,
    "audiocraft/models.py": """
        class Clip(list):
            def cpu(self):
                return self
        class AudioGen:
            sample_rate = 16000
            @staticmethod
            def get_pretrained(name):
                assert name == "facebook/audiogen-medium"
                return AudioGen()
            def set_generation_params(self, top_k, temperature, cfg_coef, duration):
                assert (top_k, temperature, cfg_coef, duration) == (250, 1.0, 3.0, 30.0)
            def generate(self, descriptions):
                return [Clip([len(text) / 1000] * 16000) for text in descriptions]
        """,
    "audiocraft/data/audio_utils.py": """
        def convert_audio(wav, from_rate, to_rate, to_channels):
            assert (from_rate, to_rate, to_channels) == (16000, 44100, 1)
            return wav
        """,
    "audiocraft/data/audio.py": """
        import soundfile
        def audio_write(stem_name, wav, sample_rate, strategy, add_suffix):
            assert (strategy, add_suffix) == ("loudness", False)
            soundfile.write(stem_name, wav, sample_rate)
        """,
}


@pytest.fixture
def repository(tmp_path):
    """A folder of packages with the interfaces of AudioGen and EzAudio."""
    for name, text in STUBS.items():
        path = tmp_path / "stubs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path / "stubs"


@pytest.mark.parametrize(("name", "rate"), [("audiogen", 44100), ("ezaudio", 24000)])
def test_programs_for_published_generators(tmp_path, repository, name, rate):
    words = [sys.executable, "{program}", name, "{input}", "--repository", str(repository)]
    words += ["--seed", "42"] if name == "ezaudio" else ["--batch-size", "2"]
    done = generate(ROWS, tmp_path / "out", Command(words), split="", columns=[1])
    assert (done.made, done.failed) == (3, {})
    for row in ROWS:
        audio, found = soundfile.read(tmp_path / "out" / f"{row.clip}_cap_1.wav")
        assert found == rate
        assert audio[0] == pytest.approx(0.042 if name == "ezaudio" else len(row.captions[0]) / 1000, abs=1e-4)
