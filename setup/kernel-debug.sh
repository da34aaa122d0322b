#!/bin/bash
# The debug information of the default guest's kernel, for the crash utility: linux-debug/vmlinux in the cache folder.
# 280 MB are downloaded, 600 MB kept: the nightly script alone asks for it.
set -euo pipefail
# shellcheck source=setup/lib.sh
. "$(dirname "$0")/lib.sh"

install_missing crash=crash
read -r package version <"$KDD_CACHE/linux/vmlinuz.package"
folder=$KDD_CACHE/linux-debug
if [ "$(cat "$folder/package" 2>/dev/null)" != "$package-dbg $version" ]; then
    say "fetching $package-dbg $version"
    rm -rf "$folder"
    mkdir -p "$folder"
    apt_options=()
    # As root, apt would warn that its own user can't write to the cache folder.
    [ "$(id -u)" = 0 ] && apt_options+=(-o APT::Sandbox::User=root)
    [ -f "$KDD_CACHE/apt/apt.conf" ] && apt_options+=(-c "$KDD_CACHE/apt/apt.conf")
    (cd "$folder" && apt-get "${apt_options[@]}" download -qq "$package-dbg=$version")
    dpkg-deb --fsys-tarfile "$folder"/*.deb |
        tar -x -C "$folder" --strip-components 5 --wildcards './usr/lib/debug/boot/vmlinux-*'
    rm "$folder"/*.deb
    mv "$folder"/vmlinux-* "$folder/vmlinux"
    echo "$package-dbg $version" >"$folder/package"
fi
crash --version 2>/dev/null | sed -n '/^crash /p'
cat "$folder/package"
