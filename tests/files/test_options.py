"""options: any values make a config or are refused by a ValueError."""

import dataclasses
import json
import math
from typing import get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_jax.files import options
from spectral_jax.network.config import ModelConfig
from spectral_jax.runs import run
from spectral_jax.training.config import TrainConfig

KINDS = (ModelConfig, TrainConfig)
PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.lists(st.integers(), max_size=2)
)
LIKELY = st.integers(-2, 300) | st.floats(-1, 2) | st.sampled_from(["ELU", "Tanh", "plateau", "cosine", "bf16"])


def given_options(kind):
    """Some of the fields, and at times another, with any values of JSON."""
    names = st.sampled_from([field.name for field in dataclasses.fields(kind)]) | st.text(max_size=3)
    return st.dictionaries(names, LIKELY | PLAIN, max_size=4)


def fields_of_their_types(kind):
    """All fields, each with any value of its own type."""
    whole = st.integers() | st.integers(0, 99)
    values = {int: whole, float: st.floats(), bool: st.booleans()}
    values[tuple[int, ...]] = st.lists(whole, max_size=5).map(tuple)
    parts = {}
    for name, hint in get_type_hints(kind).items():
        parts[name] = values.get(hint, st.sampled_from(get_args(hint) or [0])) | st.just(getattr(kind, name))
    return st.fixed_dictionaries(parts)


@pytest.mark.parametrize("kind", KINDS)
def test_any_options_make_a_config_or_are_refused(kind):
    @settings(max_examples=100, deadline=None)
    @given(given_options(kind) | PLAIN)
    def check(values):
        try:
            config = options.fill(kind(), values)
        except ValueError:
            return
        assert isinstance(values, dict)
        for field in dataclasses.fields(kind):
            value = getattr(config, field.name)
            assert type(value) is type(field.default)
            given_value = values.get(field.name, field.default)
            assert value == (tuple(given_value) if isinstance(value, tuple) else given_value)
            assert not isinstance(value, float) or math.isfinite(value)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_any_values_of_the_right_types_construct_or_are_refused(kind):
    @settings(max_examples=100, deadline=None)
    @given(fields_of_their_types(kind))
    def check(values):
        try:
            config = kind(**values)
        except ValueError:
            return
        assert dataclasses.asdict(config) == values

    check()


def test_a_config_returns_from_its_file(tmp_path):
    counts, seeds = st.integers(1, 2**62), st.integers(-(2**62), 2**62)
    models = st.fixed_dictionaries(
        {
            "modes": st.integers(1, 2**20),
            "latent_size": st.integers(1, 2**16),
            "conv_size": st.integers(0, 127).map(lambda n: 2 * n + 1),
            "activation": st.sampled_from(["ELU", "ReLU", "Tanh", "Sigmoid", "LeakyReLU", "SiLU"]),
            "pooled": st.just((5, 4, 300)),
            "channels": st.tuples(*3 * [st.integers(1, 2**12)]),
            "pooling": st.sampled_from(["after-activation", "before-activation"]),
            "pooling_matrices": st.sampled_from(["learned", "average"]),
        }
    )
    rates = st.floats(0, exclude_min=True, allow_infinity=False)
    trainings = st.builds(
        TrainConfig, counts, counts, rates, st.floats(0, 1, exclude_max=True), st.sampled_from(["plateau", "cosine"]),
        counts, seeds,
    )  # fmt: skip

    @settings(max_examples=100, deadline=None)
    @given(models, trainings, st.text())
    def check(model, training, data):
        config = run.RunConfig(ModelConfig(**model), training, data)
        run.save_config(tmp_path, config)
        assert run.load_config(tmp_path) == config

    check()


def test_what_is_wrong_is_said():
    for values, message in (
        ({"depth": 3}, "unknown options depth; available: modes, latent_size, conv_size, activation"),
        ({"modes": "3"}, "modes is '3', expected int"),
        ({"modes": True}, "modes is True, expected int"),
        ({"modes": 2**20 + 1}, "modes is 1048577, the limit is 1048576"),
        ({"channels": 16}, "channels is 16, expected a list of int"),
        ({"channels": [16, "32"]}, r"channels is \[16, '32'\], expected a list of int"),
        ({"channels": [1, 2, 3, True]}, "channels is .*True.*, expected a list of int"),
        ({"channels": [1, 2, 3, 4097]}, "channels is 4097, the limit is 4096"),
        ({"activation": "Relu"}, "activation is 'Relu'; available: ELU, ReLU"),
        ([], "ModelConfig is a list, expected a dict"),
    ):
        with pytest.raises(ValueError, match=message):
            options.fill(ModelConfig(), values)
    with pytest.raises(ValueError, match=r"nb_freq is 0\.5, expected int"):
        options.fill(ModelConfig(), {"modes": 0.5}, {"modes": "nb_freq"})


@pytest.mark.parametrize("schema", [None, "1", 1.0, True, 2])
def test_versions_are_numbers_that_are_known(schema):
    with pytest.raises(ValueError, match="schema"):
        options.check_schema(json.loads(json.dumps({"schema": schema})), 1)
