#!/usr/bin/env bash
# Installs the programs of npm that the browser tests ask: an accessibility checker and a validator of HTML.
#
#   packages.sh [DIRECTORY]    default: target/browser
#
# The directory receives node_modules, in the versions of package-lock.json; what is there already is kept. Needs
# Node.js 18 or later with npm, and a package registry that npm knows. Nothing is installed outside the directory.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
directory=${1:-${CARGO_TARGET_DIR:-$here/../../target}/browser}

# Written last, by the copy below.
if ! cmp --silent "$here/package-lock.json" "$directory/installed.json"; then
    mkdir -p "$directory"
    cp "$here/package.json" "$here/package-lock.json" "$directory/"
    (cd "$directory" && timeout 300 npm ci --ignore-scripts --no-audit --no-fund --silent)
    cp "$here/package-lock.json" "$directory/installed.json"
fi
