//! The host's CPU, through a traced child process.

use super::case::Case;
use super::image::{CLEAR_FLAGS, GADGET, program};
use super::layout::{CODE, IMAGE, IMAGE_BYTES, STACK};
use super::ptrace::{Tracee, Waited};
use super::state::{EXTENDED_MASK, Event, Outcome, State, Stop};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// RFLAGS bits that are the kernel's business: IF and RF.
const HIDDEN_FLAGS: u64 = 1 << 9 | 1 << 16;
const IF: u64 = 1 << 9;
const ID: u64 = 1 << 21;
/// One past the last address that a process has.
const TASK_END: u64 = 0x7fff_ffff_f000;

/// A child process that runs cases.
pub struct NativeCpu {
    tracee: Tracee,
    memory: File,
    template: libc::user_regs_struct,
    fp_template: libc::user_fpregs_struct,
    /// Bytes at the start of which the last case's code was, to be made INT3 again.
    dirty_code: Option<(u64, usize)>,
}

impl NativeCpu {
    /// Starts the child.
    ///
    /// # Errors
    /// Tracing is not permitted here.
    pub fn new() -> Result<NativeCpu> {
        let tracee = Tracee::start(&program()).context("a child process can't be started and traced")?;
        let memory = tracee.memory().context("the child's memory can't be opened")?;
        let template = tracee.registers()?;
        let fp_template = tracee.fp_registers()?;
        let mut cpu = NativeCpu {
            tracee,
            memory,
            template,
            fp_template,
            dirty_code: None,
        };
        // Away with the first stack and the vDSO: what the layout doesn't have must not be there.
        let start = 0x4000_0000;
        let result = cpu.system_call(libc::SYS_munmap, [start, TASK_END - start, 0])?;
        if result != 0 {
            bail!("munmap in the child: {result}");
        }
        Ok(cpu)
    }

    fn system_call(&mut self, number: i64, arguments: [u64; 3]) -> Result<i64> {
        let mut registers = self.template;
        registers.rip = GADGET.start;
        registers.rax = number as u64;
        registers.orig_rax = u64::MAX;
        (registers.rdi, registers.rsi, registers.rdx) = (arguments[0], arguments[1], arguments[2]);
        self.tracee.set_registers(&registers)?;
        self.tracee.resume()?;
        match self.tracee.wait()? {
            Waited::Stopped(libc::SIGTRAP) => Ok(self.tracee.registers()?.rax as i64),
            other => bail!("a system call in the child ended with {other:?}"),
        }
    }

    /// Runs a case to its end.
    ///
    /// # Errors
    /// The child can't be controlled any more.
    pub fn run(&mut self, case: &Case, image: &[u8]) -> Result<Outcome> {
        self.write_code(case)?;
        let mut offset = 0;
        for region in IMAGE {
            self.memory
                .write_all_at(&image[offset..offset + region.len()], region.start)?;
            offset += region.len();
        }
        self.set_state(&case.start)?;
        self.tracee.resume()?;
        let Waited::Stopped(signal) = self.tracee.wait()? else {
            bail!("the child is gone");
        };
        let (number, code, address) = self.tracee.signal()?;
        let stop = if number == signal {
            Stop::Event(Event {
                signal,
                code,
                address,
            })
        } else {
            Stop::Broken(format!("signal {signal} with information of {number}"))
        };
        let mut memory = vec![0; IMAGE_BYTES];
        let mut offset = 0;
        for region in IMAGE {
            self.memory
                .read_exact_at(&mut memory[offset..offset + region.len()], region.start)?;
            offset += region.len();
        }
        let state = self.state()?;
        if state.rflags & ID != 0 {
            self.clear_flags()?;
        }
        Ok(Outcome { stop, state, memory })
    }

    /// Clears the one flag that a tracer can't: ID.
    fn clear_flags(&mut self) -> Result<()> {
        let registers = libc::user_regs_struct {
            rip: CLEAR_FLAGS,
            rsp: STACK.end() - 0x100,
            orig_rax: u64::MAX,
            ..self.template
        };
        self.tracee.set_registers(&registers)?;
        self.tracee.resume()?;
        match self.tracee.wait()? {
            Waited::Stopped(libc::SIGTRAP) => Ok(()),
            other => bail!("clearing the flags ended with {other:?}"),
        }
    }

    fn write_code(&mut self, case: &Case) -> Result<()> {
        if let Some((start, length)) = self.dirty_code.take() {
            self.memory.write_all_at(&vec![0xcc; length], start)?;
        }
        let code = case.code();
        if !CODE.contains(case.start.rip) || !CODE.contains(case.start.rip + code.len() as u64) {
            bail!("the code of {} doesn't fit its pages", case.id);
        }
        self.memory.write_all_at(&code, case.start.rip)?;
        self.dirty_code = Some((case.start.rip, code.len()));
        Ok(())
    }

    fn set_state(&mut self, state: &State) -> Result<()> {
        let mut r = self.template;
        [r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi] =
            [0, 1, 2, 3, 4, 5, 6, 7].map(|index: usize| state.gpr[index]);
        [r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15] =
            [8, 9, 10, 11, 12, 13, 14, 15].map(|index: usize| state.gpr[index]);
        r.rip = state.rip;
        r.eflags = state.rflags | IF;
        [r.es, r.cs, r.ss, r.ds, r.fs, r.gs] = state.selectors.map(u64::from);
        (r.fs_base, r.gs_base) = (state.fs_base, state.gs_base);
        // No system call is to be restarted.
        r.orig_rax = u64::MAX;
        self.tracee.set_registers(&r)?;
        let mut fp = self.fp_template;
        (fp.cwd, fp.swd, fp.ftw, fp.mxcsr) = (state.fcw, state.fsw, state.ftw as u16, state.mxcsr);
        for (index, value) in state.st.iter().enumerate() {
            put_words(&mut fp.st_space[index * 4..], *value);
        }
        for (index, value) in state.xmm.iter().enumerate() {
            put_words(&mut fp.xmm_space[index * 4..], *value);
        }
        self.tracee.set_fp_registers(&fp)?;
        Ok(())
    }

    fn state(&self) -> Result<State> {
        let r = self.tracee.registers()?;
        let fp = self.tracee.fp_registers()?;
        Ok(State {
            gpr: [
                r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12,
                r.r13, r.r14, r.r15,
            ],
            rip: r.rip,
            rflags: r.eflags & !HIDDEN_FLAGS,
            selectors: [r.es, r.cs, r.ss, r.ds, r.fs, r.gs].map(|selector| selector as u16),
            fs_base: r.fs_base,
            gs_base: r.gs_base,
            xmm: std::array::from_fn(|index| words(&fp.xmm_space[index * 4..])),
            mxcsr: fp.mxcsr,
            fcw: fp.cwd,
            fsw: fp.swd,
            ftw: fp.ftw as u8,
            st: std::array::from_fn(|index| words(&fp.st_space[index * 4..]) & EXTENDED_MASK),
        })
    }
}

fn words(words: &[u32]) -> u128 {
    (0..4).map(|index| (words[index] as u128) << (32 * index)).sum()
}

fn put_words(words: &mut [u32], value: u128) {
    for (index, word) in words.iter_mut().take(4).enumerate() {
        *word = (value >> (32 * index)) as u32;
    }
}
