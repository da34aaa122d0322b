//! The user-visible state of a CPU, and how a run ended.

/// Registers that user code sees.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8 .. R15.
    pub gpr: [u64; 16],
    /// The instruction pointer.
    pub rip: u64,
    /// RFLAGS without IF and RF.
    pub rflags: u64,
    /// ES CS SS DS FS GS.
    pub selectors: [u16; 6],
    /// The FS base.
    pub fs_base: u64,
    /// The GS base.
    pub gs_base: u64,
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
    /// SSE control and status.
    pub mxcsr: u32,
    /// x87 control word.
    pub fcw: u16,
    /// x87 status word.
    pub fsw: u16,
    /// x87 tags as FXSAVE has them: a bit set is a physical register in use.
    pub ftw: u8,
    /// ST(0) to ST(7), 80 bits each.
    pub st: [u128; 8],
}

/// Names of the general registers.
pub const GPR_NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

/// Bits of an 80-bit value.
pub const EXTENDED_MASK: u128 = (1 << 80) - 1;

/// A signal as Linux reports an exception to a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its number.
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
    /// `si_addr`.
    pub address: u64,
}

impl Event {
    /// What an INT3 makes.
    pub const BREAKPOINT: Event = Event {
        signal: libc::SIGTRAP,
        code: SI_KERNEL,
        address: 0,
    };
}

/// `si_code` of a signal that the kernel sends without more to say.
pub const SI_KERNEL: i32 = 0x80;

/// Why a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// An exception.
    Event(Event),
    /// It did not end in the time given.
    Endless,
    /// Something that no instruction should do.
    Broken(String),
}

/// Where a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Why.
    pub stop: Stop,
    /// The registers then.
    pub state: State,
    /// The memory image then.
    pub memory: Vec<u8>,
}

/// `si_code`s of the signals that exceptions become (Linux `asm-generic/siginfo.h`); libc lacks some.
pub mod code {
    /// SIGFPE: a divide error.
    pub const FPE_INTDIV: i32 = 1;
    /// SIGILL: an undefined opcode.
    pub const ILL_ILLOPN: i32 = 2;
    /// SIGSEGV: nothing is mapped there.
    pub const SEGV_MAPERR: i32 = 1;
    /// SIGSEGV: a page's rights forbid it.
    pub const SEGV_ACCERR: i32 = 2;
    /// SIGBUS: an alignment check.
    pub const BUS_ADRALN: i32 = 1;
    /// SIGTRAP: a breakpoint or INT1.
    pub const TRAP_BRKPT: i32 = 1;
    /// SIGTRAP: a single step.
    pub const TRAP_TRACE: i32 = 2;
}
