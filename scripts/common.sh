# Shared by ./run and scripts/*.sh: messages, logged steps, stamps. Sourced, never run.

if [ -t 1 ]; then bold=$'\e[1m' red=$'\e[31m' plain=$'\e[0m'; else bold='' red='' plain=''; fi

say() { printf '%s\n' "$*"; }
title() { printf '%s==> %s%s\n' "$bold" "$*" "$plain"; }
die() {
  printf '%serror:%s %s\n' "$red" "$plain" "$*" >&2
  exit 1
}

# step NAME WHAT COMMAND...: says what it does, runs the command with its output in logs/NAME.log, and names that log
# if the command fails. HSATTN_VERBOSE=1 shows the output as well.
step() {
  local name=$1 what=$2 status=0 start=$SECONDS
  local log="logs/$name.log"
  shift 2
  title "$what"
  mkdir -p logs
  printf '$ %s\n' "$*" >"$log"
  if [ -n "${HSATTN_VERBOSE:-}" ]; then
    "$@" 2>&1 | tee -a "$log" || status=$?
  else
    "$@" >>"$log" 2>&1 || status=$?
  fi
  [ "$status" -eq 0 ] || step_failed "$log" "$what" "$status"
  say "    done in $((SECONDS - start)) s"
}

# The same with the output shown, for what is worth watching. The status is returned, not fatal: tests go on to the next.
watched() {
  local name=$1 what=$2 status=0
  local log="logs/$name.log"
  shift 2
  title "$what"
  mkdir -p logs
  printf '$ %s\n' "$*" >"$log"
  "$@" 2>&1 | tee -a "$log" || status=$?
  [ "$status" -eq 0 ] || printf '%sfailed%s (exit code %s): %s; log: %s\n' "$red" "$plain" "$status" "$what" "$log" >&2
  return "$status"
}

step_failed() {
  local log=$1 what=$2 status=$3
  say "--- last lines of $log ---" >&2
  tail -n 30 "$log" >&2
  die "failed (exit code $status): $what; whole log: $log"
}

# stamp_of FILE...: a hash of the files' contents, for "nothing changed since".
stamp_of() { cat "$@" | sha256sum | cut -d' ' -f1; }

# fresh STAMP HASH: true if STAMP records exactly HASH.
fresh() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }
