#!/usr/bin/env bash
# clang-tidy over every C++ file that the build in BUILD_DIR compiles: tidy.sh BUILD_DIR JOBS
set -euo pipefail
build=$1 jobs=$2
git ls-files --cached --others --exclude-standard -- '*.cc' | while read -r file; do
  grep -qF "/$file\"" "$build/compile_commands.json" && printf '%s\n' "$file"
done | xargs -r -P "$jobs" -n 1 clang-tidy -p "$build" --quiet
