//! The `kdd` binary.
fn main() {}
