"""Comparison with the published code, for which a network of the same shape stands in that is written here."""

import ast
import json
import sys

import jax
import pytest
from helpers import TINY

from spectral_jax.cli import main
from spectral_jax.files.progress import Silent
from spectral_jax.network.autoencoder import init_params
from spectral_jax.network.config import ModelConfig
from spectral_jax.pytorch import published
from spectral_jax.pytorch.state_dict import state_dict_from_params
from spectral_jax.pytorch.verify import random_coefficients, random_modes
from spectral_jax.training.config import TrainConfig

# With the module, class and method names, the options and the calls of the published code, and nothing else of it.
STAND_IN = """
import pytorch_lightning
import torch
from torch import nn
from models.errors import distances

print("the published code prints")


def pairs(values):
    return list(zip(values, values[1:]))


class LearnedPooling(pytorch_lightning.LightningModule):
    def __init__(self, opt):
        super().__init__()
        self.opt = opt
        width, lengths = opt["size_conv"], [opt["nb_freq"], 256, 64, 32, 16]

        def features(*channels):
            layers = []
            for before, after in pairs(channels):
                layers += [nn.Conv1d(before, after, width, padding=width // 2), getattr(nn, opt["activation_func"])()]
            return nn.ModuleList(layers)

        def matrices(lengths):
            return nn.ParameterList([nn.Parameter(torch.zeros(shape)) for shape in pairs(lengths)])

        self.encoder_features = features(3, 16, 32, 64, 128)
        self.encoder_linear = nn.ModuleList([nn.Linear(2048, opt["size_latent"])])
        self.decoder_linear = nn.ModuleList([nn.Linear(opt["size_latent"], 2048)])
        self.decoder_features = features(128, 64, 32, 16, 16)
        self.last_conv = nn.Conv1d(16, 3, width, padding=width // 2)
        self.downsampling_mats, self.upsampling_mats = matrices(lengths), matrices(lengths[::-1])

    def forward(self, x):
        x = x.transpose(1, 2)
        for i, matrix in enumerate(self.downsampling_mats):
            x = self.encoder_features[2 * i + 1](self.encoder_features[2 * i](x)) @ matrix
        x = self.decoder_linear[0](self.encoder_linear[0](x.flatten(1))).reshape(-1, 128, 16)
        for i, matrix in enumerate(self.upsampling_mats):
            x = self.decoder_features[2 * i + 1](self.decoder_features[2 * i](x @ matrix))
        return self.last_conv(x).transpose(1, 2)

    def training_step(self, batch, index):
        loss = self.opt["loss"](self(batch[1]), batch[1])
        self.log("loss", loss, on_step=True)
        return {"loss": loss}

    def test_step(self, batch, index):
        return distances(self.opt["evecs"] @ self(batch[1]), batch[2]).mean(dim=1).tolist()

    def validation_step(self, batch, index):
        self.log("error", 1000 * distances(self.opt["evecs"] @ self(batch[1]), batch[2]).mean())

    def configure_optimizers(self):
        adam = torch.optim.Adam(self.parameters(), lr=self.opt["learning_rate"])
        rule = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, factor=0.99, patience=3, verbose=True)
        return [adam], [{"scheduler": rule, "monitor": "error"}]
"""
ERRORS = """
def distances(a, b):
    return (a - b).pow(2).sum(dim=2).sqrt()
"""
MODEL = ModelConfig(24, 4, 3, "ELU")
TRAIN = TrainConfig(batch_size=4, learning_rate=1e-3, validate_every=5)  # two steps an epoch of six meshes
STEPS = 20  # the rate falls after the ninth epoch
TRAINING = [f"training, {name}" for name in ("losses", "rates", "validations", "parameters", "coefficients")]


class Remembered(Silent):
    def __init__(self):
        self.seen = {}

    def update(self, task, done, total=None, note=""):
        self.seen[task] = done, total


def clone(folder, *changes):
    """A clone of a repository of that shape, with texts in its network replaced."""
    (folder / "models").mkdir(parents=True)
    network = STAND_IN
    for old, new in changes:
        assert old in network
        network = network.replace(old, new)
    (folder / "models" / "LearnedPooling.py").write_text(network)
    (folder / "models" / "errors.py").write_text(ERRORS)
    return folder


def rows(folder, steps, progress=None, model=MODEL):
    params = jax.device_get(init_params(model, jax.random.key(0)))
    meshes = random_coefficients(model, 6), random_modes(model)
    code = published.find(folder, sys.executable)
    options = state_dict_from_params(params), params, *meshes
    return published.verify_published(code, model, TRAIN, *options, steps=steps, progress=progress or Silent())


@pytest.mark.needs("torch")
def test_forward_gradients_and_training_agree(tmp_path, capfd):
    progress, folder = Remembered(), clone(tmp_path / "clone")
    table = rows(folder, STEPS, progress)
    assert [row for row in table if not row.passed] == []
    quantities = [row.quantity for row in table]
    half = len(quantities) // 2
    assert quantities[:half] == quantities[half:]
    assert quantities[half - 5 : half] == TRAINING
    assert {"encoder layer 0", "latents", "vertices", "error in mm", "loss", "gradient, last_conv"} < set(quantities)
    assert [row.dtype for row in table] == ["float32"] * half + ["float64"] * half
    assert progress.seen["the published code"] == (42, 42)
    assert "models.LearnedPooling" not in sys.modules
    assert sorted(path.name for path in folder.rglob("*")) == ["LearnedPooling.py", "errors.py", "models"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.needs("torch")
@pytest.mark.slow
def test_another_rate_rule_there_fails_in_training_alone(tmp_path):
    table = rows(clone(tmp_path, ("factor=0.99", "factor=0.5")), STEPS)
    assert {row.quantity for row in table if not row.passed} == set(TRAINING)


@pytest.mark.needs("torch")
@pytest.mark.slow
def test_another_network_there_fails_from_its_layer_on(tmp_path):
    table = rows(clone(tmp_path, ("flatten(1))", "flatten(1) * 1.1)")), STEPS)
    for dtype in published.DTYPES:
        passed = [row.quantity for row in table if row.dtype == dtype and row.passed]
        assert passed[:3] == ["encoder layer 0", "encoder layer 1", "encoder layer 2"]
        assert passed[-1] == "training, rates"
        assert not {"encoder layer 3", "latents", "coefficients", "gradient, encoder_linear", *TRAINING[3:]} & {*passed}


@pytest.mark.needs("torch")
@pytest.mark.slow
def test_a_clone_with_another_shape_agrees_with_a_network_of_that_shape(tmp_path):
    changes = [
        ("256, 64, 32, 16]", "12, 5]"), ("3, 16, 32, 64, 128)", "3, 8, 20)"), ("128, 64, 32, 16, 16)", "20, 8, 8)"),
        ("2048", "100"), ("reshape(-1, 128, 16)", "reshape(-1, 20, 5)"), ("Conv1d(16, 3,", "Conv1d(8, 3,"),
        ("self.encoder_features[2 * i + 1](self.encoder_features[2 * i](x)) @ matrix",
         "self.encoder_features[2 * i + 1](self.encoder_features[2 * i](x) @ matrix)"),
    ]  # fmt: skip
    model = ModelConfig(24, 4, 3, "SiLU", pooled=(12, 5), channels=(8, 20), pooling="before-activation")
    table = rows(clone(tmp_path, *changes), 3, model=model)
    assert [row for row in table if not row.passed] == []
    assert "encoder layer 2" not in {row.quantity for row in table}


@pytest.mark.needs("torch")
@pytest.mark.slow
def test_the_command_prints_one_table(tmp_path, capsys):
    folder, report = clone(tmp_path / "clone"), tmp_path / "verify.json"
    options = ["--against", str(folder), "--steps", "3", "--json", str(report)]
    assert main(["convert", str(TINY / "last.ckpt"), str(tmp_path / "run"), "--verify", *options]) == 0
    printed = capsys.readouterr().out
    assert "all 51 comparisons passed" in printed
    assert "training, rates" in printed
    title = json.loads(report.read_text())["title"]
    assert title.startswith(f"JAX against {folder} (PyTorch ")
    assert title.endswith("3 steps of training, 16 random meshes")


@pytest.mark.needs("torch")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("import torch\n", "import no_such_package\n"), "has no no-such-package, which the published code needs: "),
        (
            ("from models.errors", "from models.none"),
            "failed in PYTHON: ModuleNotFoundError: ",
        ),
        (("import torch\n", "1 / 0\n"), "failed in PYTHON: ZeroDivisionError: division by zero"),
    ],
)
def test_code_that_does_not_load_gets_one_line_before_any_work(tmp_path, capsys, change, message):
    folder, target = clone(tmp_path / "clone", change), tmp_path / "run"
    arguments = ["convert", str(TINY / "last.ckpt"), str(target), "--verify", "--against", str(folder)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message.replace("PYTHON", sys.executable) in error
    assert error.count("\n") == 1
    assert not target.exists()


@pytest.mark.needs("torch")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("super().__init__()", "super().__init__(); print('unknown option'); raise SystemExit"), "unknown option"),
        (('opt["nb_freq"], 256', 'opt["nb_freq"], 128'), "size mismatch for upsampling_mats.3"),
    ],
)
def test_code_that_fails_later_gets_one_line(tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as error:
        rows(clone(tmp_path, change), 0)
    assert "\n" not in str(error.value)


def test_an_interpreter_without_numpy_or_torch_is_told_what_to_install(tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(ValueError, match=f"{bare} has no (numpy|torch), which .* needs: {bare} -m pip install"):
        published.find(clone(tmp_path), str(bare))


def test_the_program_runs_in_old_interpreters_without_this_package():
    tree = ast.parse(published.PROGRAM.read_text(encoding="utf-8"), feature_version=(3, 8))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports for alias in node.names}
    names |= {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    assert names - sys.stdlib_module_names <= {"numpy", "torch", "Path"}


def test_what_is_no_clone_or_no_interpreter(tmp_path):
    with pytest.raises(ValueError, match=r"no models/LearnedPooling.py in it, expected a clone of https://"):
        published.find(tmp_path, sys.executable)
    with pytest.raises(ValueError, match="none: no such Python interpreter"):
        published.find(clone(tmp_path), "none")
