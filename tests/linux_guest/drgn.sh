#!/usr/bin/env bash
# Makes the Python with drgn that the tests in this directory read cores with.
#
#   drgn.sh [DIRECTORY]    default: target/drgn
#
# The directory receives bin/python. One that is there is kept. Needs python3-venv of Debian, and a package index that
# pip knows. Nothing is installed outside the directory.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
directory=${1:-${CARGO_TARGET_DIR:-$here/../../target}/drgn}
readonly version=0.3.0

if ! "$directory/bin/python" -c 'import drgn' 2>/dev/null; then
    python3 -m venv "$directory"
    timeout 300 "$directory/bin/pip" install --quiet "drgn==$version"
fi
