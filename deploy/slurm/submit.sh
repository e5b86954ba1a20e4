#!/usr/bin/env bash
# Runs a suite in PARTS parts as a Slurm job array, and merges the results.
#
#   submit.sh SUITE RESULTS PARTS [FARM OPTION...]
#
# SUITE and RESULTS have to be on a file system that all nodes share. The same command again continues
# the last run: VMs that have finished are not run again. Slurm's own options come from the environment
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
# With several clusters, sbatch appends a semicolon and the cluster's name.
farm=${farm%%;*}
# afterany, because the failure of a part has to be in the merged results.
merge=$(sbatch --parsable --dependency="afterany:$farm" --output="$results/merge-%j.log" \
    "$here/merge.sbatch" "$results" "$parts")
echo "array job $farm, and then job ${merge%%;*} for $results/merged"
