#!/bin/bash
# Microsoft's debugger engine (the one inside WinDbg and kd.exe) under Wine, with the tests' driver: dbgeng/ in the
# cache folder. The engine comes from a Python package that redistributes it; nothing of it is in this repository.
set -euo pipefail
# shellcheck source=setup/lib.sh
. "$(dirname "$0")/lib.sh"

package=pykd==0.3.4.15
sum=7ba793faff3bc0082075f4f97c229b5c8bcecfb6c3e2895d30a8dbb2b7062040
folder=$KDD_CACHE/dbgeng
driver=$KDD_ROOT/tests/dbgeng/driver.cpp
compiler=x86_64-w64-mingw32-g++

# The loader isn't on the path: "wine" is the script that starts it.
[ -x /usr/lib/wine/wine64 ] || install_missing "=wine64"
install_missing wine=wine pip3=python3-pip $compiler=g++-mingw-w64-x86-64-win32

# What is made is there whole, or not at all.
mkdir -p "$folder"
if [ "$(cat "$folder/package.sha256" 2>/dev/null)" != "$sum" ]; then
    say "fetching $package"
    work=$folder/work
    rm -rf "$work"
    mkdir "$work"
    pip3 download "$package" --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --platform win_amd64 --python-version 39 --dest "$work"
    wheel=$(echo "$work"/*.whl)
    echo "$sum  $wheel" | sha256sum --check --quiet || die "$package isn't the file that was expected"
    python3 -m zipfile -e "$wheel" "$work"
    mv "$work"/pykd/*.dll "$folder"
    rm -rf "$work"
    echo "$sum" >"$folder/package.sha256"
fi

inputs=$(sha256sum <"$driver")
if [ "$inputs" != "$(cat "$folder/driver.inputs" 2>/dev/null)" ]; then
    say "building the driver"
    $compiler -std=c++17 -O1 -Wall -Wextra -Werror -static -Wl,--no-insert-timestamp -o "$folder/driver.new" \
        "$driver" -lole32 -luuid
    mv "$folder/driver.new" "$folder/driver.exe"
    echo "$inputs" >"$folder/driver.inputs"
fi

# A Wine prefix: the C: drive and the registry that the engine runs in.
export WINEPREFIX=$folder/prefix WINEDEBUG=-all
wine=$(wine --version)
if [ "$wine" != "$(cat "$folder/prefix.wine" 2>/dev/null)" ]; then
    say "making a Wine prefix"
    rm -rf "$WINEPREFIX"
    # Neither a desktop's menus nor .NET nor a browser, which Wine would offer to fetch.
    env -u DISPLAY WINEDLLOVERRIDES="winemenubuilder.exe,mscoree,mshtml=d" wine wineboot --init >/dev/null 2>&1
    # Its registry is written when its server ends.
    wineserver -w
    [ -s "$WINEPREFIX/system.reg" ] || die "Wine made no prefix in $WINEPREFIX"
    # The prefix has copies of Wine's own libraries, 700 MB; links do as well.
    libraries=$(dirname "$(dpkg -L libwine | grep '/x86_64-windows/kernel32\.dll$')")
    find "$WINEPREFIX/drive_c/windows" -type f | while read -r file; do
        library=$libraries/$(basename "$file")
        ! cmp -s "$file" "$library" || ln -sf "$library" "$file"
    done
    echo "$wine" >"$folder/prefix.wine"
fi

show() {
    printf '%s  %s\n' "$(sha256sum "$1" | cut -d ' ' -f 1)" "$1"
}
echo "$wine"
$compiler --version | head -n 1
show "$folder/dbgeng.dll"
show "$folder/driver.exe"
