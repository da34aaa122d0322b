//! A small machine of hv-core in 64-bit mode, with a made-up kernel in its upper half.
//!
//! ```text
//! fffff803`00000000   0x0000  image header      0x4000  debugger data block, encoded by inverting its bits
//!                     0x1000  code              0x5000  the stack's end
//!                     0x3000  list of modules   0x6000  not mapped
//! 00000000`00400000   a user page
//! ```

use hv_core::introspect::{ReadMemory, ReadRegisters, WriteMemory, WriteRegisters};
use hv_core::machine::{GuestImage, MachineConfig};
use hv_core::regs::{Activity, DescriptorTable, Registers, Segment, cr0, cr4, efer, gpr, seg};
use hv_core::{Domain, DomainConfig, GuestPhysAddr, GuestVirtAddr, Hypervisor, VcpuId};
use introspect::windows::{Arch, DebuggerData, Encoding, Module, Processor, Source, VersionBlock};
use introspect::{AddressSpace, Target};
use kdd::kd::kernel::{Kernel, Recogniser};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub const BASE: u64 = 0xffff_f803_0000_0000;
pub const PHYS: u64 = 0x10_0000;
pub const SIZE: u64 = 0x6000;
/// inc rax; mov [rbx], rax; mov rcx, [rbx]; nop; jmp back
pub const LOOP: u64 = BASE + 0x1000;
pub const NOP: u64 = LOOP + 9;
/// Where RBX points.
pub const CELL: u64 = BASE + 0x2000;
pub const BUGCHECK: u64 = BASE + 0x1100;
/// Calls the bugcheck.
pub const CRASH: u64 = BASE + 0x1110;
pub const PRINT: u64 = BASE + 0x1140;
/// Prints and goes to the loop.
pub const SPEAK: u64 = BASE + 0x1150;
/// Inserts a module into the list.
pub const LOAD: u64 = BASE + 0x1180;
/// Takes it out again.
pub const UNLOAD: u64 = BASE + 0x1200;
/// cli; hlt; jmp back
pub const HALT: u64 = BASE + 0x1280;
/// int3; jmp LOOP
pub const INT3: u64 = BASE + 0x12a0;
/// The handler of #BP: iretq
pub const HANDLER: u64 = BASE + 0x12c0;
/// int 2d; int3; jmp LOOP
pub const SERVICE: u64 = BASE + 0x1300;
/// The handler of int 2d, as without a debugger: inc qword [rsp]; mov eax, c000009dh; iretq
pub const UNSERVED: u64 = BASE + 0x12f0;
/// div ecx; jmp LOOP
pub const DIVIDE: u64 = BASE + 0x12d0;
/// The handler of #DE: mov ecx, 1; iretq
const FIX: u64 = BASE + 0x12e0;
pub const BUGCHECK_DATA: u64 = BASE + 0x2800;
const IDT: u64 = BASE + 0x3800;
const GDT: u64 = BASE + 0x3a00;
pub const MODULES: u64 = BASE + 0x3000;
pub const FIRST_MODULE: u64 = BASE + 0x3100;
pub const SECOND_MODULE: u64 = BASE + 0x3300;
pub const DATA_LIST: u64 = BASE + 0x3f00;
pub const DATA: u64 = BASE + 0x4000;
pub const DATA_SIZE: usize = 0x360;
pub const STACK: u64 = BASE + 0x5f00;
pub const USER: u64 = 0x40_0000;
pub const TEXT: &[u8] = b"hello from the guest\n";

pub const PRINT_CODE: &[u8] = &[
    0x0f, 0xb7, 0x11, 0x48, 0x8b, 0x49, 8, 0xb8, 1, 0, 0, 0, 0xcd, 0x2d, 0xcc, 0xc3,
];

const PML4: u64 = 0x8000;
const MEMORY: u64 = 4 << 20;

/// A paused machine with the kernel in place, and its target.
pub struct TestGuest {
    pub domain: Arc<Domain>,
    pub target: Arc<Target>,
    /// Whether a recogniser finds the kernel.
    pub visible: Arc<AtomicBool>,
    _hypervisor: Hypervisor,
}

impl TestGuest {
    pub fn new(vcpus: u32) -> TestGuest {
        let hypervisor = Hypervisor::new();
        let domain = hypervisor
            .create(DomainConfig {
                name: Some("test".into()),
                machine: MachineConfig {
                    memory_bytes: MEMORY,
                    vcpus,
                    seed: 1,
                    cpu_model: String::new(),
                    debug_exit: Some(0xf4),
                    guest: GuestImage::Linux {
                        kernel: multiboot().into(),
                        initrd: None,
                        command_line: String::new(),
                    },
                },
                paused: true,
                throttle: false,
            })
            .unwrap();
        let guest = TestGuest {
            target: Target::new(domain.clone()),
            domain,
            visible: Arc::new(AtomicBool::new(true)),
            _hypervisor: hypervisor,
        };
        guest.build();
        guest
    }

    /// A running one.
    pub fn running(vcpus: u32) -> TestGuest {
        let guest = TestGuest::new(vcpus);
        hv_core::introspect::ControlRun::unpause(&*guest.domain).unwrap();
        guest
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.domain
            .write_physical(GuestPhysAddr(address - BASE + PHYS), bytes)
            .unwrap();
    }

    pub fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.domain
            .read_physical(GuestPhysAddr(address - BASE + PHYS), &mut bytes)
            .unwrap();
        bytes
    }

    pub fn registers(&self, vcpu: u32) -> Registers {
        ReadRegisters::registers(&*self.domain, VcpuId(vcpu)).unwrap()
    }

    pub fn recogniser(&self) -> Recogniser {
        let visible = self.visible.clone();
        Arc::new(move |_| match visible.load(Ordering::SeqCst) {
            true => Ok(Box::new(MadeUp(visible.clone()))),
            false => Err("nothing there yet".into()),
        })
    }

    /// Puts the kernel in place, and the vCPUs into its loop.
    pub fn build(&self) {
        for vcpu in 0..self.domain.vcpu_count() {
            self.domain.set_registers(VcpuId(vcpu), &registers()).unwrap();
        }
        let phys = |at: u64, word: u64| {
            self.domain
                .write_physical(GuestPhysAddr(at), &word.to_le_bytes())
                .unwrap();
        };
        // PML4, then a PDPT, PD and PT each for the kernel and for the user.
        for (index, base) in [(BASE >> 39 & 511, 0x9000), (0, 0xc000)] {
            phys(PML4 + 8 * index, base | 7);
        }
        phys(0x9000 + 8 * (BASE >> 30 & 511), 0xa000 | 7);
        phys(0xa000, 0xb000 | 7);
        for page in 0..SIZE / 0x1000 {
            phys(0xb000 + 8 * page, (PHYS + 0x1000 * page) | 7);
        }
        phys(0xc000, 0xd000 | 7);
        phys(0xd000 + 8 * (USER >> 21), 0xe000 | 7);
        phys(0xe000, 0x20_0000 | 7);

        self.write(BASE, b"MZ");
        self.write(
            LOOP,
            &[
                0x48, 0xff, 0xc0, 0x48, 0x89, 0x03, 0x48, 0x8b, 0x0b, 0x90, 0xeb, 0xf4,
            ],
        );
        self.write(BUGCHECK, &[0xfa, 0xf4, 0xeb, 0xfc]);
        // mov ecx, e2h; mov edx, 1; mov r8d, 2; mov r9d, 3; mov qword [rsp+20h], 4; call
        let mut crash = vec![0xb9, 0xe2, 0, 0, 0, 0xba, 1, 0, 0, 0];
        crash.extend([0x41, 0xb8, 2, 0, 0, 0, 0x41, 0xb9, 3, 0, 0, 0]);
        crash.extend([0x48, 0xc7, 0x44, 0x24, 0x20, 4, 0, 0, 0]);
        let back = BUGCHECK as i64 - (CRASH as i64 + crash.len() as i64 + 5);
        crash.push(0xe8);
        crash.extend((back as i32).to_le_bytes());
        self.write(CRASH, &crash);
        // movzx edx, word [rcx]; mov rcx, [rcx+8]; mov eax, 1; int 2d; int3; ret
        self.write(PRINT, PRINT_CODE);
        // mov rcx, offset string; call PRINT; jmp LOOP
        let mut speak = vec![0x48, 0xb9];
        speak.extend((BASE + 0x3e00).to_le_bytes());
        speak.push(0xe8);
        speak.extend(((PRINT as i64 - (SPEAK as i64 + 15)) as i32).to_le_bytes());
        speak.extend(jump(SPEAK + 15, LOOP));
        self.write(SPEAK, &speak);
        let mut string = (TEXT.len() as u16).to_le_bytes().to_vec();
        string.extend((TEXT.len() as u16).to_le_bytes());
        string.extend([0; 4]);
        string.extend((BASE + 0x3e40).to_le_bytes());
        self.write(BASE + 0x3e00, &string);
        self.write(BASE + 0x3e40, TEXT);
        self.write(HALT, &[0xfa, 0xf4, 0xeb, 0xfc]);

        self.write(INT3, &[&[0xcc], &jump(INT3 + 1, LOOP)[..]].concat());
        self.write(HANDLER, &[0x48, 0xcf]);
        self.write(DIVIDE, &[&[0xf7, 0xf1], &jump(DIVIDE + 2, LOOP)[..]].concat());
        self.write(FIX, &[0xb9, 1, 0, 0, 0, 0x48, 0xcf]);
        self.write(
            SERVICE,
            &[&[0xcd, 0x2d, 0xcc], &jump(SERVICE + 3, LOOP)[..]].concat(),
        );
        self.write(
            UNSERVED,
            &[0x48, 0xff, 0x04, 0x24, 0xb8, 0x9d, 0, 0, 0xc0, 0x48, 0xcf],
        );
        for (vector, handler) in [(0, FIX), (3, HANDLER), (0x2d, UNSERVED)] {
            let mut gate = (handler as u16).to_le_bytes().to_vec();
            gate.extend([0x10, 0, 0, 0x8e]);
            gate.extend(((handler >> 16) as u16).to_le_bytes());
            gate.extend(((handler >> 32) as u32).to_le_bytes());
            self.write(IDT + vector * 16, &gate);
        }
        // Null, null, kernel code, kernel data, and the user's data at 28.
        for (n, descriptor) in [
            (2, 0x00af_9b00_0000_ffff_u64),
            (3, 0x00cf_9300_0000_ffff),
            (5, 0x00cf_f300_0000_ffff),
        ] {
            self.write(GDT + 8 * n, &descriptor.to_le_bytes());
        }

        // The list: the head and one entry; the second is ready to be inserted.
        self.link(MODULES, FIRST_MODULE, FIRST_MODULE);
        self.module(FIRST_MODULE, BASE, "\\SystemRoot\\system32\\ntoskrnl.exe");
        self.link(FIRST_MODULE, MODULES, MODULES);
        self.module(
            SECOND_MODULE,
            0xffff_f803_1000_0000,
            "\\SystemRoot\\system32\\drivers\\new.sys",
        );
        self.link(SECOND_MODULE, MODULES, FIRST_MODULE);
        // As InsertTailList: prev.Flink = entry; head.Blink = entry
        let mut load = mov(FIRST_MODULE, SECOND_MODULE);
        load.extend(mov(MODULES + 8, SECOND_MODULE));
        load.extend(jump(LOAD + load.len() as u64, LOOP));
        self.write(LOAD, &load);
        // As RemoveEntryList.
        let mut unload = mov(FIRST_MODULE, MODULES);
        unload.extend(mov(MODULES + 8, FIRST_MODULE));
        unload.extend(jump(UNLOAD + unload.len() as u64, LOOP));
        self.write(UNLOAD, &unload);

        self.link(DATA_LIST, DATA, DATA);
        let encoded: Vec<u8> = data_block().iter().map(|byte| !byte).collect();
        self.write(DATA, &encoded);
    }

    fn link(&self, at: u64, next: u64, previous: u64) {
        self.write(at, &[next.to_le_bytes(), previous.to_le_bytes()].concat());
    }

    fn module(&self, at: u64, base: u64, path: &str) {
        let text: Vec<u8> = path.encode_utf16().flat_map(u16::to_le_bytes).collect();
        self.write(at + 0x30, &base.to_le_bytes());
        self.write(at + 0x40, &0x6000u32.to_le_bytes());
        self.write(at + 0x48, &(text.len() as u16).to_le_bytes());
        self.write(at + 0x50, &(at + 0x100).to_le_bytes());
        self.write(at + 0x100, &text);
    }
}

/// mov rax, value; mov [rdx], rax with rdx = address
fn mov(address: u64, value: u64) -> Vec<u8> {
    let mut code = vec![0x48, 0xba];
    code.extend(address.to_le_bytes());
    code.extend([0x48, 0xb8]);
    code.extend(value.to_le_bytes());
    code.extend([0x48, 0x89, 0x02]);
    code
}

fn jump(from: u64, to: u64) -> Vec<u8> {
    let mut code = vec![0xe9];
    code.extend(((to as i64 - (from as i64 + 5)) as i32).to_le_bytes());
    code
}

/// The decoded debugger data block.
pub fn data_block() -> Vec<u8> {
    let mut block = vec![0x5a; DATA_SIZE];
    block[..8].copy_from_slice(&DATA_LIST.to_le_bytes());
    block[8..16].copy_from_slice(&DATA_LIST.to_le_bytes());
    block[16..20].copy_from_slice(b"KDBG");
    block[20..24].copy_from_slice(&(DATA_SIZE as u32).to_le_bytes());
    block[24..32].copy_from_slice(&BASE.to_le_bytes());
    block
}

fn multiboot() -> Vec<u8> {
    let (magic, flags) = (0x1bad_b002_u32, 1_u32 << 16);
    let start = 0x10_0000u32;
    let header = [
        magic,
        flags,
        0u32.wrapping_sub(magic).wrapping_sub(flags),
        start,
        start,
        0,
        0,
        start + 32,
    ];
    let mut file: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    file.extend_from_slice(&[0xeb, 0xfe]);
    file
}

/// A vCPU in the loop, in 64-bit kernel mode.
pub fn registers() -> Registers {
    let mut registers = Registers::at_reset(true);
    registers.activity = Activity::Running;
    registers.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE;
    registers.cr3 = PML4;
    registers.cr4 = cr4::PAE;
    registers.efer = efer::LME | efer::LMA;
    registers.rip = LOOP;
    registers.gpr[gpr::RBX] = CELL;
    registers.gpr[gpr::RSP] = STACK;
    let data = Segment {
        selector: 0x2b,
        base: 0,
        limit: 0xffff_ffff,
        attributes: 0xc0f3,
    };
    registers.segments = [data; 6];
    registers.segments[seg::CS] = Segment {
        selector: 0x10,
        base: 0,
        limit: 0xffff_ffff,
        attributes: 0xa09b,
    };
    registers.segments[seg::SS] = Segment {
        selector: 0x18,
        attributes: 0xc093,
        ..data
    };
    registers.segments[seg::FS].selector = 0x53;
    registers.idtr = DescriptorTable {
        base: IDT,
        limit: 0x2df,
    };
    registers.gdtr = DescriptorTable {
        base: GDT,
        limit: 0x2f,
    };
    registers
}

/// The kernel as a recogniser finds it.
struct MadeUp(Arc<AtomicBool>);

impl Kernel for MadeUp {
    fn arch(&self) -> Arch {
        Arch::X64
    }
    fn description(&self) -> String {
        "a made-up kernel".into()
    }
    fn image(&self) -> (GuestVirtAddr, u32) {
        (GuestVirtAddr(BASE), SIZE as u32)
    }
    fn is_still_there(&self, target: &Target) -> bool {
        let mut bytes = [0; 2];
        let read = target.domain().read_physical(GuestPhysAddr(PHYS), &mut bytes);
        self.0.load(Ordering::SeqCst) && read.is_ok() && bytes == *b"MZ"
    }
    fn space(&self, _: &Target, vcpu: VcpuId) -> Option<AddressSpace> {
        Some(AddressSpace::Vcpu(vcpu))
    }
    fn processor(&self, _: &Target, vcpu: VcpuId) -> Option<Processor> {
        let kpcr = BASE + 0x10_0000 + 0x1_0000 * u64::from(vcpu.0);
        Some(Processor {
            vcpu,
            kpcr: GuestVirtAddr(kpcr),
            kprcb: GuestVirtAddr(kpcr + 0x180),
            number: vcpu.0,
            current_thread: Some(GuestVirtAddr(BASE + 0x9400)),
            next_thread: None,
            idle_thread: None,
        })
    }
    fn version_block(&self, _: &Target) -> Option<VersionBlock> {
        Some(VersionBlock {
            address: GuestVirtAddr(BASE),
            source: Source::Pdb,
            bytes: [0; 0x28],
            major: 0xf,
            minor: 19041,
            flags: 0x47,
            kernel_base: GuestVirtAddr(BASE),
            loaded_module_list: GuestVirtAddr(MODULES),
            debugger_data_list: GuestVirtAddr(DATA_LIST),
        })
    }
    fn build(&self) -> Option<u32> {
        Some(19041)
    }
    fn loaded_module_list(&self) -> Option<GuestVirtAddr> {
        Some(GuestVirtAddr(MODULES))
    }
    fn debugger_data(&self, _: &Target) -> Option<DebuggerData> {
        Some(DebuggerData {
            list_head: Some(GuestVirtAddr(DATA_LIST)),
            list_head_readable: true,
            address: GuestVirtAddr(DATA),
            encoding: Encoding::DecodedWithKeys,
            bytes: data_block(),
        })
    }
    fn modules(&self, target: &Target) -> Option<Vec<Module>> {
        let read = |at: u64, buffer: &mut [u8]| {
            let space = AddressSpace::Vcpu(VcpuId(0));
            target.read_virtual(space, GuestVirtAddr(at), buffer).ok() == Some(buffer.len())
        };
        let word = |at: u64| {
            let mut bytes = [0; 8];
            read(at, &mut bytes).then(|| u64::from_le_bytes(bytes))
        };
        let mut modules = Vec::new();
        let mut at = word(MODULES)?;
        let mut previous = MODULES;
        while at != MODULES && modules.len() < 10 {
            if word(at + 8)? != previous {
                return None;
            }
            let length = word(at + 0x48)? as u16 as usize;
            let mut text = vec![0; length];
            if !read(word(at + 0x50)?, &mut text) {
                return None;
            }
            let units: Vec<u16> = text.chunks(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
            modules.push(Module {
                entry: GuestVirtAddr(at),
                base: GuestVirtAddr(word(at + 0x30)?),
                size: word(at + 0x40)? as u32,
                entry_point: GuestVirtAddr(0),
                name: String::new(),
                path: String::from_utf16_lossy(&units),
                flags: 0,
                load_count: 1,
                check_sum: 0x1234,
                time_date_stamp: None,
            });
            previous = at;
            at = word(at)?;
        }
        (word(MODULES + 8)? == previous).then_some(modules)
    }
    fn symbol(&self, name: &str) -> Option<GuestVirtAddr> {
        match name {
            "KeBugCheckEx" => Some(GuestVirtAddr(BUGCHECK)),
            "DebugPrint" => Some(GuestVirtAddr(PRINT)),
            "KiBugCheckData" => Some(GuestVirtAddr(BUGCHECK_DATA)),
            _ => None,
        }
    }
}
