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

use hv_core::machine::{GuestImage, Machine, MachineConfig, RunExit, RunLimit};
use hv_core::regs::{DescriptorTable, Registers, Segment, cr0, cr4, efer, gpr, rflags, seg};
use hv_core::{GuestPhysAddr, VcpuId};
use iced_x86::IcedError;
pub use iced_x86::code_asm::*;
use std::sync::atomic::AtomicBool;

pub const GDT: u64 = 0x20_0000;
pub const IDT: u64 = 0x20_1000;
pub const TSS: u64 = 0x20_2000;
pub const HANDLERS: u64 = 0x20_4000;
pub const TABLES: u64 = 0x21_0000;
pub const CODE: u64 = 0x30_0000;
pub const DATA: u64 = 0x40_0000;
pub const STACK: u64 = 0x50_0000;
pub const EXIT_PORT: u16 = 0xf4;
pub const CPU0: VcpuId = VcpuId(0);
const MEMORY: u64 = 8 << 20;

/// Selectors of the bench's GDT, laid out as SYSCALL, SYSRET, SYSENTER and SYSEXIT want them.
pub mod selector {
    pub const CODE64: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const USER_CODE32: u16 = 0x18 | 3;
    pub const USER_DATA: u16 = 0x20 | 3;
    pub const USER_CODE64: u16 = 0x28 | 3;
    pub const TSS: u16 = 0x30;
    pub const CODE32: u16 = 0x40;
    pub const CODE16: u16 = 0x48;
    pub const DATA16: u16 = 0x50;
    /// The first that tests may define.
    pub const FREE: u16 = 0x60;
}

/// Bits of a paging entry.
#[allow(dead_code)]
pub mod page {
    pub const P: u64 = 1;
    pub const W: u64 = 2;
    pub const U: u64 = 4;
    pub const A: u64 = 0x20;
    pub const D: u64 = 0x40;
    pub const LARGE: u64 = 0x80;
    pub const GLOBAL: u64 = 0x100;
    pub const NX: u64 = 1 << 63;
}

/// Exception vectors.
#[allow(dead_code)]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const AC: u8 = 17;
}

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

/// A code or data descriptor: access byte (bits 40..48) and flags (bits 52..56).
pub fn descriptor(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let (base, limit) = (base as u64, limit as u64);
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | (access as u64) << 40
        | (limit >> 16 & 0xf) << 48
        | (flags as u64) << 52
        | (base >> 24) << 56
}

/// A call, interrupt, trap or task gate of 8 bytes; `access` is P, DPL and type.
pub fn gate(selector: u16, offset: u32, access: u8, parameters: u8) -> u64 {
    (offset & 0xffff) as u64
        | (selector as u64) << 16
        | (parameters as u64) << 32
        | (access as u64) << 40
        | (offset as u64 >> 16) << 48
}

pub fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17)
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

fn flat(selector: u16, attributes: u32) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: 0xffff_ffff,
        attributes,
    }
}

/// The hidden part of a null segment.
pub const NULL: Segment = Segment {
    selector: 0,
    base: 0,
    limit: 0,
    attributes: Segment::UNUSABLE,
};

impl Bench {
    fn bare(vcpus: u32) -> Bench {
        let m = Machine::new(&config(vcpus)).expect("a machine");
        Bench {
            m,
            long: false,
            next_code: CODE,
        }
    }

    /// 64-bit ring 0 with paging.
    pub fn long() -> Bench {
        Bench::long_smp(1)
    }

    /// The same with more vCPUs; all but the first wait.
    pub fn long_smp(vcpus: u32) -> Bench {
        let mut b = Bench::bare(vcpus);
        b.long = true;
        b.descriptors();
        b.handlers(64);
        b.write_u16(TSS + 102, 104);
        for n in 0..3 {
            b.write_u64(TSS + 4 + 8 * n, STACK + 0x1000 * (n + 1));
        }
        for n in 1..8 {
            b.write_u64(TSS + 28 + 8 * n, STACK + 0x1000 * (n + 8));
        }
        b.write_u64(TABLES, (TABLES + 0x1000) | 7);
        b.write_u64(TABLES + 0x1000, (TABLES + 0x2000) | 7);
        for n in 0..4 {
            let table = TABLES + 0x3000 + 0x1000 * n;
            b.write_u64(TABLES + 0x2000 + 8 * n, table | 7);
            for k in 0..512 {
                b.write_u64(table + 8 * k, (n * 512 + k) << 12 | 7);
            }
        }
        let registers = b.long_registers();
        b.set(|r| *r = registers);
        b
    }

    /// The registers of 64-bit ring 0.
    pub fn long_registers(&self) -> Registers {
        let mut r = self.protected_registers();
        r.cr0 |= cr0::PG | cr0::WP;
        r.cr3 = TABLES;
        r.cr4 = cr4::PAE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::DE;
        r.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        r.segments[seg::CS] = flat(selector::CODE64, 0xa09b);
        r.idtr = DescriptorTable {
            base: IDT,
            limit: 0xfff,
        };
        r
    }

    /// 32-bit ring 0 without paging.
    pub fn protected() -> Bench {
        let mut b = Bench::bare(1);
        b.descriptors();
        b.handlers(32);
        b.write_u16(TSS + 102, 104);
        for n in 0..3 {
            b.write_u32(TSS + 4 + 8 * n, (STACK + 0x1000 * (n + 1)) as u32);
            b.write_u32(TSS + 8 + 8 * n, selector::DATA as u32 | n as u32);
        }
        let registers = b.protected_registers();
        b.set(|r| *r = registers);
        b
    }

    fn protected_registers(&self) -> Registers {
        let mut r = Registers::at_reset(true);
        r.cr0 = cr0::PE | cr0::ET | cr0::NE;
        r.dr6 = 0xffff_0ff0;
        for s in [seg::ES, seg::SS, seg::DS, seg::FS, seg::GS] {
            r.segments[s] = flat(selector::DATA, 0xc093);
        }
        r.segments[seg::CS] = flat(selector::CODE32, 0xc09b);
        r.tr = Segment {
            selector: selector::TSS,
            base: TSS,
            limit: 0x67,
            attributes: 0x8b,
        };
        r.ldtr = NULL;
        r.gdtr = DescriptorTable {
            base: GDT,
            limit: 0xff,
        };
        r.idtr = DescriptorTable {
            base: IDT,
            limit: 0x7ff,
        };
        r.gpr = [0; 16];
        r.gpr[gpr::RSP] = STACK;
        r.rip = CODE;
        r
    }

    /// Real mode at 1000:0000 with the stack at 2000:fffe and the IVT at 0; handlers are at 0000:4000 on.
    pub fn real() -> Bench {
        let mut b = Bench::bare(1);
        for v in 0..=255u64 {
            b.write_u16(4 * v, 0x4000 + 16 * v as u16);
            b.write_u16(4 * v + 2, 0);
            b.write(0x4000 + 16 * v, &[0xe6, EXIT_PORT as u8, 0xcf]);
        }
        b.next_code = 0x1_0000;
        b.set(|r| {
            *r = Registers::at_reset(true);
            r.idtr = DescriptorTable {
                base: 0,
                limit: 0x3ff,
            };
            for (s, selector) in [(seg::CS, 0x1000), (seg::SS, 0x2000)] {
                r.segments[s].selector = selector;
                r.segments[s].base = (selector as u64) << 4;
            }
            r.rip = 0;
            r.gpr = [0; 16];
            r.gpr[gpr::RSP] = 0xfffe;
        });
        b
    }

    fn descriptors(&mut self) {
        let all = u32::MAX;
        for (selector, value) in [
            (selector::CODE64, descriptor(0, all, 0x9b, 0xa)),
            (selector::DATA, descriptor(0, all, 0x93, 0xc)),
            (selector::USER_CODE32, descriptor(0, all, 0xfb, 0xc)),
            (selector::USER_DATA, descriptor(0, all, 0xf3, 0xc)),
            (selector::USER_CODE64, descriptor(0, all, 0xfb, 0xa)),
            (selector::TSS, descriptor(TSS as u32, 0x67, 0x8b, 0)),
            (selector::CODE32, descriptor(0, all, 0x9b, 0xc)),
            (selector::CODE16, descriptor(0, 0xffff, 0x9b, 0)),
            (selector::DATA16, descriptor(0, 0xffff, 0x93, 0)),
        ] {
            self.define(selector, value);
        }
    }

    /// Puts a descriptor into the GDT.
    pub fn define(&mut self, selector: u16, value: u64) {
        self.write_u64(GDT + (selector & !7) as u64, value);
    }

    /// Handlers and interrupt gates to them; INT3 and INTO may come from ring 3.
    fn handlers(&mut self, bits: u32) {
        for v in 0..=255u8 {
            // out EXIT_PORT, al; iret (the error code, if any, is still on the stack)
            let iret: &[u8] = if bits == 64 { &[0x48, 0xcf] } else { &[0xcf] };
            self.write(handler(v), &[0xe6, EXIT_PORT as u8]);
            self.write(handler(v) + 2, iret);
            let access = if v == 3 || v == 4 { 0xee } else { 0x8e };
            self.interrupt_gate(v, access, 0, handler(v));
        }
    }

    /// Sets an IDT entry: `access` is P, DPL and type; `ist` counts in 64-bit mode.
    pub fn interrupt_gate(&mut self, vector: u8, access: u8, ist: u8, target: u64) {
        if self.long {
            let low = gate(selector::CODE64, target as u32, access, ist);
            self.write_u64(IDT + 16 * vector as u64, low);
            self.write_u64(IDT + 16 * vector as u64 + 8, target >> 32);
        } else {
            self.write_u64(
                IDT + 8 * vector as u64,
                gate(selector::CODE32, target as u32, access, 0),
            );
        }
    }

    // ---- memory ----

    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        assert_eq!(
            self.m.write_physical(GuestPhysAddr(address), bytes),
            bytes.len(),
            "RAM at {address:#x}"
        );
    }
    pub fn write_u16(&mut self, address: u64, value: u16) {
        self.write(address, &value.to_le_bytes());
    }
    pub fn write_u32(&mut self, address: u64, value: u32) {
        self.write(address, &value.to_le_bytes());
    }
    pub fn write_u64(&mut self, address: u64, value: u64) {
        self.write(address, &value.to_le_bytes());
    }
    pub fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        assert_eq!(
            self.m.read_physical(GuestPhysAddr(address), &mut bytes),
            N,
            "RAM at {address:#x}"
        );
        bytes
    }
    pub fn u16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read(address))
    }
    pub fn u32(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.read(address))
    }
    pub fn u64(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.read(address))
    }

    /// The address of the page-table entry of a page below 8 MiB in 64-bit mode.
    pub fn pte(&self, linear: u64) -> u64 {
        TABLES + 0x3000 + 8 * (linear >> 12)
    }
    /// Maps a page below 8 MiB.
    pub fn map(&mut self, linear: u64, entry: u64) {
        self.write_u64(self.pte(linear), entry);
    }

    // ---- registers ----

    pub fn regs(&self) -> Registers {
        self.m.registers(CPU0)
    }
    pub fn set(&mut self, change: impl FnOnce(&mut Registers)) {
        self.set_of(CPU0, change);
    }
    pub fn set_of(&mut self, vcpu: VcpuId, change: impl FnOnce(&mut Registers)) {
        let mut r = self.m.registers(vcpu);
        change(&mut r);
        self.m.set_registers(vcpu, &r).expect("registers");
    }
    pub fn gpr(&self, n: usize) -> u64 {
        self.regs().gpr[n]
    }

    /// Goes on in ring 3 of the same mode, with the stack at `STACK - 0x800`.
    pub fn user(&mut self) {
        let long = self.long;
        self.set(|r| {
            r.segments[seg::CS] = if long {
                flat(selector::USER_CODE64, 0xa0fb)
            } else {
                flat(selector::USER_CODE32, 0xc0fb)
            };
            for s in [seg::ES, seg::SS, seg::DS] {
                r.segments[s] = flat(selector::USER_DATA, 0xc0f3);
            }
            r.segments[seg::FS] = NULL;
            r.segments[seg::GS] = NULL;
            r.gpr[gpr::RSP] = STACK - 0x800;
        });
    }

    // ---- code and running ----

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
