"""Short scenes of procedural sounds, the captions that describe them, and captions read back as scenes.

A scene is one or two events after each other over a background. A caption says what is heard: which sounds, how often,
how loud, in which order, and over what. The sounds are those of :mod:`data_util.procedural`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from data_util.procedural import synthesise
from data_util.synthesis import noise, unit

VERSION = 1  # raised whenever a scene sounds or reads different than before
COUNTS = {1: "once", 2: "twice", 3: "three times"}
LEVELS = MappingProxyType({"loud": -14.0, "plain": -22.0, "faint": -30.0})  # root mean square in dB of full scale
ADVERBS = {"loud": "loudly", "faint": "faintly"}
FLOOR, BACKGROUND = -62.0, -36.0  # dB, of the noise in every scene and of its background
LOOP = 1.5  # seconds of a background that are repeated
GAP = 0.12  # seconds at least between events


@dataclass(frozen=True)
class Sound:
    """A class of sounds and how captions speak of it.

    Attributes:
        label: of :mod:`data_util.procedural`.
        subject, verb, gerund: "a dog", "barks", "barking".
        key: regular expression that finds it in a caption.
        seconds: range of its length.
        countable: whether single sounds of the class are told apart.
    """

    label: str
    subject: str
    verb: str
    gerund: str
    key: str
    seconds: tuple[float, float] = (0.4, 0.6)
    countable: bool = False


SOUNDS: Mapping[str, Sound] = MappingProxyType(
    {
        "dog": Sound("Dog", "a dog", "barks", "barking", r"\bbark|\bdogs?\b", countable=True),
        "cat": Sound("Cat", "a cat", "meows", "meowing", r"\bmeow|\bcats?\b", countable=True),
        "alarm": Sound(
            "Alarm_bell_ringing", "an alarm", "rings", "ringing", r"\bring|\balarm|\bbells?\b", countable=True
        ),
        "door": Sound("door opens/closes", "a door", "closes", "closing", r"\bdoors?\b", countable=True),
        "beep": Sound("cash register beeping", "a machine", "beeps", "beeping", r"\bbeep", (0.3, 0.4), countable=True),
        "brakes": Sound("brakes_squeaking", "a brake", "squeals", "squealing", r"\bsqueal|\bbrakes?\b", countable=True),
        "dishes": Sound("Dishes", "dishes", "clatter", "clattering", r"\bclatter|\bdish", (0.9, 1.3)),
        "steps": Sound("footsteps", "someone", "walks", "walking", r"\bwalk|\bfootstep", (1.1, 1.5)),
        "birds": Sound("birds_singing", "birds", "chirp", "chirping", r"\bchirp|\bbirds?\b", (0.9, 1.3)),
        "car": Sound("car", "a car", "passes by", "passing by", r"\bpass|\bcars?\b", (1.2, 1.5)),
        "child": Sound("children voices", "a child", "talks", "talking", r"\btalk|\bchild", (0.7, 0.9)),
    }
)
BACKGROUNDS: Mapping[str, Sound] = MappingProxyType(
    {
        "wind": Sound("wind_blowing", "wind", "blows", "blowing", r"\bwind|\bblow"),
        "frying": Sound("Frying", "food", "sizzles", "sizzling", r"\bsizzl|\bfr(y|ie)"),
        "water": Sound("Running_water", "water", "runs", "running", r"\bwater|\brain|\bruns?\b|\brunning"),
        "vacuum": Sound("Vacuum_cleaner", "a vacuum cleaner", "hums", "humming", r"\bvacuum|\bhum"),
    }
)


@dataclass(frozen=True)
class Heard:
    """An event: a name of :data:`SOUNDS`, how often (0 where single sounds cannot be told apart), how loud."""

    sound: str
    count: int = 0
    level: str = "plain"


@dataclass(frozen=True)
class Scene:
    """Events in their order, and a name of :data:`BACKGROUNDS` or None for silence."""

    events: tuple[Heard, ...]
    background: str | None = None


def draw_scene(rng: np.random.Generator) -> Scene:
    """A scene of one or two different sounds."""
    names = rng.choice(list(SOUNDS), 1 if rng.random() < 0.3 else 2, replace=False)
    events = []
    for name in map(str, names):
        count = int(rng.integers(1, 4)) if SOUNDS[name].countable else 0
        events.append(Heard(name, count, str(rng.choice(list(LEVELS)))))
    background = str(rng.choice(list(BACKGROUNDS))) if rng.random() < 0.7 else None
    return Scene(tuple(events), background)


# -- captions ---------------------------------------------------------------------------------------------------------
def describe(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Five different captions of a scene. Some leave out how often or how loud."""
    forms = _PAIR if len(scene.events) > 1 else _SINGLE
    captions = []
    for number in rng.permutation(len(forms)):
        parts = {"over": _over(scene.background, rng), "while_": _while(scene.background, rng)}
        for place, event in enumerate(scene.events, start=1):
            parts |= {f"says{place}": _says(event, rng), f"doing{place}": _doing(event, rng)}
        caption = forms[number].format(**parts)
        captions.append(caption[0].upper() + caption[1:])
    return captions


_PAIR = (
    "{says1} and then {says2} {while_}.",
    "{doing1}, followed by {doing2}, {over}.",
    "{says1}, then {says2}, {over}.",
    "before {says2}, {says1} {while_}.",
    "after {doing1}, {says2} {over}.",
)
_SINGLE = (
    "{says1} {while_}.",
    "the sound of {doing1} {over}.",
    "there is {doing1}, {over}.",
    "{over}, {says1}.",
    "{doing1} can be heard {while_}.",
)


def _says(event, rng):
    sound = SOUNDS[event.sound]
    return " ".join((sound.subject, sound.verb, *_manner(event, rng)))


def _doing(event, rng):
    sound = SOUNDS[event.sound]
    return " ".join((sound.subject, sound.gerund, *_manner(event, rng)))


def _manner(event, rng):
    words = [ADVERBS[event.level]] if event.level in ADVERBS and rng.random() < 0.8 else []
    return [*words, COUNTS[event.count]] if event.count and rng.random() < 0.8 else words


def _over(background, rng):
    if background is None:
        return str(rng.choice(["in silence", "with nothing else to hear"]))
    sound = BACKGROUNDS[background]
    return f"with {sound.subject} {sound.gerund} in the background"


def _while(background, rng):
    if background is None:
        return str(rng.choice(["in a quiet room", "while all else is quiet"]))
    sound = BACKGROUNDS[background]
    return f"{rng.choice(['while', 'as'])} {sound.subject} {sound.verb}"


def scene_of(caption: str) -> Scene:
    """The scene that a caption describes, as far as its words are known: the inverse of :func:`describe`.

    Sounds are taken in the order of the caption, the other way round where it begins with "before"; what it does not
    say is not there, or plain. Of other captions, such as Clotho's, it takes what it finds.
    """
    text = caption.lower()
    found = sorted(
        (match.start(), name) for name, sound in SOUNDS.items() if (match := re.search(sound.key, text)) is not None
    )
    background = next((name for name, sound in BACKGROUNDS.items() if re.search(sound.key, text)), None)
    ends = [*(start for start, _ in found[1:]), len(text)]
    events = []
    for (start, name), end in zip(found, ends):
        part = text[start:end]
        count = next((number for number, word in COUNTS.items() if re.search(rf"\b{word}\b", part)), 1)
        level = next((level for level in ADVERBS if level in part), "plain")
        events.append(Heard(name, count if SOUNDS[name].countable else 0, level))
    return Scene(tuple(reversed(events) if text.startswith("before") else events), background)


# -- sound ------------------------------------------------------------------------------------------------------------
def render(scene: Scene, seconds: float, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """The sound of a scene, at least so many seconds long and long enough for its events.

    Args:
        scene: what is heard.
        seconds: length.
        sample_rate: Hz.
        rng: decides all that the scene leaves open.

    Returns:
        [samples] float32 in [-1, 1].
    """
    sounds = [_event(event, sample_rate, rng) for event in scene.events]
    gap = round(GAP * sample_rate)
    needed = sum(map(len, sounds)) + gap * (len(sounds) + 1)
    samples = max(round(seconds * sample_rate), needed)
    audio = _to_level(noise(samples, sample_rate, rng, 30, sample_rate / 2, slope=-1), FLOOR)
    if scene.background is not None:
        audio = audio + _to_level(_loop(BACKGROUNDS[scene.background].label, samples, sample_rate, rng), BACKGROUND)
    spare = np.sort(rng.integers(0, samples - needed + 1, len(sounds)))
    place = 0
    for sound, extra in zip(sounds, spare):
        start = place + gap + extra
        audio[start : start + len(sound)] += sound
        place += gap + len(sound)
    return (audio * min(1.0, 0.99 / np.abs(audio).max())).astype(np.float32)


def _event(event, sample_rate, rng):
    """The sounds of an event one after the other, at its level."""
    sound = SOUNDS[event.sound]
    single = _to_level(synthesise(sound.label, rng.uniform(*sound.seconds), sample_rate, rng), LEVELS[event.level])
    pause = np.zeros(round(rng.uniform(0.1, 0.2) * sample_rate))
    return np.concatenate([part for _ in range(max(event.count, 1)) for part in (single, pause)])


def _loop(label, samples, sample_rate, rng):
    """A steady sound, the beginning of which is repeated without a seam."""
    fade = round(0.1 * sample_rate)
    period = round(LOOP * sample_rate)
    sound = synthesise(label, (period + fade) / sample_rate, sample_rate, rng)
    ramp = np.linspace(0, 1, fade)
    sound[:fade] = np.sqrt(ramp) * sound[:fade] + np.sqrt(1 - ramp) * sound[period : period + fade]
    return np.resize(sound[:period], samples)


def _to_level(audio, decibel):
    return unit(audio) * 10 ** (decibel / 20)
