"""The residual network: it starts as PCA, and training it on scores is training it on coefficients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax.network import networks, principal, residual
from spectral_jax.network.codec import Codec
from spectral_jax.network.config import ModelConfig
from spectral_jax.training import scores
from spectral_jax.training.batches import FitData
from spectral_jax.training.step import loss_and_gradient, validate

SMALL = {"network": "residual", "latent_size": 4, "hidden_size": 16}


def meshes(count, modes, seed=0):
    """Coefficients whose variance falls with the mode, about a mean."""
    rng = np.random.default_rng(seed)
    decay = 0.9 ** np.arange(modes)[:, None]
    return jnp.asarray((rng.standard_normal((count, modes, 3)) + 2) * decay, jnp.float32)


def fitted(coefficients, directions):
    config = ModelConfig(coefficients.shape[1], directions=directions, **SMALL)
    constants = residual.constants(principal.fit(np.asarray(coefficients), directions))
    return config, networks.init_params(config, jax.random.key(0)), constants


def compiled(network):
    """`apply` as one program: operation by operation, XLA would compile a hundred."""
    return jax.jit(network.apply, static_argnames="method")


def moved(params, seed=1):
    """Parameters of a network that is not PCA any more."""
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    noisy = [leaf + 0.1 * rng.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(structure, noisy)


@pytest.mark.parametrize(("count", "directions"), [(40, 20), (6, 5), (3, 2)])
def test_the_untrained_network_is_pca(count, directions):
    """Also where there are fewer directions than latents."""
    coefficients = meshes(count, 12)
    config, params, constants = fitted(coefficients, directions)
    found = compiled(networks.build(config))(networks.variables(params, constants), coefficients)
    components = principal.fit(np.asarray(coefficients), directions)
    expected = principal.reconstruct(components, principal.project(components, coefficients)[:, :4])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("weights", [None, np.linspace(1, 9, 12)])
@pytest.mark.parametrize("kind", ["squared", "distance"])
def test_loss_and_gradient_on_scores_are_those_on_coefficients(kind, weights):
    """Also where modes have weights: what the directions leave then counts differently for each mesh."""
    coefficients, held_out = meshes(30, 12), meshes(10, 12, seed=5)
    config, params, constants = fitted(coefficients, 8)  # of 29: the rest is in the last column of the rows
    params, network = moved(params), networks.build(config)
    weighted = None if weights is None else scores.weighted_directions(constants, weights)
    rows, fixed = jnp.asarray(scores.all_rows(constants, [held_out], weighted)), constants
    assert rows.shape == (10, 9 if weighted is None else 17)
    function = jax.jit(loss_and_gradient, static_argnums=(0, 4, 5))
    with jax.default_matmul_precision("highest"):
        if weighted is not None:
            constants = constants | {"metric": np.sqrt(weights).astype(np.float32)}
            fixed = constants | {"metric": weighted.metric}
        loss, gradient = function(network, params, held_out, None, "highest", kind, constants)
        on_scores = function(networks.trained_part(network), params, rows, None, "highest", kind, fixed)
    np.testing.assert_allclose(on_scores[0], loss, rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient))
    for ours, theirs in zip(jax.tree.leaves(on_scores[1]), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * largest)


def test_a_mesh_without_error_has_a_finite_gradient():
    coefficients = meshes(1, 12).repeat(4, axis=0) + jnp.eye(4, 12)[:, :, None]
    config, params, constants = fitted(coefficients, 3)
    rows = jnp.asarray(scores.all_rows(constants, [jnp.asarray(constants["mean"])[None]]))
    model = networks.trained_part(networks.build(config))
    function = jax.jit(loss_and_gradient, static_argnums=(0, 4, 5))
    _, gradient = function(model, params, rows, None, "highest", "distance", constants)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_directions_that_do_not_vary_divide_by_nothing():
    coefficients = meshes(2, 12).repeat(3, axis=0)  # one direction varies, five are asked for
    config, params, constants = fitted(coefficients, 5)
    assert (constants["scales"] > 0).all()
    found = compiled(networks.build(config))(networks.variables(params, constants), coefficients)
    np.testing.assert_allclose(found, coefficients, atol=1e-5)


def test_what_fits_no_network_is_refused():
    coefficients = meshes(10, 12)
    config, params, constants = fitted(coefficients, 5)
    network, variables = networks.build(config), networks.variables(params, constants)
    with pytest.raises(ValueError, match=r"\(batch, 12, 3\).*\(10, 11, 3\)"):
        network.apply(variables, coefficients[:, :11])
    with pytest.raises(ValueError, match=r"\(batch, 4\).*\(10, 3\)"):
        network.apply(variables, jnp.zeros((10, 3)), method="decode")
    with pytest.raises(ValueError, match=r"\(batch, 6\).*\(10, 5\)"):
        networks.trained_part(network).apply(variables, jnp.zeros((10, 5)))
    for options, said in (
        ({"network": "residual", "conv_size": 5}, "residual has no conv size"),
        ({"network": "residual", "activation": "SiLU"}, "residual has no activation"),
        ({"network": "residual", "pooled": (64, 32, 16, 8)}, "residual has no pooled"),
        ({"network": "residual", "channels": (8, 8, 8, 8)}, "residual has no channels"),
        ({"network": "residual", "pooling": "before-activation"}, "residual has no pooling"),
        ({"network": "residual", "pooling_matrices": "average"}, "residual has no pooling matrices"),
        ({"hidden_size": 8}, "sae-lp has no hidden size"),
        ({"network": "residual", "directions": 0}, "directions must be at least 1, not 0"),
    ):
        with pytest.raises(ValueError, match=said):
            ModelConfig(**options)
    with pytest.raises(ValueError, match="at least 2 meshes, the train split has 1"):
        residual.num_directions(config, 1)


def symmetric(seed=1):
    """A symmetric network that is not PCA any more: its options, variables, and signs of its directions."""
    coefficients = meshes(40, 12)
    config, _, constants = fitted(coefficients, 10)
    config = dataclasses.replace(config, symmetric=True)
    signs = np.random.default_rng(3).choice([-1, 1], 10).astype(np.float32)
    params = moved(networks.init_params(config, jax.random.key(0)), seed)
    return config, networks.variables(params, constants | {"signs": signs}), signs


def test_a_symmetric_network_gives_mirror_images_for_mirror_images():
    config, variables, signs = symmetric()
    apply = compiled(networks.trained_part(networks.build(config)))
    scores_ = jnp.asarray(np.random.default_rng(0).standard_normal((7, 10)), jnp.float32)
    with jax.default_matmul_precision("highest"):
        latents, images = (apply(variables, x, method="encode_scores") for x in (scores_, scores_ * signs[None]))
        np.testing.assert_allclose(images, latents * signs[None, :4], rtol=1e-5, atol=1e-5)
        refined, images = (
            apply(variables, x, z, method="refine_scores")
            for x, z in ((scores_, latents), (scores_ * signs[None], latents * signs[None, :4]))
        )
        np.testing.assert_allclose(images, refined * signs[None, :4], rtol=1e-4, atol=1e-4)
        decoded, images = (apply(variables, z, method="decode_scores") for z in (latents, latents * signs[None, :4]))
    np.testing.assert_allclose(images, decoded * signs[None], rtol=1e-5, atol=1e-5)


def test_a_symmetric_network_may_have_more_latents_than_directions():
    coefficients = meshes(3, 12)
    config, params, constants = fitted(coefficients, 2)
    config = dataclasses.replace(config, symmetric=True)
    variables = networks.variables(params, constants | {"signs": np.array([1, -1], np.float32)})
    found = compiled(networks.build(config))(variables, coefficients)
    np.testing.assert_allclose(found, coefficients, atol=1e-5)


@pytest.mark.parametrize("spread", [0.1, 100.0])
def test_refined_latents_never_decode_to_something_farther(spread):
    """A step that overshoots is not taken, mesh by mesh."""
    coefficients, others = meshes(40, 12), meshes(30, 12, seed=7)
    config, params, constants = fitted(coefficients, 10)
    variables = networks.variables(moved(params), constants)
    apply = compiled(networks.build(config))
    rows = jnp.asarray(scores.all_rows(constants, [others]))[:, :-1] * spread

    def errors(latents):
        decoded = apply(variables, latents, method="decode_scores")
        return np.asarray(jnp.square(decoded - rows).sum(axis=1))

    latents = apply(variables, rows, method="encode_scores")
    refined = apply(variables, rows, latents, method="refine_scores")
    assert (errors(refined) <= errors(latents) * (1 + 1e-4)).all()
    assert errors(refined).mean() < 0.9 * errors(latents).mean()


def test_refining_leaves_pca_as_it_is():
    coefficients = meshes(40, 12)
    config, params, constants = fitted(coefficients, 10)
    variables, apply = networks.variables(params, constants), compiled(networks.build(config))
    latents, refined = (apply(variables, coefficients, method=name) for name in ("encode", "encode_refined"))
    np.testing.assert_allclose(refined, latents, atol=1e-5)


def test_the_codec_refines_and_validations_see_what_it_decodes():
    coefficients = meshes(40, 12)
    config, params, constants = fitted(coefficients, 10)
    params, network = moved(params), networks.build(config)
    modes = np.linalg.qr(np.random.default_rng(2).standard_normal((20, 12)))[0].astype(np.float32)
    vertices = jnp.einsum("vf,bfc->bvc", modes, coefficients, precision="highest")
    codec = Codec(network, params, None, jax.device_put(constants))
    decoded = codec.decode(codec.encode(coefficients))
    errors_mm = np.linalg.norm(np.einsum("vf,bfc->bvc", modes, decoded) - vertices, axis=-1).mean(axis=-1) * 1000
    whole = FitData(np.asarray(coefficients), modes, np.asarray(coefficients), vertices)
    data = scores.from_coefficients(whole, constants)
    found_mm, _ = validate(networks.trained_part(network), params, *data[1:], constants)
    np.testing.assert_allclose(found_mm, errors_mm, rtol=1e-4)
