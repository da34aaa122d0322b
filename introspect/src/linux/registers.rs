//! A task's registers while it isn't on a CPU: what the kernel left on its stack.

use super::Linux;
use super::error::Error;
use super::space::Space;
use super::tasks::Task;
use crate::virtual_memory::AddressSpace;
use hv_core::GuestVirtAddr;
use hv_core::introspect::ReadMemory;
use hv_core::regs::{Registers, gpr, seg};

/// `__KERNEL_CS` and `__KERNEL_DS` (arch/x86/include/asm/segment.h).
const KERNEL_CS: u16 = 0x10;
const KERNEL_SS: u16 = 0x18;
/// `__USER32_CS` and `__USER_CS` with user mode's privilege, and `__USER_DS`.
const USER_CS: [u16; 2] = [0x23, 0x33];
const USER_SS: u16 = 0x2b;
/// Stack sizes that there are: 16 KiB, and up to four times that with KASAN (THREAD_SIZE).
const STACK_SIZES: [u64; 4] = [0x2000, 0x4000, 0x8000, 0x1_0000];
/// The usual one.
const STACK_SIZE: u64 = 0x4000;
/// What a kernel leaves free above `struct pt_regs`: nothing, or room for FRED's frame (TOP_OF_KERNEL_STACK_PADDING).
const PADDINGS: [u64; 2] = [0, 16];

/// `struct inactive_task_frame` (arch/x86/include/asm/switch_to.h), from 4.9 on: which registers its words are.
const INACTIVE: [usize; 6] = [15, 14, 13, 12, gpr::RBX, gpr::RBP];
/// Its size, the return address included.
const INACTIVE_SIZE: u64 = 56;

/// Registers of which some aren't known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TaskRegisters {
    /// RAX RCX RDX RBX RSP RBP RSI RDI R8 .. R15 (see [`gpr`]).
    pub gpr: [Option<u64>; 16],
    /// The next instruction.
    pub rip: GuestVirtAddr,
    /// Flags.
    pub rflags: Option<u64>,
    /// Code segment selector; its low two bits are the privilege level.
    pub cs: Option<u16>,
    /// Stack segment selector.
    pub ss: Option<u16>,
    /// The base of FS; in user mode, of thread-local storage.
    pub fs_base: Option<u64>,
    /// The base of GS.
    pub gs_base: Option<u64>,
    /// In user mode: the number of the system call that the thread is in; -1 after an interrupt.
    pub orig_rax: Option<u64>,
}

impl TaskRegisters {
    /// The stack pointer.
    pub fn rsp(&self) -> Option<GuestVirtAddr> {
        self.gpr[gpr::RSP].map(GuestVirtAddr)
    }

    /// They are of user mode.
    pub fn is_user(&self) -> bool {
        self.cs.is_some_and(|cs| cs & 3 == 3)
    }
}

impl From<&Registers> for TaskRegisters {
    fn from(registers: &Registers) -> TaskRegisters {
        TaskRegisters {
            gpr: registers.gpr.map(Some),
            rip: GuestVirtAddr(registers.rip),
            rflags: Some(registers.rflags),
            cs: Some(registers.segments[seg::CS].selector),
            ss: Some(registers.segments[seg::SS].selector),
            fs_base: Some(registers.segments[seg::FS].base),
            gs_base: Some(registers.segments[seg::GS].base),
            orig_rax: None,
        }
    }
}

/// `struct pt_regs` (arch/x86/include/asm/ptrace.h).
pub(super) struct PtRegs([u64; 21]);

impl PtRegs {
    /// Bytes.
    pub(super) const SIZE: u64 = 168;
    /// Which registers its first words are.
    const ORDER: [usize; 15] = [
        15,
        14,
        13,
        12,
        gpr::RBP,
        gpr::RBX,
        11,
        10,
        9,
        8,
        gpr::RAX,
        gpr::RCX,
        gpr::RDX,
        gpr::RSI,
        gpr::RDI,
    ];

    pub(super) fn read(space: &Space<'_>, at: GuestVirtAddr) -> Result<PtRegs, Error> {
        let mut words = [0; 21];
        space.words("pt_regs", at, &mut words)?;
        Ok(PtRegs(words))
    }

    pub(super) fn registers(&self) -> TaskRegisters {
        let mut registers = TaskRegisters {
            rip: GuestVirtAddr(self.0[16]),
            rflags: Some(self.0[18]),
            cs: Some(self.cs()),
            ss: Some(self.0[20] as u16),
            orig_rax: Some(self.0[15]),
            ..TaskRegisters::default()
        };
        for (register, word) in Self::ORDER.into_iter().zip(self.0) {
            registers.gpr[register] = Some(word);
        }
        registers.gpr[gpr::RSP] = Some(self.0[19]);
        registers
    }

    /// With FRED, the words of cs and ss hold more than the selectors.
    fn cs(&self) -> u16 {
        self.0[17] as u16
    }

    fn is_user(&self) -> bool {
        USER_CS.contains(&self.cs()) && self.0[20] as u16 == USER_SS
    }
}

impl Linux {
    /// The registers with which a task goes on in the kernel when it runs next. The registers that a function may
    /// change aren't known then.
    ///
    /// # Errors
    /// [`Error::NoRegisters`] if it is on a CPU or has ended, another if its stack can't be read.
    pub fn task_registers(&self, memory: &dyn ReadMemory, task: &Task) -> Result<TaskRegisters, Error> {
        if task.on_cpu {
            return Err(no_registers(task, "it is on a CPU, and its registers are there"));
        }
        let space = self.space(memory);
        let (stack, size) = self.stack(&space, task)?;
        let inside = task.stack_pointer.0.wrapping_sub(stack.0);
        if !inside.is_multiple_of(8) || inside > size - INACTIVE_SIZE {
            return Err(Error::Implausible {
                what: "thread.sp",
                address: task.address,
                why: format!("{} isn't on the stack at {stack}", task.stack_pointer),
            });
        }
        let mut words = [0; 7];
        space.words("the kernel stack", task.stack_pointer, &mut words)?;
        let mut registers = TaskRegisters {
            rip: GuestVirtAddr(words[6]),
            cs: Some(KERNEL_CS),
            ss: Some(KERNEL_SS),
            ..TaskRegisters::default()
        };
        for (register, word) in INACTIVE.into_iter().zip(words) {
            registers.gpr[register] = Some(word);
        }
        registers.gpr[gpr::RSP] = Some(task.stack_pointer.0.wrapping_add(INACTIVE_SIZE));
        Ok(registers)
    }

    /// The registers with which a thread goes on in user mode: what it had when it entered the kernel. While it is in user
    /// mode on a CPU, they are old.
    ///
    /// # Errors
    /// [`Error::NoRegisters`] if it is a thread of the kernel or has ended, another if its stack can't be read.
    pub fn user_registers(&self, memory: &dyn ReadMemory, task: &Task) -> Result<TaskRegisters, Error> {
        if task.mm.is_none() {
            return Err(no_registers(task, "it is a thread of the kernel"));
        }
        let space = self.space(memory);
        let (stack, size) = self.stack(&space, task)?;
        let top = stack.wrapping_add(size);
        let mut why = None;
        for padding in PADDINGS {
            let at = GuestVirtAddr(top.0.wrapping_sub(padding + PtRegs::SIZE));
            let saved = PtRegs::read(&space, at)?;
            if saved.is_user() {
                // Those of a thread on a CPU are in the CPU.
                let base = |place: Option<GuestVirtAddr>| place.filter(|_| !task.on_cpu).map(|base| base.0);
                return Ok(TaskRegisters {
                    fs_base: base(task.fs_base),
                    gs_base: base(task.gs_base),
                    ..saved.registers()
                });
            }
            why.get_or_insert_with(|| Error::Implausible {
                what: "pt_regs",
                address: at,
                why: format!("cs is {:#x}, which is not user mode's", saved.0[17]),
            });
        }
        Err(why.unwrap_or_else(|| no_registers(task, "it never was in user mode")))
    }

    /// The address space of a task's process; `None` for a thread of the kernel.
    ///
    /// # Errors
    /// [`Error`] if the layout isn't known, or its `mm_struct` can't be read.
    pub fn user_space(&self, memory: &dyn ReadMemory, task: &Task) -> Result<Option<AddressSpace>, Error> {
        let root = task.mm.map(|mm| self.page_tables(memory, mm)).transpose()?;
        Ok(root.map(|root| AddressSpace::Root(self.mode, root)))
    }

    /// A task's kernel stack: its low end and its size. That of one that has ended may be another's already.
    pub(super) fn stack(&self, space: &Space<'_>, task: &Task) -> Result<(GuestVirtAddr, u64), Error> {
        if task.state.has_ended() {
            return Err(no_registers(task, "it has ended"));
        }
        if !space.is_kernel(task.stack) || task.stack.page_offset() != 0 {
            return Err(Error::Implausible {
                what: "task_struct.stack",
                address: task.address,
                why: format!("{} is no stack", task.stack),
            });
        }
        Ok((task.stack, stack_size(&|name| self.symbol(name))))
    }
}

/// THREAD_SIZE, by the first task's stack in the image.
pub(super) fn stack_size(symbol: &dyn Fn(&str) -> Option<GuestVirtAddr>) -> u64 {
    let by_symbols = |start, end| {
        let size = symbol(end)?.0.checked_sub(symbol(start)?.0)?;
        STACK_SIZES.contains(&size).then_some(size)
    };
    by_symbols("__start_init_stack", "__end_init_stack")
        .or_else(|| by_symbols("__start_init_task", "__end_init_task"))
        .unwrap_or(STACK_SIZE)
}

fn no_registers(task: &Task, why: &'static str) -> Error {
    Error::NoRegisters { pid: task.pid, why }
}
