"""The public config surface: every published name can be set and has its published default."""

import math

import pytest
from sacred.utils import iterate_flattened

import configs
import ex_stage1
import ex_stage2
from tests.reference import golden

# name: our default, where it is not the published one (the README says why)
DIFFERENCES = {
    "mel.window_fn": "hamming_window",  # a name instead of a function object
    "base_path": configs.DATASET_PATH,
}


def flat_config(ex):
    """Dotted name -> default of everything that can be set."""
    config = {}
    for part in [ex, *ex.ingredients]:
        for scope in part.configurations:
            for key, value in iterate_flattened(scope()):
                config[key if part is ex else f"{part.path}.{key}"] = value
    return config


def plain(value):
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(("stage", "ex"), [("stage1", ex_stage1.ex), ("stage2", ex_stage2.ex)])
def test_public_names_and_defaults(stage, ex):
    config, known = flat_config(ex), ex.known_keys()
    wrong = {}
    for name, published in golden(f"config_ex_{stage}.json").items():
        expected = DIFFERENCES.get(name, published)
        if name not in known:
            wrong[name] = "cannot be set"
        elif published == {}:
            continue  # an empty section
        else:
            value = plain(config.get(name))
            same = math.isclose(value, expected) if isinstance(expected, float) else value == expected
            if not same:
                wrong[name] = f"default {value!r}, published {expected!r}"
    assert not wrong
