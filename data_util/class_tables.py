"""Classes of the tagging data sets, in the order of a network's outputs.

The long lists are tables beside this file (``tables/``); their first line names source and licence.
"""

import csv
import difflib
import functools
from pathlib import Path

TABLES = Path(__file__).parent / "tables"
NAMED = 30  # so many classes are spelled out in an error message

# Piczak, "ESC: Dataset for Environmental Sound Classification", 2015.
ESC50 = (
    "dog rooster pig cow frog cat hen insects sheep crow rain sea_waves crackling_fire crickets chirping_birds "
    "water_drops wind pouring_water toilet_flush thunderstorm crying_baby sneezing clapping breathing coughing "
    "footsteps laughing brushing_teeth snoring drinking_sipping door_wood_knock mouse_click keyboard_typing "
    "door_wood_creaks can_opening washing_machine vacuum_cleaner clock_alarm clock_tick glass_breaking helicopter "
    "chainsaw siren car_horn engine train church_bells airplane fireworks hand_saw"
)

# Heittola et al., "Acoustic Scene Classification in DCASE 2020 Challenge", 2020.
DCASE20 = "airport bus metro metro_station park public_square shopping_mall street_pedestrian street_traffic tram"

# Humphrey et al., "OpenMIC-2018: An Open Dataset for Multiple Instrument Recognition", 2018.
OPENMIC = (
    "accordion banjo bass cello clarinet cymbals drums flute guitar mallet_percussion mandolin organ piano saxophone "
    "synthesizer trombone trumpet ukulele violin voice"
)

LISTS = {"esc50": ESC50, "dcase20": DCASE20, "openmic": OPENMIC}
COLUMNS = {"audioset": "display_name", "fsd50k": "label"}


@functools.cache
def class_names(name):
    """Class names of a data set: ``audioset``, ``audioset_strong``, ``fsd50k``, ``esc50``, ``dcase20`` or ``openmic``.

    Raises:
        KeyError: another name.
    """
    if name in LISTS:
        return tuple(LISTS[name].split())
    if name == "audioset_strong":
        return strong_classes("train")
    return tuple(row[COLUMNS[name]] for row in _rows(name))


@functools.cache
def audioset_ids():
    """Machine ids of AudioSet's classes (``/m/09x0r``), in output order."""
    return tuple(row["mid"] for row in _rows("audioset"))


@functools.cache
def strong_classes(*lists):
    """Classes of AudioSet with strong labels that are in all of these lists, in output order.

    Args:
        *lists: "train" (447), "evaluation" (416; 407 are in both) or "weak" (527: AudioSet's own, whose order here is
            that of frame-wise networks, not of taggers).
    """
    return tuple(row["display_name"] for row in _rows("audioset_strong") if all(row[name] == "1" for name in lists))


@functools.cache
def strong_names():
    """{machine id: display name} of the 456 classes with strong labels, in training or evaluation."""
    rows = _rows("audioset_strong")
    return {row["mid"]: row["display_name"] for row in rows if "1" in (row["train"], row["evaluation"])}


def class_index(name, index, classes):
    """Number of a class.

    Args:
        name: of the class.
        index: {name: number}.
        classes: all names, for the message.

    Raises:
        ValueError: it is none of the classes; names the nearest one.
    """
    if name in index:
        return index[name]
    near = difflib.get_close_matches(str(name), classes, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    known = ", ".join(classes) if len(classes) <= NAMED else f"the {len(classes)} classes"
    raise ValueError(f"unknown class '{name}'{hint}, expected one of {known}")


def _rows(name):
    with open(TABLES / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))
