"""The installed library serves programs that do not know its source, by CMake and by pkg-config, wherever it lies."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "installed"
COMPILER = os.environ.get("CXX", "g++")
NUMBERS = re.findall(r"define HSATTN_VERSION_\w+ (\d+)", (ROOT / "hsattn" / "version.h").read_text())
VERSION = ".".join(NUMBERS)


def run(*command, environment=None):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=os.environ | (environment or {}))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=["OFF", "ON"], ids=["static", "shared"])
def prefix(request, tmp_path_factory):
    """A folder that the library alone was installed into and that was then moved; the build folder is gone."""
    folder = tmp_path_factory.mktemp("installed")
    options = ("-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_INSTALL_LIBDIR=lib", f"-DBUILD_SHARED_LIBS={request.param}")
    run("cmake", "-G", "Ninja", "-S", ROOT, "-B", folder / "build", *options)
    run("cmake", "--build", folder / "build")
    run("cmake", "--install", folder / "build", "--prefix", folder / "first")
    (folder / "build").rename(folder / "no-build")
    return (folder / "first").rename(folder / "moved")


def check_output(program, prefix):
    printed = run(program, environment={"LD_LIBRARY_PATH": str(prefix / "lib")})
    assert printed.startswith(f"hsattn {VERSION}, kernel ")
    assert "refused: " in printed  # an exception came through


def test_a_cmake_project_finds_it(prefix, tmp_path):
    run("cmake", "-G", "Ninja", "-S", EXAMPLE, "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", tmp_path)
    check_output(tmp_path / "uses_hsattn", prefix)


def test_a_compiler_with_pkg_config_finds_it(prefix, tmp_path):
    where = {"PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")}
    assert run("pkg-config", "--modversion", "hsattn", environment=where).strip() == VERSION
    flags = run("pkg-config", "--cflags", "--libs", "hsattn", environment=where).split()
    run(COMPILER, "-std=c++20", "-Wall", "-Wextra", "-Werror", EXAMPLE / "main.cc", *flags, "-o", tmp_path / "program")
    check_output(tmp_path / "program", prefix)


@pytest.mark.parametrize(("wanted", "found"), [("0.0", False), (VERSION, True), ("0.2", False), ("1.0", False)])
def test_another_minor_version_is_not_taken_for_this_one(prefix, tmp_path, wanted, found):
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(asks LANGUAGES CXX)\n"
        f"find_package(hsattn {wanted} CONFIG)\nmessage(STATUS found=${{hsattn_FOUND}})\n"
    )
    printed = run("cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    assert f"found={int(found)}" in printed


def test_the_public_headers_are_those_that_hsattn_h_reaches(prefix):
    include = prefix / "include"
    reached = run(COMPILER, "-std=c++20", "-MM", f"-I{include}", include / "hsattn" / "hsattn.h")
    installed = {str(path) for path in include.rglob("*") if path.is_file()}
    assert installed == {word for word in reached.split() if word.startswith(str(include))}


def test_no_file_names_the_source_or_the_build(prefix):
    for path in prefix.rglob("*"):
        if path.is_file():
            text = path.read_bytes()
            assert str(ROOT).encode() not in text, path
            assert str(prefix.parent).encode() not in text, path


def test_the_python_package_has_the_same_version():
    assert f'__version__ = "{VERSION}"' in (ROOT / "python" / "hsattn" / "__init__.py").read_text()
