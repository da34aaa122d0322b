//! Kernel stacks, unwound as the kernel itself does it: by ORC, and by frame pointers where there is none.
//!
//! ```text
//!   TaskRegisters ──► rip ──► row of ORC: the image's, or a module's ──► where the caller's rip, rsp, rbp are ──┐
//!                      ▲                                                                                        │
//!                      └────────────────────────────── a frame ◄───────────────────────────────────────────────┘
//! ```

use super::error::Error;
use super::registers::{PtRegs, TaskRegisters};
use super::space::Space;
use super::{Broken, Linux, Module, Walk};
use hv_core::GuestVirtAddr;
use hv_core::introspect::ReadMemory;
use hv_core::regs::gpr;
use std::sync::Arc;
use symbols::synthetic::{Base, Frame as AtEnd, Orc, OrcVersion, Row};

/// The most frames.
const MAX_FRAMES: usize = 64;
/// What it is called where it breaks off.
const STACK: &str = "kernel stack";
/// No stack is larger: a frame that ends further away is on another one, or nonsense.
const MAX_STACK: u64 = 0x1_0000;

/// A frame of a kernel stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StackFrame {
    /// Where it goes on.
    pub rip: GuestVirtAddr,
    /// Its stack pointer.
    pub rsp: GuestVirtAddr,
    /// It was interrupted, or is the innermost: `rip` is its next instruction, and not a return address.
    pub interrupted: bool,
}

impl StackFrame {
    /// An address of the instruction that the frame is in, by which its function is to be looked up: a call may be a
    /// function's last instruction.
    pub fn call(&self) -> GuestVirtAddr {
        if self.interrupted {
            self.rip
        } else {
            GuestVirtAddr(self.rip.0.wrapping_sub(1))
        }
    }
}

/// Unwinds many stacks of a guest that stands still: what modules there are is read once.
pub struct Unwinder<'a> {
    linux: &'a Linux,
    space: Space<'a>,
    kernel: Option<Arc<Orc>>,
    modules: Option<Vec<(Module, Option<Orc>)>>,
}

impl Linux {
    /// For unwinding many stacks.
    pub fn unwinder<'a>(&'a self, memory: &'a dyn ReadMemory) -> Unwinder<'a> {
        Unwinder {
            linux: self,
            space: self.space(memory),
            kernel: self.unwind_tables(memory),
            modules: None,
        }
    }

    /// A kernel stack from the innermost frame on: of [`Linux::task_registers`], or of a vCPU that is in the kernel.
    ///
    /// # Errors
    /// None where a frame was found: the walk says why there aren't more, unless the last is the outermost.
    pub fn kernel_stack(&self, memory: &dyn ReadMemory, registers: &TaskRegisters) -> Walk<StackFrame> {
        self.unwinder(memory).stack(registers)
    }

    /// The image's ORC. The kernel sorts it when it starts; until then it is of no use.
    fn unwind_tables(&self, memory: &dyn ReadMemory) -> Option<Arc<Orc>> {
        if let Some(known) = self.orc.get() {
            return Some(known.clone());
        }
        let orc = self.orc(memory).filter(Orc::is_sorted)?;
        Some(self.orc.get_or_init(|| Arc::new(orc)).clone())
    }

    /// How rows of ORC are laid out in this build.
    pub(super) fn orc_version(&self, memory: &dyn ReadMemory) -> Option<OrcVersion> {
        self.unwind_tables(memory).map(|orc| orc.version)
    }
}

/// What is known in a frame.
struct State {
    /// As long as no call was unwound, all that the registers had.
    gpr: [Option<u64>; 16],
    rip: u64,
    rsp: u64,
    interrupted: bool,
}

impl Unwinder<'_> {
    /// As [`Linux::kernel_stack`].
    pub fn stack(&mut self, registers: &TaskRegisters) -> Walk<StackFrame> {
        let mut frames = Vec::new();
        let mut state = State {
            gpr: registers.gpr,
            rip: registers.rip.0,
            rsp: registers.rsp().map_or(0, |rsp| rsp.0),
            interrupted: true,
        };
        let why = loop {
            let (rip, rsp) = (GuestVirtAddr(state.rip), GuestVirtAddr(state.rsp));
            if registers.is_user() || !self.space.is_kernel(rip) {
                break Some(format!("{rip} is no address of the kernel"));
            }
            if frames.len() == MAX_FRAMES {
                break Some(format!("it has more than {MAX_FRAMES} frames"));
            }
            let frame = StackFrame {
                rip,
                rsp,
                interrupted: state.interrupted,
            };
            frames.push(frame);
            if !self.space.is_kernel(rsp) || !rsp.0.is_multiple_of(8) {
                break Some("its stack pointer is none of the kernel's".to_owned());
            }
            let next = match self.row(frame.call()) {
                Some(row) => self.by_row(&state, row),
                None => self.by_frame_pointer(&state),
            };
            match next {
                Ok(Some(next)) => state = next,
                Ok(None) => break None,
                Err(why) => break Some(why),
            }
        };
        let broken = why.map(|why| Broken {
            list: STACK,
            at: GuestVirtAddr(state.rsp),
            read: frames.len(),
            why,
        });
        Walk {
            items: frames,
            broken,
        }
    }

    /// The row for an address.
    fn row(&mut self, address: GuestVirtAddr) -> Option<Row> {
        if self.linux.image.contains(address) {
            return self.kernel.as_ref()?.row(address.0);
        }
        let (linux, memory) = (self.linux, self.space.memory);
        let modules = self.modules.get_or_insert_with(|| {
            let modules = linux
                .modules(memory)
                .map_or_else(|_| Vec::new(), |walk| walk.items);
            let orc = |module: Module| {
                let orc = linux.module_orc(memory, &module).ok().flatten();
                (module, orc)
            };
            modules.into_iter().map(orc).collect()
        });
        let of_it = modules.iter().find(|(module, _)| module.contains(address))?;
        of_it.1.as_ref()?.row(address.0)
    }

    /// The caller's frame; `None` after the outermost.
    fn by_row(&self, state: &State, row: Row) -> Result<Option<State>, String> {
        if row.frame == AtEnd::End {
            return Ok(None);
        }
        let register = |dwarf: u8| match dwarf {
            7 => Some(state.rsp),
            6 => state.gpr[gpr::RBP],
            5 => state.gpr[gpr::RDI],
            1 => state.gpr[gpr::RDX],
            0 => state.gpr[gpr::RAX],
            number => state.gpr.get(usize::from(number)).copied().flatten(),
        };
        let offset = i64::from(row.sp_offset);
        let top = match row.sp {
            Base::Register(number) => {
                let base = register(number).ok_or("it needs a register that isn't known")?;
                // The kernel itself adds an offset to these two alone.
                base.wrapping_add_signed(if matches!(number, 6 | 7) { offset } else { 0 })
            }
            Base::SpIndirect => self.word(state.rsp)?.wrapping_add_signed(offset),
            Base::BpIndirect => {
                let base = state.gpr[gpr::RBP].ok_or("it needs a register that isn't known")?;
                self.word(base.wrapping_add_signed(offset))?
            }
            Base::Undefined | Base::PreviousSp => return Ok(None),
        };
        let bp_offset = i64::from(row.bp_offset);
        let saved = match row.bp {
            Base::PreviousSp => Some(self.word(top.wrapping_add_signed(bp_offset))?),
            Base::Register(6) => {
                let base = state.gpr[gpr::RBP].ok_or("it needs a register that isn't known")?;
                Some(self.word(base.wrapping_add_signed(bp_offset))?)
            }
            _ => None,
        };
        let mut next = match row.frame {
            AtEnd::End => return Ok(None),
            AtEnd::Call => {
                self.check(state, top)?;
                let mut gpr = [None; 16];
                gpr[gpr::RBP] = state.gpr[gpr::RBP];
                State {
                    gpr,
                    rip: self.word(top.wrapping_sub(8))?,
                    rsp: top,
                    interrupted: false,
                }
            }
            AtEnd::Registers => {
                let saved =
                    PtRegs::read(&self.space, GuestVirtAddr(top)).map_err(|error| error.to_string())?;
                let registers = saved.registers();
                if registers.is_user() {
                    return Ok(None);
                }
                State {
                    gpr: registers.gpr,
                    rip: registers.rip.0,
                    rsp: registers.rsp().map_or(0, |rsp| rsp.0),
                    interrupted: true,
                }
            }
            AtEnd::Interrupt => {
                if self.word(top.wrapping_add(8))? & 3 == 3 {
                    return Ok(None);
                }
                State {
                    gpr: state.gpr,
                    rip: self.word(top)?,
                    rsp: self.word(top.wrapping_add(24))?,
                    interrupted: true,
                }
            }
        };
        if saved.is_some() {
            next.gpr[gpr::RBP] = saved;
        }
        Ok(Some(next))
    }

    /// Code that was made at run time keeps frame pointers; so does a kernel without ORC.
    fn by_frame_pointer(&self, state: &State) -> Result<Option<State>, String> {
        let base = state.gpr[gpr::RBP].filter(|&base| self.space.is_kernel(GuestVirtAddr(base)));
        let base = base.ok_or("nothing says how its code is unwound")?;
        let top = base.wrapping_add(16);
        self.check(state, top)?;
        let mut gpr = [None; 16];
        gpr[gpr::RBP] = Some(self.word(base)?);
        let rip = self.word(base.wrapping_add(8))?;
        if rip == 0 {
            return Ok(None);
        }
        Ok(Some(State {
            gpr,
            rip,
            rsp: top,
            interrupted: false,
        }))
    }

    /// Callers' frames are above, except where one stack ends and another goes on.
    fn check(&self, state: &State, top: u64) -> Result<(), String> {
        if !top.is_multiple_of(8) || !self.space.is_kernel(GuestVirtAddr(top)) {
            return Err(format!(
                "it would end at {}, where no frame can end",
                GuestVirtAddr(top)
            ));
        }
        if top <= state.rsp && state.rsp - top < MAX_STACK {
            return Err(format!("it would end at {}, below its start", GuestVirtAddr(top)));
        }
        Ok(())
    }

    fn word(&self, address: u64) -> Result<u64, String> {
        self.space
            .u64(STACK, GuestVirtAddr(address))
            .map_err(|error: Error| error.to_string())
    }
}
