//! State changes: what a host is told when the guest stops.

use super::guest::Guest;
use super::hardware_breakpoints::DebugRegisters;
use hv_core::regs::{Registers, seg};
use hv_core::{GuestVirtAddr, VcpuId};
use introspect::windows::Arch;
use protocol::state_change::{
    self, Amd64Report, Exception, LoadSymbols, MAX_STREAM, REPORT_INCLUDES_SEGS, REPORT_STANDARD_CS,
    StateChange, X86Report,
};
use protocol::status::NtStatus;
use zerocopy::{FromZeros, IntoBytes};

/// The family that processors report.
pub(super) const PROCESSOR_LEVEL: u16 = 6;

/// A report, and the code that it shows.
pub(super) struct Report {
    /// The packet's payload.
    pub payload: Vec<u8>,
    /// Where the vCPU stands.
    pub address: GuestVirtAddr,
    /// How many bytes of code the report has.
    pub length: usize,
}

/// A module that came or went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ModuleChange {
    /// It was loaded, or unloaded.
    Module {
        path: String,
        base: GuestVirtAddr,
        /// The process it is for; 0 for drivers.
        process: u64,
        checksum: u32,
        size: u32,
        unload: bool,
    },
    /// The machine begins anew: nothing that was loaded is any more.
    Everything,
}

/// An exception at the current vCPU.
pub(super) fn exception(
    guest: &mut Guest,
    code: NtStatus,
    parameters: &[u64],
    debug: &DebugRegisters,
) -> Report {
    let mut change = StateChange::new(state_change::EXCEPTION);
    let (address, length) = fill(guest, &mut change, debug);
    let exception = Exception::new(code, guest.wire(address)).with_parameters(parameters);
    change.set_exception(&exception);
    Report {
        payload: change.as_bytes().to_vec(),
        address,
        length,
    }
}

/// A module that came or went.
pub(super) fn load_symbols(guest: &mut Guest, module: &ModuleChange, debug: &DebugRegisters) -> Report {
    let mut change = StateChange::new(state_change::LOAD_SYMBOLS);
    let (address, length) = fill(guest, &mut change, debug);
    let mut symbols = LoadSymbols::new_zeroed();
    let mut name = Vec::new();
    match module {
        ModuleChange::Module {
            path,
            base,
            process,
            checksum,
            size,
            unload,
        } => {
            // The wire has one byte a character.
            name.extend(path.chars().take(255).map(|c| u8::try_from(c).unwrap_or(b'?')));
            name.push(0);
            symbols.base = guest.wire(*base).into();
            symbols.process_id = (*process).into();
            symbols.checksum = (*checksum).into();
            symbols.size = (*size).into();
            symbols.unload = u8::from(*unload);
        }
        ModuleChange::Everything => {
            symbols.base = u64::MAX.into();
            symbols.unload = 1;
        }
    }
    symbols.path_length = (name.len() as u32).into();
    change.set_load_symbols(&symbols);
    Report {
        payload: [change.as_bytes(), &name].concat(),
        address,
        length,
    }
}

/// What every report says; where the vCPU stands, and how much code the report shows.
fn fill(guest: &mut Guest, change: &mut StateChange, debug: &DebugRegisters) -> (GuestVirtAddr, usize) {
    let vcpu = guest.current;
    let registers = guest
        .registers(vcpu)
        .unwrap_or_else(|_| Registers::at_reset(true));
    let thread = guest
        .processor(vcpu)
        .and_then(|processor| processor.current_thread);
    let address = GuestVirtAddr(registers.rip);
    // A vCPU's number fits: there are few.
    change.processor = (vcpu.0 as u16).into();
    change.processor_level = PROCESSOR_LEVEL.into();
    change.processor_count = guest.processors().max(vcpu.0 + 1).into();
    change.thread = thread.map_or(0, |thread| guest.wire(thread)).into();
    change.program_counter = guest.wire(address).into();
    let mut stream = [0; MAX_STREAM];
    let linear = GuestVirtAddr(address.0.wrapping_add(code_base(&registers)));
    let length = guest.read_virtual(linear, &mut stream);
    match guest.arch() {
        Arch::X64 => change.set_amd64_report(&amd64(&registers, debug, vcpu, stream, length)),
        Arch::X86 => change.set_x86_report(&x86(&registers, debug, vcpu, stream, length)),
    }
    (address, length)
}

/// Bases of code segments count outside of 64-bit code.
fn code_base(registers: &Registers) -> u64 {
    let code = &registers.segments[seg::CS];
    if code.long() { 0 } else { code.base }
}

fn report_flags(cs: u16, kernel_cs: u16) -> u16 {
    let standard = if cs == kernel_cs { REPORT_STANDARD_CS } else { 0 };
    REPORT_INCLUDES_SEGS | standard
}

fn amd64(
    registers: &Registers,
    debug: &DebugRegisters,
    vcpu: VcpuId,
    stream: [u8; MAX_STREAM],
    length: usize,
) -> Amd64Report {
    let selector = |index: usize| registers.segments[index].selector;
    Amd64Report {
        dr6: debug.dr6(vcpu).into(),
        dr7: debug.dr7.into(),
        eflags: (registers.rflags as u32).into(),
        instruction_count: (length as u16).into(),
        flags: report_flags(selector(seg::CS), 0x10).into(),
        stream,
        cs: selector(seg::CS).into(),
        ds: selector(seg::DS).into(),
        es: selector(seg::ES).into(),
        fs: selector(seg::FS).into(),
    }
}

fn x86(
    registers: &Registers,
    debug: &DebugRegisters,
    vcpu: VcpuId,
    stream: [u8; MAX_STREAM],
    length: usize,
) -> X86Report {
    let selector = |index: usize| registers.segments[index].selector;
    X86Report {
        dr6: (debug.dr6(vcpu) as u32).into(),
        dr7: (debug.dr7 as u32).into(),
        instruction_count: (length as u16).into(),
        flags: report_flags(selector(seg::CS), 8).into(),
        stream,
        cs: selector(seg::CS).into(),
        ds: selector(seg::DS).into(),
        es: selector(seg::ES).into(),
        fs: selector(seg::FS).into(),
        eflags: (registers.rflags as u32).into(),
    }
}
