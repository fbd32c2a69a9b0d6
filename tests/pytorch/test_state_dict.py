import dataclasses
import functools
import io
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers import TINY

from spectral_jax.basis import spectral
from spectral_jax.cli import main
from spectral_jax.files import torch_file
from spectral_jax.network.autoencoder import SpectralAutoencoder, init_params
from spectral_jax.network.config import ModelConfig
from spectral_jax.pytorch.lightning import (
    checkpoint_from_lightning,
    config_from_infos,
    export_checkpoint,
    import_checkpoint,
    infos_from_config,
    lightning_from_checkpoint,
)
from spectral_jax.pytorch.state_dict import TABLE, infer_config, params_from_state_dict, state_dict_from_params, table
from spectral_jax.runs import checkpoint, run
from spectral_jax.training.config import TrainConfig
from spectral_jax.training.schedule import Plateau
from spectral_jax.training.state import TrainingProgress
from spectral_jax.training.step import loss_and_gradient, train_step

CONFIG = ModelConfig(modes=128, latent_size=8)
INFOS = json.loads((TINY / "infos.json").read_text())
# At level 0 XLA compiles three times faster.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture
def saved():
    return torch_file.load(TINY / "last.ckpt")


def copied(tmp_path, *names):
    """The named files of tests/tiny in a folder of their own; the path of the first."""
    for name in names:
        shutil.copy(TINY / name, tmp_path / name)
    return tmp_path / names[0]


def assert_identical(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.asarray(a).dtype == np.asarray(b).dtype
    assert jax.tree.structure(left) == jax.tree.structure(right)


def through_file(tree):
    stream = io.BytesIO()
    torch_file.save(stream, tree)
    return torch_file.load(stream.getvalue())


# Parameters.


def test_the_table_names_every_parameter_once_in_the_published_order(saved):
    ours = flatten_dict(jax.eval_shape(lambda: init_params(CONFIG, jax.random.key(0))))
    assert sorted(weight.path for weight in TABLE) == sorted(ours)
    assert [weight.name for weight in TABLE] == list(saved["state_dict"])


def test_state_dict_returns_bit_for_bit(saved):
    params = params_from_state_dict(saved["state_dict"], CONFIG)
    returned = state_dict_from_params(params)
    assert list(returned) == list(saved["state_dict"])
    assert_identical(dict(returned), dict(saved["state_dict"]))
    assert_identical(params_from_state_dict(returned, CONFIG), params)


def test_all_offending_arrays_are_listed(saved):
    weights = dict(saved["state_dict"])
    del weights["last_conv.bias"], weights["encoder_features.4.weight"]
    weights |= {"extra.weight": np.zeros((2, 3)), "decoder_linear.0.weight": np.zeros((8, 2048), np.float32)}
    for convert in (infer_config, lambda weights: params_from_state_dict(weights, CONFIG)):
        with pytest.raises(ValueError, match="not the weights of this network") as caught:
            convert(weights)
        for words in (
            "last_conv.bias (3,) is missing",
            "encoder_features.4.weight (64, 32, 3) is missing",
            "extra.weight (2, 3) is unexpected",
            "decoder_linear.0.weight is (8, 2048), not (2048, 8)",
        ):
            assert words in str(caught.value)

    params = params_from_state_dict(saved["state_dict"], CONFIG)
    params["extra"] = {"kernel": np.zeros(4)}
    params["downsampling_1"] = np.zeros((256, 63, 1))
    del params["last_conv"]["bias"]
    with pytest.raises(ValueError, match="not the weights of this network") as caught:
        state_dict_from_params(params)
    for words in ("last_conv.bias (3,) is missing", "extra/kernel (4,) is unexpected", "(256, 63, 1), not (256, 64)"):
        assert words in str(caught.value)


SHAPES = [
    {"pooled": (24, 40), "channels": (8, 5)},
    {"pooled": (6,), "channels": (7,)},
    {"pooled": (30, 20, 14, 10, 6, 4), "channels": (3, 4, 5, 6, 7, 8)},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shape_is_inferred_and_its_pooling_assumed(shape):
    config = ModelConfig(20, 3, **shape)
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    state_dict = state_dict_from_params(jax.tree.map(lambda x: np.zeros(x.shape), shapes))
    assert list(state_dict) == [weight.name for weight in table(len(config.channels))]
    inferred, (sizes, *assumed) = infer_config(state_dict)
    assert inferred == config
    pooled, channels = (" ".join(map(str, shape[name])) for name in ("pooled", "channels"))
    assert f"pooled {pooled}, channels {channels}: from the weights" in sizes
    assert [line.split(":")[0] for line in assumed] == ["activation ELU", "pooling after-activation"]
    assert infer_config(state_dict, ("activation", "pooling"))[1] == [sizes]
    name = f"encoder_features.{2 * len(config.channels) - 2}.weight"
    with pytest.raises(ValueError, match=rf"network: {name} \({config.channels[-1]}, .* is missing$"):
        infer_config({key: value for key, value in state_dict.items() if key != name})


@pytest.mark.parametrize("config", [CONFIG, ModelConfig(40, 5, 5), ModelConfig(7, 1, 1)])
def test_sizes_are_inferred_and_the_activation_assumed(config):
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    inferred, lines = infer_config(state_dict_from_params(jax.tree.map(lambda x: np.zeros(x.shape), shapes)))
    assert inferred == config
    assert f"{config.modes} modes, latent size {config.latent_size}, conv size {config.conv_size}" in lines[0]
    assert lines[1].startswith("activation ELU: assumed")
    assert len(lines) == 2


# Options.


def test_options_return():
    model, train, unknown = config_from_infos(INFOS, CONFIG)
    assert (model, unknown) == (CONFIG, [])
    assert train == TrainConfig(epochs=60, batch_size=8, learning_rate=1e-3, validate_every=10)
    assert infos_from_config(run.RunConfig(model, train, "data/T128/DEMO"), "t128") == INFOS


def test_the_shape_is_in_infos_where_it_is_another():
    config = ModelConfig(20, 3, pooled=(9, 6), channels=(4, 5), pooling="before-activation", activation="SiLU")
    infos = json.loads(json.dumps(infos_from_config(run.RunConfig(config, TrainConfig(), ""), "job")))
    inferred = dataclasses.replace(config, pooling="after-activation", activation="ELU")
    assert config_from_infos(infos, inferred)[::2] == (config, [])
    with pytest.raises(ValueError, match=r"channels is \[4, 6\], the weights say \(4, 5\)"):
        config_from_infos(infos | {"channels": [4, 6]}, inferred)


def test_absent_options_are_inferred_or_default_and_unknown_ones_reported():
    model, train, unknown = config_from_infos({"activation_func": "Tanh", "colour": 1}, CONFIG)
    assert (model, train, unknown) == (dataclasses.replace(CONFIG, activation="Tanh"), TrainConfig(), ["colour"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nb_freq": 4096, "size_latent": 16}, "nb_freq is 4096, the weights say 128; size_latent is 16, .* say 8"),
        ({"size_conv": 5}, "size_conv is 5, the weights say 3"),
        ({"size_conv": "3"}, "size_conv is '3', expected int"),
        ({"learning_rate": None}, "learning_rate is None, expected float"),
        ({"model_type": "Pooling"}, "model_type is 'Pooling', expected 'LearnedPooling'"),
        ({"train_batch_size": 0}, "batch size must be at least 1, not 0"),
    ],
)
def test_impossible_options_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config_from_infos(INFOS | change, CONFIG)


# Training positions.


def test_position_of_the_published_checkpoint(saved):
    position = checkpoint_from_lightning(saved, CONFIG)
    steps_per_epoch = 32 // INFOS["train_batch_size"]
    assert position.epoch == 60 == saved["global_step"] / steps_per_epoch  # although its "epoch" is 59
    assert position.state.step == position.state.opt_state.count == 240
    assert position.plateau == Plateau(0.0009043820750088043, 157.90533447265625, 1)
    assert position.validation_mm is position.best_mm is None
    moments = state_dict_from_params(position.state.opt_state.nu)
    for moment, stored in zip(moments.values(), saved["optimizer_states"][0]["state"].values(), strict=True):
        np.testing.assert_array_equal(moment, stored["exp_avg_sq"])

    loop = saved["loops"]["fit_loop"]
    loop["epoch_loop.batch_progress"]["is_last_batch"] = False  # stopped within epoch 60
    assert checkpoint_from_lightning(saved, CONFIG).epoch == 59
    del saved["loops"]
    assert checkpoint_from_lightning(saved, CONFIG).epoch == 59


@pytest.mark.parametrize(
    ("epoch", "step", "plateau", "validation_mm", "best_mm"),
    [
        (37, 37 * 4, Plateau(0.1 + 0.2, 1 / 3, 2), 12.3456789012345678, 1e-17),
        (7, 2**24 + 1, Plateau(1e-4), None, None),
        (0, 0, Plateau(1e-4), None, None),
    ],
)
def test_position_returns_bit_for_bit(saved, epoch, step, plateau, validation_mm, best_mm):
    rng = np.random.default_rng(0)
    state = checkpoint_from_lightning(saved, CONFIG).state
    state = jax.tree.map(
        lambda x: rng.standard_normal(x.shape, np.float32) if x.ndim else np.array(step, x.dtype), state
    )
    position = TrainingProgress(state, plateau, epoch, validation_mm, best_mm)
    returned = checkpoint_from_lightning(
        through_file(lightning_from_checkpoint(position, TrainConfig(), "job")), CONFIG
    )
    assert_identical(returned.state, position.state)
    assert returned[1:] == position[1:]


def differences(left, right, place=""):
    """Places where two trees of plain values and arrays differ in a key, a type or a value."""
    if type(left) is not type(right):
        yield place
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), place
        for key in left:
            yield from differences(left[key], right[key], f"{place}/{key}")
    elif isinstance(left, list | tuple):
        for i, pair in enumerate(zip(left, right, strict=True)):
            yield from differences(*pair, f"{place}/{i}")
    elif isinstance(left, np.ndarray):
        if left.dtype != right.dtype or not np.array_equal(left, right):
            yield place
    elif left != right:
        yield place


def test_lightning_finds_all_it_wrote_with_the_last_epoch_closed(saved):
    train = config_from_infos(INFOS)[1]
    position = checkpoint_from_lightning(saved, CONFIG)
    returned = through_file(lightning_from_checkpoint(position, train, "t128"))
    assert returned.pop("spectral_jax") == {
        "validation_mm": None,
        "best_mm": None,
        "seed": 42,
        "schedule": "plateau",
    }
    progress = "/loops/fit_loop/epoch_progress"
    assert set(differences(saved, returned)) == {
        "/epoch",
        *(f"{progress}/{which}/{name}" for which in ("total", "current") for name in ("completed", "processed")),
        *(f"/loops/fit_loop/epoch_loop.scheduler_progress/total/{name}" for name in ("ready", "completed")),
        "/lr_schedulers/0/last_epoch",
    }
    assert returned["epoch"] == 60


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("lr_schedulers"), "not a Lightning checkpoint of this network .KeyError: 'lr_schedulers'"),
        (lambda s: s["optimizer_states"].clear(), "not a Lightning checkpoint of this network .ValueError"),
        (lambda s: s["optimizer_states"][0]["param_groups"][0].update(weight_decay=0.1), "Adam with .*weight_decay"),
        (lambda s: s["optimizer_states"][0]["state"][3].update(step=7.0), r"several step counts: \[7.0, 240.0\]"),
        (lambda s: s["optimizer_states"][0]["state"].pop(29), "KeyError: 29"),
        (
            lambda s: s["optimizer_states"][0]["state"][2].update(exp_avg=np.zeros(3)),
            r"encoder_features.2.weight is \(3,\), not \(32, 16, 3\)",
        ),
    ],
)
def test_positions_that_cannot_be_continued_are_refused(saved, spoil, message):
    spoil(saved)
    with pytest.raises(ValueError, match=message):
        checkpoint_from_lightning(saved, CONFIG)


# Files.


def test_imported_checkpoint_continues_training(tmp_path, saved):
    source, target = copied(tmp_path, "last.ckpt", "infos.json"), tmp_path / "run"
    lines = import_checkpoint(source, target)
    assert "60 epochs and 240 steps done, learning rate 0.0009044" in lines
    assert any("infos.json" in line for line in lines)
    assert any(line.startswith("no basis") for line in lines)
    assert not any("assumed" in line for line in lines)

    config = run.load_config(target)
    assert (config.model, config.data) == (CONFIG, "data/T128/DEMO")
    position = checkpoint.restore(target / "last", config.model, config.train)
    assert position.epoch == 60
    batch = jax.random.normal(jax.random.key(0), (8, 128, 3))
    step = jit(train_step, static_argnums=0)
    losses, state = [], position.state
    for _ in range(3):
        state, loss, _ = step(SpectralAutoencoder(CONFIG), state, batch, position.plateau.learning_rate)
        losses.append(float(loss))
    assert state.step == 243
    assert losses[0] > losses[1] > losses[2]

    target = tmp_path / "job" / "last.ckpt"
    export_checkpoint(tmp_path / "run", target)
    assert_identical(checkpoint_from_lightning(torch_file.load(target), CONFIG).state, position.state)
    assert json.loads(target.with_name("infos.json").read_text()) == INFOS | {"job_id": "job"}
    with pytest.raises(ValueError, match=r"job/last.ckpt exists already"):
        export_checkpoint(tmp_path / "run", target)
    with pytest.raises(ValueError, match=r"job/infos.json exists already"):
        export_checkpoint(tmp_path / "run", target.with_name("other.ckpt"))
    with pytest.raises(ValueError, match="run exists already"):
        import_checkpoint(target, tmp_path / "run")


@pytest.mark.parametrize("operator", ["graph", "cotangent"])
def test_the_mass_of_a_cotangent_basis_goes_with_the_checkpoint(tmp_path, sphere, sphere_basis, capsys, operator):
    mass = np.linspace(0.5, 1.5, 162, dtype=np.float32)
    modes = np.asarray(sphere_basis.modes)[:, :128]
    if operator == "cotangent":
        modes = modes / np.sqrt(mass)[:, None]  # orthonormal under the mass
    basis = spectral.SpectralBasis(
        modes, sphere_basis.eigenvalues[:128], sphere.faces, mass if operator == "cotangent" else None
    )
    import_checkpoint(TINY / "last.ckpt", tmp_path / "run", basis=basis)
    target = tmp_path / "job" / "last.ckpt"
    assert main(["convert", str(tmp_path / "run"), str(target)]) == 0
    error, beside = capsys.readouterr().err, target.with_name("mass.npy")
    assert beside.exists() == (operator == "cotangent") == (str(beside) in error)
    if operator == "cotangent":
        written = np.load(beside, allow_pickle=False)
        np.testing.assert_array_equal(written, mass)
        projected = modes.T @ (written[:, None] * sphere.vertices)  # as the warning says
        np.testing.assert_allclose(projected, spectral.project(basis, sphere.vertices), atol=1e-4)
        target.unlink()
        target.with_name("infos.json").unlink()
        with pytest.raises(ValueError, match=r"mass\.npy exists already"):
            export_checkpoint(tmp_path / "run", target)


def test_a_whole_run_returns_through_files(tmp_path, saved):
    position = checkpoint_from_lightning(saved, CONFIG)._replace(validation_mm=158.1, best_mm=157.5)
    train = TrainConfig(epochs=70, batch_size=8, schedule="cosine", seed=7)
    torch_file.save(tmp_path / "last.ckpt", lightning_from_checkpoint(position, train, "job"))
    infos = tmp_path / "options.json"
    infos.write_text(json.dumps(infos_from_config(run.RunConfig(CONFIG, train, "data"), "job")))
    import_checkpoint(tmp_path / "last.ckpt", tmp_path / "run", infos)
    assert run.load_config(tmp_path / "run") == run.RunConfig(CONFIG, train, "data")
    restored = checkpoint.restore(tmp_path / "run" / "last", CONFIG, train)
    assert_identical(restored.state, position.state)
    assert restored[1:] == position._replace(best_mm=None)[1:]  # the weights that reached it are not in the file


def test_a_state_dict_alone_becomes_a_run_of_no_epochs(tmp_path, sphere_basis):
    target = tmp_path / "run"
    lines = import_checkpoint(TINY / "init.pth", target, TINY / "infos.json", sphere_basis)
    assert any("weights only" in line for line in lines)
    assert not any("basis" in line for line in lines)
    loaded = run.load_run(target)
    assert (loaded.epoch, loaded.basis.num_modes) == (0, 128)  # those of the network, of 162
    weights = torch_file.load(TINY / "init.pth")
    assert_identical(dict(state_dict_from_params(loaded.params)), dict(weights))
    position = checkpoint.restore(target / "last", CONFIG, TrainConfig())
    assert position.plateau == Plateau(1e-3)
    assert position.state.step == position.state.opt_state.count == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(position.state.opt_state))

    source = copied(tmp_path, "init.pth")
    lines = import_checkpoint(source, tmp_path / "other")
    assert any("there is no infos.json" in line for line in lines)
    assert any("activation ELU: assumed" in line for line in lines)


@pytest.mark.parametrize(
    ("source", "infos", "message"),
    [
        ("absent.ckpt", None, r"absent.ckpt: no such file"),
        ("last.ckpt", "absent.json", r"absent.json: no such file"),
        ("last.ckpt", "list.json", r"list.json: holds a list, expected a dict"),
        ("last.ckpt", "broken.json", r"broken.json: "),
        ("last.ckpt", "other.json", r"other.json: nb_freq is 64, the weights say 128"),
        ("list.pth", None, r"list.pth: not the weights of this network"),
        ("tensor.pth", None, r"tensor.pth: holds a ndarray, expected a checkpoint"),
        ("moments.pth", None, r"moments.pth: not the weights of this network"),
        ("infos.json", None, r"infos.json: is not a zip archive"),
    ],
)
def test_bad_files_are_named_and_nothing_is_left(tmp_path, source, infos, message):
    copied(tmp_path, "last.ckpt", "infos.json")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text(json.dumps(INFOS | {"nb_freq": 64}))
    torch_file.save(tmp_path / "list.pth", [1])
    torch_file.save(tmp_path / "tensor.pth", np.zeros(2))
    torch_file.save(tmp_path / "moments.pth", {"state": {0: {"step": 1}}, 5: [np.zeros(2)]})
    with pytest.raises(ValueError, match=message):
        import_checkpoint(tmp_path / source, tmp_path / "run", infos and tmp_path / infos)
    assert not (tmp_path / "run").exists()


# Against torch, where it is installed.


@functools.partial(jit, static_argnums=0)
def everything(model, params, batch):
    latents = model.apply({"params": params}, batch, method="encode")
    return latents, model.apply({"params": params}, latents, method="decode"), loss_and_gradient(model, params, batch)


@pytest.mark.needs("torch")
@pytest.mark.parametrize(
    ("config", "dtype", "tolerance"),
    [
        (ModelConfig(40, 16), "float32", 2e-5),
        (ModelConfig(40, 16), "float64", 1e-10),
        (ModelConfig(33, 32, 5, "LeakyReLU"), "float32", 2e-5),
        (ModelConfig(33, 32, 5, "LeakyReLU"), "float64", 1e-10),
        (ModelConfig(24, 64, 3, "Tanh"), "float64", 1e-10),
        (ModelConfig(24, 4, 1, "Sigmoid"), "float64", 1e-10),
        (ModelConfig(24, 4, 3, "ReLU"), "float64", 1e-10),
        (ModelConfig(24, 4, 3, "SiLU"), "float64", 1e-10),
        (ModelConfig(24, 4, pooling="before-activation"), "float64", 1e-10),
        *((ModelConfig(20, 3, **shape), "float64", 1e-10) for shape in SHAPES),
        (ModelConfig(20, 3, 5, "SiLU", **SHAPES[0], pooling="before-activation"), "float32", 2e-5),
        (ModelConfig(20, 3, 5, "SiLU", **SHAPES[0], pooling="before-activation"), "float64", 1e-10),
    ],
    ids=lambda value: f"{value.activation}-{len(value.pooled)}" if isinstance(value, ModelConfig) else None,
)
def test_network_and_gradients_are_those_of_torch(config, dtype, tolerance):
    import torch

    from spectral_jax.pytorch.reference import TorchSpectralAutoencoder

    torch.manual_seed(0)
    module = TorchSpectralAutoencoder(config)
    assert [name for name, _ in module.named_parameters()] == [w.name for w in table(len(config.channels))]
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
            torch.nn.init.normal_(parameter, std=0.1)
    params = params_from_state_dict({name: value.numpy() for name, value in module.state_dict().items()}, config)
    batch = np.random.default_rng(0).standard_normal((5, config.modes, 3))

    module = TorchSpectralAutoencoder(config)
    module.load_state_dict({name: torch.tensor(array) for name, array in state_dict_from_params(params).items()})
    module, x = module.to(getattr(torch, dtype)), torch.tensor(batch, dtype=getattr(torch, dtype))
    latents, outputs = module.encode(x), module(x)
    loss = torch.mean((outputs - x) ** 2)
    loss.backward()

    with jax.enable_x64(dtype == "float64"):
        ours = jax.tree.map(lambda p: jnp.asarray(p, dtype), params)
        found = jax.device_get(everything(SpectralAutoencoder(config), ours, jnp.asarray(batch, dtype)))
    gradients = state_dict_from_params(found[2][1])
    pairs = {"latents": (found[0], latents), "outputs": (found[1], outputs), "loss": (found[2][0], loss)}
    pairs |= {name: (gradients[name], parameter.grad) for name, parameter in module.named_parameters()}
    for name, (array, tensor) in pairs.items():
        expected = tensor.detach().numpy()
        assert array.dtype == expected.dtype == dtype
        assert np.abs(array - expected).max() <= tolerance * np.abs(expected).max(), name


@pytest.mark.needs("torch")
@pytest.mark.slow
def test_torch_continues_an_exported_checkpoint(tmp_path):
    import torch

    from spectral_jax.pytorch.reference import TorchSpectralAutoencoder

    import_checkpoint(TINY / "last.ckpt", tmp_path / "run")
    export_checkpoint(tmp_path / "run", tmp_path / "job" / "last.ckpt")
    exported = torch.load(tmp_path / "job" / "last.ckpt", weights_only=True)
    module = TorchSpectralAutoencoder(CONFIG)
    module.load_state_dict(exported["state_dict"])
    module = module.double()
    adam = torch.optim.Adam(module.parameters())
    adam.load_state_dict(exported["optimizer_states"][0])
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, factor=0.5)
    scheduler.load_state_dict(exported["lr_schedulers"][0])
    assert (scheduler.factor, scheduler.best, scheduler.num_bad_epochs) == (0.99, 157.90533447265625, 1)

    batch = np.random.default_rng(0).standard_normal((8, 128, 3))
    torch.mean((module(torch.tensor(batch)) - torch.tensor(batch)) ** 2).backward()
    adam.step()
    position = checkpoint.restore(tmp_path / "run" / "last", CONFIG, TrainConfig())
    with jax.enable_x64(True):
        state = jax.tree.map(lambda x: jnp.asarray(x, np.float64 if x.ndim else x.dtype), position.state)
        rate = position.plateau.learning_rate
        state, *_ = jit(train_step, static_argnums=0)(SpectralAutoencoder(CONFIG), state, jnp.asarray(batch), rate)
        params = state_dict_from_params(jax.device_get(state.params))
    for name, parameter in module.named_parameters():
        assert np.abs(params[name] - parameter.detach().numpy()).max() <= 1e-10, name
    assert math.isclose(scheduler.get_last_lr()[0], rate)
