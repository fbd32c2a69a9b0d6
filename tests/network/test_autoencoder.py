import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounding import network_rounding

from spectral_jax.network.autoencoder import ACTIVATIONS, SpectralAutoencoder, averages, init_params
from spectral_jax.network.config import ModelConfig

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("modes", "latent_size", "parameters"),
    [
        (4096, 8, 2_235_803),
        (4096, 16, 2_268_579),
        (4096, 32, 2_334_131),
        (4096, 64, 2_465_235),
        (4096, 128, 2_727_443),
        (512, 16, 433_571),
        (1024, 16, 695_715),
        (2048, 16, 1_220_003),
    ],
)
def test_parameter_counts_are_the_published_ones(modes, latent_size, parameters):
    params = jax.eval_shape(lambda: init_params(ModelConfig(modes=modes, latent_size=latent_size), KEY))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


def textbook(config, params, coefficients):
    """The network as the paper writes it: convolution primitives, batch first."""
    activation = ACTIVATIONS[config.activation]

    def conv(x, p):
        y = jax.lax.conv_general_dilated(x, p["kernel"], (1,), "SAME", dimension_numbers=("NCH", "HIO", "NCH"))
        return y + p["bias"][None, :, None]

    x, layers = coefficients.transpose(0, 2, 1), range(len(config.channels))
    for i in layers:
        x, pooling = conv(x, params[f"encoder_conv_{i}"]), params[f"downsampling_{i}"]
        x = activation(x @ pooling) if config.pooling == "before-activation" else activation(x) @ pooling
    latents = x.reshape(len(x), -1) @ params["encoder_linear"]["kernel"] + params["encoder_linear"]["bias"]
    x = (latents @ params["decoder_linear"]["kernel"] + params["decoder_linear"]["bias"]).reshape(
        -1, config.channels[-1], config.pooled[-1]
    )
    for i in layers:
        x = activation(conv(x @ params[f"upsampling_{i}"], params[f"decoder_conv_{i}"]))
    return latents, conv(x, params["last_conv"]).transpose(0, 2, 1)


def test_activations_are_the_functions_of_their_names():
    x = np.array([-2.0, -0.5, 0.0, 3.0], np.float32)
    expected = {
        "ELU": np.where(x > 0, x, np.expm1(x)),
        "ReLU": np.maximum(x, 0),
        "Tanh": np.tanh(x),
        "Sigmoid": 1 / (1 + np.exp(-x)),
        "LeakyReLU": np.where(x > 0, x, 0.01 * x),
        "SiLU": x / (1 + np.exp(-x)),
    }
    assert expected.keys() == ACTIVATIONS.keys()
    for name, function in ACTIVATIONS.items():
        np.testing.assert_allclose(function(x), expected[name], rtol=1e-5)  # exp and tanh: some units in the last place


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "LeakyReLU", "conv_size": 1},
        {"activation": "Tanh", "conv_size": 5},
        {"activation": "SiLU", "pooling": "before-activation"},
        {"pooled": (12, 30), "channels": (4, 2), "pooling": "before-activation"},
        {"pooled": (9,), "channels": (5,)},
        {"pooled": (24, 20, 16, 12, 8), "channels": (4, 8, 6, 12, 10)},
    ],
)
def test_network_equals_its_textbook_form(options):
    config = ModelConfig(modes=40, latent_size=5, **options)
    params = jax.tree.map(lambda p: p + 0.01, init_params(config, KEY))  # biases too
    coefficients = jax.random.normal(KEY, (6, 40, 3))
    model = SpectralAutoencoder(config)

    @jax.jit
    def ours(params, coefficients):
        latents = model.apply({"params": params}, coefficients, method="encode")
        return latents, model.apply({"params": params}, latents, method="decode")

    with jax.numpy_rank_promotion("allow"):
        expected_latents, expected = jax.jit(textbook, static_argnums=0)(config, params, coefficients)
    latents, decoded = ours(params, coefficients)
    np.testing.assert_allclose(latents, expected_latents, atol=network_rounding(expected_latents))
    np.testing.assert_allclose(decoded, expected, atol=network_rounding(expected))
    np.testing.assert_array_equal(jax.jit(model.apply)({"params": params}, coefficients), decoded)


def test_average_pooling_keeps_constants_and_is_not_trained():
    np.testing.assert_allclose(averages(8, 4)[:, 1], [0, 0, 0.5, 0.5, 0, 0, 0, 0], atol=1e-7)
    np.testing.assert_array_equal(averages(2, 4), [[1, 1, 0, 0], [0, 0, 1, 1]])
    for ends in ((40, 12), (12, 40), (7, 7)):
        np.testing.assert_allclose(averages(*ends).sum(axis=0), 1, atol=1e-6)
    config = ModelConfig(modes=40, latent_size=5, pooled=(9, 6), channels=(4, 5), pooling_matrices="average")
    params = init_params(config, KEY)
    np.testing.assert_array_equal(params["downsampling_0"], averages(40, 9))
    np.testing.assert_array_equal(params["upsampling_1"], averages(9, 40))
    coefficients, model = jax.random.normal(KEY, (6, 40, 3)), SpectralAutoencoder(config, custom_backward=True)
    gradients = jax.jit(jax.grad(lambda p: jnp.square(model.apply({"params": p}, coefficients)).sum()))(params)
    still = {name for name, leaves in gradients.items() if not any(map(np.any, jax.tree.leaves(leaves)))}
    assert still == {"downsampling_0", "downsampling_1", "upsampling_0", "upsampling_1"}


@pytest.mark.parametrize(
    ("channels", "mirrored"),
    [((16, 32, 64, 128), (64, 32, 16, 16)), ((32, 64), (32, 32)), ((8,), (8,)), ((4, 9, 2), (9, 4, 4))],
)
def test_the_decoder_mirrors_the_encoder(channels, mirrored):
    config = ModelConfig(modes=20, channels=channels, pooled=channels)
    assert config.decoder_channels == mirrored
    params = jax.eval_shape(lambda: init_params(config, KEY))
    assert tuple(params[f"decoder_conv_{i}"]["bias"].size for i in range(len(channels))) == mirrored
    assert params["last_conv"]["kernel"].shape == (3, channels[0], 3)


@pytest.mark.parametrize("pooling", ["after-activation", "before-activation"])
def test_gradients_of_both_forms_are_equal(pooling):
    config = ModelConfig(modes=40, latent_size=3, pooled=(24, 10), channels=(6, 8), pooling=pooling, activation="SiLU")
    params, coefficients = init_params(config, KEY), jax.random.normal(KEY, (4, 40, 3))

    def gradient(custom_backward):
        model = SpectralAutoencoder(config, custom_backward)
        return jax.jit(jax.grad(lambda params: (model.apply({"params": params}, coefficients) ** 2).mean()))(params)

    for ours, plain in zip(*(jax.tree.leaves(gradient(custom)) for custom in (True, False)), strict=True):
        np.testing.assert_allclose(ours, plain, atol=network_rounding(plain))


def test_meshes_of_a_batch_do_not_touch_each_other():
    config = ModelConfig(modes=24)
    model, params = SpectralAutoencoder(config), init_params(config, KEY)
    coefficients = jax.random.normal(KEY, (5, 24, 3))
    apply = jax.jit(model.apply)
    together = apply({"params": params}, coefficients)
    alone = jnp.concatenate([apply({"params": params}, c[None]) for c in coefficients])
    np.testing.assert_allclose(together, alone, atol=network_rounding(alone))


def test_initial_weights_are_xavier_uniform_and_biases_zero():
    params = init_params(ModelConfig(modes=512), KEY)
    for weight, fans in (
        (params["downsampling_0"], 512 + 256),
        (params["decoder_linear"]["kernel"], 16 + 2048),
        (params["encoder_conv_3"]["kernel"], 3 * (64 + 128)),
    ):
        bound = np.sqrt(6 / fans)
        assert 0.99 * bound < np.abs(weight).max() <= bound
        assert abs(float(weight.mean())) < 0.02 * bound
    assert not params["encoder_conv_0"]["bias"].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conv_size": 4}, "conv size must be odd.*, not 4"),
        ({"conv_size": -1}, "not -1"),
        ({"latent_size": 0}, "latent size must be at least 1, not 0"),
        ({"modes": 0}, "modes must be at least 1, not 0"),
        ({"pooled": (64, 32)}, "as many.*, not 64 32 and 16 32 64 128"),
        ({"pooled": (), "channels": ()}, "1 to 16 layers, not 0"),
        ({"pooled": (8,) * 17, "channels": (8,) * 17}, "1 to 16 layers, not 17"),
        ({"channels": (16, 32, 0, 8)}, "channels must be whole numbers of at least 1, not 16 32 0 8"),
        ({"pooled": (16, -2), "channels": (1, 2)}, "pooled must be whole numbers of at least 1, not 16 -2"),
    ],
)
def test_unusable_options_are_refused_with_the_value(options, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)


def test_inputs_of_another_size_are_refused_with_both_shapes():
    config = ModelConfig(modes=24)
    model, params = SpectralAutoencoder(config), init_params(config, KEY)
    with pytest.raises(ValueError, match=r"\(batch, 24, 3\) for this network, not \(2, 25, 3\)"):
        model.apply({"params": params}, jnp.zeros((2, 25, 3)))
    with pytest.raises(ValueError, match=r"\(batch, 16\) for this network, not \(2, 15\)"):
        model.apply({"params": params}, jnp.zeros((2, 15)), method="decode")
