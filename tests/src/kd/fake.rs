//! A made-up machine: enough of a Windows kernel's memory for a debugger to attach, and a CPU that only does NOPs.

use super::message::{BREAKPOINT, Manipulate, SINGLE_STEP, SUCCESS, UNSUCCESSFUL, api};
use super::packet::{long, quad};
use super::requests::{CONTEXT, register, set_register};

/// What a target of tests has.
#[derive(Clone, Debug)]
pub struct FakeMachine {
    /// Pieces of memory, by address.
    pub memory: Vec<(u64, Vec<u8>)>,
    /// DBGKD_GET_VERSION64.
    pub version: [u8; 40],
    /// What it reports when it stops, 240 bytes.
    pub report: Vec<u8>,
    /// What it prints before it answers a request, one a request.
    pub prints: Vec<String>,
    /// Its CPU; without one it stops where it starts.
    pub cpu: Option<FakeCpu>,
}

/// A CPU.
#[derive(Clone, Debug)]
pub struct FakeCpu {
    /// CONTEXT, 1232 bytes.
    pub context: Vec<u8>,
    /// What control spaces hold, by selector.
    pub control: Vec<Vec<u8>>,
    /// By handle, which counts from 1; 0 is none.
    breakpoints: [u64; 32],
}

const BASE: u64 = 0xffff_f803_1200_0000;
const DATA_LIST: u64 = BASE + 0xc0_0b20;
const DATA: u64 = BASE + 0xbf_e5e0;
const MODULES: u64 = BASE + 0xc2_a290;
const MODULE: u64 = BASE + 0xc3_0000;
const PCR: u64 = BASE - 0x10_0000;
const PRCB: u64 = PCR + 0x180;
const THREAD: u64 = BASE + 0xaa_9400;
const CODE: u64 = BASE + 0x34_5000;
const STACK: u64 = BASE - 0x20_0000;
const SHARED: u64 = 0xffff_f780_0000_0000;
const TRAP_FLAG: u32 = 0x100;
const FLAGS: usize = 0x44;

impl FakeMachine {
    /// A kernel `nt` without symbols, of build 19041, with one CPU, which stands among NOPs.
    pub fn nt() -> FakeMachine {
        let mut image = Bytes(vec![0; 0x1000]);
        image.put(0, b"MZ").long(0x3c, 0x80).put(0x80, b"PE\0\0");
        // IMAGE_FILE_HEADER and IMAGE_OPTIONAL_HEADER64: AMD64, no section.
        image.long(0x84, 0x8664).long(0x88, 0x1234_5678);
        image.long(0x94, 0x0022_00f0).long(0x98, 0x020b);
        image.quad(0xb0, BASE).long(0xb8, 0x1000).long(0xbc, 0x200);
        image
            .long(0xd0, 0x0100_0000)
            .long(0xd4, 0x400)
            .long(0xd8, 0x00ab_cdef)
            .long(0x104, 16);

        let mut list = Bytes(vec![0; 16]);
        list.quad(0, DATA).quad(8, DATA);
        // KDDEBUGGER_DATA64 (wdbgexts.h).
        let mut data = Bytes(vec![0; 0x360]);
        data.quad(0, DATA_LIST)
            .quad(8, DATA_LIST)
            .put(0x10, b"KDBG")
            .long(0x14, 0x360);
        data.quad(0x18, BASE).quad(0x48, MODULES);
        data.put(0x2b4, &8_u16.to_le_bytes())
            .put(0x2b0, &0x700_u16.to_le_bytes());

        let mut modules = Bytes(vec![0; 16]);
        modules.quad(0, MODULE).quad(8, MODULE);
        // KLDR_DATA_TABLE_ENTRY: links, base, size, two names, time.
        let mut module = Bytes(vec![0; 0x400]);
        module.quad(0, MODULES).quad(8, MODULES).quad(0x30, BASE);
        module.long(0x40, 0x0100_0000);
        let name: Vec<u8> = "ntoskrnl.exe".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let length = name.len() as u32;
        for at in [0x48, 0x58] {
            module
                .long(at, length << 16 | length)
                .quad(at + 8, MODULE + 0x200);
        }
        module.put(0x200, &name).long(0x9c, 0x1234_5678);

        let mut processor = Bytes(vec![0; 0x1000]);
        processor.quad(0x18, PCR).quad(0x20, PRCB).quad(0x188, THREAD);
        // The GDT: without a descriptor of 64-bit code the engine takes RIP for 16 bits.
        processor
            .quad(0x810, 0x0020_9b00_0000_0000)
            .quad(0x818, 0x00cf_9300_0000_ffff);

        let mut machine = FakeMachine {
            memory: vec![
                (BASE, image.0),
                (DATA_LIST, list.0),
                (DATA, data.0),
                (MODULES, modules.0),
                (MODULE, module.0),
                (PCR, processor.0),
                (THREAD, vec![0; 0x600]),
                (CODE, vec![0x90; 0x1000]),
                (STACK, vec![0; 0x1000]),
                (SHARED, vec![0; 0x1000]),
            ],
            version: [0; 40],
            report: vec![0; 240],
            prints: Vec::new(),
            cpu: Some(FakeCpu::new()),
        };
        let mut version = Bytes(vec![0; 40]);
        version.put(0, &[0x0f, 0, 0x61, 0x4a, 6, 2, 0x46, 0, 0x64, 0x86, 12, 3, 0x31]);
        version.quad(16, BASE).quad(24, MODULES).quad(32, DATA_LIST);
        machine.version.copy_from_slice(&version.0);
        machine.stop(BREAKPOINT);
        machine
    }

    /// Where its CPU stands.
    pub fn pc(&self) -> u64 {
        self.cpu.as_ref().map_or(0, |cpu| register(&cpu.context, "rip"))
    }

    /// Carries a request out; `None` if it is one that isn't answered.
    pub(super) fn answer(&mut self, request: &Manipulate) -> Option<Manipulate> {
        if let Some(api) = api::ALL.iter().find(|api| api.number == request.api)
            && !api.replies
        {
            return None;
        }
        let mut answer = request.clone();
        answer.data.clear();
        answer.status = self.carry_out(request, &mut answer).unwrap_or(UNSUCCESSFUL);
        Some(answer)
    }

    /// The status; `None` is a failure.
    fn carry_out(&mut self, request: &Manipulate, answer: &mut Manipulate) -> Option<u32> {
        let is = |api: super::Api| api.number == request.api;
        let (address, count) = (quad(&request.fields, 0), long(&request.fields, 8) as usize);
        if is(api::GET_VERSION) {
            answer.fields = self.version;
        } else if is(api::READ_VIRTUAL) {
            let (_, rest) = self.at(address)?;
            answer.data = rest[..rest.len().min(count)].to_vec();
            answer.set_long(12, answer.data.len() as u32);
        } else if is(api::WRITE_VIRTUAL) {
            let (_, rest) = self.at(address)?;
            let count = rest.len().min(request.data.len());
            rest[..count].copy_from_slice(&request.data[..count]);
            answer.set_long(12, count as u32);
        } else if is(api::QUERY_MEMORY) {
            answer.set_long(8, 0);
            answer.set_long(16, 2);
            answer.set_long(20, 7);
        } else {
            return self.cpu.as_mut()?.carry_out(request, answer);
        }
        Some(SUCCESS)
    }

    fn at(&mut self, address: u64) -> Option<(u64, &mut [u8])> {
        self.memory.iter_mut().find_map(|(start, bytes)| {
            let at = usize::try_from(address.checked_sub(*start)?).ok()?;
            let rest = bytes.get_mut(at..)?;
            (!rest.is_empty()).then_some((*start, rest))
        })
    }

    /// Goes on; whether it stops again by itself.
    pub(super) fn go(&mut self, trace: bool) -> bool {
        let pc = self.pc();
        let Some(cpu) = &mut self.cpu else { return false };
        let flags = long(&cpu.context, FLAGS);
        if trace || flags & TRAP_FLAG != 0 {
            cpu.context[FLAGS..FLAGS + 4].copy_from_slice(&(flags & !TRAP_FLAG).to_le_bytes());
            set_register(&mut cpu.context, "rip", pc + 1);
            self.stop(SINGLE_STEP);
            return true;
        }
        let next = cpu.breakpoints.iter().copied().filter(|&at| at >= pc).min();
        let Some(next) = next else { return false };
        set_register(&mut cpu.context, "rip", next);
        self.stop(BREAKPOINT);
        true
    }

    /// Makes the report of a stop where the CPU stands. As in a kernel, breakpoints within the code that is reported
    /// are gone.
    pub(super) fn stop(&mut self, code: u32) {
        let pc = self.pc();
        let Some(cpu) = &mut self.cpu else { return };
        for breakpoint in &mut cpu.breakpoints {
            if (pc..pc + 16).contains(breakpoint) {
                *breakpoint = 0;
            }
        }
        let flags = long(&cpu.context, FLAGS);
        let stream = self.at(pc).map_or(Vec::new(), |(_, rest)| rest.to_vec());
        let mut report = Bytes(vec![0; 240]);
        report.long(0, 0x3030).long(4, 6).long(8, 1);
        report.quad(16, THREAD).quad(24, pc).long(32, code).quad(48, pc);
        report.long(184, 1);
        let dr6 = if code == SINGLE_STEP {
            0xffff_4ff0
        } else {
            0xffff_0ff0
        };
        report.quad(192, dr6).quad(200, 0x400).long(208, flags);
        report.long(212, 3 << 16 | 16).put(216, &stream[..16]);
        report.put(232, &[0x10, 0, 0x2b, 0, 0x2b, 0, 0x53, 0]);
        self.report = report.0;
    }
}

impl FakeCpu {
    fn new() -> FakeCpu {
        let mut context = Bytes(vec![0; CONTEXT]);
        context.long(0x30, 0x10_001f).long(0x34, 0x1f80);
        context.put(0x38, &[0x10, 0, 0x2b, 0, 0x2b, 0, 0x53, 0, 0x2b, 0, 0x18, 0]);
        context.long(FLAGS, 0x246).quad(0x70, 0x400);
        context
            .quad(0x78, 0x1122_3344_5566_7788)
            .quad(0x98, STACK + 0x800)
            .quad(0xf8, CODE + 0x100);
        // KSPECIAL_REGISTERS: CR0, CR3, CR4, DR6, DR7, GDTR, IDTR, TR, GS base.
        let mut special = Bytes(vec![0; 0xf0]);
        special
            .quad(0, 0x8005_0033)
            .quad(0x10, 0x1a_d000)
            .quad(0x18, 0x2_06f8);
        special.quad(0x40, 0xffff_0ff0).quad(0x48, 0x400);
        special.long(0x54, 0x57 << 16).quad(0x58, PCR + 0x800);
        special.long(0x64, 0xfff << 16).quad(0x68, PCR + 0x900);
        special.long(0x70, 0x40).quad(0xa8, PCR);
        let address = |address: u64| address.to_le_bytes().to_vec();
        FakeCpu {
            context: context.0,
            control: vec![address(PCR), address(PRCB), special.0, address(THREAD)],
            breakpoints: [0; 32],
        }
    }

    fn carry_out(&mut self, request: &Manipulate, answer: &mut Manipulate) -> Option<u32> {
        let is = |api: super::Api| api.number == request.api;
        let (address, count) = (quad(&request.fields, 0), long(&request.fields, 8) as usize);
        if is(api::GET_CONTEXT) {
            answer.data.clone_from(&self.context);
        } else if is(api::GET_CONTEXT_EX) {
            let from = long(&request.fields, 0) as usize;
            let to = (from + long(&request.fields, 4) as usize).min(CONTEXT);
            answer.data = self.context.get(from..to)?.to_vec();
            answer.set_long(8, answer.data.len() as u32);
        } else if is(api::SET_CONTEXT) {
            (request.data.len() == CONTEXT).then_some(())?;
            self.context.clone_from(&request.data);
        } else if is(api::READ_CONTROL_SPACE) {
            let space = self.control.get(usize::try_from(address).ok()?)?;
            answer.data = space[..space.len().min(count)].to_vec();
            answer.set_long(12, answer.data.len() as u32);
        } else if is(api::WRITE_CONTROL_SPACE) {
            let space = self.control.get_mut(usize::try_from(address).ok()?)?;
            let count = space.len().min(request.data.len());
            space[..count].copy_from_slice(&request.data[..count]);
            answer.set_long(12, count as u32);
        } else if is(api::WRITE_BREAKPOINT) {
            let known = self.breakpoints.contains(&address);
            let free = self
                .breakpoints
                .iter()
                .position(|&at| at == 0)
                .filter(|_| !known)?;
            self.breakpoints[free] = address;
            answer.set_long(8, free as u32 + 1);
        } else if is(api::RESTORE_BREAKPOINT) {
            let handle = (address as u32).checked_sub(1)?;
            let breakpoint = self.breakpoints.get_mut(handle as usize)?;
            (std::mem::take(breakpoint) != 0).then_some(())?;
        } else {
            return None;
        }
        Some(SUCCESS)
    }
}

/// Bytes of known length, filled in by offset.
struct Bytes(Vec<u8>);

impl Bytes {
    fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Bytes {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn long(&mut self, at: usize, value: u32) -> &mut Bytes {
        self.put(at, &value.to_le_bytes())
    }

    fn quad(&mut self, at: usize, value: u64) -> &mut Bytes {
        self.put(at, &value.to_le_bytes())
    }
}
