#!/bin/bash
# Installs what the tests drive or compare with, where it is missing: debuggers (Microsoft's engine too) and a reference
# emulator.
set -euo pipefail
# shellcheck source=setup/lib.sh
. "$(dirname "$0")/lib.sh"

install_missing gdb=gdb lldb=lldb qemu-system-x86_64=qemu-system-x86 makedumpfile=makedumpfile
for tool in gdb lldb qemu-system-x86_64; do
    # Debian's lldb complains about its Python modules here; they aren't needed.
    "$tool" --version 2>/dev/null | head -n 1
done
bash "$KDD_ROOT/setup/dbgeng.sh"
bash "$KDD_ROOT/setup/memprocfs.sh"
bash "$KDD_ROOT/setup/dump-readers.sh"
bash "$KDD_ROOT/setup/radare2.sh"
