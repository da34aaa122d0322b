//! Conditions of breakpoints: gdb's agent expressions, decoded and evaluated.
//!
//! A condition comes in a `Z0` packet, as from a client, and goes to a domain that does nothing but keep it; then it
//! is asked for its opinion on a vCPU whose numbers lie at edges.

use super::Target;
use gdb_bridge::{GdbSession, Options};
use hv_core::introspect::{
    Breakpoint, BreakpointId, Breakpoints, Condition, DomainState, Error, Introspect, MemoryRegion,
    ReadMemory, ReadRegisters, Result, StopContext,
};
use hv_core::regs::Registers;
use hv_core::{DomId, GuestPhysAddr, GuestVirtAddr, Ticks, VcpuId};
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

/// See the module.
pub const TARGET: Target = Target {
    name: "agent_expression",
    run,
    seeds,
    words: WORDS,
    longest: 512,
};

/// Operations with their operands (GDB manual, appendix F.2).
const WORDS: &[&[u8]] = &[
    &[0x02], // add
    &[0x03],
    &[0x04],
    &[0x05], // div_signed
    &[0x06],
    &[0x07],
    &[0x08],
    &[0x09], // lsh
    &[0x0a],
    &[0x0b],
    &[0x0e], // log_not
    &[0x0f],
    &[0x10],
    &[0x11],
    &[0x12],
    &[0x13], // equal
    &[0x14],
    &[0x15],
    &[0x16, 8], // ext
    &[0x17],    // ref8
    &[0x18],
    &[0x19],
    &[0x1a],             // ref64
    &[0x20, 0, 0],       // if_goto
    &[0x21, 0, 0],       // goto
    &[0x22, 0xff],       // const8
    &[0x23, 0x03, 0xe8], // const16
    &[0x24, 0x80, 0, 0, 0],
    &[0x25, 0x80, 0, 0, 0, 0, 0, 0, 0],
    &[0x26, 0, 0], // reg
    &[0x26, 0, 16],
    &[0x26, 0, 27],
    &[0x27],       // end
    &[0x28],       // dup
    &[0x29],       // pop
    &[0x2a, 64],   // zero_ext
    &[0x2b],       // swap
    &[0x2c, 0, 0], // getv
    &[0x2d, 0, 0],
    &[0x2e, 0, 0],
    &[0x0c, 8], // trace
    &[0x30, 0, 8],
    &[0x32, 1], // pick
    &[0x33],    // rot
    &[0x34, 0, 0],
];

fn seeds() -> Vec<Vec<u8>> {
    let programs: [&[u8]; 8] = [
        &[0x26, 0, 0, 0x23, 0x03, 0xe8, 0x13, 0x27],
        &[0x22, 0x80, 0x1a, 0x26, 0, 3, 0x02, 0x17, 0x27],
        &[0x21, 0, 0],
        &[0x28, 0x21, 0, 0],
        &[0x22, 1, 0x20, 0, 0, 0x27],
        &[0x25, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x22, 0xff, 0x16, 8, 0x05, 0x27],
        &[0x22, 7, 0x22, 200, 0x09, 0x22, 3, 0x32, 1, 0x33, 0x27],
        &[0x26, 0, 59, 0x22, 0, 0x07, 0x27],
    ];
    programs.iter().map(|program| program.to_vec()).collect()
}

fn give(session: &mut GdbSession, body: &str) -> String {
    let sum = body.bytes().fold(0u8, u8::wrapping_add);
    session.receive(format!("${body}#{sum:02x}").as_bytes());
    String::from_utf8_lossy(&session.take_output()).into_owned()
}

/// A domain that keeps the last breakpoint's condition.
#[derive(Default)]
struct Keeper(Mutex<Option<Arc<dyn Condition>>>);

impl ReadMemory for Keeper {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<()> {
        Err(Error::NoMemory {
            domain: DomId(1),
            address,
            done: 0,
            wanted: buffer.len(),
        })
    }
    fn memory_regions(&self) -> Vec<MemoryRegion> {
        Vec::new()
    }
}

impl ReadRegisters for Keeper {
    fn vcpu_count(&self) -> u32 {
        1
    }
    fn registers(&self, _: VcpuId) -> Result<Registers> {
        Ok(Registers::at_reset(true))
    }
    fn read_msr(&self, _: VcpuId, _: u32) -> Result<Option<u64>> {
        Ok(None)
    }
}

impl Breakpoints for Keeper {
    fn insert_breakpoint(&self, breakpoint: Breakpoint) -> Result<BreakpointId> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = breakpoint.condition;
        Ok(BreakpointId(1))
    }
    fn remove_breakpoint(&self, _: BreakpointId) -> bool {
        true
    }
}

impl Introspect for Keeper {
    fn id(&self) -> DomId {
        DomId(1)
    }
    fn name(&self) -> String {
        "keeper".into()
    }
    fn state(&self) -> DomainState {
        DomainState::Paused(1)
    }
    fn uptime(&self) -> Ticks {
        Ticks(0)
    }
    fn breakpoints(&self) -> Option<&dyn Breakpoints> {
        Some(self)
    }
}

/// A vCPU whose registers are edges, and whose memory ends at 64 KiB.
struct Still;

impl StopContext for Still {
    fn vcpu(&self) -> VcpuId {
        VcpuId(0)
    }
    fn gpr(&self, index: usize) -> u64 {
        [0, 1, u64::MAX, 1 << 63, 0x8000, 64][index % 6]
    }
    fn rip(&self) -> u64 {
        0xffff_ffff_8100_0000
    }
    fn rflags(&self) -> u64 {
        2
    }
    fn registers(&self) -> Registers {
        Registers::at_reset(true)
    }
    fn read_virtual(&mut self, address: GuestVirtAddr, buffer: &mut [u8]) -> bool {
        buffer.fill(address.0 as u8);
        address.0 < 0x1_0000
    }
}

/// Runs a case.
pub fn run(data: &[u8]) {
    let keeper = Arc::new(Keeper::default());
    let target = introspect::Target::new(keeper.clone());
    let Ok(mut session) = GdbSession::new(&target, "fuzz", Options::default(), Box::new(|_| {})) else {
        return;
    };
    let mut digits = String::new();
    for byte in data {
        let _ = write!(digits, "{byte:02x}");
    }
    let answer = give(&mut session, &format!("Z0,1000,1;X{:x},{digits}", data.len()));
    let condition = keeper.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(
        condition.is_none() || answer.contains("OK"),
        "inserted, but answered {answer:?}"
    );
    if let Some(condition) = condition {
        condition.should_stop(&mut Still);
    }
}
