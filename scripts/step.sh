#!/usr/bin/env bash
# Runs one step of the Makefile and prints one line with its time.
#
#   scripts/step.sh [--show] "What it does" command [argument ...]
#
# What the command prints goes to a file in build/logs, and its end to standard error if the command
# fails. --show: what the command prints is shown as it comes, for commands that report progress.
set -uo pipefail
cd "$(dirname "$0")/.."
show=
if [ "$1" = --show ]; then
  show=1
  shift
fi
title=$1
shift
begin=$SECONDS
if [ -n "$show" ]; then
  printf '== %s\n' "$title"
  "$@" </dev/null
  status=$?
  if [ "$status" = 0 ]; then
    printf '== %s: %d s\n' "$title" $((SECONDS - begin))
  else
    printf '== %s: failed after %d s\n' "$title" $((SECONDS - begin)) >&2
  fi
  exit "$status"
fi
mkdir -p build/logs
log=build/logs/$(printf %s "$title" | tr -cs 'A-Za-z0-9' '-').log
printf '== %s ... ' "$title"
"$@" >"$log" 2>&1 </dev/null
status=$?
if [ "$status" = 0 ]; then
  printf '%d s\n' $((SECONDS - begin))
else
  printf 'failed\n'
  tail -n 40 "$log" >&2
  printf '%s failed (exit status %d): the whole output is in %s\n' "$title" "$status" "$log" >&2
fi
exit "$status"
