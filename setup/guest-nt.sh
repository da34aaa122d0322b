#!/bin/bash
# Builds the NT-shaped guest, and installs what its sources are compiled with.
#
#   setup/guest-nt.sh                  -> nt/win10-19041-x64 in the cache folder
#   setup/guest-nt.sh PROFILE…         -> nt/PROFILE for each; --all for every profile
#   setup/guest-nt.sh --list           the profiles
#
# Built again only when something that goes into it has changed.
set -euo pipefail
# shellcheck source=setup/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$KDD_ROOT"
need_rust
install_missing clang=clang lld-link=lld llvm-dlltool=llvm
cargo build --release --locked --quiet -p nt-guest
builder=${CARGO_TARGET_DIR:-target}/release/nt-guest

case ${1:-} in
--list) exec "$builder" list ;;
--all) mapfile -t profiles < <("$builder" list | cut -d ' ' -f 1) ;;
-*) die "unknown argument '$1'; usage: setup/guest-nt.sh [--list | --all | PROFILE…]" ;;
'') profiles=(win10-19041-x64) ;;
*) profiles=("$@") ;;
esac

mkdir -p "$KDD_CACHE/nt"
for profile in "${profiles[@]}"; do
    "$builder" build "$profile" --out "$KDD_CACHE/nt/$(basename "$profile" .json)"
done
