//! Measures what the project promises of speed and size, each beside a reference: `setup/bench.sh`.

fn main() -> anyhow::Result<()> {
    tests::bench::main(std::env::args().skip(1))
}
