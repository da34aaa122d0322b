//! Saved machines: damaged ones are refused, and one that was made up, with its checksum right, is refused or runs.

use super::Target;
use crate::lab;
use hv_core::machine::{Machine, RunExit, RunLimit};
use std::sync::atomic::AtomicBool;

/// See the module.
pub const TARGET: Target = Target {
    name: "saved_state",
    run,
    seeds,
    words: &[b"KDDMACH\x01"],
    longest: 65536,
};

/// After the magic and the version.
const LENGTH: usize = 8;
const STATE: usize = 16;

/// Saved machines without their memory's pages: what is fuzzed is the state.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (vcpus, ticks) in [(1, 0), (1, 5000), (2, 100_000), (8, 10)] {
        let Ok(mut machine) = Machine::new(&lab::config(vcpus)) else {
            continue;
        };
        machine.run(&RunLimit { ticks, step: None }, &AtomicBool::new(false));
        let mut bytes = Vec::new();
        if machine.save(&mut bytes).is_err() {
            continue;
        }
        let length = bytes[LENGTH..STATE]
            .iter()
            .rev()
            .fold(0usize, |n, byte| n << 8 | usize::from(*byte));
        bytes.truncate(STATE + length);
        seeds.push(bytes.clone());
        // Mutations keep to where the state is, not to the kernel that is kept for a reset.
        bytes.extend_from_slice(&[0xff; 8]);
        seeds.push(bytes);
    }
    seeds
}

/// Puts right what a mutation alone would nearly always break.
fn repaired(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.strip_suffix(&[0xff; 8]).unwrap_or(data).to_vec();
    if bytes.len() > STATE {
        bytes[..LENGTH].copy_from_slice(b"KDDMACH\x01");
        let length = (bytes.len() - STATE) as u64;
        bytes[LENGTH..STATE].copy_from_slice(&length.to_le_bytes());
    }
    bytes.extend_from_slice(&[0xff; 8]);
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

/// Runs a case: as it is, and repaired.
pub fn run(data: &[u8]) {
    let _ = Machine::restore(&mut &data[..]);
    let Ok(mut machine) = Machine::restore(&mut &repaired(data)[..]) else {
        return;
    };
    let never = AtomicBool::new(false);
    for _ in 0..50 {
        let exit = machine.run(
            &RunLimit {
                ticks: 200,
                step: None,
            },
            &never,
        );
        match exit {
            RunExit::Idle { until } => machine.advance_idle(until),
            RunExit::Limit => {}
            RunExit::Reset(_) => machine.reset(),
            _ => break,
        }
    }
    let _ = machine.describe_devices();
    let mut bytes = Vec::new();
    if machine.save(&mut bytes).is_ok() {
        let again = Machine::restore(&mut &bytes[..]);
        match again {
            Ok(again) => assert_eq!(
                again.state_hash(),
                machine.state_hash(),
                "save and restore change the state"
            ),
            Err(error) => panic!("what was saved isn't restored: {error}"),
        }
    }
}
