#!/bin/bash
# Fetches Debian's stock cloud kernel and busybox, and builds the initramfs around it: the default Linux guest.
#
#   setup/guest-linux.sh            -> linux/vmlinuz, linux/modules/, linux/initramfs.cpio in the cache folder
#   setup/guest-linux.sh --second   -> also linux-second/, a kernel of another version with its modules
#   ... --update                       fetches what is newest now, even if something is there
#
# Needs no root: the packages are downloaded and unpacked, not installed.
set -euo pipefail
# shellcheck source=setup/lib.sh
. "$(dirname "$0")/lib.sh"

second=false update=false
for argument in "$@"; do
    case $argument in
    --second) second=true ;;
    --update) update=true ;;
    *) die "unknown argument '$argument'; usage: setup/guest-linux.sh [--second] [--update]" ;;
    esac
done

apt_options=()
# As root, apt would warn that its own user can't write to the cache folder.
[ "$(id -u)" = 0 ] && apt_options+=(-o APT::Sandbox::User=root)

# Reads the archive's package lists into the cache folder: the system's may be absent or old, and aren't ours to change.
refresh_lists() {
    mkdir -p "$KDD_CACHE"/apt/{lists,cache}/partial
    # What the system hooks onto an update (container images clean their cache there) isn't for these folders.
    cat >"$KDD_CACHE/apt/apt.conf" <<-END
	Dir::State::lists "$KDD_CACHE/apt/lists";
	Dir::Cache "$KDD_CACHE/apt/cache";
	#clear APT::Update::Pre-Invoke;
	#clear APT::Update::Post-Invoke;
	#clear APT::Update::Post-Invoke-Success;
	END
    apt_options+=(-c "$KDD_CACHE/apt/apt.conf")
    say "reading the package lists"
    apt-get "${apt_options[@]}" update -qq
}

# The package that a meta package stands for.
real_kernel() {
    apt-cache "${apt_options[@]}" depends "$1" 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1
}

# A kernel other than $1: of another release series if there is one, else the oldest of the same.
other_kernel() {
    local first=$1 series candidates other
    series=$(sed -E 's/^(linux-image-[0-9]+\.[0-9]+)\..*/\1/' <<<"$first")
    candidates=$(apt-cache "${apt_options[@]}" search --names-only \
        '^linux-image-[0-9]+\.[0-9]+\.[0-9]+[^ ]*-cloud-amd64$' | cut -d ' ' -f 1 | grep -vxF "$first" | sort -V) || true
    other=$(grep -v "^${series//./\\.}\\." <<<"$candidates" | tail -n 1) || true
    [ -n "$other" ] || other=$(head -n 1 <<<"$candidates")
    [ -n "$other" ] || other=$(real_kernel linux-image-amd64)
    echo "$other"
}

# download PACKAGE FOLDER: the .deb into an empty folder.
download() {
    rm -rf "$2"
    mkdir -p "$2"
    (cd "$2" && apt-get "${apt_options[@]}" download -qq "$1")
}

# Small modules that the tests load. A kernel may have one built in.
modules="loop dummy fuse pvpanic pvpanic-mmio"

# keep_modules ROOT FOLDER: those of an unpacked kernel package, uncompressed.
keep_modules() {
    local name file
    rm -rf "$2"
    mkdir -p "$2"
    for name in $modules; do
        file=$(find "$1" -type f \( -name "$name.ko" -o -name "$name.ko.xz" \) | head -n 1)
        case $file in
        *.xz) xz -dc "$file" >"$2/$name.ko" ;;
        ?*) cp "$file" "$2/$name.ko" ;;
        esac
    done
    echo "$modules" >"$2/names"
}

# fetch PACKAGE FOLDER NAME PATTERN: the package's file that matches PATTERN, as FOLDER/NAME, with the package's name
# and version in FOLDER/NAME.package.
fetch() {
    local package=$1 folder=$2 name=$3 pattern=$4 work=$KDD_CACHE/work file
    say "fetching $package"
    if ! download "$package" "$work"; then
        refresh_lists # The archive has moved on since the lists were read.
        download "$package" "$work"
    fi
    mkdir -p "$folder"
    dpkg-deb -x "$work"/*.deb "$work/root"
    dpkg-deb -W --showformat '${Package} ${Version}\n' "$work"/*.deb >"$work/package"
    file=$(find "$work/root" -type f -path "$pattern" | head -n 1)
    [ -n "$file" ] || die "package $package has no file $pattern"
    [ "$name" != vmlinuz ] || keep_modules "$work/root" "$folder/modules"
    # There whole, or not at all.
    cp "$file" "$folder/$name.new"
    cp "$work/package" "$folder/$name.package"
    mv "$folder/$name.new" "$folder/$name"
    rm -rf "$work"
}

# wanted FILE: whether it must be fetched.
wanted() {
    $update || [ ! -s "$1" ]
}

# kernel_wanted FOLDER: the same for a kernel and its modules.
kernel_wanted() {
    wanted "$1/vmlinuz" || [ "$(cat "$1/modules/names" 2>/dev/null)" != "$modules" ]
}

linux=$KDD_CACHE/linux
if kernel_wanted "$linux" || wanted "$linux/busybox" || { $second && kernel_wanted "$KDD_CACHE/linux-second"; }; then
    if $update || [ -z "$(real_kernel linux-image-cloud-amd64)" ]; then
        refresh_lists
    fi
    kernel=$(real_kernel linux-image-cloud-amd64)
    [ -n "$kernel" ] || die "the package sources of this system have no linux-image-cloud-amd64: is this Debian on amd64?"
    if kernel_wanted "$linux"; then
        fetch "$kernel" "$linux" vmlinuz '*/boot/vmlinuz-*'
    fi
    if wanted "$linux/busybox"; then
        fetch busybox-static "$linux" busybox '*/bin/busybox'
    fi
    if $second && kernel_wanted "$KDD_CACHE/linux-second"; then
        other=$(other_kernel "$(cut -d ' ' -f 1 "$linux/vmlinuz.package")")
        [ -n "$other" ] || die "the package sources of this system have only one kernel"
        fetch "$other" "$KDD_CACHE/linux-second" vmlinuz '*/boot/vmlinuz-*'
    fi
fi

# The initramfs is built again when anything that goes into it has changed.
inputs=$(cd "$KDD_ROOT" && sha256sum setup/initramfs.sh guests/linux/init guests/linux/*.sh "$linux/busybox")
if [ ! -s "$linux/initramfs.cpio" ] || [ "$inputs" != "$(cat "$linux/initramfs.inputs" 2>/dev/null)" ]; then
    say "building the initramfs"
    bash "$KDD_ROOT/setup/initramfs.sh" "$linux/busybox" "$linux/initramfs.cpio.new"
    mv "$linux/initramfs.cpio.new" "$linux/initramfs.cpio"
    echo "$inputs" >"$linux/initramfs.inputs"
fi

# What is there, with version and checksum.
show() {
    local file=$1 sum
    sum=$(sha256sum "$file" | cut -d ' ' -f 1)
    printf '%s  %s' "$sum" "$file"
    [ ! -e "$file.package" ] || printf '  (%s)' "$(cat "$file.package")"
    echo
}
show "$linux/vmlinuz"
show "$linux/busybox"
show "$linux/initramfs.cpio"
! $second || show "$KDD_CACHE/linux-second/vmlinuz"
