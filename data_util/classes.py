"""Sound classes of DESED and MAESTRO Real, their aliases, and which classes each data set annotates.

Cornell et al., "DCASE 2024 Task 4: Sound Event Detection with Heterogeneous Data and Missing Labels", 2024: one
system detects the classes of both sets, although the recordings of one are not annotated for those of the other.
"""

from types import MappingProxyType

import numpy as np

DESED_CLASSES = (
    "Alarm_bell_ringing",
    "Blender",
    "Cat",
    "Dishes",
    "Dog",
    "Electric_shaver_toothbrush",
    "Frying",
    "Running_water",
    "Speech",
    "Vacuum_cleaner",
)

MAESTRO_CLASSES = (
    "cutlery and dishes",
    "furniture dragging",
    "people talking",
    "children voices",
    "coffee machine",
    "footsteps",
    "large_vehicle",
    "car",
    "brakes_squeaking",
    "cash register beeping",
    "announcement",
    "shopping cart",
    "metro leaving",
    "metro approaching",
    "door opens/closes",
    "wind_blowing",
    "birds_singing",
)

# The challenge scores only the MAESTRO classes that occur often enough.
MAESTRO_EVAL_CLASSES = (
    "birds_singing",
    "brakes_squeaking",
    "car",
    "children voices",
    "cutlery and dishes",
    "footsteps",
    "large_vehicle",
    "metro approaching",
    "metro leaving",
    "people talking",
    "wind_blowing",
)

CLASSES = DESED_CLASSES + MAESTRO_CLASSES

# An event of the first class is also one of the second. The order decides which label wins where aliases overlap.
DESED_TO_MAESTRO = MappingProxyType({"Dishes": "cutlery and dishes", "Speech": "people talking"})
MAESTRO_TO_DESED = MappingProxyType(
    {
        "people talking": "Speech",
        "children voices": "Speech",
        "announcement": "Speech",
        "cutlery and dishes": "Dishes",
    }
)


def class_mask(names):
    """[classes] bool, true for the named classes."""
    names = set(names)
    return np.array([name in names for name in CLASSES])


def desed_mask(use_desed_maestro_alias=False):
    """Classes annotated in DESED clips: its own, and with aliases the two MAESTRO classes that they also stand for."""
    return class_mask(DESED_CLASSES + (tuple(DESED_TO_MAESTRO.values()) if use_desed_maestro_alias else ()))


def maestro_mask(use_maestro_desed_alias=False):
    """Classes annotated in MAESTRO clips: its own, and with aliases the two DESED classes that they also stand for."""
    return class_mask(MAESTRO_CLASSES + (tuple(MAESTRO_TO_DESED.values()) if use_maestro_desed_alias else ()))
