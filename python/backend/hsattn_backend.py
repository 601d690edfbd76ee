"""The build backend: scikit-build-core, and torch as a build requirement only where the environment has none.

The ops need torch's headers, not torch itself, so an isolated build may use those of the environment that pip installs
into (cmake/FindTorchFromPython.cmake looks there). Asking for torch would download it once more for each build.
"""

from __future__ import annotations

import subprocess
import sys

from scikit_build_core import build as _build
from scikit_build_core.build import *  # noqa: F403  # the hooks of PEP 517 and 660

_FIND = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is None)"


def _torch_is_there() -> bool:
    # -E looks past the PYTHONPATH by which pip hides the environment from an isolated build.
    return any(subprocess.run([sys.executable, o, "-c", _FIND], cwd="/").returncode == 0 for o in ("-B", "-E"))


def _with_torch(requirements: list[str]) -> list[str]:
    return requirements if _torch_is_there() else [*requirements, "torch>=2.10"]


def get_requires_for_build_wheel(config_settings=None):
    return _with_torch(_build.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings=None):
    return _with_torch(_build.get_requires_for_build_editable(config_settings))
