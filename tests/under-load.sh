#!/usr/bin/env bash
# Runs the live tests beside busy processes, as on a loaded host: a test that fails here depends on
# timing.
#
#   under-load.sh [PROCESSES [ARGUMENT...]]    16 busy processes; arguments go to `just test-live`'s programs
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly modules=(live:: accuracy:: arguments:: capture:: random_moments:: hostile_detector:: hostile_guest::
    report:: stepping:: tasks:: terminal:: verdicts::)
processes=${1:-16}
shift || true
filters=("$@")
((${#filters[@]})) || filters=("${modules[@]}")

# Built first, so that no build runs beside the busy processes.
cargo test --locked --no-run -p nmiscope -p nmiscope-vmm --test end_to_end --test live
busy=()
clean_up() {
    kill "${busy[@]}" 2>/dev/null || true
}
trap clean_up EXIT
for ((process = 0; process < processes; process++)); do
    (while :; do :; done) &
    busy+=($!)
done
cargo test --locked -p nmiscope --test end_to_end -- "${filters[@]}"
cargo test --locked -p nmiscope-vmm --test live
