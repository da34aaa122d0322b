//! A bench for a few instructions: a machine with tables and handlers in place.
//!
//! ```text
//! 0x0010_0000  the image that the machine is made from (never run)
//! 0x0020_0000  GDT, +0x1000 IDT, +0x2000 TSS
//! 0x0020_4000  handlers: 16 bytes a vector; each writes to the debug-exit port, which ends the run
//! 0x0021_0000  page tables: the low 8 MiB mapped to themselves by 4 KiB pages, for user and supervisor
//! 0x0030_0000  code       0x0040_0000  data
//! 0x0050_0000  stacks grow down from: ring 0 of the code, +0x1000 * n of RSP0..2 and IST1..7
//! ```

mod layout;
mod modes;
mod state;

pub use layout::*;

use hv_core::VcpuId;
use hv_core::machine::{GuestImage, Machine, MachineConfig, RunExit, RunLimit};
use hv_core::regs::{cr0, efer, gpr, rflags, seg};
use iced_x86::IcedError;
pub use iced_x86::code_asm::*;
use std::sync::atomic::AtomicBool;

pub const EXIT_PORT: u16 = 0xf4;
pub const CPU0: VcpuId = VcpuId(0);
const MEMORY: u64 = 8 << 20;

/// What an exception pushed, and with what error code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    pub error: Option<u64>,
    pub rip: u64,
    pub cs: u16,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u16,
}

/// Assembles code for an address.
pub fn assemble(
    bits: u32,
    at: u64,
    code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(bits).expect("a bitness");
    code(&mut assembler).expect("instructions");
    assembler.assemble(at).expect("code")
}

/// A multiboot image of one HLT, with its addresses in the header.
fn image() -> Vec<u8> {
    let (magic, flags) = (0x1bad_b002u32, 0x1_0000u32);
    let checksum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    let base = 0x10_0000;
    let words = [magic, flags, checksum, base, base, 0, 0, base + 32];
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    bytes.push(0xf4);
    bytes
}

/// How a machine of the bench is made.
pub fn config(vcpus: u32) -> MachineConfig {
    MachineConfig {
        memory_bytes: MEMORY,
        vcpus,
        seed: 7,
        cpu_model: String::new(),
        debug_exit: Some(EXIT_PORT),
        guest: GuestImage::Linux {
            kernel: image().into(),
            initrd: None,
            command_line: String::new(),
        },
    }
}

pub struct Bench {
    pub m: Machine,
    long: bool,
    next_code: u64,
}

impl Bench {
    fn bare(config: &MachineConfig) -> Bench {
        let m = Machine::new(config).expect("a machine");
        Bench {
            m,
            long: false,
            next_code: CODE,
        }
    }

    /// Puts code at an address.
    pub fn code_at(
        &mut self,
        bits: u32,
        at: u64,
        code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> u64 {
        let bytes = assemble(bits, at, code);
        self.write(at, &bytes);
        at + bytes.len() as u64
    }

    /// Puts code at a fresh place and RIP there; gives its address.
    pub fn code(&mut self, code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> u64 {
        let at = self.next_code;
        let base = self.regs().segments[seg::CS].base;
        let bytes = assemble(self.bits(), at - base, code);
        self.write(at, &bytes);
        self.next_code = (at + bytes.len() as u64 + 0xff) & !0xff;
        self.set(|r| r.rip = at - base);
        at
    }

    fn bits(&self) -> u32 {
        let r = self.regs();
        if r.cr0 & cr0::PE == 0 || r.rflags & rflags::VM != 0 {
            16
        } else if r.segments[seg::CS].long() && r.efer & efer::LMA != 0 {
            64
        } else if r.segments[seg::CS].default_big() {
            32
        } else {
            16
        }
    }

    /// Runs for at most some ticks.
    pub fn run_for(&mut self, ticks: u64) -> RunExit {
        self.m
            .run(&RunLimit { ticks, step: None }, &AtomicBool::new(false))
    }

    /// Runs until something ends it; idle time passes.
    pub fn go(&mut self) -> RunExit {
        loop {
            match self.run_for(1_000_000) {
                RunExit::Idle { until } if until != hv_core::Ticks::NEVER => self.m.advance_idle(until),
                other => return other,
            }
        }
    }

    /// Runs to the code's own `out EXIT_PORT, al`, not one in a handler.
    pub fn finish(&mut self) {
        let exit = self.go();
        let rip = self.regs().rip;
        assert!(matches!(exit, RunExit::DebugExit(_)), "{exit:?} at {rip:#x}");
        assert_eq!(
            vector_at(rip),
            None,
            "an exception: {:x?}, cr2 {:#x}",
            self.frame(),
            self.regs().cr2
        );
    }

    /// Runs to the handler of an exception or interrupt and gives what was pushed.
    pub fn fault(&mut self, vector: u8) -> Frame {
        let exit = self.go();
        let rip = self.regs().rip;
        assert!(matches!(exit, RunExit::DebugExit(_)), "{exit:?} at {rip:#x}");
        let frame = self.frame();
        assert_eq!(
            vector_at(rip),
            Some(vector),
            "at {rip:#x}: {frame:x?}, cr2 {:#x}",
            self.regs().cr2
        );
        frame
    }

    /// Puts code down, runs it, and expects an exception at its last instruction but the exit.
    pub fn raises(
        &mut self,
        vector: u8,
        code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Frame {
        self.code(|a| {
            code(a)?;
            a.out(EXIT_PORT as i32, al)
        });
        self.fault(vector)
    }

    /// Puts code down, and runs it to its end.
    pub fn runs(&mut self, code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
        self.code(|a| {
            code(a)?;
            a.out(EXIT_PORT as i32, al)
        });
        self.finish();
    }

    /// The frame at the stack pointer, as the handler at RIP finds it.
    pub fn frame(&self) -> Frame {
        let r = self.regs();
        let error = vector_at(r.rip).is_some_and(has_error_code);
        let size = if self.long { 8 } else { 4 };
        let base = if self.long { 0 } else { r.segments[seg::SS].base };
        let word = |n: u64| {
            let at = base + r.gpr[gpr::RSP] + size * n;
            if size == 8 {
                self.u64(at)
            } else {
                self.u32(at) as u64
            }
        };
        let n = error as u64;
        Frame {
            error: error.then(|| word(0)),
            rip: word(n),
            cs: word(n + 1) as u16,
            rflags: word(n + 2),
            rsp: word(n + 3),
            ss: word(n + 4) as u16,
        }
    }

    /// Leaves the handler of the bench that RIP is in, by its IRET.
    pub fn leave_handler(&mut self) {
        let r = self.regs();
        let error = vector_at(r.rip).is_some_and(has_error_code);
        let size = if self.long { 8 } else { 4 };
        if error {
            self.set(|r| r.gpr[gpr::RSP] += size);
        }
    }
}

/// The address of a vector's handler.
pub fn handler(vector: u8) -> u64 {
    HANDLERS + 16 * vector as u64
}

/// The vector whose handler just wrote to the exit port.
pub fn vector_at(rip: u64) -> Option<u8> {
    let at = rip.checked_sub(2)?.checked_sub(HANDLERS)?;
    (at < 0x1000 && at % 16 == 0).then_some((at / 16) as u8)
}

/// Whether the run ended at the exit port.
pub fn exited(exit: &RunExit) -> bool {
    matches!(exit, RunExit::DebugExit(_))
}

impl Bench {
    /// Puts real-mode code down, runs it, and expects an exception, by the IVT of [`Bench::real`].
    pub fn raises_real(
        &mut self,
        vector: u8,
        code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) {
        self.code(|a| {
            code(a)?;
            a.out(EXIT_PORT as i32, al)
        });
        let exit = self.go();
        assert!(exited(&exit), "{exit:?}");
        let r = self.regs();
        assert_eq!(
            (r.segments[seg::CS].selector, r.rip),
            (0, 0x4000 + 16 * vector as u64 + 2)
        );
    }
}
