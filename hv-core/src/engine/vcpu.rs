//! A vCPU as the engine runs it: the architectural state in working form, and how instructions fail.

use super::cpuid::CpuModel;
use super::flags::Flags;
use super::tlb::{Tlb, View};
use crate::addr::{GuestPhysAddr, Ticks, VcpuId};
use crate::introspect::AccessKind;
use crate::regs::{Registers, cr0, cr4, efer, rflags, seg};
use std::sync::Arc;

/// An instruction did not complete; why is in [`Vcpu::pending`]. No register has changed but those that the manual
/// allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Abort;

/// The outcome of an instruction.
pub(crate) type Exec<T = ()> = Result<T, Abort>;

/// Exception vectors (SDM vol. 3A table 6-1).
pub(crate) mod vector {
    pub(crate) const DE: u8 = 0;
    pub(crate) const DB: u8 = 1;
    pub(crate) const NMI: u8 = 2;
    pub(crate) const BP: u8 = 3;
    pub(crate) const OF: u8 = 4;
    pub(crate) const BR: u8 = 5;
    pub(crate) const UD: u8 = 6;
    pub(crate) const NM: u8 = 7;
    pub(crate) const DF: u8 = 8;
    pub(crate) const TS: u8 = 10;
    pub(crate) const NP: u8 = 11;
    pub(crate) const SS: u8 = 12;
    pub(crate) const GP: u8 = 13;
    pub(crate) const PF: u8 = 14;
    pub(crate) const MF: u8 = 16;
    pub(crate) const AC: u8 = 17;
    pub(crate) const XM: u8 = 19;
}

/// Why an instruction was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pending {
    Nothing,
    /// An exception to deliver.
    Exception {
        vector: u8,
        error: Option<u32>,
    },
    /// A non-canonical address: #SS(0) through the stack segment, #GP(0) otherwise.
    NonCanonical,
    /// The access needs the exact time or writes code: run this instruction alone, in precise mode.
    Precise,
    /// The debugger's side restricted this frame.
    PageAccess {
        frame: GuestPhysAddr,
        access: Option<AccessKind>,
    },
}

/// How code is decoded and addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    Real = 0,
    Virtual8086 = 1,
    Protected16 = 2,
    Protected32 = 3,
    Long = 4,
}

impl Mode {
    /// The default operand and address size for the decoder.
    pub(crate) fn bitness(self) -> u32 {
        match self {
            Mode::Real | Mode::Virtual8086 | Mode::Protected16 => 16,
            Mode::Protected32 => 32,
            Mode::Long => 64,
        }
    }
}

/// The index of the always-zero pseudo register in [`Vcpu::gpr`].
pub(crate) const ZERO: usize = 16;
/// The pseudo registers that mirror the FS and GS bases.
pub(crate) const FS_BASE: usize = 17;
pub(crate) const GS_BASE: usize = 18;

pub(crate) struct Vcpu {
    /// The sixteen general registers; the rest reads as zero, so that absent base and index registers need no branch.
    pub(crate) gpr: [u64; 32],
    pub(crate) rip: u64,
    pub(crate) flags: Flags,
    /// The clock when the current block began.
    pub(crate) clock: u64,
    /// The clock at which to stop.
    pub(crate) stop_at: u64,
    /// The number in its block of the instruction that left or aborted it.
    pub(crate) stopped_at: u16,
    pub(crate) view: View,
    /// An interrupt would be taken if IF is set.
    pub(crate) interrupt_line: bool,
    pub(crate) mode: Mode,
    pub(crate) cpl: u8,
    /// One instruction at a time, with devices, code writes and watchpoints done in place.
    pub(crate) precise: bool,
    /// RFLAGS without the status flags.
    pub(crate) rflags: u64,
    pub(crate) pending: Pending,
    /// Everything else, with `gpr`, `rip` and `rflags` unused.
    pub(crate) r: Registers,
    pub(crate) tlb: Box<Tlb>,
    /// Changes whenever a linear address may mean another physical one.
    pub(crate) map_generation: u64,
    /// Generation, mode and privilege in one word: what a cached block lookup depends on.
    pub(crate) fetch_key: u64,
    /// [`Vcpu::code_window`] when the mode was last looked at.
    known_window: (u64, u32),
    pub(crate) id: VcpuId,
    pub(crate) model: Arc<CpuModel>,
    pub(crate) nmi_pending: bool,
    /// A trap to take once the instruction is complete: bits for DR6.
    pub(crate) debug_trap: u64,
    /// The guest has data or I/O breakpoints in DR7: no access goes by the TLB.
    pub(crate) guest_watch: bool,
    /// Misaligned data raises #AC (CPL 3, CR0.AM and RFLAGS.AC): no access goes by the TLB.
    pub(crate) checks_alignment: bool,
    /// A single PAUSE asks for the slice to end.
    pub(crate) yield_slice: bool,
    /// The clock when the last exception was delivered.
    pub(crate) delivered_at: u64,
    /// RDRAND's generator.
    pub(crate) random: u64,
}

impl Vcpu {
    pub(crate) fn new(id: VcpuId, model: Arc<CpuModel>, seed: u64) -> Vcpu {
        let registers = Registers::at_reset(id.0 == 0);
        let mut cpu = Vcpu {
            gpr: [0; 32],
            rip: 0,
            flags: Flags::default(),
            clock: 0,
            stop_at: 0,
            stopped_at: 0,
            view: View::Supervisor,
            interrupt_line: false,
            mode: Mode::Real,
            cpl: 0,
            precise: false,
            rflags: rflags::FIXED,
            pending: Pending::Nothing,
            r: registers.clone(),
            tlb: Tlb::new(),
            map_generation: 0,
            fetch_key: 0,
            known_window: (0, 0),
            id,
            model,
            nmi_pending: false,
            debug_trap: 0,
            guest_watch: false,
            checks_alignment: false,
            yield_slice: false,
            delivered_at: u64::MAX,
            random: seed ^ ((id.0 as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        };
        cpu.load_registers(&registers);
        cpu
    }

    /// An equal vCPU with empty caches, for a fork.
    pub(crate) fn copy(&self) -> Vcpu {
        let mut copy = Vcpu::new(self.id, self.model.clone(), 0);
        copy.load_registers(&self.registers());
        copy.nmi_pending = self.nmi_pending;
        copy.random = self.random;
        copy.delivered_at = self.delivered_at;
        copy
    }

    /// The architectural state.
    pub(crate) fn registers(&self) -> Registers {
        let mut r = self.r.clone();
        r.gpr.copy_from_slice(&self.gpr[..16]);
        r.rip = self.rip;
        r.rflags = self.rflags();
        r
    }

    /// Takes over an architectural state, unchecked.
    pub(crate) fn load_registers(&mut self, r: &Registers) {
        self.r = r.clone();
        self.gpr[..16].copy_from_slice(&r.gpr);
        self.rip = r.rip;
        self.flags = Flags::from_rflags(r.rflags);
        self.rflags = (r.rflags & rflags::WRITABLE & !rflags::STATUS) | rflags::FIXED;
        self.pending = Pending::Nothing;
        self.cpl = if r.cr0 & cr0::PE == 0 {
            0
        } else if r.rflags & rflags::VM != 0 {
            3
        } else {
            r.segments[seg::SS].dpl()
        };
        self.update_debug();
        self.flush_tlb();
    }

    pub(crate) fn rflags(&self) -> u64 {
        self.rflags | self.flags.to_rflags()
    }

    /// Replaces the whole of RFLAGS.
    pub(crate) fn set_rflags(&mut self, value: u64) {
        self.flags = Flags::from_rflags(value);
        self.rflags = (value & rflags::WRITABLE & !rflags::STATUS) | rflags::FIXED;
        self.update_mode();
    }

    pub(crate) fn long_mode(&self) -> bool {
        self.r.efer & efer::LMA != 0
    }

    pub(crate) fn protected(&self) -> bool {
        self.r.cr0 & cr0::PE != 0
    }

    pub(crate) fn paging(&self) -> bool {
        self.r.cr0 & cr0::PG != 0
    }

    /// The exact time of an instruction that is number `index` of its block.
    pub(crate) fn now(&self, index: u16) -> Ticks {
        Ticks(self.clock + index as u64)
    }

    /// Recomputes what depends on CS, CR0, CR4, EFER, RFLAGS.VM, RFLAGS.AC and the privilege level.
    pub(crate) fn update_mode(&mut self) {
        self.mode = if !self.protected() {
            Mode::Real
        } else if self.rflags & rflags::VM != 0 {
            Mode::Virtual8086
        } else if self.long_mode() && self.r.segments[seg::CS].long() {
            Mode::Long
        } else if self.r.segments[seg::CS].default_big() {
            Mode::Protected32
        } else {
            Mode::Protected16
        };
        self.view = if self.cpl == 3 {
            View::User
        } else if self.r.cr4 & cr4::SMAP != 0 && self.rflags & rflags::AC == 0 {
            View::SupervisorSmap
        } else {
            View::Supervisor
        };
        let aligned = self.cpl == 3 && self.r.cr0 & cr0::AM != 0 && self.rflags & rflags::AC != 0;
        if aligned != self.checks_alignment {
            self.checks_alignment = aligned;
            self.tlb.flush_data();
        }
        self.gpr[FS_BASE] = self.r.segments[seg::FS].base;
        self.gpr[GS_BASE] = self.r.segments[seg::GS].base;
        // The same RIP means other code in another segment.
        let window = self.code_window();
        if window != self.known_window {
            self.known_window = window;
            self.map_generation += 1;
        }
        // Blocks and the links between them are shared by the vCPUs of a machine, generations aren't.
        let who = (self.id.0 as u64 & 7) << 1;
        self.fetch_key = self.map_generation << 8 | (self.mode as u64) << 4 | who | (self.cpl == 3) as u64;
    }

    /// Base and limit of the code segment, where they count.
    pub(crate) fn code_window(&self) -> (u64, u32) {
        match self.mode {
            Mode::Long => (0, u32::MAX),
            _ => (self.r.segments[seg::CS].base, self.r.segments[seg::CS].limit),
        }
    }

    /// Recomputes what depends on DR7.
    pub(crate) fn update_debug(&mut self) {
        let dr7 = self.r.dr7;
        let watch = (0..4).any(|i| dr7 >> (2 * i) & 3 != 0 && dr7 >> (16 + 4 * i) & 3 != 0);
        if watch != self.guest_watch {
            self.guest_watch = watch;
            self.tlb.flush_data();
        }
    }

    /// Whether the guest debugs itself in a way that needs every instruction looked at.
    pub(crate) fn guest_debugs(&self) -> bool {
        self.r.dr7 & 0xff != 0 || self.rflags & rflags::TF != 0
    }

    /// Drops all translations.
    pub(crate) fn flush_tlb(&mut self) {
        self.tlb.flush();
        self.map_generation += 1;
        self.update_mode();
    }

    /// Forgets where code is: the next block is fetched by the TLB or a walk.
    pub(super) fn forget_jumps(&mut self) {
        self.map_generation += 1;
        self.update_mode();
    }

    /// Asks for an exception without an error code.
    #[cold]
    pub(crate) fn raise(&mut self, vector: u8) -> Abort {
        self.pending = Pending::Exception { vector, error: None };
        Abort
    }

    /// Asks for an exception with an error code.
    #[cold]
    pub(crate) fn raise_error(&mut self, vector: u8, error: u32) -> Abort {
        self.pending = Pending::Exception {
            vector,
            error: Some(error),
        };
        Abort
    }

    /// #GP(0).
    #[cold]
    pub(crate) fn general_protection(&mut self) -> Abort {
        self.raise_error(vector::GP, 0)
    }

    /// #UD.
    #[cold]
    pub(crate) fn undefined(&mut self) -> Abort {
        self.raise(vector::UD)
    }
}
