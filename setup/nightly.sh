#!/bin/bash
# The heavy matrix that `.ci/run` leaves out. Takes about two hours on two cores. Arguments name the parts to run:
#
#   boots         the kernels on many machines with many command lines, some with work of exactly known output
#   seeds         guests that are debugged at random moments, DEBUGGED_SEEDS (20) times differently
#   system        system code, single-stepped here and in QEMU, with SYSTEM_CASES (1000) random descriptors
#   differential  DIFF_CASES (2000) random cases of every user-mode instruction against the host's CPU
#   windows       Microsoft's engine at length on every profile of the NT-shaped guest, and on all kinds of its dumps, with 1
#                 and with 4 processors
#   cuts          CUTS (1000) connections of kernel debuggers, cut at random bytes
#   crash-utility  dumps of Linux, opened by crash with the kernel's debug information
#   fuzzing       every fuzz target for FUZZ_SECONDS (600)
#
# All parts run, even after a failure; the exit status tells whether there was one.
set -euo pipefail
# shellcheck source=setup/lib.sh
. "$(dirname "$0")/lib.sh"

PARTS=(boots seeds system differential windows cuts crash-utility fuzzing)
[ $# = 0 ] || PARTS=("$@")

TEST=(cargo test --release --locked --package tests)

boots() {
    "${TEST[@]}" --test e2e -- --ignored --nocapture
}

seeds() {
    local seed failed=()
    for seed in $(seq 1 "${DEBUGGED_SEEDS:-20}"); do
        KDD_TEST_SEED=$seed "${TEST[@]}" --test e2e -- nobody_had_been_there no_debugger_call || failed+=("$seed")
    done
    [ ${#failed[@]} = 0 ] || { say "failed with KDD_TEST_SEED: ${failed[*]}"; return 1; }
}

system() {
    KDD_SYSTEM_CASES=${SYSTEM_CASES:-1000} "${TEST[@]}" --test against_qemu -- --nocapture
}

differential() {
    KDD_DIFF_CASES=${DIFF_CASES:-2000} "${TEST[@]}" --test differential -- --nocapture
}

crash-utility() {
    bash setup/kernel-debug.sh
    "${TEST[@]}" --test dump -- --ignored --nocapture
}

cuts() {
    KDD_TEST_CUTS=${CUTS:-1000} "${TEST[@]}" --test nt -- connections_cut_anywhere
}

windows() {
    NT_MATRIX=1 "${TEST[@]}" --test nt -- windows:: dumps::profiles::
}

fuzzing() {
    cargo run --release --locked --manifest-path fuzz/Cargo.toml --bin drive -- all --seconds "${FUZZ_SECONDS:-600}"
}

for part in "${PARTS[@]}"; do
    case $part in
        boots | seeds | system | differential | windows | cuts | crash-utility | fuzzing) ;;
        *) die "no part '$part'; there are: boots seeds system differential windows cuts crash-utility fuzzing" ;;
    esac
done

cd "$KDD_ROOT"
need_rust
bash setup/test-tools.sh
bash setup/guest-linux.sh --second
bash setup/guest-nt.sh --all
# All at once, so that every test finds the binaries that it starts, built with the same features.
cargo build --release --locked --workspace --all-targets

failed=()
for part in "${PARTS[@]}"; do
    start=$SECONDS
    say "$part"
    "$part" || failed+=("$part")
    say "$part: $((SECONDS - start)) s"
done

[ ${#failed[@]} = 0 ] || die "failed: ${failed[*]}"
say "all passed"
