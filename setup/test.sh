#!/bin/bash
# Installs and fetches what the tests need, builds, and runs them all. Arguments go to `cargo test`.
set -euo pipefail
# shellcheck source=setup/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$KDD_ROOT"
need_rust
bash setup/test-tools.sh
bash setup/guest-linux.sh --second
bash setup/guest-nt.sh --all
# All at once, so that every test finds the binaries that it starts, built with the same features.
cargo build --release --locked --workspace --all-targets
cargo test --release --locked --workspace "$@"
