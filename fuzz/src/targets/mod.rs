//! The targets, a file for each.

pub mod agent_expression;
pub mod control_message;
pub mod dump;
pub mod engine;
pub mod kd_link;
pub mod kd_session;
pub mod linux;
pub mod loader;
pub mod pdb;
pub mod pe;
pub mod rsp_session;
pub mod saved_state;
pub mod symbol_file;
pub mod windows;

/// What a driver needs to know of a target.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Takes a case; a panic is a failure.
    pub run: fn(&[u8]),
    /// Cases to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Byte strings that mean something to it.
    pub words: &'static [&'static [u8]],
    /// Longer cases find nothing more.
    pub longest: usize,
}

/// All of them.
pub const ALL: &[Target] = &[
    rsp_session::TARGET,
    engine::TARGET,
    loader::TARGET,
    saved_state::TARGET,
    control_message::TARGET,
    agent_expression::TARGET,
    kd_link::TARGET,
    kd_session::TARGET,
    pdb::TARGET,
    pe::TARGET,
    windows::TARGET,
    dump::TARGET,
    linux::TARGET,
    symbol_file::TARGET,
];
