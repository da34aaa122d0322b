//! The engine, through `hv_core::machine::Machine`: a guest with nothing but page tables, descriptor tables and the pages of
//! [`super::layout`], entered in ring 3.
//!
//! Every exception vector has a handler that jumps to itself and a breakpoint on it. So a run ends at a handler, and the
//! state of the code under test is in the registers and in the frame on the ring 0 stack.

use super::case::Case;
use super::image::{GADGET, GADGET_CODE};
use super::layout::{CODE, DATA, IMAGE, IMAGE_BYTES, PAGE, READ_ONLY, STACK};
use super::state::{EXTENDED_MASK, Event, Outcome, SI_KERNEL, State, Stop, code};
use anyhow::{Result, anyhow, ensure};
use hv_core::introspect::{Breakpoint, BreakpointId, BreakpointKind, Place, StepMode};
use hv_core::machine::{GuestImage, Machine, MachineConfig, RunExit, RunLimit};
use hv_core::regs::{DescriptorTable, Registers, Segment, cr0, cr4, efer, rflags, seg};
use hv_core::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use std::collections::HashMap;
use std::sync::atomic::AtomicBool;

/// How the engine is driven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drive {
    /// One step after the other.
    Steps,
    /// Blocks.
    Blocks,
}

/// More instructions than any case retires.
const MOST_INSTRUCTIONS: u64 = 20_000;

// Ring 0's own pages, in the upper half.
const SYSTEM: u64 = 0xffff_8000_0000_0000;
const GDT: u64 = SYSTEM;
const IDT: u64 = SYSTEM + PAGE;
const TSS: u64 = SYSTEM + 2 * PAGE;
const HANDLERS: u64 = SYSTEM + 3 * PAGE;
const KERNEL_STACK: u64 = SYSTEM + 4 * PAGE;
const KERNEL_STACK_TOP: u64 = KERNEL_STACK + PAGE;
const SYSTEM_PAGES: u64 = 5;
const HANDLER_BYTES: u64 = 16;
const VECTORS: u64 = 32;

const KERNEL_CODE: u16 = 0x10;
const TSS_SELECTOR: u16 = 0x40;
/// Linux's descriptor table, as far as user code can see it.
const DESCRIPTORS: [(u16, u64); 6] = [
    (KERNEL_CODE, 0x00af_9b00_0000_ffff),
    (0x18, 0x00cf_9300_0000_ffff),
    (0x20, 0x00cf_fb00_0000_ffff),
    (0x28, 0x00cf_f300_0000_ffff),
    (0x30, 0x00af_fb00_0000_ffff),
    // The CPU's number, as a limit.
    (0x78, 0x0040_f500_0000_0000),
];
const GDT_LIMIT: u16 = 16 * 8 - 1;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
const NO_EXECUTE: u64 = 1 << 63;

const TABLES: u64 = 2 << 20;

/// A guest that runs cases.
pub struct EngineCpu {
    machine: Machine,
    /// Physical addresses of the mapped pages.
    pages: HashMap<u64, u64>,
    start: Registers,
    dirty_code: Option<(u64, usize)>,
    interrupt: AtomicBool,
}

/// Hands out physical pages and fills page tables.
struct Mapper<'a> {
    machine: &'a mut Machine,
    next: u64,
    root: u64,
    pages: HashMap<u64, u64>,
}

impl Mapper<'_> {
    fn page(&mut self) -> u64 {
        self.next += PAGE;
        self.next - PAGE
    }

    fn map(&mut self, address: u64, flags: u64) -> u64 {
        let mut table = self.root;
        for level in [39, 30, 21] {
            let entry = table + (address >> level & 511) * 8;
            let mut bytes = [0; 8];
            self.machine.read_physical(GuestPhysAddr(entry), &mut bytes);
            let mut value = u64::from_le_bytes(bytes);
            if value == 0 {
                value = self.page() | PRESENT | WRITABLE | USER;
                self.machine
                    .write_physical(GuestPhysAddr(entry), &value.to_le_bytes());
            }
            table = value & !0xfff;
        }
        let frame = self.page();
        let entry = table + (address >> 12 & 511) * 8;
        self.machine
            .write_physical(GuestPhysAddr(entry), &(frame | PRESENT | flags).to_le_bytes());
        self.pages.insert(address, frame);
        frame
    }
}

impl EngineCpu {
    /// A guest of the default CPU model.
    ///
    /// # Errors
    /// The machine can't be made.
    pub fn new() -> Result<EngineCpu> {
        let config = MachineConfig {
            memory_bytes: 8 << 20,
            vcpus: 1,
            seed: 0,
            cpu_model: String::new(),
            debug_exit: None,
            guest: GuestImage::Linux {
                kernel: kernel().into(),
                initrd: None,
                command_line: String::new(),
            },
        };
        let mut machine = Machine::new(&config)?;
        let mut mapper = Mapper {
            machine: &mut machine,
            next: TABLES,
            root: TABLES,
            pages: HashMap::new(),
        };
        mapper.page();
        for region in [GADGET, CODE, DATA, READ_ONLY, STACK] {
            for page in 0..region.pages {
                let write = if region.writable { WRITABLE } else { 0 };
                let execute = if region.executable { 0 } else { NO_EXECUTE };
                mapper.map(region.start + page * PAGE, USER | write | execute);
            }
        }
        for page in 0..SYSTEM_PAGES {
            mapper.map(SYSTEM + page * PAGE, WRITABLE);
        }
        let (root, pages) = (mapper.root, mapper.pages);
        for vector in 0..VECTORS {
            let place = Place::Virtual(GuestVirtAddr(HANDLERS + vector * HANDLER_BYTES));
            let breakpoint = Breakpoint {
                place,
                kind: BreakpointKind::Execute,
                condition: None,
            };
            machine.insert_breakpoint(BreakpointId(vector), breakpoint);
        }
        let start = registers(&machine.registers(VcpuId(0)), root);
        let mut cpu = EngineCpu {
            machine,
            pages,
            start,
            dirty_code: None,
            interrupt: AtomicBool::new(false),
        };
        for page in 0..CODE.pages {
            cpu.write(CODE.start + page * PAGE, &[0xcc; PAGE as usize])?;
        }
        // Code that strays there finds what the child has there.
        cpu.write(GADGET.start, &[0xcc; PAGE as usize])?;
        cpu.write(GADGET.start, &GADGET_CODE)?;
        cpu.write_system_tables()?;
        Ok(cpu)
    }

    fn write_system_tables(&mut self) -> Result<()> {
        for (selector, descriptor) in DESCRIPTORS {
            self.write(GDT + selector as u64, &descriptor.to_le_bytes())?;
        }
        self.write(TSS + 4, &KERNEL_STACK_TOP.to_le_bytes())?;
        // The I/O permission map lies behind the limit: ring 3 has no ports.
        self.write(TSS + 102, &0x68u16.to_le_bytes())?;
        for vector in 0..VECTORS {
            let handler = HANDLERS + vector * HANDLER_BYTES;
            self.write(handler, &[0xeb, 0xfe])?;
            // INT3 and INTO may be used by ring 3.
            let dpl: u64 = if matches!(vector, 3 | 4) { 3 } else { 0 };
            let low = handler & 0xffff
                | (KERNEL_CODE as u64) << 16
                | (0x8e | dpl << 5) << 40
                | (handler >> 16 & 0xffff) << 48;
            self.write(IDT + vector * 16, &low.to_le_bytes())?;
            self.write(IDT + vector * 16 + 8, &(handler >> 32).to_le_bytes())?;
        }
        Ok(())
    }

    fn physical(&self, address: u64) -> Result<GuestPhysAddr> {
        let page = self
            .pages
            .get(&(address & !0xfff))
            .ok_or_else(|| anyhow!("{address:#x} is not mapped"))?;
        Ok(GuestPhysAddr(page + (address & 0xfff)))
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = address + done as u64;
            let length = ((PAGE - at % PAGE) as usize).min(bytes.len() - done);
            let physical = self.physical(at)?;
            ensure!(
                self.machine.write_physical(physical, &bytes[done..done + length]) == length,
                "a short write"
            );
            done += length;
        }
        Ok(())
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        for (index, page) in bytes.chunks_mut(PAGE as usize).enumerate() {
            let physical = self.physical(address + index as u64 * PAGE)?;
            ensure!(
                self.machine.read_physical(physical, page) == page.len(),
                "a short read"
            );
        }
        Ok(())
    }

    /// Runs a case to its end.
    ///
    /// # Errors
    /// The guest can't be set up: a mistake of the test.
    pub fn run(&mut self, case: &Case, image: &[u8], drive: Drive) -> Result<Outcome> {
        if let Some((start, length)) = self.dirty_code.take() {
            self.write(start, &vec![0xcc; length])?;
        }
        let code = case.code();
        self.write(case.start.rip, &code)?;
        self.dirty_code = Some((case.start.rip, code.len()));
        let mut offset = 0;
        for region in IMAGE {
            self.write(region.start, &image[offset..offset + region.len()])?;
            offset += region.len();
        }
        let mut registers = self.start.clone();
        set_state(&mut registers, &case.start);
        self.machine
            .set_registers(VcpuId(0), &registers)
            .map_err(|bad| anyhow!("{}: {:?}", case.id, bad))?;
        let stop = match drive {
            Drive::Steps => self.step(),
            Drive::Blocks => self.run_blocks(),
        };
        let mut memory = vec![0; IMAGE_BYTES];
        let mut offset = 0;
        for region in IMAGE {
            self.read(region.start, &mut memory[offset..offset + region.len()])?;
            offset += region.len();
        }
        let registers = self.machine.registers(VcpuId(0));
        let mut state = state(&registers);
        let stop = match stop {
            Ok(vector) => match self.take_frame(vector, &registers, &mut state)? {
                Some(event) => Stop::Event(event),
                None => Stop::Broken(format!("exception {vector}")),
            },
            Err(stop) => stop,
        };
        if !matches!(stop, Stop::Event(_)) {
            // Whatever the machine is in now, the next case is not to see it.
            *self = EngineCpu::new()?;
        }
        Ok(Outcome { stop, state, memory })
    }

    fn vector_at(rip: u64) -> Option<u64> {
        let offset = rip.checked_sub(HANDLERS)?;
        (offset < VECTORS * HANDLER_BYTES && offset % HANDLER_BYTES == 0).then_some(offset / HANDLER_BYTES)
    }

    fn step(&mut self) -> std::result::Result<u64, Stop> {
        let limit = RunLimit {
            ticks: 1,
            step: Some((VcpuId(0), StepMode::Alone)),
        };
        for _ in 0..MOST_INSTRUCTIONS {
            match self.machine.run(&limit, &self.interrupt) {
                RunExit::Stepped => {}
                other => return Err(Stop::Broken(format!("{other:?}"))),
            }
            if let Some(vector) = Self::vector_at(self.machine.registers(VcpuId(0)).rip) {
                return Ok(vector);
            }
        }
        Err(Stop::Endless)
    }

    fn run_blocks(&mut self) -> std::result::Result<u64, Stop> {
        let limit = RunLimit {
            ticks: MOST_INSTRUCTIONS,
            step: None,
        };
        match self.machine.run(&limit, &self.interrupt) {
            RunExit::Limit => Err(Stop::Endless),
            RunExit::Stopped { .. } => {
                let rip = self.machine.registers(VcpuId(0)).rip;
                Self::vector_at(rip).ok_or_else(|| Stop::Broken(format!("stopped at {rip:#x}")))
            }
            other => Err(Stop::Broken(format!("{other:?}"))),
        }
    }

    /// Completes `state` from the interrupt frame, and tells which signal Linux would make of the exception.
    fn take_frame(&self, vector: u64, registers: &Registers, state: &mut State) -> Result<Option<Event>> {
        let has_error = matches!(vector, 8 | 10..=14 | 17);
        let rsp = registers.gpr[4];
        let words = 5 + has_error as u64;
        if rsp != KERNEL_STACK_TOP - words * 8 {
            return Ok(None);
        }
        let mut frame = vec![0; words as usize * 8];
        self.read(rsp, &mut frame)?;
        let word = |index: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&frame[index * 8..index * 8 + 8]);
            u64::from_le_bytes(bytes)
        };
        let (error, base) = if has_error { (word(0), 1) } else { (0, 0) };
        state.rip = word(base);
        state.selectors[seg::CS] = word(base + 1) as u16;
        state.rflags = word(base + 2) & !(rflags::IF | rflags::RF);
        state.gpr[4] = word(base + 3);
        state.selectors[seg::SS] = word(base + 4) as u16;
        Ok(signal_of(vector, error, state.rip, registers))
    }
}

/// The signal that Linux sends for an exception of a process.
fn signal_of(vector: u64, error: u64, rip: u64, registers: &Registers) -> Option<Event> {
    let event = |signal, code, address| {
        Some(Event {
            signal,
            code,
            address,
        })
    };
    match vector {
        0 => event(libc::SIGFPE, code::FPE_INTDIV, rip),
        1 => {
            let stepped = registers.dr6 & 1 << 14 != 0;
            event(
                libc::SIGTRAP,
                if stepped {
                    code::TRAP_TRACE
                } else {
                    code::TRAP_BRKPT
                },
                rip,
            )
        }
        3 => Some(Event::BREAKPOINT),
        4 | 5 | 10 | 13 => event(libc::SIGSEGV, SI_KERNEL, 0),
        6 => event(libc::SIGILL, code::ILL_ILLOPN, rip),
        11 | 12 => event(libc::SIGBUS, SI_KERNEL, 0),
        14 => {
            // Of the kernel's half a process learns nothing.
            let cr2 = registers.cr2;
            let present = error & 1 != 0 && cr2 >> 63 == 0;
            event(
                libc::SIGSEGV,
                if present {
                    code::SEGV_ACCERR
                } else {
                    code::SEGV_MAPERR
                },
                cr2,
            )
        }
        16 | 19 => event(libc::SIGFPE, 0, rip),
        17 => event(libc::SIGBUS, code::BUS_ADRALN, 0),
        _ => None,
    }
}

/// A multiboot kernel of one HLT, whose header has the addresses.
fn kernel() -> Vec<u8> {
    const ADDRESS: u32 = 1 << 20;
    const FLAGS: u32 = 1 << 16;
    let magic = 0x1bad_b002u32;
    let checksum = 0u32.wrapping_sub(magic).wrapping_sub(FLAGS);
    let mut bytes: Vec<u8> = [magic, FLAGS, checksum, ADDRESS, ADDRESS, 0, 0, ADDRESS + 32]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    bytes.push(0xf4);
    bytes
}

fn user_segment(selector: u16) -> Segment {
    let attributes = match selector | 3 {
        0x23 => 0xc0fb,
        0x2b => 0xc0f3,
        0x33 => 0xa0fb,
        _ => {
            return Segment {
                selector,
                base: 0,
                limit: 0,
                attributes: Segment::UNUSABLE,
            };
        }
    };
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes,
    }
}

/// Ring 3's system registers.
fn registers(machine: &Registers, root: u64) -> Registers {
    Registers {
        cr0: cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG,
        cr3: root,
        cr4: cr4::PAE
            | cr4::PGE
            | cr4::MCE
            | cr4::OSFXSR
            | cr4::OSXMMEXCPT
            | cr4::OSXSAVE
            | cr4::FSGSBASE
            | cr4::UMIP
            | cr4::SMEP
            | cr4::SMAP,
        efer: efer::SCE | efer::LME | efer::LMA | efer::NXE,
        xcr0: 3,
        gdtr: DescriptorTable {
            base: GDT,
            limit: GDT_LIMIT,
        },
        idtr: DescriptorTable {
            base: IDT,
            limit: (VECTORS * 16 - 1) as u16,
        },
        tr: Segment {
            selector: TSS_SELECTOR,
            base: TSS,
            limit: 0x67,
            attributes: 0x8b,
        },
        ldtr: Segment {
            selector: 0,
            base: 0,
            limit: 0,
            attributes: Segment::UNUSABLE,
        },
        ..machine.clone()
    }
}

fn set_state(r: &mut Registers, state: &State) {
    r.gpr = state.gpr;
    r.rip = state.rip;
    r.rflags = state.rflags | rflags::IF | rflags::FIXED;
    for (segment, selector) in r.segments.iter_mut().zip(state.selectors) {
        *segment = user_segment(selector);
    }
    r.segments[seg::FS].base = state.fs_base;
    r.segments[seg::GS].base = state.gs_base;
    r.xmm = state.xmm;
    r.mxcsr = state.mxcsr;
    r.x87.fcw = state.fcw;
    r.x87.fsw = state.fsw;
    let top = r.x87.top();
    r.x87.ftw = 0;
    for (index, value) in state.st.iter().enumerate() {
        let physical = (top + index) % 8;
        r.x87.r[physical] = *value;
        r.x87.ftw |= tag(state.ftw >> physical & 1 != 0, *value) << (2 * physical);
    }
}

/// The full tag of a register (SDM vol. 1, 8.1.7).
fn tag(in_use: bool, value: u128) -> u16 {
    let (exponent, significand) = (value >> 64 & 0x7fff, value as u64);
    match (in_use, exponent, significand) {
        (false, ..) => 3,
        (true, 0, 0) => 1,
        (true, 1..=0x7ffe, _) if significand >> 63 != 0 => 0,
        (true, ..) => 2,
    }
}

fn state(r: &Registers) -> State {
    let top = r.x87.top();
    State {
        gpr: r.gpr,
        rip: r.rip,
        rflags: r.rflags & !(rflags::IF | rflags::RF),
        selectors: std::array::from_fn(|index| r.segments[index].selector),
        fs_base: r.segments[seg::FS].base,
        gs_base: r.segments[seg::GS].base,
        xmm: r.xmm,
        mxcsr: r.mxcsr,
        fcw: r.x87.fcw,
        fsw: r.x87.fsw,
        ftw: (0..8)
            .filter(|index| r.x87.ftw >> (2 * index) & 3 != 3)
            .map(|index| 1 << index)
            .sum(),
        st: std::array::from_fn(|index| r.x87.r[(top + index) % 8] & EXTENDED_MASK),
    }
}
