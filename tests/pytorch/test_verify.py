from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from helpers import TINY

from spectral_jax.data import pytorch_layouts
from spectral_jax.files import torch_file
from spectral_jax.network.autoencoder import init_params
from spectral_jax.network.config import ModelConfig
from spectral_jax.pytorch.state_dict import infer_config, params_from_state_dict, state_dict_from_params
from spectral_jax.pytorch.verify import random_coefficients, random_modes, verify, verify_parameters, verify_precision

ENCODER = [f"encoder layer {i}" for i in range(4)]
DECODER = ["latents", "decoder linear", *(f"decoder layer {i}" for i in range(4)), "coefficients"]
SPATIAL = ["vertices", "error in mm"]
GROUPS = ["encoder_conv", "encoder_linear", "decoder_linear", "decoder_conv", "last_conv", "downsampling", "upsampling"]
GRADIENTS = [f"gradient, {group}" for group in GROUPS]


class Case(NamedTuple):
    config: ModelConfig
    state_dict: dict[str, Any]
    params: dict[str, Any]
    meshes: tuple


@pytest.fixture(scope="module")
def case():
    """The published checkpoint and the published test split."""
    state_dict = torch_file.load(TINY / "last.ckpt")["state_dict"]
    config, _ = infer_config(state_dict)
    data = pytorch_layouts.open_pytorch_layout(TINY / "root" / "DEMO")
    examples = [data.splits["test"][i] for i in range(8)]
    coefficients = np.stack([example.coefficients for example in examples])
    vertices = np.stack([example.vertices for example in examples])
    params = params_from_state_dict(state_dict, config)
    return Case(config, state_dict, params, (coefficients, np.asarray(data.basis.modes), vertices))


def changed(params, layer, name, change):
    array = params[layer][name].copy()
    array.flat[0] = change(array.flat[0])
    return params | {layer: params[layer] | {name: array}}


def test_parameters_are_compared_bit_for_bit(case):
    row = verify_parameters(case.state_dict, case.params)
    assert (row.quantity, row.max_abs, row.tolerance, row.passed) == ("parameters", 0, 0, True)
    row = verify_parameters(
        case.state_dict, changed(case.params, "last_conv", "kernel", lambda x: np.nextafter(x, np.float32(9)))
    )
    assert not row.passed
    assert 0 < row.max_abs < 1e-6
    zeros = {name: np.zeros_like(value) for name, value in case.state_dict.items()}
    params = params_from_state_dict(zeros, case.config)
    assert verify_parameters(zeros, params).passed
    assert not verify_parameters(zeros, changed(params, "last_conv", "bias", np.negative)).passed
    assert not verify_parameters({"last_conv.bias": case.state_dict["last_conv.bias"]}, case.params).passed


def test_float32_is_float64_within_the_tolerances_without_torch(case):
    rows = verify_precision(case.config, case.params, *case.meshes)
    assert [row.quantity for row in rows] == [*ENCODER, *DECODER, *SPATIAL, "loss", *GRADIENTS]
    assert {row.dtype for row in rows} == {"float32/64"}
    assert [row.quantity for row in rows if not row.passed] == []
    assert all(row.max_abs > 0 for row in rows)
    assert [(row.quantity, row.tolerance) for row in rows if row.absolute] == [("error in mm", 1e-3)]


def test_what_is_not_finite_never_passes(case):
    spoilt = changed(case.params, "decoder_conv_1", "bias", lambda x: np.nan)
    rows = verify_precision(case.config, spoilt, *case.meshes)
    fine = [row.quantity for row in rows if row.passed]
    assert fine == [*ENCODER, "latents", "decoder linear", "decoder layer 0"]
    assert all(np.isnan(row.max_abs) and np.isnan(row.max_rel) for row in rows if not row.passed)


@pytest.mark.needs("torch")
def test_jax_is_torch_on_the_published_checkpoint(case):
    rows = verify(case.config, case.state_dict, case.params, *case.meshes)
    quantities = [*ENCODER, *DECODER, *SPATIAL, "loss", *GRADIENTS]
    assert [(row.dtype, row.quantity) for row in rows] == [(d, q) for d in ("float32", "float64") for q in quantities]
    assert [row for row in rows if not row.passed] == []
    tolerances = dict.fromkeys(quantities, 2e-5) | dict.fromkeys(GRADIENTS, 1e-4) | {"error in mm": 1e-3}
    assert {row.quantity: row.tolerance for row in rows if row.dtype == "float32"} == tolerances
    assert {row.tolerance for row in rows if row.dtype == "float64"} == {1e-10}


@pytest.mark.needs("torch")
def test_a_wrong_weight_fails_from_its_layer_on(case):
    kernel = case.params["encoder_conv_2"]["kernel"] + np.float32(1e-3)
    wrong = case.params | {"encoder_conv_2": case.params["encoder_conv_2"] | {"kernel": kernel}}
    assert not verify_parameters(case.state_dict, wrong).passed
    rows = verify(case.config, case.state_dict, wrong, *case.meshes)
    for dtype in ("float32", "float64"):
        passed = [row.quantity for row in rows if row.dtype == dtype and row.passed]
        assert passed == ["encoder layer 0", "encoder layer 1"]


@pytest.mark.needs("torch")
@pytest.mark.slow
def test_other_networks_on_random_meshes():
    config = ModelConfig(24, 4, 5, "LeakyReLU")
    params = jax.device_get(init_params(config, jax.random.key(0)))
    state_dict, coefficients = state_dict_from_params(params), random_coefficients(config, 3)
    rows = verify(config, state_dict, params, coefficients, random_modes(config))
    assert [row for row in rows if not row.passed] == []
    assert [row.quantity for row in rows][-10:] == [*SPATIAL, "loss", *GRADIENTS]
