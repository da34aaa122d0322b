#!/bin/bash
# Makes a symbol file for gdb and lldb from what the guest's /proc/kallsyms prints, for kernels without a debug
# package: setup/kallsyms-symbols.sh KALLSYMS OUTPUT. KALLSYMS may be a log of the console with other lines in it.
# The file has the names and places of functions and variables, but no types and no lines.
set -euo pipefail

if [ $# -ne 2 ]; then
    echo "usage: setup/kallsyms-symbols.sh KALLSYMS OUTPUT" >&2
    exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Addresses have 16 digits, so they compare as strings. Symbols of modules have a fourth word and are left out.
tr -d '\r' <"$1" | grep -E '^[0-9a-f]{16} [a-zA-Z] [A-Za-z_.][A-Za-z0-9_.$]*$' | sort -u >"$work/symbols" || true
place() { awk -v name="$1" '$3 == name { print $1; exit }' "$work/symbols"; }
text=$(place _stext)
if [ -z "$text" ] || [ "$text" = 0000000000000000 ]; then
    echo "kallsyms-symbols.sh: $1: no address of _stext: read /proc/kallsyms as root" >&2
    exit 1
fi
etext=$(place _etext) sinittext=$(place _sinittext) einittext=$(place _einittext) end=$(place _end)

# One empty section for each kind of contents, so that a debugger tells code from data.
awk -v text="$text" -v etext="$etext" -v sinittext="$sinittext" -v einittext="$einittext" -v end="$end" '
    function section(name, flags, from, to) {
        printf ".section %s,\"%s\",@nobits\nbegin%s: .skip 0x%s - 0x%s\n", name, flags, name, to, from
    }
    BEGIN {
        section(".kernel.text", "ax", text, etext)
        section(".kernel.data", "aw", etext, sinittext)
        section(".kernel.init", "ax", sinittext, einittext)
        section(".kernel.bss", "aw", einittext, end)
        # ld takes local symbols only from files that have contents.
        print ".section .comment,\"\",@progbits\n.asciz \"from kallsyms\""
    }
    {
        if ($1 >= text && $1 < etext) { in_section = ".kernel.text"; from = text }
        else if ($1 >= etext && $1 < sinittext) { in_section = ".kernel.data"; from = etext }
        else if ($1 >= sinittext && $1 < einittext) { in_section = ".kernel.init"; from = sinittext }
        else if ($1 >= einittext && $1 <= end) { in_section = ".kernel.bss"; from = einittext }
        else { in_section = "" }
        if (seen[$3]++) next
        if ($2 ~ /[A-Z]/) printf ".globl \"%s\"\n", $3
        if (in_section == "") printf ".set \"%s\", 0x%s\n", $3, $1
        else {
            kind = in_section ~ /text|init/ ? "function" : "object"
            printf ".type \"%s\",@%s\n.set \"%s\", begin%s + (0x%s - 0x%s)\n", $3, kind, $3, in_section, $1, from
        }
    }' "$work/symbols" >"$work/symbols.s"
as -o "$work/symbols.o" "$work/symbols.s"
ld -o "$2" -e 0 --no-warn-rwx-segments --section-start=.kernel.text="0x$text" --section-start=.kernel.data="0x$etext" \
    --section-start=.kernel.init="0x$sinittext" --section-start=.kernel.bss="0x$einittext" "$work/symbols.o"
chmod -x "$2"
echo "$2: $(wc -l <"$work/symbols") symbols, code from 0x$text"
