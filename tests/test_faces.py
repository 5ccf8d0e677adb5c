"""What each package hands out: the names of its `__init__.pyi`, imported when first used."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import quickstudy

ROOT = Path(quickstudy.__path__[0])
PACKAGES = sorted(".".join(p.parent.relative_to(ROOT.parent).parts) for p in ROOT.rglob("__init__.pyi"))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_is_there_and_its_own(package: str) -> None:
    face = importlib.import_module(package)
    assert face.__all__
    for name in face.__all__:
        assert callable(getattr(face, name)) or isinstance(getattr(face, name), (dict, str)), name
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        face.nothing_of_the_kind  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES)
def test_a_name_is_no_module_even_if_one_is_called_alike(package: str) -> None:
    face = importlib.import_module(package)
    for module in pkgutil.iter_modules(face.__path__):
        importlib.import_module(f"{package}.{module.name}")
        if module.name in face.__all__:
            assert callable(getattr(face, module.name))


def test_each_folder_has_a_face() -> None:
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert {f"quickstudy.{folder}" for folder in folders - {"cli"}} <= set(PACKAGES)


def test_faces_import_nothing_until_they_are_asked() -> None:
    code = f"import sys, {', '.join(PACKAGES)}; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
