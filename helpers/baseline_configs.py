"""Configuration files of dcase2023-audio-retrieval and of the later work on generated audio, as entries of ex_clotho.

The published files are YAML with the sections ``data_conf``, ``param_conf`` and so on; one given behind ``with`` is
translated when it is loaded, see :class:`Converting`. What would not be done here is an error that names it.
"""

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from helpers.ingredients import Scripted
from helpers.run_names import flattened
from helpers.sweep_space import from_wandb, nested

log = logging.getLogger(__name__)

SECTIONS = ("data_conf", "param_conf", "DualEncoderModel")  # by which a published file is known
MODEL, AUDIO, TEXT = "DualEncoderModel", "DualEncoderModel.audio_enc", "DualEncoderModel.text_enc"
PARTS = ("train_data", "val_data", "eval_data")
FILES = ("audio_data", "text_data", "text_embeds")

# Published key -> our entries, which take its value.
ENTRIES = {
    "trial_base": ("trainer.default_root_dir",),
    "trial_series": ("wandb.project",),
    "wandb_conf.project": ("wandb.project",),
    **{f"data_conf.{part}.dataset": ("data.dataset",) for part in PARTS},
    "param_conf.num_epoch": ("trainer.max_epochs",),
    "param_conf.batch_size": ("training.batch_size",),
    f"{AUDIO}.weight": ("pretrained_name",),
    f"{AUDIO}.fc_dropout": ("cnn14_clotho.fc_dropout", "cnn14_clotho.last_dropout"),
    f"{AUDIO}.conv_dropout": ("cnn14_clotho.dropout",),
    f"{AUDIO}.fc_units": ("cnn14_clotho.projection",),
    f"{AUDIO}.out_dim": ("model.dim",),
    f"{TEXT}.out_dim": ("model.dim",),
    "criteria.infonce_loss.args.temperature": ("model.temperature",),
    "AdamOptimizer.args.lr": ("optimizer.lr",),
    "AdamOptimizer.args.weight_decay": ("optimizer.weight_decay",),
    **{
        f"ReduceLROnPlateau.args.{name}": (f"optimizer.{name}",)
        for name in ("factor", "patience", "threshold", "min_lr")
    },
}
# Published key -> value -> our entries.
CHOICES = {
    f"{AUDIO}.name": {"CNN14Encoder": {"arch": "cnn14_clotho"}},
    f"{AUDIO}.init": {"prior": {}, None: {"pretrained_name": None}},
    f"{AUDIO}.trainable": {True: {"model.freeze": 0}, False: {"model.freeze": "all"}},
    f"{TEXT}.name": {"SentBERTBaseEncoder": {"text.model": "sentence-transformers/all-mpnet-base-v2"}},
    f"{TEXT}.init": {"prior": {}},
    f"{MODEL}.name": {"DualEncoderModel": {}},
    f"{MODEL}.out_norm": {"L2": {}},
    "param_conf.model": {"DualEncoderModel": {}},
    "param_conf.criterion": {"infonce_loss": {"loss.kind": "infonce"}},
    "param_conf.optimizer": {"AdamOptimizer": {}},
    "param_conf.lr_scheduler": {"ReduceLROnPlateau": {"optimizer.schedule": "plateau"}},
    "param_conf.early_stopper": {"EarlyStopping": {}},
    "criteria.infonce_loss.name": {"LogSoftmaxLoss": {}},
    "criteria.infonce_loss.args.dist": {"dot_product": {}, "cosine": {}},  # the same, for vectors of unit length
    "AdamOptimizer.name": {"Adam": {"optimizer.adamw": False}, "AdamW": {"optimizer.adamw": True}},
    "ReduceLROnPlateau.name": {"ReduceLROnPlateau": {}},
    "ReduceLROnPlateau.args.mode": {"min": {}},
    "ReduceLROnPlateau.args.threshold_mode": {"abs": {}},
    **{f"data_conf.{part}.text_level": {"sentence": {}} for part in PARTS},
}
# Published keys that are left out, and why; a key stands for all below it.
LEFT_OUT = {
    **{f"data_conf.{part}.{name}": "made here, below cache" for part in PARTS for name in FILES},
    f"{TEXT}.fc_units": "nothing there used it",
    f"{AUDIO}.conv_fine_tune_from": "every layer was trained there; model.freeze does what it says",
    "ReduceLROnPlateau.args.verbose": "the rate is logged",
    "EarlyStopping": "all epochs are trained, and the best one is tested",
    "ray_conf": "all epochs are trained, and the best one is tested",
}
# Parameters of the published sweeps -> our entries, see helpers.sweep_space.from_wandb.
SWEPT = {
    key.replace(".", "-"): entries
    for key, entries in (
        *((key, list(entries)) for key, entries in ENTRIES.items()),
        (f"{AUDIO}.conv_fine_tune_from", "model.freeze"),
        (f"{TEXT}.fc_units", None),
    )
}


def is_published(content) -> bool:
    """Whether the content of a file is a configuration in the published form."""
    return isinstance(content, Mapping) and any(name in content for name in SECTIONS)


def converted(content: Mapping, name: str = "config") -> tuple[dict, dict[str, str]]:
    """Our entries for a published configuration.

    Args:
        content: of the file.
        name: what messages call it.

    Returns:
        the entries, nested; and the published keys that are left out -> why.

    Raises:
        ValueError: a key that is not known, a value that means something which is not done here, or two values for
            the same entry.
    """
    result, origin, left = {}, {}, {}
    # Of 2024, whose training drew one caption of a clip in each epoch.
    ours = [("wandb_conf", {"data.captions": "one"})] if "wandb_conf" in content else []
    for key, value in flattened(content):
        above = next((part for part in LEFT_OUT if f"{key}.".startswith(f"{part}.")), None)
        if above is not None:
            left[above] = LEFT_OUT[above]
        elif key in ENTRIES:
            ours.append((key, dict.fromkeys(ENTRIES[key], _number(value))))
        elif key in CHOICES:
            ours.append((key, _chosen(name, key, value)))
        else:
            near = get_close_matches(key, [*ENTRIES, *CHOICES, *LEFT_OUT], n=1, cutoff=0.0)
            raise ValueError(f"{name}: unknown key '{key}', did you mean '{near[0]}'?")
    for key, entries in sorted(ours, key=lambda found: found[0] == f"{AUDIO}.init"):  # no weights: whatever their name
        for entry, value in entries.items():
            if entry in result and result[entry] != value and key != f"{AUDIO}.init":
                raise ValueError(f"{name}: {key} is {value!r}, expected {result[entry]!r} as {origin[entry]}")
            result[entry], origin[entry] = value, key
    return nested(result), left


def _chosen(name, key, value):
    known = CHOICES[key]
    found = next((choice for choice in known if choice == value and type(choice) is type(value)), known)
    if found is known:
        raise ValueError(f"{name}: {key} is {value!r}, expected {' or '.join(map(repr, known))}")
    return known[found]


def _number(value):
    """YAML reads 1e-05, which has no dot, as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def read_yaml(path):
    """The content of a YAML file.

    Raises:
        ValueError: it is none.
    """
    import yaml

    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from None


def sweep_space(space):
    """A search space for :func:`helpers.sweep_space.read_space`: that of a published sweep by our names.

    Args:
        space: whatever it takes; translated is the YAML file of a wandb sweep, known by its ``parameters``.

    Raises:
        ValueError: a parameter that has no name here.
    """
    if isinstance(space, str) and space.endswith((".yaml", ".yml")) and os.path.isfile(space):
        content = read_yaml(space)
        if isinstance(content, Mapping) and isinstance(content.get("parameters"), Mapping):
            for key in content.keys() - {"parameters", "name", "description"}:
                hint = "the section sweep has metric, direction and sampler"
                log.warning("%s: %s: %s is left out; %s", space, key, content[key], hint)
            space = from_wandb(content["parameters"], SWEPT)
            if "model.freeze" in space:
                space["model.freeze"]["choices"] = [_groups(choice) for choice in space["model.freeze"]["choices"]]
    return space


def _groups(first):
    """Frozen layer groups, where the first block that is trained was given, as its number or conv_block<number>."""
    number = int(str(first).removeprefix("conv_block"))
    return 0 if number == 1 else number


class Converting(Scripted):
    """An experiment that also takes published configuration files behind ``with``."""

    def _create_run(self, command_name=None, config_updates=None, named_configs=(), *args, **kwargs):
        with tempfile.TemporaryDirectory(prefix="config-") as folder:
            names = [_translated(name, Path(folder) / f"{n}.json") for n, name in enumerate(named_configs)]
            return super()._create_run(command_name, config_updates, names, *args, **kwargs)


def _translated(name, path):
    """The named config, or the path of what it becomes if it is a published file."""
    if not name.endswith((".yaml", ".yml")) or not os.path.isfile(name):
        return name
    content = read_yaml(name)
    if not is_published(content):
        return name
    entries, left = converted(content, name)
    for key, why in left.items():
        log.info("%s: %s is left out (%s)", name, key, why)
    path.write_text(json.dumps(entries), encoding="utf-8")
    return str(path)
