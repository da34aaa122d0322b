#!/bin/bash
# radare2, whose winkd plugin is a kernel debugger that others wrote: radare2/ in the cache folder. Debian has no package
# of it; r2libr brings its libraries, and tests/radare2/r2.py starts what is in them.
set -euo pipefail
# shellcheck source=setup/lib.sh
. "$(dirname "$0")/lib.sh"

package=r2libr==5.7.4
folder=$KDD_CACHE/radare2

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
