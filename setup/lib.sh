# Shared by the set-up scripts; to be sourced.
# shellcheck shell=bash

export LC_ALL=C
KDD_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Where fetched and built guests are kept.
KDD_CACHE=$(realpath -m "${KDD_CACHE:-$KDD_ROOT/.cache}")

say() {
    echo "$(basename "$0"): $*"
}

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# as_root COMMAND...: runs it with the rights that installing needs.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "need root for '$*', and there is no sudo: run that yourself, then try again"
    fi
}

# install_missing COMMAND=PACKAGE...: installs the packages whose command isn't there.
install_missing() {
    local pair packages=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || packages+=("${pair#*=}")
    done
    [ ${#packages[@]} = 0 ] && return
    say "installing ${packages[*]}"
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}")
    # The package lists may be absent or older than the archive.
    as_root "${install[@]}" >/dev/null || { as_root apt-get update -qq && as_root "${install[@]}" >/dev/null; }
}

# cargo and rustc, also where the shell's start-up files were not read.
need_rust() {
    command -v cargo >/dev/null || PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    command -v cargo >/dev/null || die "cargo isn't installed: install Rust with rustup, then try again"
    install_missing cc=gcc
    # The compiler alone can't link without the C library's start files.
    [ -e /usr/include/stdlib.h ] || install_missing "=libc6-dev"
}
