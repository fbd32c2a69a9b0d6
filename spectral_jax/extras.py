"""Optional packages: imported where they are used, and named with the command that installs what is missing."""

from __future__ import annotations

import importlib
import re
from types import ModuleType


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """An optional package's module.

    Raises ValueError that begins with the purpose: with the extra to install where the package is absent, with the
    library and Debian's package of it where the package is there and a system library is not.
    """
    root = module.partition(".")[0]
    package = "Pillow" if root == "PIL" else root.replace("_", "-")
    try:
        importlib.import_module(root)
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"{purpose} needs {package}: pip install 'spectral-jax[{extra}]'") from error
    except (ImportError, OSError) as error:
        missing = re.search(r"(lib[^\s/]+)\.so\.(\d+)[\d.]*: cannot open shared object file", str(error))
        if missing is None:
            raise ValueError(f"{purpose} needs {package}, which cannot be imported: {error}") from error
        library = f"{missing[1]}.so.{missing[2]}"
        raise ValueError(
            f"{purpose} needs {package}, which needs the system library {library}, not found here: "
            f"apt install {debian_package(missing[1], missing[2])} on Debian or Ubuntu"
        ) from error


def debian_package(name: str, version: str) -> str:
    """The package of a shared library as Debian's policy (8.1) names it: libX11 and 6 give libx11-6."""
    return name.lower() + ("-" if name[-1].isdigit() else "") + version
