#!/usr/bin/env bash
# Runs two commands side by side; fails if one fails. The first one's output comes after the second's.
#
#   scripts/together.sh "command" "command"
set -uo pipefail
cd "$(dirname "$0")/.."
output=$(mktemp)
first=
trap '[ -z "$first" ] || { pkill -P "$first"; kill "$first"; } 2>/dev/null; rm -f "$output"' EXIT
bash -c "$1" >"$output" 2>&1 &
first=$!
bash -c "$2"
second_status=$?
wait "$first"
first_status=$?
first=
cat "$output"
exit $((first_status || second_status))
