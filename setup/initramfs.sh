#!/bin/bash
# Builds the Linux guest's initramfs: busybox, its applets as links, and what is in guests/linux.
#
#   setup/initramfs.sh BUSYBOX OUTPUT
#
# The output is an uncompressed cpio archive (format newc: Linux, Documentation/driver-api/early-userspace/buffer-format.rst),
# written here so that the same inputs give the same bytes: no times, no inode numbers, no order of the host's get in.
set -euo pipefail
# shellcheck source=setup/lib.sh
. "$(dirname "$0")/lib.sh"

[ $# = 2 ] || die "usage: setup/initramfs.sh BUSYBOX OUTPUT"
busybox=$(realpath "$1")
guest=$KDD_ROOT/guests/linux
inode=0

# pad LENGTH: zeros up to the next multiple of 4.
pad() {
    case $(($1 % 4)) in
    1) printf '\0\0\0' ;;
    2) printf '\0\0' ;;
    3) printf '\0' ;;
    esac
}

# header NAME MODE LINKS SIZE [MAJOR MINOR]
header() {
    inode=$((inode + 1))
    # Fields: inode, mode, uid, gid, links, mtime, size, device major and minor, the node's major and minor,
    # length of the name with its NUL, checksum (unused).
    printf '070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\0' \
        $inode "$2" 0 0 "$3" 0 "$4" 0 0 "${5:-0}" "${6:-0}" $((${#1} + 1)) 0 "$1"
    pad $((110 + ${#1} + 1))
}

directory() {
    header "$1" $((040755)) 2 0
}
device() { # NAME MODE MAJOR MINOR
    header "$1" $((020000 | $2)) 1 0 "$3" "$4"
}
link() { # NAME TARGET
    header "$1" $((0120777)) 1 ${#2}
    printf '%s' "$2"
    pad ${#2}
}
file() { # NAME SOURCE
    local size
    size=$(stat -L -c %s "$2")
    header "$1" $((0100755)) 1 "$size"
    cat "$2"
    pad "$size"
}

{
    for name in bin dev etc etc/kdd proc root run sys tmp; do
        directory "$name"
    done
    # Until /init mounts devtmpfs.
    device dev/console 0600 5 1
    device dev/null 0666 1 3
    file bin/busybox "$busybox"
    for applet in $("$busybox" --list | sort); do
        [ "$applet" = busybox ] || link "bin/$applet" busybox
    done
    link sbin bin
    file init "$guest/init"
    for script in "$guest"/*.sh; do
        file "etc/kdd/$(basename "$script")" "$script"
    done
    header 'TRAILER!!!' 0 1 0
} >"$2"
