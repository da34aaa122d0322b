#!/bin/bash
# Measures what docs/performance.md records, each beside its reference. Arguments go to the bench program:
#
#   setup/bench.sh [--json] [--once] [boot|dump|step|condition|loops|fork|idle|recognise|kd|attach|vmcore|live|open|linux]...
set -euo pipefail
# shellcheck source=setup/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$KDD_ROOT"
need_rust
bash setup/test-tools.sh >&2
bash setup/guest-linux.sh >&2
bash setup/guest-nt.sh >&2
cargo build --release --locked --package kdd --package tests --bins
export KDD_CACHE
exec "${CARGO_TARGET_DIR:-target}/release/bench" "$@"
