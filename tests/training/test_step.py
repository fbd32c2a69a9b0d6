import dataclasses
import io
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import Stopping

from spectral_jax.geometry.metrics import map_batches, summarise, vertex_errors_mm
from spectral_jax.network.autoencoder import SpectralAutoencoder, init_params
from spectral_jax.network.config import ModelConfig
from spectral_jax.runs import run, train
from spectral_jax.runs.logs import read_log
from spectral_jax.training import batches, dispatch, loop
from spectral_jax.training import step as training_step
from spectral_jax.training.batches import epoch_order, num_steps
from spectral_jax.training.config import TrainConfig
from spectral_jax.training.state import EpochMetrics, init_state

MODEL = ModelConfig(modes=32, latent_size=4)
TRAIN = TrainConfig(epochs=6, batch_size=8, learning_rate=1e-3, validate_every=2, seed=3)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def train_all(folder, fit_data):
    """Train a run folder to its end; the figures without the clock's."""
    for _ in train.train_run(folder, fit_data):
        pass
    return [
        {k: v for k, v in line.items() if k not in ("epoch_time", "meshes_per_second")} for line in read_log(folder)
    ]


def figures_of(config, fit_data, **options):
    """The figures of every epoch."""
    return [figures for p in loop.fit(MODEL, config, fit_data, **options) for figures in p.figures.values()]


def test_training_lowers_the_loss_and_the_error(fit_data):
    history = figures_of(TrainConfig(epochs=30, batch_size=8, learning_rate=1e-3), fit_data)
    assert history[-1]["spectral_train_loss"] < 0.1 * history[0]["spectral_train_loss"]
    validations = [f["spatial_validation_loss"] for f in history if "spatial_validation_loss" in f]
    assert len(validations) == 3
    assert validations[2] < 0.8 * validations[0]


STEP = jax.jit(training_step.train_step, static_argnums=0)


def test_an_epoch_is_the_steps_one_by_one_with_the_smaller_last_batch(fit_data):
    """44 meshes in batches of 8: five full steps and one of four meshes, each at its own rate."""
    model = SpectralAutoencoder(MODEL)
    data, key = jnp.asarray(fit_data.train_coefficients), jax.random.key(9)
    order = np.asarray(epoch_order(key, 0, len(data), 8)).ravel()
    assert sorted(order[:44]) == list(range(44))
    assert order[44:].tolist() == [-1] * 4
    order = order[:44]
    rates = np.linspace(1e-3, 5e-4, num_steps(len(data), 8)).astype(np.float32)
    state, losses, norms = init_state(MODEL, TRAIN), [], []
    for start, rate in zip(range(0, len(data), 8), rates, strict=True):
        batch = data[order[start : start + 8]]
        state, loss, norm = STEP(model, state, batch, rate)
        losses.append(float(loss) * len(batch))
        norms.append(float(norm))
    context, steps = dispatch.TrainContext(model, TRAIN), dispatch.StepRange(0, 1, 0, 6, rates[None])
    epochs = jax.jit(dispatch.train_epochs, static_argnums=0)
    epoch_state, sums = epochs(context, init_state(MODEL, TRAIN), EpochMetrics(), data, key, steps)
    assert int(epoch_state.step) == 6
    assert (sums.meshes, sums.skipped, sums.bad_step) == (44, 0, -1)
    assert float(sums.loss[0]) == pytest.approx(sum(losses), rel=1e-5)
    assert float(sums.gradient_norm[0]) == pytest.approx(sum(norms), rel=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), epoch_state.params, state.params)


def test_adam_is_the_published_one():
    """First step by hand: the moments are 0.1 g and 0.001 g^2, bias-corrected to g and g^2; eps outside the root."""
    state = init_state(MODEL, TRAIN)
    after, *_ = STEP(
        SpectralAutoencoder(MODEL), state, jax.random.normal(jax.random.key(1), (8, 32, 3)), np.float32(0.01)
    )
    state, after = jax.device_get((state, after))
    gradient = jax.tree.map(lambda m: m / 0.1, after.opt_state.mu)
    expected = jax.tree.map(lambda p, g: p - 0.01 * g / (np.abs(g) + 1e-8), state.params, gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), after.params, expected)
    jax.tree.map(
        lambda v, g: np.testing.assert_allclose(v, 0.001 * g**2, rtol=1e-4, atol=1e-20), after.opt_state.nu, gradient
    )


def test_longer_gradients_are_scaled_to_the_norm_and_shorter_ones_kept():
    """The first moment after one step is a tenth of the gradient that was used."""
    state, batch = init_state(MODEL, TRAIN), jax.random.normal(jax.random.key(1), (8, 32, 3))

    def used(clip_norm, batch):
        config = dataclasses.replace(TRAIN, clip_norm=clip_norm)
        after, _, norm = jax.jit(training_step.train_step, static_argnums=0, static_argnames="config")(
            SpectralAutoencoder(MODEL), state, batch, np.float32(1e-3), config=config
        )
        return jax.tree.map(lambda m: m / 0.1, jax.device_get(after.opt_state.mu)), float(norm)

    whole, norm = used(0.0, batch)
    assert float(optax.tree.norm(whole)) == pytest.approx(norm, rel=1e-5)
    most = norm / 4
    clipped, told = used(most, batch)
    assert told == pytest.approx(norm, rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b / 4, rtol=1e-4, atol=1e-9), clipped, whole)
    short, norm = used(0.0, batch / 100)
    assert norm < most
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), used(most, batch / 100)[0], short)


def spoiled(fit_data):
    """The data with two meshes, one that no float32 loss can hold and one whose loss it holds but not its gradient."""
    coefficients = np.array(fit_data.train_coefficients)
    coefficients[7], coefficients[12] = 1e30, 1e17
    return fit_data._replace(train_coefficients=coefficients)


@pytest.mark.parametrize("blocks", [False, True])
def test_training_ends_at_a_loss_that_is_not_finite_and_keeps_its_checkpoint(fit_data, sphere_basis, tmp_path, blocks):
    config = run.RunConfig(MODEL, dataclasses.replace(TRAIN, epochs=4), "data")
    folder = run.create(tmp_path / "run", config, sphere_basis)
    stop = [False, True]
    for _ in train.train_run(folder, fit_data, progress=Stopping(stop)):
        pass
    kept = run.load_run(folder)
    broken = spoiled(fit_data)
    if blocks:
        broken = broken._replace(train_coefficients=batches.StreamedData(np.asarray(broken.train_coefficients), 32))
    with pytest.raises(FloatingPointError) as raised:
        for _ in train.train_run(folder, broken):
            pass
    order = np.asarray(epoch_order(batches.shuffling_key(TRAIN.seed), kept.epoch, 44, 8))
    step = 1 + min(int(np.argwhere(order == mesh)[0, 0]) for mesh in (7, 12))
    assert str(raised.value) == (
        f"the loss or its gradient is not finite in epoch {kept.epoch + 1}, step {step}, at learning rate 0.001"
    )
    assert raised.value.__notes__ == [f"the checkpoint after {kept.epoch} epochs is kept"]
    jax.tree.map(np.testing.assert_array_equal, run.load_run(folder).params, kept.params)


def test_bad_steps_are_left_out_if_that_is_wanted(fit_data):
    config = dataclasses.replace(TRAIN, epochs=2, skip_bad_steps=True)
    history = figures_of(config, spoiled(fit_data))
    assert {figures["skipped_steps"] for figures in history} <= {1, 2}
    assert all(math.isfinite(value) for figures in history for value in figures.values())
    clean = figures_of(config, fit_data)
    assert [figures["skipped_steps"] for figures in clean] == [0, 0]
    plain = figures_of(dataclasses.replace(config, skip_bad_steps=False), fit_data)
    np.testing.assert_allclose(*([f["spectral_train_loss"] for f in each] for each in (clean, plain)), rtol=1e-5)
    with pytest.raises(FloatingPointError, match="not finite in any step of epoch 1"):
        figures_of(config, fit_data._replace(train_coefficients=np.full((44, 32, 3), 1e30, np.float32)))


def test_the_forms_for_a_gpu_take_the_same_steps(fit_data, monkeypatch):
    """Kernels by channel, moments as one vector, shifted gradients: the same state comes out, to rounding."""
    model, data = SpectralAutoencoder(MODEL), jnp.asarray(fit_data.train_coefficients)
    steps = dispatch.StepRange(0, 1, 0, 3, np.full((1, num_steps(len(data), 8)), 1e-3, np.float32))
    states = []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        epochs = jax.jit(lambda *given: dispatch.train_epochs(dispatch.TrainContext(model, TRAIN), *given))
        states.append(epochs(init_state(MODEL, TRAIN), EpochMetrics(), data, jax.random.key(9), steps)[0])
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    for ours, theirs in zip(*map(jax.tree.leaves, states), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_a_batch_in_parts_has_the_loss_and_gradient_of_the_whole(fit_data, monkeypatch):
    """Eight meshes in parts of three."""
    model, params = SpectralAutoencoder(MODEL), init_params(MODEL, jax.random.key(0))
    batch, weights = jnp.asarray(fit_data.train_coefficients[:8]), jnp.array([0.2] * 5 + [0.0] * 3)
    whole = jax.jit(training_step.loss_and_gradient, static_argnums=0)(model, params, batch, weights)
    monkeypatch.setattr(training_step, "microbatch_size", lambda modes: 3)
    parts = jax.jit(lambda *given: training_step.loss_and_gradient(model, *given))(params, batch, weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), parts, whole)


def test_a_run_compiles_its_epoch_once(fit_data):
    dispatch.train_resident.clear_cache()
    training_step.validate.clear_cache()
    figures_of(TRAIN, fit_data)
    figures_of(dataclasses.replace(TRAIN, epochs=3, seed=7, learning_rate=2e-3, schedule="cosine"), fit_data)
    assert dispatch.train_resident._cache_size() == 1
    assert training_step.validate._cache_size() == 1


def test_shuffling_differs_by_epoch_and_seed_and_repeats(fit_data):
    def losses(seed):
        config = TrainConfig(epochs=2, batch_size=8, seed=seed)
        return [figures["spectral_train_loss"] for figures in figures_of(config, fit_data)]

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


def test_validation_is_exact_whatever_the_batches(fit_data):
    """9 meshes alone equal the same meshes among 130, across batches of 64."""
    model, params = SpectralAutoencoder(MODEL), init_params(MODEL, jax.random.key(0))
    rest = [jnp.asarray(x) for x in fit_data[1:]]
    errors, spectral = training_step.validate(model, params, *rest)
    decoded = jax.jit(model.apply)({"params": params}, rest[1])
    vertices = np.asarray(rest[0], np.float64) @ np.asarray(decoded, np.float64)
    expected = 1000 * np.linalg.norm(vertices - fit_data.test_vertices, axis=-1).mean(axis=-1)
    np.testing.assert_allclose(errors, expected, rtol=1e-5)
    np.testing.assert_allclose(spectral, np.mean((decoded - rest[1]) ** 2, axis=(1, 2)), rtol=1e-4)
    many = [jnp.tile(x, (15, 1, 1))[:130] for x in rest[1:]]
    np.testing.assert_allclose(training_step.validate(model, params, rest[0], *many)[0][126:130], errors[:4], rtol=1e-5)


def test_a_longer_run_continues_a_shorter_one_bit_for_bit(fit_data, sphere_basis, tmp_path):
    """3 epochs with validation every 2, then 6: the closing validation of the first must not move the plateau."""
    short = run.RunConfig(MODEL, TrainConfig(epochs=3, batch_size=8, validate_every=2, seed=3), "data")
    long = run.RunConfig(MODEL, TrainConfig(epochs=6, batch_size=8, validate_every=2, seed=3), "data")
    extended = run.create(tmp_path / "extended", short, sphere_basis)
    train_all(extended, fit_data)
    run.save_config(extended, long)
    train_all(extended, fit_data)
    whole = run.create(tmp_path / "whole", long, sphere_basis)
    train_all(whole, fit_data)
    equal(run.load_run(extended).params, run.load_run(whole).params)


def test_best_is_the_lowest_validation_error(fit_data, sphere_basis, tmp_path):
    folder = run.create(tmp_path / "run", run.RunConfig(MODEL, TRAIN, "data"), sphere_basis)
    figures = train_all(folder, fit_data)
    errors = {line["epoch"]: line["spatial_validation_loss"] for line in figures if "spatial_validation_loss" in line}
    assert run.load_run(folder, "best").epoch == min(errors, key=errors.get)
    assert [p.name for p in (folder / "last").iterdir()] == ["6"]


def events(folder):
    """Tag, step and value of all that a run told TensorBoard."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = (folder / "tb_logs").iterdir()
    data = path.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        yield from ((value.tag, event.step, value) for value in event.summary.value)
        data = data[16 + length :]


def test_tensorboard_gets_the_published_names_and_now_and_then_latents_and_pictures(fit_data, sphere_basis, tmp_path):
    from PIL import Image

    config = dataclasses.replace(TRAIN, epochs=8, validate_every=1)
    folder = run.create(tmp_path / "run", run.RunConfig(MODEL, config, "data"), sphere_basis)
    for _ in train.train_run(folder, fit_data, pictures=2):
        pass
    steps, values = {}, {}
    for tag, step, value in events(folder):
        steps.setdefault(tag, []).append(step)
        values[tag, step] = value
    assert {tag for tag in steps if steps[tag] == [1, 2, 3, 4, 5, 6, 7, 8]} == {
        "spectral_train_loss", "spectral_validation_loss", "spatial_validation_loss", "epoch_time", "learning_rate",
        "meshes_per_second", "gradient_norm",
    }  # fmt: skip
    assert {tag for tag in steps if steps[tag] == [1, 2, 3, 4, 5, 7]} == {
        *(f"latent/{i:03d}" for i in range(4)), "reconstructions",
    }  # fmt: skip
    assert len(steps) == 12
    assert values["latent/002", 7].histo.num == len(fit_data.test_coefficients)
    picture = np.asarray(Image.open(io.BytesIO(values["reconstructions", 7].image.encoded_image_string)))
    assert picture.shape == (384, 384, 3)
    above, below = picture[:192].astype(int), picture[192:].astype(int)
    assert np.ptp(above, axis=-1).max() < 20  # grey
    assert np.ptp(below, axis=-1).max() > 60  # coloured by error
    assert (above[..., 0] < 250).mean() > 0.3


def test_map_batches_keeps_order_and_computes_every_row_once():
    x = jnp.arange(23.0)
    np.testing.assert_array_equal(map_batches(lambda a: (a + 1, 2 * a), 5, x), ((x + 1), 2 * x))
    np.testing.assert_array_equal(map_batches(lambda a: a, 50, x), x)


def test_summary_is_of_the_population():
    summary = summarise(np.array([1.0, 2.0, 3.0, 10.0], np.float32))
    assert summary == (4.0, 2.5, math.sqrt(12.5), 1.0, 10.0)


def test_errors_are_in_millimetres():
    vertices = np.zeros((2, 5, 3), np.float32)
    np.testing.assert_allclose(
        vertex_errors_mm(vertices, vertices + np.array([0.003, 0.004, 0], np.float32)), 5, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch_size": -3}, "batch size must be at least 1, not -3"),
        ({"validate_every": 0}, "validate every must be at least 1, not 0"),
        ({"learning_rate": -1e-3}, r"learning rate must be positive, not -0\.001"),
        ({"learning_rate": math.nan}, "learning rate must be positive, not nan"),
        ({"clip_norm": -1.0}, r"clip norm must be at least 0, not -1\.0"),
    ],
)
def test_unusable_options_are_refused_with_the_value(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(schema=99), r"newer version \(schema 99, this version reads 1\)"),
        (lambda r: r["train"].update(warp=9), "warp"),
        (lambda r: r.pop("model"), "ModelConfig is a NoneType"),
        (lambda r: r["model"].update(latent_size=0), "latent size must be at least 1, not 0"),
        (lambda r: r["model"].update(latent_size=5), r"another network: .* is \(.*4.*\) in it and \(.*5.*\)"),
    ],
)
def test_a_tampered_run_is_refused_and_named(fit_data, sphere_basis, tmp_path, change, message):
    folder = run.create(tmp_path / "tampered", run.RunConfig(MODEL, TRAIN, "data"), sphere_basis)
    for _ in train.train_run(folder, fit_data, progress=Stopping([True])):
        pass
    record = json.loads((folder / "config.json").read_text())
    change(record)
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=rf"tampered.*{message}"):
        run.load_run(folder)
