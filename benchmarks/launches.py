"""Count what a training step launches on an NVIDIA GPU, on a machine without one: XLA compiles from a description.

    pip install --no-deps jax-cuda13-plugin jax-cuda13-pjrt     # of the version of jax; 250 MB; and CUDA 13 with ptxas
    python benchmarks/launches.py --modes 4096 --batch 16 1024
    python benchmarks/launches.py --deterministic --precision default highest bf16 # does every program compile?
    pip install libtpu
    python benchmarks/launches.py --tpu                          # for a TPU v5e; of each program the memory

Figures are counted, not measured. Without a card nothing can be tuned, so Triton's matrix products are off, and each
product is one call of cuBLAS. A loop of the compiled program that trains is a turn for each step.
"""

import argparse
import collections
import functools
import importlib.util
import itertools
import os
import re
import shutil
import sys
from typing import Any

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84929347584
  shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 7 } runtime_version { major: 12 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
MESHES = 4096  # in the train split of the programs
TRIALS = 2  # of a sweep
POINTS = 9  # of a geodesic
FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", ""}  # they launch nothing


def describe(tpu: bool) -> Any:
    """The device that is not there."""
    from jax.experimental import topologies

    if tpu:
        return topologies.get_topology_desc("v5e:2x2", "tpu").devices[0]
    return topologies.get_topology_desc("card", "cuda", target_config=H100, topology="1x1x1").devices[0]


def programs(config: Any, batch: int, precision: Any, card: Any) -> dict[str, Any]:
    """The programs of a network, lowered for the card: what `train`, `eval`, `encode`, `decode`, `sweep` and geodesics
    run.
    """
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from spectral_jax.basis.spectral import SpectralBasis
    from spectral_jax.network import codec as codecs
    from spectral_jax.network import networks
    from spectral_jax.paths.interpolate import codec_geodesic
    from spectral_jax.training import dispatch, step, sweep
    from spectral_jax.training.batches import num_steps
    from spectral_jax.training.config import TrainConfig
    from spectral_jax.training.devices import AXIS
    from spectral_jax.training.state import EpochMetrics, init_state

    jax.default_backend = lambda: "tpu" if "tpu" in card.platform else "gpu"  # what the package asks for its choices
    device_mesh = Mesh(np.array([card]), (AXIS,))
    everywhere = NamedSharding(device_mesh, PartitionSpec())

    def shapes(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=everywhere), tree)

    def array(*shape, dtype=np.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=everywhere)

    network, options = networks.build(config), TrainConfig(batch_size=batch, precision=precision)
    state = shapes(jax.eval_shape(lambda: init_state(config, options)))
    constants = {name: array(*shape) for name, shape in networks.constant_shapes(config).items()} or None
    context = dispatch.TrainContext(networks.trained_part(network), options, device_mesh)
    rows = (config.modes, 3) if constants is None else (config.directions + 1,)
    span = dispatch.StepRange(*shapes((np.int32(0),) * 4), array(1, num_steps(MESHES, batch)))
    sums, key = shapes(jax.tree.map(np.asarray, EpochMetrics())), array(2, dtype=np.uint32)
    basis = SpectralBasis(array(6890, config.modes), array(config.modes), array(13776, 3, dtype=np.int32))
    codec = codecs.Codec(network, state.params, basis, constants)
    coefficients, latents = array(64, config.modes, 3), array(64, config.latent_size)
    pair = array(config.latent_size), array(config.latent_size)
    alone = dispatch.TrainContext(context.model, options)
    trials = jax.tree.map(lambda leaf: array(TRIALS, *leaf.shape, dtype=leaf.dtype), state)
    keys = jax.eval_shape(lambda: jax.vmap(jax.random.key)(jax.numpy.arange(TRIALS)))
    keys = jax.ShapeDtypeStruct(keys.shape, keys.dtype, sharding=everywhere)
    spans = span._replace(learning_rates=array(TRIALS, *span.learning_rates.shape))
    lowered = {
        "training": dispatch.train_resident.lower(context, state, sums, array(MESHES, *rows), key, span, constants),
        "encoding": codecs.encode_batch.lower(codec, coefficients),
        "decoding": codecs.decode_vertices_batch.lower(codec, latents),
        "a geodesic": codec_geodesic.lower(codec, *pair, num_points=POINTS),
        f"a sweep of {TRIALS}": sweep._train.lower(alone, trials, array(MESHES, *rows), keys, spans, constants),
    }
    if constants is None:
        validate = jax.jit(functools.partial(step.validate, network))
        lowered["validation"] = validate.lower(state.params, basis.modes, coefficients, array(64, 6890, 3))
    return lowered


def computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation of a compiled program, by name."""
    found: dict[str, list[str]] = {}
    lines = None
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        start = re.match(r"(?:ENTRY )?%?([\w.\-]+).*->.*\{$", line)
        if start and not line.startswith(" "):
            lines = found[start[1]] = []
        elif line.startswith("}"):
            lines = None
        elif lines is not None and line.strip():
            lines.append(line.strip())
    return found


def operation(line: str) -> str:
    """The operation of an instruction `name = type operation(...)`; the type may be a tuple."""
    rest, depth = line.partition(" = ")[2], 0
    for i, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if character == " " and depth == 0:
            return rest[i + 1 :].partition("(")[0].strip()
    return ""


def launches(found: dict[str, list[str]], name: str) -> collections.Counter:
    """Kernels and calls of libraries in a computation, by kind."""
    count: collections.Counter[str] = collections.Counter()
    for line in found[name]:
        kind = operation(line)
        if kind == "call":
            count += launches(found, _named(line, "to_apply"))
        elif kind == "custom-call":
            count[re.findall(r'custom_call_target="([^"]+)"', line)[0]] += 1
        elif kind == "fusion":
            count[f"fusion {_named(line, 'kind')}"] += 1
        elif kind not in FREE:
            count[kind] += 1
    return count


def _named(line: str, attribute: str) -> str:
    return re.findall(rf"{attribute}=%?([\w.\-]+)", line)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", type=int, default=4096)
    parser.add_argument("--batch", type=int, nargs="+", default=[16])
    parser.add_argument("--network", choices=["sae-lp", "residual"], default="sae-lp")
    parser.add_argument("--precision", nargs="+", choices=["default", "highest", "bf16"], default=["default"])
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--tpu", action="store_true")
    options = parser.parse_args()
    if options.tpu and importlib.util.find_spec("libtpu") is None:
        sys.exit("skipped: needs libtpu")
    cuda = importlib.util.find_spec("jax_cuda13_plugin") and shutil.which("ptxas")
    if not options.tpu and not cuda:
        sys.exit("skipped: needs the CUDA plug-in of JAX (jax-cuda13-plugin, jax-cuda13-pjrt) and ptxas")
    from spectral_jax.network.config import ModelConfig
    from spectral_jax.training.devices import DETERMINISTIC

    os.environ.update(TPU_SKIP_MDS_QUERY="1", JAX_SKIP_CUDA_CONSTRAINTS_CHECK="1")
    if options.tpu:
        os.environ["JAX_PLATFORMS"] = "cpu"
    else:
        flags = DETERMINISTIC if options.deterministic else DETERMINISTIC[-1:]  # what is read when JAX first compiles
        folder = os.environ.get("CUDA_HOME", "/usr/local/cuda")
        flags = os.environ.get("XLA_FLAGS", ""), f"--xla_gpu_cuda_data_dir={folder}", *flags
        os.environ["XLA_FLAGS"] = " ".join(flags)
    config, card, failed = ModelConfig(options.modes, network=options.network), describe(options.tpu), False
    for batch, precision in itertools.product(options.batch, options.precision):
        for name, lowered in programs(config, batch, precision, card).items():
            about = f"{options.network}, {options.modes} modes, batch {batch}, {precision}: {name}"
            try:
                compiled = lowered.compile()
            except Exception as error:
                print(f"{about} does not compile: {str(error).splitlines()[0]}", flush=True)
                failed = True
                continue
            memory = compiled.memory_analysis()
            print(
                f"{about} compiles, {memory.temp_size_in_bytes / 1e6:.0f} MB beside arguments of "
                f"{memory.argument_size_in_bytes / 1e6:.0f} MB",
                flush=True,
            )
            if name == "training":
                report(computations(compiled.as_text()))
    sys.exit(failed)


def report(found: dict[str, list[str]]) -> None:
    """Print what a turn of each loop launches."""
    for lines in found.values():
        for line in lines:
            if operation(line) == "while":
                body = _named(line, "body")
                count = launches(found, body)
                print(f"  a turn of {body}: {count.total()} launches, {dict(count.most_common())}", flush=True)


if __name__ == "__main__":
    main()
