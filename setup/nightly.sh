#!/bin/bash
# The heavy matrix that `.ci/run` leaves out. Takes about two hours on two cores; FUZZ_SECONDS and DIFF_CASES scale it.
#
#   boots         the kernels on many machines with many command lines, each doing work with exactly known output
#   system code   single-stepped here and in QEMU, compared after each instruction
#   differential  random user-mode instructions against the host's CPU
#   fuzzing       every target for a bounded time; a failure prints how to repeat it
#
# All parts run, even after a failure; the exit status tells whether there was one.
set -euo pipefail
# shellcheck source=setup/lib.sh
. "$(dirname "$0")/lib.sh"

FUZZ_SECONDS=${FUZZ_SECONDS:-600}
DIFF_CASES=${DIFF_CASES:-2000}

cd "$KDD_ROOT"
need_rust
bash setup/test-tools.sh
bash setup/guest-linux.sh --second
cargo build --release --locked --workspace --bins

failed=()
# part NAME COMMAND...: runs it, says how it went and how long it took.
part() {
    local name=$1 start=$SECONDS
    shift
    say "$name"
    "$@" || failed+=("$name")
    say "$name: $((SECONDS - start)) s"
}

tests=(cargo test --release --locked --package tests)
part boots "${tests[@]}" --test e2e every_kernel -- --ignored --nocapture
part "system code" "${tests[@]}" --test against_qemu -- --ignored --nocapture
part differential env KDD_DIFF_CASES="$DIFF_CASES" "${tests[@]}" --test differential -- --nocapture
part fuzzing cargo run --release --locked --manifest-path fuzz/Cargo.toml --bin drive -- all --seconds "$FUZZ_SECONDS"

[ ${#failed[@]} = 0 ] || die "failed: ${failed[*]}"
say "all passed"
