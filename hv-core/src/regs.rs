//! The architectural register state of a vCPU: all that a debugger may ask for, in one struct.
//!
//! Names and layouts are those of the Intel SDM (vol. 1 chapter 3, vol. 3A chapters 2 and 3). This is the
//! state at an instruction boundary; the engine keeps a form of its own while it runs.

use serde::{Deserialize, Serialize};

/// Indices into [`Registers::gpr`], in encoding order.
#[allow(missing_docs)]
pub mod gpr {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
}

/// RFLAGS bits (SDM vol. 1, 3.4.3).
#[allow(missing_docs)]
pub mod rflags {
    pub const CF: u64 = 1 << 0;
    pub const FIXED: u64 = 1 << 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
    /// The six status flags.
    pub const STATUS: u64 = CF | PF | AF | ZF | SF | OF;
    /// Every bit that can be set.
    pub const WRITABLE: u64 = STATUS | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;
}

/// CR0 bits (SDM vol. 3A, 2.5).
#[allow(missing_docs)]
pub mod cr0 {
    pub const PE: u64 = 1 << 0;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
    pub const ALL: u64 = PE | MP | EM | TS | ET | NE | WP | AM | NW | CD | PG;
}

/// CR4 bits (SDM vol. 3A, 2.5).
#[allow(missing_docs)]
pub mod cr4 {
    pub const VME: u64 = 1 << 0;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const LA57: u64 = 1 << 12;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
}

/// EFER bits (SDM vol. 3A, 2.2.1).
#[allow(missing_docs)]
pub mod efer {
    pub const SCE: u64 = 1 << 0;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
    pub const ALL: u64 = SCE | LME | LMA | NXE;
}

/// A segment register with its hidden part (SDM vol. 3A, 3.4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// The base address from the descriptor.
    pub base: u64,
    /// The limit in bytes, granularity applied.
    pub limit: u32,
    /// Descriptor bits 40..56 without the limit nibble, as VMX and KVM keep them: type 0..3, S 4, DPL 5..6,
    /// P 7, AVL 12, L 13, D/B 14, G 15; bit 16 set means unusable (a null selector).
    pub attributes: u32,
}

impl Segment {
    /// The attribute bit that says a register holds no usable segment.
    pub const UNUSABLE: u32 = 1 << 16;

    /// The descriptor type field, 0 to 15.
    pub const fn kind(&self) -> u32 {
        self.attributes & 0xf
    }
    /// The descriptor privilege level.
    pub const fn dpl(&self) -> u8 {
        ((self.attributes >> 5) & 3) as u8
    }
    /// Whether this is a code or data segment (S = 1).
    pub const fn is_code_or_data(&self) -> bool {
        self.attributes & (1 << 4) != 0
    }
    /// The present bit.
    pub const fn present(&self) -> bool {
        self.attributes & (1 << 7) != 0
    }
    /// The L bit: 64-bit code.
    pub const fn long(&self) -> bool {
        self.attributes & (1 << 13) != 0
    }
    /// The D/B bit: 32-bit default operand or stack size.
    pub const fn default_big(&self) -> bool {
        self.attributes & (1 << 14) != 0
    }
    /// Whether the register holds no usable segment.
    pub const fn unusable(&self) -> bool {
        self.attributes & Self::UNUSABLE != 0
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DescriptorTable {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes (size minus one).
    pub limit: u16,
}

/// Indices into [`Registers::segments`], in the encoding order of segment registers.
#[allow(missing_docs)]
pub mod seg {
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
}

/// Model-specific registers that hold plain state.
#[allow(missing_docs)]
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub tsc_aux: u64,
    /// What IA32_TIME_STAMP_COUNTER reads minus the domain's virtual TSC.
    pub tsc_offset: u64,
    pub pat: u64,
    pub misc_enable: u64,
    pub mtrr_def_type: u64,
    pub mtrr_fixed: [u64; 11],
    pub mtrr_variable: [u64; 16],
    pub xss: u64,
}

/// x87 state (SDM vol. 1, chapter 8).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct X87 {
    /// The eight physical data registers R0 to R7: 80-bit values in the low bits. ST(i) is `(TOP + i) % 8`.
    /// The MMX registers are their low 64 bits.
    pub r: [u128; 8],
    /// Control word.
    pub fcw: u16,
    /// Status word; TOP in bits 11..13.
    pub fsw: u16,
    /// Full tag word, two bits a physical register: 0 valid, 1 zero, 2 special, 3 empty.
    pub ftw: u16,
    /// Last opcode, 11 bits.
    pub fop: u16,
    /// Last instruction pointer.
    pub fip: u64,
    /// Last instruction's code segment selector.
    pub fcs: u16,
    /// Last data pointer.
    pub fdp: u64,
    /// Last data segment selector.
    pub fds: u16,
}

impl Default for X87 {
    /// The state after FNINIT.
    fn default() -> Self {
        X87 {
            r: [0; 8],
            fcw: 0x37f,
            fsw: 0,
            ftw: 0xffff,
            fop: 0,
            fip: 0,
            fcs: 0,
            fdp: 0,
            fds: 0,
        }
    }
}

impl X87 {
    /// The TOP field of the status word.
    pub const fn top(&self) -> usize {
        ((self.fsw >> 11) & 7) as usize
    }
}

/// What a vCPU is doing when it isn't executing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Activity {
    /// Executes instructions.
    #[default]
    Running,
    /// In HLT: waits for an interrupt.
    Halted,
    /// An application processor that waits for a start-up IPI.
    WaitForSipi,
}

/// The whole architectural state of one vCPU.
#[allow(missing_docs)]
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Registers {
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8 .. R15 (see [`gpr`]).
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// ES CS SS DS FS GS (see [`seg`]); FS and GS bases are the MSRs of that name.
    pub segments: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: DescriptorTable,
    pub idtr: DescriptorTable,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    /// The task priority, as CR8 shows it (0 to 15); kept by the local APIC.
    pub cr8: u64,
    pub efer: u64,
    pub xcr0: u64,
    pub dr: [u64; 4],
    pub dr6: u64,
    pub dr7: u64,
    pub apic_base: u64,
    pub msrs: Msrs,
    pub x87: X87,
    pub xmm: [u128; 16],
    /// Upper halves of YMM0..15: room for AVX; zero while no CPU model has it.
    pub ymm_high: [u128; 16],
    pub mxcsr: u32,
    pub activity: Activity,
    /// No interrupt is taken before the next instruction (after STI, MOV SS, POP SS).
    pub interrupt_shadow: bool,
    /// NMIs are blocked until the next IRET.
    pub nmi_blocked: bool,
}

impl Registers {
    /// The state after reset (SDM vol. 3A table 10-1), for the bootstrap processor or an application processor.
    pub fn at_reset(bootstrap: bool) -> Registers {
        let data = Segment {
            selector: 0,
            base: 0,
            limit: 0xffff,
            attributes: 0x93,
        };
        let code = Segment {
            selector: 0xf000,
            base: 0xffff_0000,
            limit: 0xffff,
            attributes: 0x9b,
        };
        Registers {
            gpr: [0, 0, 0x600, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            rip: 0xfff0,
            rflags: rflags::FIXED,
            segments: [data, code, data, data, data, data],
            ldtr: Segment {
                selector: 0,
                base: 0,
                limit: 0xffff,
                attributes: 0x82,
            },
            tr: Segment {
                selector: 0,
                base: 0,
                limit: 0xffff,
                attributes: 0x8b,
            },
            gdtr: DescriptorTable {
                base: 0,
                limit: 0xffff,
            },
            idtr: DescriptorTable {
                base: 0,
                limit: 0xffff,
            },
            cr0: cr0::CD | cr0::NW | cr0::ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            cr8: 0,
            efer: 0,
            xcr0: 1,
            dr: [0; 4],
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            apic_base: 0xfee0_0800 | if bootstrap { 0x100 } else { 0 },
            msrs: Msrs {
                pat: 0x0007_0406_0007_0406,
                misc_enable: 1,
                ..Msrs::default()
            },
            x87: X87 {
                fcw: 0x40,
                ftw: 0x5555,
                ..X87::default()
            },
            xmm: [0; 16],
            ymm_high: [0; 16],
            mxcsr: 0x1f80,
            activity: if bootstrap {
                Activity::Running
            } else {
                Activity::WaitForSipi
            },
            interrupt_shadow: false,
            nmi_blocked: false,
        }
    }

    /// The current privilege level.
    pub const fn cpl(&self) -> u8 {
        (self.segments[seg::SS].dpl()) & 3
    }
}
