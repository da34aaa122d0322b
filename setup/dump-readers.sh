#!/bin/bash
# Readers of crash dumps that others wrote: makedumpfile from Debian; drgn and volatility3, dump-readers/ in the cache
# folder. Judges of the dumps that kdd writes.
set -euo pipefail
# shellcheck source=setup/lib.sh
. "$(dirname "$0")/lib.sh"

packages=(drgn==0.3.0 volatility3==2.28.2 pefile==2024.8.26)
folder=$KDD_CACHE/dump-readers

install_missing makedumpfile=makedumpfile readelf=binutils python3=python3 pip3=python3-pip
if [ "$(cat "$folder/packages" 2>/dev/null)" != "${packages[*]}" ]; then
    say "fetching ${packages[*]}"
    rm -rf "$folder"
    mkdir -p "$folder"
    pip3 install --quiet --disable-pip-version-check --no-warn-script-location --root-user-action ignore \
        --only-binary=:all: --no-deps --target "$folder" "${packages[@]}"
    echo "${packages[*]}" >"$folder/packages"
fi
makedumpfile -v | head -n 1
echo "${packages[*]}"
