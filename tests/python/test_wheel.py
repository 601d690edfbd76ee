"""The source archive is enough to build the wheel, and the wheel is enough to use the package."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSION = ".".join(re.findall(r"define HSATTN_VERSION_\w+ (\d+)", (ROOT / "hsattn" / "version.h").read_text()))
LIBRARY = "hsattn/_hsattn_torch.so"

USE = """
import torch, hsattn
q, k, v = (torch.randn(1, 2, 256, 32, requires_grad=True) for _ in range(3))
given = torch.randn(q.shape)
ours = torch.autograd.grad(hsattn.attention(q, k, v), (q, k, v), given)
full = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
for mine, right in zip(ours, torch.autograd.grad(full, (q, k, v), given)):
    torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-4)
print(hsattn.__file__, hsattn.__version__)
"""


def run(*command, folder=None, **environment):
    environment = os.environ | {name: str(value) for name, value in environment.items()}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments, **environment):
    run(sys.executable, "-m", "pip", *arguments, **environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("wheel")


@pytest.fixture(scope="module")
def sdist(folder):
    hook = "import sys, hsattn_backend; hsattn_backend.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", hook, folder, folder=ROOT, PYTHONPATH=ROOT / "python" / "backend")
    return folder / f"hsattn-{VERSION}.tar.gz"


@pytest.fixture(scope="module")
def wheel(sdist, folder):
    """Built from the archive alone, without a network; pip unpacks and builds below TMPDIR."""
    (folder / "build").mkdir()
    options = ("--no-index", "--no-cache-dir", "--no-build-isolation", "--no-deps")
    pip("wheel", *options, "--wheel-dir", folder / "out", sdist, TMPDIR=folder / "build")
    (wheel,) = (folder / "out").iterdir()
    return wheel


def test_the_source_archive_holds_what_the_wheel_is_built_from_and_nothing_else(sdist):
    with tarfile.open(sdist) as archive:
        names = [Path(name) for name in archive.getnames()]
    assert {name.parts[0] for name in names} == {f"hsattn-{VERSION}"}
    files = {"CMakeLists.txt", "LICENSE", "NOTICE", "PKG-INFO", "README.md", "pyproject.toml"}
    assert {name.parts[1] for name in names} == files | {"cmake", "hsattn", "python", "torch_ops"}
    assert {name.suffix for name in names} <= {
        "",
        ".cc",
        ".cmake",
        ".gz",
        ".h",
        ".in",
        ".md",
        ".py",
        ".toml",
        ".txt",
        ".typed",
    }


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    files = [path for path in (ROOT / "python" / "hsattn").rglob("*") if path.is_file()]
    package = {str(path.relative_to(ROOT / "python")) for path in files if path.suffix != ".pyc"}
    about = {"METADATA", "RECORD", "WHEEL", "licenses/LICENSE", "licenses/NOTICE"}
    assert names == package | {LIBRARY} | {f"hsattn-{VERSION}.dist-info/{name}" for name in about}


def test_one_wheel_serves_every_python_3_on_its_platform(wheel):
    platform = re.sub(r"[-.]", "_", sysconfig.get_platform())
    assert wheel.name == f"hsattn-{VERSION}-py3-none-{platform}.whl"


def test_the_library_remembers_no_folder(wheel, folder):
    with zipfile.ZipFile(wheel) as archive:
        library = Path(archive.extract(LIBRARY, folder))
    assert not re.search(r"\((RPATH|RUNPATH)\)", run("readelf", "--dynamic", library))
    for path in (ROOT, folder, sys.prefix):
        assert str(path).encode() not in library.read_bytes(), path


def test_installed_it_computes_attention_and_gradients(wheel, tmp_path):
    pip("install", "--no-index", "--no-deps", "--target", tmp_path / "site", wheel)
    printed = run(sys.executable, "-c", USE, folder=tmp_path, PYTHONPATH=tmp_path / "site", HSATTN_OPS_LIBRARY="")
    assert printed.split() == [str(tmp_path / "site" / "hsattn" / "__init__.py"), VERSION]
