#!/usr/bin/env bash
# clang-tidy over every C++ file that the build in BUILD_DIR compiles: tidy.sh BUILD_DIR JOBS
set -euo pipefail
build=$1 jobs=$2
git ls-files --cached --others --exclude-standard -- '*.cc' | while read -r file; do
  if grep -qF "/$file\"" "$build/compile_commands.json"; then printf '%s\n' "$file"; fi
done | xargs -r -P "$jobs" -n 1 clang-tidy -p "$build" --quiet \
  --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-ignored-gch  # the build is g++'s
