#!/bin/bash
# memprocfs, which reads a Windows guest's processes and modules from an image of its memory: memprocfs/ in the cache
# folder. A judge of the NT-shaped guest and of what kdd says of it, written by others.
set -euo pipefail
# shellcheck source=setup/lib.sh
. "$(dirname "$0")/lib.sh"

package=memprocfs==5.19.0
folder=$KDD_CACHE/memprocfs

install_missing python3=python3 pip3=python3-pip
if [ "$(cat "$folder/package" 2>/dev/null)" != "$package" ]; then
    say "fetching $package"
    rm -rf "$folder"
    mkdir -p "$folder"
    pip3 install --quiet --disable-pip-version-check --no-warn-script-location --root-user-action ignore \
        --only-binary=:all: --target "$folder" "$package"
    echo "$package" >"$folder/package"
fi
echo "$package"
