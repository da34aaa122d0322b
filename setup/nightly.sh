#!/bin/bash
# The heavy matrix that `.ci/run` leaves out: long differential runs, and fuzzing for a bounded time. Takes one to two
# hours; FUZZ_SECONDS and DIFF_CASES scale it.
set -euo pipefail
# shellcheck source=setup/lib.sh
. "$(dirname "$0")/lib.sh"

FUZZ_SECONDS=${FUZZ_SECONDS:-600}
DIFF_CASES=${DIFF_CASES:-2000}

cd "$KDD_ROOT"
need_rust
bash setup/test-tools.sh
bash setup/guest-linux.sh --second

say "$DIFF_CASES cases of every instruction form against the host's CPU"
KDD_DIFF_CASES=$DIFF_CASES cargo test --release --locked --package tests --test differential -- --nocapture

say "boots with other command lines and sizes; other seeds for the debugged guests"
# All at once, so that every test finds the binaries that it starts.
cargo build --release --locked --workspace --all-targets
cargo test --release --locked --package tests --test e2e -- --ignored
for seed in $(seq 1 "${DEBUGGED_SEEDS:-20}"); do
    KDD_TEST_SEED=$seed cargo test --release --locked --package tests --test e2e -- nobody_had_been_there no_debugger_call
done

say "every fuzz target for $FUZZ_SECONDS s"
cargo run --release --locked --manifest-path fuzz/Cargo.toml --bin drive -- all --seconds "$FUZZ_SECONDS"
