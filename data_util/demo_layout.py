"""What the demo data set consists of: folders and tables in the public layout, file names, sizes, recipes."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from data_util.soundscapes import Recipe

SAMPLE_RATE = 16000
CLIP_SECONDS = 10
BANDWIDTH = 7500.0  # Hz; some recordings have nothing above, which would give their class away

# Below the demo folder, by the names of the config section t4_paths.
PATHS = MappingProxyType(
    {
        "strong_folder": "audio/train/strong_label_real_16k/",
        "strong_tsv": "metadata/train/audioset_strong.tsv",
        "strong_tsv_exclude": "exclude/audioset_strong_exclude.tsv",
        "external_strong_folder": "audio/external_strong_16k/",
        "external_strong_train_tsv": "external_strong_split/external_audioset_strong_train.tsv",
        "external_strong_val_tsv": "external_strong_split/external_audioset_strong_eval.tsv",
        "external_strong_dur": "external_strong_split/external_audioset_strong_dur.tsv",
        "weak_folder": "audio/train/weak_16k/",
        "weak_tsv": "metadata/train/weak.tsv",
        "weak_tsv_exclude": "exclude/weak_exclude.tsv",
        "unlabeled_folder": "audio/train/unlabel_in_domain_16k/",
        "unlabeled_tsv_exclude": "exclude/unlabeled_exclude.tsv",
        "synth_folder": "dcase_synth/audio/train/synthetic21_train/soundscapes_16k/",
        "synth_tsv": "dcase_synth/metadata/train/synthetic21_train/soundscapes.tsv",
        "synth_val_folder": "audio/validation/synthetic21_validation/soundscapes_16k/",
        "synth_val_tsv": "dcase_synth/metadata/validation/synthetic21_validation/soundscapes.tsv",
        "synth_val_dur": "dcase_synth/metadata/validation/synthetic21_validation/durations.tsv",
        "test_folder": "audio/validation/validation_16k/",
        "test_tsv": "metadata/validation/validation.tsv",
        "test_dur": "metadata/validation/validation_durations.tsv",
        "eval_public_folder": "eval/desed_public_eval/audio/eval/public_16k",
        "eval_public_tsv": "eval/desed_public_eval/metadata/eval/public.tsv",
        "eval_public_dur": "eval/desed_public_eval/metadata/eval/public_durations.tsv",
        "eval_private_folder": "eval/eval24/audio_16k",
        "eval_private_dur": "eval/eval24/eval24_durations.tsv",
        "real_maestro_train_folder": "audio/maestro_real_train_16k",
        "real_maestro_train_tsv": "metadata/maestro_real_train.tsv",
        "real_maestro_val_folder": "audio/maestro_real_validation_16k",
        "real_maestro_val_tsv": "metadata/maestro_real_validation.tsv",
        "real_maestro_val_dur": "metadata/maestro_real_durations.tsv",
        "pseudo_labels": "pseudo-labels/{}.hdf5",
    }
)
# There is one sample rate only: what asks for the 44.1 kHz folders gets the same files, to be resampled.
SAME_AS_16K = ("strong", "weak", "unlabeled", "synth", "synth_val", "test", "real_maestro_train", "real_maestro_val")


@dataclass(frozen=True)
class Part:
    """One folder of DESED-like clips.

    Attributes:
        folder: its entry in :data:`PATHS`.
        names: pattern of its file names, as in the real data.
        test: whether its sounds come from the recordings kept for testing.
        empty: clips without any event, the last ones.
    """

    folder: str
    names: str
    test: bool = False
    empty: int = 0


# By the public names of their files with stored predictions.
PARTS: Mapping[str, Part] = MappingProxyType(
    {
        "synth_train": Part("synth_folder", "{number}.wav"),
        "strong_train": Part("strong_folder", "Y{id}_30.000_40.000.wav"),
        "external_strong_train": Part("external_strong_folder", "Y{id}_0.000_10.000.wav"),
        "weak_train": Part("weak_folder", "Y{id}_60.000_70.000.wav"),
        "unlabeled_train": Part("unlabeled_folder", "Y{id}_90.000_100.000.wav"),
        "synth_val": Part("synth_val_folder", "{number}.wav"),
        "devtest": Part("test_folder", "Y{id}_20.000_30.000.wav", test=True, empty=2),
        "eval_public": Part("eval_public_folder", "{id}_120_130.wav", test=True, empty=1),
        "eval_private": Part("eval_private_folder", "{number}.wav", test=True),
    }
)
MAESTRO_PARTS = MappingProxyType({"maestro_real_train": False, "maestro_real_dev": True})  # whether it is for testing
SIZES = MappingProxyType(
    {
        "synth_train": 160,
        "strong_train": 80,
        "external_strong_train": 36,
        "weak_train": 40,
        "unlabeled_train": 40,
        "synth_val": 20,
        "devtest": 40,
        "eval_public": 20,
        "eval_private": 6,
        "maestro_real_train": 3,  # recordings per scene
        "maestro_real_dev": 2,
    }
)
EXTERNAL_EVAL = 6  # one in so many external clips is for evaluation
EXCLUDED = 2  # names on each list of excluded files
PSEUDO_LABELLED = (
    "synth_train",
    "strong_train",
    "external_strong_train",
    "weak_train",
    "unlabeled_train",
    "devtest",
    "maestro_real_train",
    "maestro_real_dev",
)

DESED_RECIPE = Recipe(
    duration=CLIP_SECONDS,
    sample_rate=SAMPLE_RATE,
    seconds_of={
        "Alarm_bell_ringing": (1.5, 5.0),
        "Blender": (2.0, 6.0),
        "Cat": (0.8, 2.0),
        "Dishes": (0.6, 2.5),
        "Dog": (0.6, 2.5),
        "Electric_shaver_toothbrush": (2.0, 6.0),
        "Frying": (2.5, 7.0),
        "Running_water": (2.0, 6.0),
        "Speech": (1.5, 5.0),
        "Vacuum_cleaner": (2.5, 7.0),
    },
    max_overlap=2,
    filter_p=0.3,
    bandwidth=BANDWIDTH,
)
EVENTS_PER_CLIP = (1, 3)
MAESTRO_RECIPE = Recipe(
    duration=12, sample_rate=SAMPLE_RATE, seconds=(1.5, 4.0), max_overlap=3, filter_p=0.3, bandwidth=BANDWIDTH
)
# Every recording has all classes of its scene, so that each class has examples however recordings are divided.
SCENES = MappingProxyType(
    {
        "cafe_restaurant": (
            "cutlery and dishes",
            "furniture dragging",
            "people talking",
            "children voices",
            "coffee machine",
            "footsteps",
        ),
        "city_center": ("large_vehicle", "car", "brakes_squeaking", "footsteps", "people talking", "children voices"),
        "grocery_store": (
            "cash register beeping",
            "announcement",
            "shopping cart",
            "footsteps",
            "people talking",
            "door opens/closes",
        ),
        "metro_station": (
            "metro leaving",
            "metro approaching",
            "announcement",
            "footsteps",
            "people talking",
            "door opens/closes",
        ),
        "residential_area": ("wind_blowing", "birds_singing", "car", "footsteps", "people talking", "large_vehicle"),
    }
)
