#!/usr/bin/env bash
# Runs a suite in PARTS parts as a Slurm job array, and merges what comes of it.
#
#   submit.sh SUITE RESULTS PARTS [FARM OPTION...]
#
# SUITE and RESULTS are on a file system that all nodes have. The same command once more goes on where
# the last one was: what is over is not run again. Slurm's own options come from the environment
# (SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT, ...) or are edited into the job files.
set -euo pipefail

if (($# < 3)) || ! [[ $3 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: submit.sh SUITE RESULTS PARTS [FARM OPTION...]" >&2
    exit 2
fi
suite=$(realpath -- "$1")
parts=$3
mkdir -p -- "$2"
results=$(realpath -- "$2")
shift 3
here=$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")

farm=$(sbatch --parsable --array="1-$parts" --output="$results/farm-%A-%a.log" \
    "$here/farm.sbatch" "$suite" "$results" "$parts" "$@")
# With several clusters, the cluster's name is behind a semicolon.
farm=${farm%%;*}
# afterany: a part that fails is what one wants to read about.
merge=$(sbatch --parsable --dependency="afterany:$farm" --output="$results/merge-%j.log" \
    "$here/merge.sbatch" "$results" "$parts")
echo "array job $farm, and then job ${merge%%;*} for $results/merged"
