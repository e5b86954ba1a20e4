#!/usr/bin/env bash
# Makes the pictures of pages in docs/images anew. Look at each before it is committed.
#
#   screenshots.sh [DIRECTORY]    default: docs/images
#
# Needs Debian's chromium, fonts-dejavu-core and gcc, and /dev/kvm.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
directory=$(realpath --canonicalize-missing "${1:-$root/docs/images}")
mkdir -p "$directory"
cd "$root"
NMISCOPE_SCREENSHOTS=$directory cargo test --locked --test end_to_end -- --ignored browser::screenshots::
