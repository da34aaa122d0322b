#!/bin/bash
# Installs and fetches what the tests need, builds, and runs them all. Arguments go to `cargo test`.
set -euo pipefail
# shellcheck source=setup/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$KDD_ROOT"
need_rust
bash setup/test-tools.sh
bash setup/guest-linux.sh --second
# The end-to-end tests start the real binary.
cargo build --release --locked --workspace --bins
cargo test --release --locked --workspace "$@"
