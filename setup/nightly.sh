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

say "every fuzz target for $FUZZ_SECONDS s"
cargo run --release --locked --manifest-path fuzz/Cargo.toml --bin drive -- all --seconds "$FUZZ_SECONDS"
