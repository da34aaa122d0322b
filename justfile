# The verbs of every day. `just` lists them.

_default:
    @just --list

# Set up, build, and boot the default guest; arguments go to `kdd run`
run *arguments:
    ./run {{arguments}}

# Set up and run every test; arguments go to `cargo test`
test *arguments:
    setup/test.sh {{arguments}}

# What must pass before a change lands
ci:
    .ci/run

# The heavy matrix that CI leaves out: two hours, or the parts named
nightly *parts:
    setup/nightly.sh {{parts}}

# Format, then show clippy's opinion
lint:
    cargo fmt --all
    cargo clippy --workspace --all-targets

# Measure speed and size; arguments are rows
bench *arguments:
    setup/bench.sh {{arguments}}

# The API documentation, in the browser
doc:
    cargo doc --workspace --no-deps --open

# Fetch the newest kernels
update-guests:
    setup/guest-linux.sh --second --update
