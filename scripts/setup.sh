# Installs what is missing and nothing else: Debian packages, and a Python environment in .venv. Sourced by ./run.

# What is needed and why: compiler and build (g++ cmake ninja-build pkg-config), the Python environment (python3-venv) and
# torch.compile (python3-dev), C++ tests (libgtest-dev), .gz texts (zlib1g-dev), JSON (nlohmann-json3-dev).
debian_packages=(g++ cmake ninja-build pkg-config python3 python3-venv python3-dev libgtest-dev zlib1g-dev
  nlohmann-json3-dev)
# For the tests besides: the browser in which the report's page must work.
test_packages=(chromium)
# For 64-bit ARM besides: the cross compiler, and the emulator that runs what it makes.
aarch64_packages=(g++-aarch64-linux-gnu qemu-user-static)
# For fuzzing besides: the compiler that has a fuzzer.
fuzz_packages=(clang-16 libclang-rt-16-dev)

missing_packages() {
  local package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || printf '%s ' "$package"
  done
}

# setup_system [PACKAGE...]: debian_packages and those named.
setup_system() {
  command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || {
    check_tools_without_apt
    return
  }
  local missing as_root=()
  missing=$(missing_packages "${debian_packages[@]}" "$@")
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo)
    [ -t 0 ] || as_root=(sudo -n)
    command -v sudo >/dev/null && "${as_root[@]}" true 2>/dev/null ||
      die "these Debian packages are missing and this user may not install them. Ask someone who may to run:
    apt-get update && apt-get install -y --no-install-recommends $missing"
  fi
  as_root+=(env DEBIAN_FRONTEND=noninteractive)
  # shellcheck disable=SC2086  # a list of package names
  step setup-apt "Install Debian packages: $missing" install_packages "${as_root[*]}" $missing
}

install_packages() {
  local as_root=$1
  shift
  # shellcheck disable=SC2086  # a command prefix
  $as_root apt-get update && $as_root apt-get install -y --no-install-recommends "$@"
}

# Not Debian or Ubuntu: nothing is installed, but what is missing is named.
check_tools_without_apt() {
  local tool missing=()
  for tool in g++ cmake ninja python3; do command -v "$tool" >/dev/null || missing+=("$tool"); done
  [ ${#missing[@]} -eq 0 ] || die "not found: ${missing[*]}. On Debian or Ubuntu this script installs them; here, install
    a C++20 compiler, cmake 3.25 or newer, ninja, Python 3.10 or newer with venv and headers, GoogleTest, zlib, nlohmann-json"
}

# setup_python FILE...: .venv with the packages of the named requirement files; one stamp per file.
setup_python() {
  local python=${HSATTN_PYTHON:-python3} file stamp hash
  if [ ! -f .venv/stamp-venv ]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || die "$python is older than Python 3.10; name a newer one:
    HSATTN_PYTHON=python3.12 ./run ..."
    step setup-venv "Make a Python environment in .venv with $("$python" --version)" "$python" -m venv --clear .venv
    touch .venv/stamp-venv
  fi
  export VIRTUAL_ENV=$PWD/.venv PATH="$PWD/.venv/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1
  for file in "$@"; do
    stamp=".venv/stamp-$file" hash=$(stamp_of "$file")
    fresh "$stamp" "$hash" && continue
    step "setup-${file%.txt}" "Install $(grep -v '^#' "$file" | tr '\n' ' ')into .venv" \
      python -m pip install --requirement "$file"
    printf '%s\n' "$hash" >"$stamp"
  done
}

# The cmake of Ubuntu 22.04 and older is too old; a wheel in .venv takes its place.
setup_cmake() {
  local version
  version=$(cmake --version | sed -n '1s/[^0-9]*//p')
  [ "$(printf '%s\n' 3.25 "$version" | sort -V | head -n 1)" = 3.25 ] && return 0
  step setup-cmake "Install cmake 3.31.6 into .venv (found $version, 3.25 or newer is needed)" \
    python -m pip install cmake==3.31.6
}

setup_browser() {
  command -v chromium >/dev/null || command -v chromium-browser >/dev/null || setup_system "${test_packages[@]}"
}

setup() {
  setup_system
  setup_python "$@"
  setup_cmake
}
