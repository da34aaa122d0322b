//! The services of `int 2d`, by which kernel code speaks to a debugger: a number in EAX, and up to four arguments in
//! registers.
//!
//! | EAX | service | what becomes of it |
//! |---|---|---|
//! | 1 | print | the text is shown; the guest isn't stopped and goes on as it would have |
//! | 2 | prompt | the host is asked, and its answer put into the guest's buffer |
//! | 3, 4 | symbols of an image are loaded, unloaded | the host is told, if the list of modules doesn't tell it |
//! | 5 | command string | it is shown, and not passed on |
//!
//! As with [`super::int3`] the vCPU is stopped at the interrupt's handler. A service that is done is one the handler
//! never sees: the vCPU goes on behind the INT3 that follows each `int 2d`, as it does when a kernel has served it. One
//! that isn't done, because no host is there or its arguments make no sense, is the guest's own: without a debugger it
//! skips it. A session that ends while the host is asked leaves it so.
//!
//! A host runs the commands that come in a command string, and so would a guest's kernel run commands on the machine of
//! whoever debugs it: nothing that a session would let it do.

use super::guest::Guest;
use super::int3;
use super::prints::Printer;
use super::session::{KdSession, State};
use super::state_change::{ModuleChange, PROCESSOR_LEVEL};
use hv_core::introspect::{Condition, StopContext};
use hv_core::regs::gpr;
use hv_core::{GuestVirtAddr, VcpuId};
use introspect::windows::Arch;
use protocol::debug_io;
use protocol::link::Patience;
use protocol::packet::PacketType;
use std::sync::Arc;
use std::time::Instant;

/// The interrupt's vector, and its instruction.
pub(super) const VECTOR: u64 = 0x2d;
const INT_2D: [u8; 2] = [0xcd, 0x2d];

/// The services (BREAKPOINT_PRINT …).
const PRINT: u32 = 1;
const PROMPT: u32 = 2;
const LOAD_SYMBOLS: u32 = 3;
const UNLOAD_SYMBOLS: u32 = 4;
const COMMAND_STRING: u32 = 5;

/// The most bytes of a text or an answer, as a kernel clamps them.
const MOST: usize = debug_io::MAX_TEXT;

/// The registers that hold the arguments.
const fn arguments_of(arch: Arch) -> [usize; 4] {
    match arch {
        Arch::X64 => [gpr::RCX, gpr::RDX, 8, 9],
        Arch::X86 => [gpr::RCX, gpr::RDX, gpr::RBX, gpr::RDI],
    }
}

/// Stops for what a host has to do with. Prints are taken on the way.
pub(super) struct AtService {
    pub arch: Arch,
    pub printer: Arc<Printer>,
}

impl Condition for AtService {
    fn should_stop(&self, at: &mut dyn StopContext) -> bool {
        match at.gpr(gpr::RAX) as u32 {
            PRINT if int3::was_in_kernel(self.arch, at) => {
                let [buffer, length, ..] = arguments_of(self.arch);
                let (buffer, length) = (at.gpr(buffer), at.gpr(length) as u16);
                self.printer.put_from(at, buffer, length);
                false
            }
            PROMPT..=COMMAND_STRING => int3::was_in_kernel(self.arch, at),
            _ => false,
        }
    }
}

/// A question that the host is to answer.
pub(super) struct Question {
    vcpu: VcpuId,
    payload: Vec<u8>,
    buffer: GuestVirtAddr,
    most: usize,
}

impl KdSession {
    /// A vCPU is at the handler, for one of the services but prints.
    pub(super) fn service(&mut self, vcpu: VcpuId, now: Instant) {
        self.say_printed(now);
        self.guest.memory_changed();
        self.guest.current = vcpu;
        if !self.link.is_heard() || self.carry_out(vcpu, now).is_none() {
            self.run_on();
        }
    }

    /// `None` if it is the guest's own.
    fn carry_out(&mut self, vcpu: VcpuId, now: Instant) -> Option<()> {
        let registers = self.guest.registers(vcpu).ok()?;
        let arguments = arguments_of(self.guest.arch()).map(|index| registers.gpr[index]);
        let [first, second, third, fourth] = arguments;
        match registers.gpr[gpr::RAX] as u32 {
            PROMPT => {
                let text = read_text(&mut self.guest, first, second as u16)?;
                let most = usize::from(fourth as u16).min(MOST);
                let payload = debug_io::prompt(vcpu.0 as u16, PROCESSOR_LEVEL, &text, most as u32);
                self.question = Some(Question {
                    vcpu,
                    payload,
                    buffer: GuestVirtAddr(third),
                    most,
                });
                self.state = State::Asking;
                self.ask(now);
                Some(())
            }
            service @ (LOAD_SYMBOLS | UNLOAD_SYMBOLS) => {
                let change = image(&mut self.guest, first, second, service == UNLOAD_SYMBOLS)?;
                // The list of modules has it, and tells when it comes and goes; that everything goes, a reset does.
                let ModuleChange::Module { base, .. } = &change else {
                    return None;
                };
                if base.0 == u64::MAX
                    || self.watches.knows_module(*base)
                    || !served(&mut self.guest, vcpu, None)
                {
                    return None;
                }
                self.begin_stop(vcpu, now);
                self.report_module(&change, now);
                Some(())
            }
            COMMAND_STRING => {
                let command = read_string(&mut self.guest, second)?;
                let command = command.escape_ascii();
                self.say(
                    &format!(
                        "kdd: the guest's kernel wants its debugger to run: {command} (it isn't passed on)\n"
                    ),
                    now,
                );
                None
            }
            _ => None,
        }
    }

    /// Sends the question.
    pub(super) fn ask(&mut self, now: Instant) {
        if let Some(question) = &self.question {
            let patience = Patience::Forever;
            self.link
                .send(PacketType::DebugIo, &question.payload, patience, now);
        }
    }

    /// The host answered: the guest has what it asked for, and goes on.
    pub(super) fn answered(&mut self, payload: &[u8]) {
        let Some(text) = debug_io::answer(payload) else {
            return;
        };
        let Some(question) = self.question.take() else {
            return;
        };
        let text = &text[..text.len().min(question.most)];
        let written = if text.is_empty() {
            0
        } else {
            self.guest.write_virtual(question.buffer, text)
        };
        served(&mut self.guest, question.vcpu, Some(written as u64));
        self.run_on();
    }
}

/// Lets the vCPU go on behind the service, with a result in RAX if it has one. False if it isn't at the handler.
fn served(guest: &mut Guest, vcpu: VcpuId, result: Option<u64>) -> bool {
    int3::undo(guest, vcpu, &INT_2D, |registers, behind| {
        registers.rip = behind.wrapping_add(1);
        if let Some(result) = result {
            registers.gpr[gpr::RAX] = result;
        }
    })
}

fn read_text(guest: &mut Guest, address: u64, length: u16) -> Option<Vec<u8>> {
    let mut text = vec![0; usize::from(length).min(MOST)];
    (guest.read_virtual(GuestVirtAddr(address), &mut text) == text.len()).then_some(text)
}

/// A STRING: Length, MaximumLength, Buffer, each aligned to its size.
fn read_string(guest: &mut Guest, address: u64) -> Option<Vec<u8>> {
    let length = guest.read_word(GuestVirtAddr(address))? as u16;
    let size = guest.arch().pointer_size() as u64;
    let buffer = guest.read_word(GuestVirtAddr(address.wrapping_add(size)))?;
    read_text(guest, buffer, length)
}

/// The image of a STRING and a KD_SYMBOLS_INFO: BaseOfDll, ProcessId, CheckSum, SizeOfImage (nt kernel public PDB).
fn image(guest: &mut Guest, name: u64, info: u64, unload: bool) -> Option<ModuleChange> {
    let size = guest.arch().pointer_size() as u64;
    let base = guest.read_word(GuestVirtAddr(info))?;
    let process = guest.read_word(GuestVirtAddr(info.wrapping_add(size)))?;
    let mut rest = [0; 8];
    if guest.read_virtual(GuestVirtAddr(info.wrapping_add(2 * size)), &mut rest) < rest.len() {
        return None;
    }
    let [c0, c1, c2, c3, s0, s1, s2, s3] = rest;
    let path = if name == 0 {
        Vec::new()
    } else {
        read_string(guest, name)?
    };
    let is_all = base == all_ones(guest.arch());
    Some(ModuleChange::Module {
        path: path.iter().map(|byte| char::from(*byte)).collect(),
        base: GuestVirtAddr(if is_all { u64::MAX } else { base }),
        process,
        checksum: u32::from_le_bytes([c0, c1, c2, c3]),
        size: u32::from_le_bytes([s0, s1, s2, s3]),
        unload,
    })
}

const fn all_ones(arch: Arch) -> u64 {
    match arch {
        Arch::X64 => u64::MAX,
        Arch::X86 => 0xffff_ffff,
    }
}
