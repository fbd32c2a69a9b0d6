import re
import sys
from types import ModuleType

import pytest

from spectral_jax import extras


def test_a_package_that_is_there_is_imported():
    assert extras.require("json.decoder", "any", "reading") is sys.modules["json.decoder"]


@pytest.mark.parametrize(("module", "package"), [("PIL.Image", "Pillow"), ("robust_laplacian", "robust-laplacian")])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    expected = re.escape(f"this needs {package}: pip install 'spectral-jax[extra]'")
    with pytest.raises(ValueError, match=f"^{expected}$"):
        extras.require(module, "extra", "this")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("libX11.so.6: cannot open shared object file: No such file or directory", "libX11.so.6, .*install libx11-6 "),
        ("libEGL.so.1: cannot open shared object file: No such file or directory", "libEGL.so.1, .*install libegl1 "),
        ("/opt/x.so: undefined symbol: f", "cannot be imported: /opt/x.so: undefined symbol: f"),
    ],
)
def test_a_missing_system_library_is_told_as_that(monkeypatch, message, expected):
    class Broken(ModuleType):
        """A package whose compiled part does not load."""

        def find_spec(self, name, *_):
            if name == "broken":
                raise ImportError(message)

    monkeypatch.setattr(sys, "meta_path", [Broken("broken"), *sys.meta_path])
    with pytest.raises(ValueError, match=f"^--backend broken needs broken, which .*{expected}"):
        extras.require("broken", "view", "--backend broken")
