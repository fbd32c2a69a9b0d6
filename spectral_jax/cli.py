"""The command line: one tyro application with a subcommand for each record in `spectral_jax.commands`.

`spectral_jax.__main__` calls `main`; train.py, eval.py and convert_torch_checkpoint.py name their command.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import tyro

from spectral_jax import __version__
from spectral_jax.commands.basis import BasisAlign, BasisCheck, BasisCompute, BasisExport, BasisImport
from spectral_jax.commands.console import console
from spectral_jax.commands.convert import Convert
from spectral_jax.commands.dataset import (
    DatasetAmass,
    DatasetDemo,
    DatasetDfaust,
    DatasetExport,
    DatasetImport,
    DatasetMeshes,
)
from spectral_jax.commands.evaluate import Eval
from spectral_jax.commands.fit import Fit
from spectral_jax.commands.inference import Decode, Encode
from spectral_jax.commands.info import DatasetInfo
from spectral_jax.commands.interpolate import Filter, Interpolate, Mix, Sample
from spectral_jax.commands.probe import Probe, Swap
from spectral_jax.commands.release import Export, ImportRelease
from spectral_jax.commands.report import Report
from spectral_jax.commands.sweep import Sweep, with_recipe
from spectral_jax.commands.train import Demo, Train, recipe_options, stored_options
from spectral_jax.commands.view import View
from spectral_jax.files import memory

DESCRIPTION = """Learning on registered 3D meshes in the spectral domain.
`spectral-jax COMMAND --help` lists the options of a command.
`--version` prints the version. `--debug` shows the traceback of an error.
"""
MAX_ERROR_CHARS = 4000
COMMANDS = {
    "demo": Demo,
    "train": Train,
    "eval": Eval,
    "sweep": Sweep,
    "report": Report,
    "view": View,
    "encode": Encode,
    "decode": Decode,
    "fit": Fit,
    "interpolate": Interpolate,
    "sample": Sample,
    "filter": Filter,
    "mix": Mix,
    "probe": Probe,
    "swap": Swap,
    "convert": Convert,
    "export": Export,
    "import": ImportRelease,
    "basis": {
        "compute": BasisCompute,
        "check": BasisCheck,
        "align": BasisAlign,
        "import": BasisImport,
        "export": BasisExport,
    },
    "dataset": {
        "demo": DatasetDemo,
        "amass": DatasetAmass,
        "dfaust": DatasetDfaust,
        "meshes": DatasetMeshes,
        "import": DatasetImport,
        "export": DatasetExport,
        "info": DatasetInfo,
    },
}
LESS_MEMORY = "--placement stream, --storage bf16 or a smaller --batch-size takes less"
GROUPS = {
    "basis": "Compute, check, align and convert eigenbases.",
    "dataset": "Build, import and inspect datasets.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for a user's mistake, 1 for a failure, 130 for Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    if argv[:1] == ["--version"]:
        print(f"spectral-jax {__version__}")
        return 0
    command = None
    try:
        command = parse(argv)
        enable_compilation_cache()
        command()
    except KeyboardInterrupt as error:
        console.print("; ".join(["interrupted", *getattr(error, "__notes__", ())]), soft_wrap=True)
        return 130
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 1
    except (ValueError, OSError, FloatingPointError) as error:
        if debug:
            raise
        print_error(error)
        return 1 if isinstance(error, FloatingPointError) else 2
    except (MemoryError, RuntimeError) as error:
        shortage = memory.shortage(error)
        if debug or shortage is None:
            raise
        short = MemoryError(shortage)
        for note in (*getattr(error, "__notes__", ()), *([LESS_MEMORY] if isinstance(command, Train) else [])):
            short.add_note(note)
        print_error(short)
        return 1
    return 0


def print_error(error: Exception) -> None:
    """Print an error on standard error."""
    console.print(describe(error), style="red", markup=False, highlight=False, soft_wrap=True)


def describe(error: Exception) -> str:
    """An error and its notes on one printable line; they may quote a file, and must not control the terminal."""
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    line = " ".join("; ".join([f"error: {text}", *getattr(error, "__notes__", ())]).splitlines())
    return "".join(c if c.isprintable() else "?" for c in line[:MAX_ERROR_CHARS])


def enable_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR names another folder."""
    import jax
    import platformdirs

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", platformdirs.user_cache_dir("spectral_jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def parse(argv: list[str]) -> Any:
    """Return the record of the command that `argv` selects. Raises SystemExit for --help and for unknown options."""
    commands, prog, description = COMMANDS, "spectral-jax", DESCRIPTION
    if argv and argv[0] in GROUPS:
        (name, *argv), prog = argv, f"{prog} {argv[0]}"
        commands, description = COMMANDS[name], GROUPS[name]

    if argv[:1] == ["train"] and any(re.match("--(path|device|\\w+_)", word) for word in argv):  # perhaps published
        from spectral_jax.pytorch import infos

        translated, notes = infos.translate_arguments(argv[1:])
        argv = ["train", *translated]
        for note in notes:
            console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    config = (tyro.conf.FlagCreatePairsOff,)
    if argv[:1] == ["train"] and "--network residual" in " ".join(argv).replace("=", " ") and "--resume" not in argv:
        default = recipe_options("residual")  # other defaults, which --help shows
        return tyro.cli(Train, prog=f"{prog} train", args=argv[1:], default=default, config=config)

    def group(name):
        def stub(): ...

        stub.__doc__ = GROUPS[name]
        return stub

    leaves = {name: group(name) if name in GROUPS else leaf for name, leaf in commands.items()}
    command = tyro.extras.subcommand_cli_from_dict(
        leaves, prog=prog, description=description, args=argv or ["--help"], config=config
    )
    if isinstance(command, Sweep) and command.network == "residual":
        return tyro.cli(Sweep, prog=f"{prog} sweep", args=argv[1:], default=with_recipe(command), config=config)
    if isinstance(command, Train) and command.resume:
        return tyro.cli(Train, prog=f"{prog} train", args=argv[1:], default=stored_options(command.run), config=config)
    return command
