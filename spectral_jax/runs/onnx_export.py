"""A trained network as an ONNX graph, for programs without Python: latents to vertices, or vertices to latents.

The graphs follow the equations of `network/autoencoder.py` and `network/residual.py`. Vertices are in metres, placed
and numbered as in the dataset's files.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped

import spectral_jax
from spectral_jax import extras
from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.files import atomic
from spectral_jax.network.config import Activation, ModelConfig
from spectral_jax.network.residual import padded_signs
from spectral_jax.runs.run import Run

Part = Literal["decoder", "encoder"]
OPSET = 13  # of 2020, and so are the operators used: runtimes of every kind know them
IR_VERSION = 7  # the file format of that time
MOST_BYTES = (1 << 31) - (1 << 20)  # of a graph's arrays: a file of protocol buffers holds less than 2 GiB
OPERATORS: dict[Activation, str] = {
    "ELU": "Elu",
    "ReLU": "Relu",
    "Tanh": "Tanh",
    "Sigmoid": "Sigmoid",
    "LeakyReLU": "LeakyRelu",  # whose slope is 0.01 unless told otherwise, as the network's
}


class _Mesh(NamedTuple):
    """The basis in the numbering of the dataset's files.

    Attributes:
      modes: zero at vertices that belong to no face.
      weighted: modes times the mass, which project vertices.
      rest: places of the vertices that belong to no face; zero at all others.
      faces: vertex indices.
    """

    modes: Float[np.ndarray, "vertex freq"]
    weighted: Float[np.ndarray, "vertex freq"]
    rest: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]


class _Graph:
    """A graph as it grows. Each method adds to it, and returns the name of what it has added."""

    def __init__(self, onnx: ModuleType) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, array: Shaped[Any, "..."], dtype: Any = np.float32) -> str:
        """An array."""
        self.constants[name] = np.ascontiguousarray(array, dtype)
        return name

    def add(self, operator: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        """An operator; `result` names what it computes."""
        result = result or f"{operator}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [result], **attributes))
        return result

    def dense(self, x: str, layer: dict[str, Any], name: str, result: str = "") -> str:
        """A linear layer on (batch, value)."""
        kernel, bias = (self.constant(f"{name}/{part}", layer[part]) for part in ("kernel", "bias"))
        return self.add("Gemm", x, kernel, bias, result=result)

    def convolve(self, x: str, layer: dict[str, Any], name: str) -> str:
        """A convolution along frequency on (batch, chan, freq) by a kernel (size, chan, out)."""
        kernel = self.constant(f"{name}/kernel", layer["kernel"].transpose(2, 1, 0))
        half = len(layer["kernel"]) // 2
        return self.add("Conv", x, kernel, self.constant(f"{name}/bias", layer["bias"]), pads=[half, half])

    def multiply(self, x: str, matrix: Float[np.ndarray, "row column"], name: str) -> str:
        """The product with a matrix along the last axis."""
        return self.add("MatMul", x, self.constant(name, matrix))

    def activate(self, x: str, activation: Activation) -> str:
        """The activation of every value."""
        if activation == "SiLU":
            return self.add("Mul", x, self.add("Sigmoid", x))
        return self.add(OPERATORS[activation], x)

    def reshape(self, x: str, shape: tuple[int, ...], name: str) -> str:
        """The same values with another shape for each of the batch."""
        return self.add("Reshape", x, self.constant(name, np.array([-1, *shape]), np.int64))

    def file(self, inputs: dict[str, tuple], outputs: dict[str, tuple], metadata: dict[str, str]) -> bytes:
        """The contents of a file: this graph between inputs and outputs of these shapes."""
        helper, types = self.onnx.helper, {"faces": self.onnx.TensorProto.INT32}
        ends = [
            [
                helper.make_tensor_value_info(name, types.get(name, self.onnx.TensorProto.FLOAT), shape)
                for name, shape in named.items()
            ]
            for named in (inputs, outputs)
        ]
        arrays = [self.onnx.numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        model = helper.make_model(
            helper.make_graph(self.nodes, "spectral_jax", *ends, arrays),
            producer_name="spectral_jax",
            producer_version=spectral_jax.__version__,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        helper.set_model_props(model, metadata)
        self.onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()


def save(path: str | Path, run: Run, part: Part = "decoder") -> None:
    """Write the decoder or the encoder of a run, with its basis, as an .onnx file, atomically.

    The decoder takes `latents` (batch, latent) and returns `vertices` (batch, vertex, 3) and `faces` (face, 3), which
    are always the same. The encoder takes vertices and returns latents: for SAE-LP those of `Codec.encode_vertices`,
    for the residual network those before its Gauss-Newton step. Raises ValueError without a basis, without the package
    onnx, and for a network with its basis of 2 GiB or more.
    """
    path = Path(path)
    graph = _Graph(extras.require("onnx", "onnx", f"writing {path}"))
    basis, model = run.require_basis(), run.config.model
    params, constants = jax.device_get((run.params, run.constants))
    mesh = _mesh(basis, model.modes)
    if constants is None:
        (_decode if part == "decoder" else _encode)(graph, model, params, mesh)
    else:
        (_decode_residual if part == "decoder" else _encode_residual)(graph, model, params, constants, mesh)
    shapes = {"latents": ("batch", model.latent_size), "vertices": ("batch", len(mesh.rest), 3)}
    inputs, outputs = {"latents": shapes.pop("latents")}, shapes
    if part == "encoder":
        inputs, outputs = outputs, inputs
    else:
        graph.add("Identity", graph.constant("vertex_indices", mesh.faces, np.int32), result="faces")
        outputs |= {"faces": mesh.faces.shape}
    size = sum(array.nbytes for array in graph.constants.values())
    if size > MOST_BYTES:
        raise ValueError(f"{path}: weights and basis have {size:,} bytes, an .onnx file holds {MOST_BYTES:,}")
    content = graph.file(inputs, outputs, _metadata(run, part))
    with atomic.replacing(path) as partial:
        partial.write_bytes(content)


def _metadata(run: Run, part: Part) -> dict[str, str]:
    """What the file says of itself, by name."""
    model = run.config.model
    found = {
        "run": run.path.resolve().name,
        "epoch": str(run.epoch),
        "network": model.network,
        "part": part,
        "latent_size": str(model.latent_size),
        "modes": str(model.modes),
        "units": "metres",
        "up_axis": "y",
        "connectivity": run.require_basis().fingerprint,
        "version": spectral_jax.__version__,
    }
    if model.network == "residual" and part == "encoder":
        found["note"] = "latents are those before the Gauss-Newton step of spectral-jax encode"
    return found


def _mesh(basis: SpectralBasis, num_modes: int) -> _Mesh:
    """The basis with all vertices that the dataset's files have."""
    rest, faces = spectral.with_unused(basis, np.zeros((basis.num_vertices, 3), np.float32))
    used = np.delete(np.arange(len(rest)), np.asarray(basis.unused.indices) if basis.unused else ())
    modes = np.zeros((len(rest), num_modes), np.float32)
    modes[used] = np.asarray(basis.modes)[:, :num_modes]
    mass = np.ones(len(rest), np.float32)
    if basis.mass is not None:
        mass[used] = np.asarray(basis.mass)
    return _Mesh(modes, modes * mass[:, None], rest, faces)


# SAE-LP.


def _encode(graph: _Graph, model: ModelConfig, params: Any, mesh: _Mesh) -> None:
    """Vertices to latents."""
    x = graph.add("Transpose", "vertices", perm=[0, 2, 1])  # (batch, 3, vertex): coordinates are the first channels
    x = graph.multiply(x, mesh.weighted, "weighted_modes")
    for i, _ in enumerate(model.channels):
        x = graph.convolve(x, params[f"encoder_conv_{i}"], f"encoder_conv_{i}")
        if model.pooling == "after-activation":
            x = graph.activate(x, model.activation)
        x = graph.multiply(x, params[f"downsampling_{i}"], f"downsampling_{i}")
        if model.pooling == "before-activation":
            x = graph.activate(x, model.activation)
    x = graph.reshape(x, (model.channels[-1] * model.pooled[-1],), "row")
    graph.dense(x, params["encoder_linear"], "encoder_linear", "latents")


def _decode(graph: _Graph, model: ModelConfig, params: Any, mesh: _Mesh) -> None:
    """Latents to vertices."""
    x = graph.dense("latents", params["decoder_linear"], "decoder_linear")
    x = graph.reshape(x, (model.channels[-1], model.pooled[-1]), "deepest")
    for i, _ in enumerate(model.channels):
        x = graph.multiply(x, params[f"upsampling_{i}"], f"upsampling_{i}")
        x = graph.activate(graph.convolve(x, params[f"decoder_conv_{i}"], f"decoder_conv_{i}"), model.activation)
    x = graph.convolve(x, params["last_conv"], "last_conv")
    x = graph.add("Transpose", graph.multiply(x, mesh.modes.T, "modes"), perm=[0, 2, 1])
    graph.add("Add", x, graph.constant("rest", mesh.rest), result="vertices")


# The residual network. Its principal directions of coefficients become directions of vertices, which have fewer numbers
# than the basis.


def _encode_residual(graph: _Graph, model: ModelConfig, params: Any, constants: Any, mesh: _Mesh) -> None:
    """Vertices to latents: scores divided by their scales, and the correction of the leading ones."""
    centred = graph.add("Sub", "vertices", graph.constant("mean", mesh.modes @ constants["mean"] + mesh.rest))
    rows = graph.reshape(centred, (mesh.rest.size,), "row")
    directions = _directions(mesh.weighted, constants["directions"] / constants["scales"][:, None, None])
    x = graph.multiply(rows, directions.T, "directions")
    leading = graph.multiply(x, np.eye(model.directions, model.latent_size, dtype=np.float32), "leading")
    correction = _correct(graph, model, params["encoder"], constants, x, model.directions, model.latent_size)
    graph.add("Add", leading, correction, result="latents")


def _decode_residual(graph: _Graph, model: ModelConfig, params: Any, constants: Any, mesh: _Mesh) -> None:
    """Latents to vertices: the mean, and directions by corrected latents."""
    leading = graph.multiply("latents", np.eye(model.latent_size, model.directions, dtype=np.float32), "leading")
    correction = _correct(graph, model, params["decoder"], constants, "latents", model.latent_size, model.directions)
    scores = graph.add("Add", leading, correction)
    directions = _directions(mesh.modes, constants["directions"] * constants["scales"][:, None, None])
    x = graph.reshape(graph.multiply(scores, directions, "directions"), mesh.rest.shape, "mesh")
    mean = graph.constant("mean", mesh.modes @ constants["mean"] + mesh.rest)
    graph.add("Add", x, mean, result="vertices")


def _directions(
    modes: Float[np.ndarray, "vertex freq"], directions: Float[np.ndarray, "score freq 3"]
) -> Float[np.ndarray, "score value"]:
    """Directions of vertices, flat, from those of coefficients."""
    return np.tensordot(directions, modes, (1, 1)).transpose(0, 2, 1).reshape(len(directions), -1)


def _correct(graph: _Graph, model: ModelConfig, layers: Any, constants: Any, x: str, size: int, end_size: int) -> str:
    """The correction of `size` values to `end_size`; of a symmetric network, the mean of it and of its mirror image."""

    def correction(x: str) -> str:
        first = graph.activate(graph.dense(x, layers["Dense_0"], "hidden_0"), "ELU")
        second = graph.activate(graph.dense(first, layers["Dense_1"], "hidden_1"), "ELU")
        return graph.dense(graph.add("Add", first, second), layers["Dense_2"], "correction")

    if not model.symmetric:
        return correction(x)
    before, after = (np.asarray(padded_signs(constants["signs"], width)) for width in (size, end_size))
    mirrored = correction(graph.add("Mul", x, graph.constant("signs_before", before)))
    whole = graph.add("Add", correction(x), graph.add("Mul", mirrored, graph.constant("signs_after", after)))
    return graph.add("Mul", whole, graph.constant("half", np.float32(0.5)))
