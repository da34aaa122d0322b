//! A small NT in bytes: an image with headers, exports and a PDB's name, processors, processes, modules, and the
//! debugger's directory, laid out as a given kernel's.

use super::super::facts::Arch;
use super::super::field::{Field, Global};
use super::super::kdbg::encoding::Key;
use super::super::kdbg::layout as kdbg;
use super::super::known::{KnownKernel, KnownLayout};
use super::memory::{Bytes, Tables};
use hv_core::regs::{DescriptorTable, Registers, Segment, cr0, cr4, efer, seg};
use symbols::Guid;

/// What NT to make.
#[derive(Clone, Debug)]
pub(crate) struct Persona {
    /// A layout's name in the table of known kernels; where a kernel has that version, its RVAs are used, too.
    pub(crate) layout: &'static str,
    /// The GUID is the known kernel's; else another, which no table has.
    pub(crate) known_guid: bool,
    pub(crate) encoded: bool,
    pub(crate) shadow: bool,
    pub(crate) exports: bool,
    /// Exported accessors have code.
    pub(crate) code: bool,
}

impl Persona {
    pub(crate) fn of(layout: &'static str) -> Persona {
        Persona {
            layout,
            known_guid: true,
            encoded: true,
            shadow: true,
            exports: true,
            code: false,
        }
    }
}

/// The NT that was made.
pub(crate) struct Nt {
    pub(crate) memory: Bytes,
    pub(crate) arch: Arch,
    pub(crate) base: u64,
    pub(crate) layout: &'static KnownLayout,
    kernel: Option<&'static KnownKernel>,
    pub(crate) kernel_tables: Tables,
    pub(crate) user_tables: Tables,
    pub(crate) kpcr: Vec<u64>,
    pub(crate) system: u64,
    pub(crate) thread: u64,
    pub(crate) modules: Vec<u64>,
    pub(crate) block: Vec<u8>,
    heap: u64,
}

pub(crate) const SIZE_OF_IMAGE: u32 = 0x110_0000;
const NEVER: u64 = 0x6aaf_2a00_34c5_5443;
const ALWAYS: u64 = 0x0069_8a9f_15d5_e840;
/// RVAs of what only this image has.
const DEBUG: u32 = 0x1000;
const EXPORTS: u32 = 0x2000;
const CODE: u32 = 0x6000;

impl Nt {
    pub(crate) fn new(persona: &Persona) -> Nt {
        let layout = KnownLayout::all()
            .iter()
            .find(|l| l.name == persona.layout)
            .unwrap();
        let kernel = KnownKernel::all().iter().find(|k| k.version == persona.layout);
        let arch = layout.arch;
        let mut memory = Bytes::new();
        let kernel_tables = Tables::new(&mut memory, arch);
        let user_tables = if persona.shadow {
            Tables::new(&mut memory, arch)
        } else {
            kernel_tables
        };
        let mut nt = Nt {
            memory,
            arch,
            base: match arch {
                Arch::X64 => 0xffff_f800_2ca0_1000,
                Arch::X86 => 0x8264_f000,
            },
            layout,
            kernel,
            kernel_tables,
            user_tables,
            kpcr: Vec::new(),
            system: 0,
            thread: 0,
            modules: Vec::new(),
            block: Vec::new(),
            heap: match arch {
                Arch::X64 => 0xffff_9680_1000_0000,
                Arch::X86 => 0x8580_0000,
            },
        };
        nt.image(persona);
        nt.shared_data();
        nt.processors(persona);
        nt.processes();
        nt.module_list();
        nt.debugger_data(persona);
        nt
    }

    pub(crate) fn rva(&self, global: Global) -> u32 {
        let known = self.kernel.and_then(|kernel| kernel.rva(global));
        known.unwrap_or(0x2_0000 + 0x400 * global as u32)
    }

    pub(crate) fn global(&self, global: Global) -> u64 {
        self.base + u64::from(self.rva(global))
    }

    pub(crate) fn field(&self, field: Field) -> u64 {
        u64::from(self.layout.get(field).unwrap_or_else(|| panic!("{field}")))
    }

    fn pointer_size(&self) -> u64 {
        self.arch.pointer_size() as u64
    }

    /// Writes to the kernel's address space.
    pub(crate) fn set(&mut self, address: u64, bytes: &[u8]) {
        self.kernel_tables.write(&mut self.memory, address, bytes);
    }

    pub(crate) fn set_word(&mut self, address: u64, value: u64) {
        let size = self.arch.pointer_size();
        self.set(address, &value.to_le_bytes()[..size]);
    }

    /// 64 bits, sign-extended on x86.
    fn set_pointer64(&mut self, address: u64, value: u64) {
        let value = self.arch.sign_extend(hv_core::GuestVirtAddr(value));
        self.set(address, &value.to_le_bytes());
    }

    pub(crate) fn allocate(&mut self, size: u64) -> u64 {
        let at = self.heap;
        self.heap += (size + 0xff) & !0xff;
        self.set(at, &vec![0; size as usize]);
        at
    }

    /// Links entries into a circular list.
    pub(crate) fn link(&mut self, links: &[u64]) {
        for (index, &at) in links.iter().enumerate() {
            let next = links[(index + 1) % links.len()];
            let previous = links[(index + links.len() - 1) % links.len()];
            self.set_word(at, next);
            self.set_word(at + self.pointer_size(), previous);
        }
    }

    fn unicode(&mut self, at: u64, text: &str) {
        let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let buffer = self.allocate(bytes.len() as u64);
        self.set(buffer, &bytes);
        self.set(at, &(bytes.len() as u16).to_le_bytes());
        self.set(at + 2, &(bytes.len() as u16).to_le_bytes());
        self.set_word(at + self.pointer_size(), buffer);
    }

    fn image(&mut self, persona: &Persona) {
        let wide = self.arch == Arch::X64;
        let mut page = vec![0; 0x400];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3c, &0x80u32.to_le_bytes());
        put(0x80, b"PE\0\0");
        put(0x84, &self.arch.machine().to_le_bytes());
        put(0x86, &4u16.to_le_bytes());
        put(0x88, &0x5e7f_0001u32.to_le_bytes());
        let optional = 0x98;
        let directories = optional + if wide { 0x70 } else { 0x60 };
        let optional_size = directories + 16 * 8 - optional;
        put(0x94, &(optional_size as u16).to_le_bytes());
        put(optional, &if wide { 0x20bu16 } else { 0x10b }.to_le_bytes());
        put(optional + 0x38, &SIZE_OF_IMAGE.to_le_bytes());
        put(optional + 0x3c, &0x400u32.to_le_bytes());
        put(optional + 0x40, &0xabcdu32.to_le_bytes());
        put(directories - 4, &16u32.to_le_bytes());
        put(directories, &EXPORTS.to_le_bytes());
        put(directories + 4, &0x4000u32.to_le_bytes());
        put(directories + 6 * 8, &DEBUG.to_le_bytes());
        put(directories + 6 * 8 + 4, &(2 * 0x1cu32).to_le_bytes());
        let sections: [(&[u8], u32, u32, u32); 4] = [
            (b".rdata", 0x1000, 0x5000, 0x4000_0040),
            (b".text", 0x6000, 0x1000, 0x6000_0020),
            (b".data", 0x7000, SIZE_OF_IMAGE - 0x8000, 0xc000_0040),
            (b"POOLCODE", SIZE_OF_IMAGE - 0x1000, 0x1000, 0x6000_0020),
        ];
        for (index, (name, rva, size, flags)) in sections.into_iter().enumerate() {
            let at = optional + optional_size + 40 * index;
            put(at, name);
            put(at + 8, &size.to_le_bytes());
            put(at + 12, &rva.to_le_bytes());
            put(at + 36, &flags.to_le_bytes());
        }
        self.set(self.base, &page);
        let guid = match self.kernel {
            Some(kernel) if persona.known_guid => kernel.image(hv_core::GuestVirtAddr(0)).pdb.unwrap().guid,
            _ => Guid(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
        };
        let debug = self.base + u64::from(DEBUG);
        self.set(debug, &[0; 0x1000]);
        // First another entry (POGO), as newer kernels have.
        self.set(debug + 0xc, &0xdu32.to_le_bytes());
        self.set(debug + 0x1c + 0xc, &2u32.to_le_bytes());
        self.set(debug + 0x1c + 0x14, &(DEBUG + 0x100).to_le_bytes());
        self.set(debug + 0x100, b"RSDS");
        self.set(debug + 0x104, &guid.to_bytes());
        self.set(debug + 0x114, &1u32.to_le_bytes());
        self.set(debug + 0x118, b"ntkrnlmp.pdb\0");
        if persona.exports {
            self.exports(persona);
        }
        let build = 0xf000_0000 | self.layout.build;
        self.set(self.global(Global::NtBuildNumber), &build.to_le_bytes());
    }

    fn exports(&mut self, persona: &Persona) {
        let mut exports: Vec<(String, u32)> = [
            Global::NtBuildNumber,
            Global::PsInitialSystemProcess,
            Global::KeBugCheckEx,
        ]
        .iter()
        .map(|&global| (global.name().to_owned(), self.rva(global)))
        .collect();
        if persona.code {
            for (name, code) in self.accessors() {
                let rva = CODE + 0x40 * exports.len() as u32;
                self.set(self.base + u64::from(rva), &code);
                exports.push((name.to_owned(), rva));
            }
        }
        exports.sort();
        let count = exports.len() as u32;
        let (functions, names, ordinals, text) =
            (EXPORTS + 0x100, EXPORTS + 0x200, EXPORTS + 0x300, EXPORTS + 0x400);
        let base = self.base;
        let at = |rva: u32| base + u64::from(rva);
        self.set(at(EXPORTS), &[0; 0x4000]);
        for (offset, value) in [
            (0xc, text),
            (0x14, count),
            (0x18, count),
            (0x1c, functions),
            (0x20, names),
            (0x24, ordinals),
        ] {
            self.set(at(EXPORTS) + offset, &value.to_le_bytes());
        }
        self.set(at(text), b"ntoskrnl.exe\0");
        let mut next = text + 0x20;
        for (index, (name, rva)) in (0u32..).zip(&exports) {
            self.set(at(functions + 4 * index), &rva.to_le_bytes());
            self.set(at(names + 4 * index), &next.to_le_bytes());
            self.set(at(ordinals + 2 * index), &(index as u16).to_le_bytes());
            self.set(at(next), name.as_bytes());
            next += name.len() as u32 + 1;
        }
    }

    /// `mov rax, [rcx+offset]; ret`, and on x86 the same with the argument on the stack.
    fn accessors(&self) -> Vec<(&'static str, Vec<u8>)> {
        let functions = [
            ("PsGetProcessId", Field::EprocessUniqueProcessId, 0x8b),
            ("PsGetProcessImageFileName", Field::EprocessImageFileName, 0x8d),
            ("PsGetThreadProcessId", Field::EthreadCid, 0x8b),
            ("PsGetThreadProcess", Field::KthreadProcess, 0x8b),
        ];
        functions
            .into_iter()
            .map(|(name, field, opcode)| {
                let offset = (self.field(field) as u32).to_le_bytes();
                let code = match self.arch {
                    Arch::X64 => [&[0x48, opcode, 0x81], &offset[..], &[0xc3]].concat(),
                    Arch::X86 => [&[0x8b, 0x44, 0x24, 4, opcode, 0x80], &offset[..], &[0xc2, 4, 0]].concat(),
                };
                (name, code)
            })
            .collect()
    }

    fn shared_data(&mut self) {
        let at = match self.arch {
            Arch::X64 => 0xffff_f780_0000_0000,
            Arch::X86 => 0xffdf_0000,
        };
        self.set(at, &[0; 0x1000]);
        let (major, minor): (u32, u32) = match self.layout.build {
            7600 | 7601 => (6, 1),
            9200 => (6, 2),
            9600 => (6, 3),
            _ => (10, 0),
        };
        self.set(at + 4, &0x0fa0_0000u32.to_le_bytes());
        self.set(
            at + 0x30,
            &"C:\\Windows"
                .encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect::<Vec<_>>(),
        );
        self.set(at + 0x260, &self.layout.build.to_le_bytes());
        self.set(at + 0x264, &1u32.to_le_bytes());
        self.set(at + 0x26c, &major.to_le_bytes());
        self.set(at + 0x270, &minor.to_le_bytes());
        self.set(at + 0x320, &6400u64.to_le_bytes());
    }

    fn processors(&mut self, persona: &Persona) {
        let (idt, gdt) = (self.allocate(0x1000), self.allocate(0x1000));
        let entry = |plain, shadow| if persona.shadow { shadow } else { plain };
        let fault = self.global(entry(
            Global::KiDivideErrorFault,
            Global::KiDivideErrorFaultShadow,
        ));
        let call = self.global(entry(Global::KiSystemCall64, Global::KiSystemCall64Shadow));
        self.set(fault, &[0x90]);
        self.set(call, &[0x90]);
        for vector in 0..0x20 {
            let size = if self.arch == Arch::X64 { 16 } else { 8 };
            let at = idt + vector * size;
            self.set(at, &(fault as u16).to_le_bytes());
            self.set(at + 5, &[0x8e]);
            self.set(at + 6, &((fault >> 16) as u16).to_le_bytes());
            if size == 16 {
                self.set(at + 8, &((fault >> 32) as u32).to_le_bytes());
            }
        }
        let (prcb_offset, self_at, idt_at, gdt_at, number, thread_at) = match self.arch {
            Arch::X64 => (0x180, 0x18, 0x38, 0, 0x24, 8),
            Arch::X86 => (0x120, 0x1c, 0x38, 0x3c, 0x3cc, 4),
        };
        self.thread = self.allocate(0x1000);
        for index in 0..2u64 {
            let kpcr = self.allocate(0x1_0000);
            let kpcr = (kpcr + 0xfff) & !0xfff;
            self.heap = kpcr + 0x1_0000;
            self.set_word(kpcr + self_at, kpcr);
            self.set_word(kpcr + 0x20, kpcr + prcb_offset);
            self.set_word(kpcr + idt_at, idt);
            self.set_word(kpcr + gdt_at, gdt);
            let prcb = kpcr + prcb_offset;
            self.set(prcb + number, &(index as u32).to_le_bytes());
            self.set_word(prcb + thread_at, self.thread);
            if persona.shadow {
                let root = self.kernel_tables.root | if self.arch == Arch::X64 { 2 } else { 0 };
                let at = prcb + self.field(Field::KprcbKernelDirectoryTableBase);
                self.set_word(at, root);
                // The user's tables have the KPCR's tail, the entry code, the IDT and the GDT, and no more.
                let visible = [at, idt, gdt, fault, call];
                for address in visible {
                    let phys = self.kernel_tables.phys(&mut self.memory, address) & !0xfff;
                    self.user_tables.map(&mut self.memory, address & !0xfff, phys);
                }
            }
            let block = self.global(Global::KiProcessorBlock) + index * self.pointer_size();
            self.set_word(block, prcb);
            if self.arch == Arch::X86 {
                // The descriptor of selector 0x30 (each processor has its own GDT; one serves here).
                let [b0, b1, b2, b3] = (self.kpcr.first().copied().unwrap_or(kpcr) as u32).to_le_bytes();
                self.set(gdt + 0x30, &[0xff, 0xff, b0, b1, b2, 0x93, 0xc0, b3]);
            }
            self.kpcr.push(kpcr);
            let registers = self.registers(kpcr, idt, gdt, call);
            self.memory.vcpus.push(registers);
        }
    }

    /// A vCPU in the kernel's idle code.
    fn registers(&self, kpcr: u64, idt: u64, gdt: u64, call: u64) -> Registers {
        let mut registers = Registers::at_reset(true);
        registers.cr0 = cr0::PE | cr0::PG | cr0::WP;
        registers.cr3 = self.kernel_tables.root;
        registers.cr4 = cr4::PAE;
        registers.idtr = DescriptorTable {
            base: idt,
            limit: 0xfff,
        };
        registers.gdtr = DescriptorTable {
            base: gdt,
            limit: 0x57,
        };
        registers.rip = self.base + 0x6000;
        let ring0 = |selector| Segment {
            selector,
            base: 0,
            limit: u32::MAX,
            attributes: 0x93,
        };
        registers.segments[seg::SS] = ring0(0x18);
        match self.arch {
            Arch::X64 => {
                registers.efer = efer::LMA | efer::LME | efer::SCE | efer::NXE;
                registers.segments[seg::GS].base = kpcr;
                registers.msrs.kernel_gs_base = 0x7ff6_0000_1000;
                registers.msrs.lstar = call;
            }
            Arch::X86 => {
                registers.segments[seg::FS] = Segment {
                    base: kpcr,
                    ..ring0(0x30)
                };
                registers.msrs.sysenter_eip = call;
            }
        }
        registers
    }

    /// Puts a vCPU into user mode.
    pub(crate) fn enter_user_mode(&mut self, vcpu: usize) {
        let user_root = self.user_tables.root;
        let registers = &mut self.memory.vcpus[vcpu];
        registers.cr3 = user_root;
        registers.segments[seg::SS].attributes = 0xf3;
        registers.rip = 0x40_1000;
        if self.arch == Arch::X64 {
            registers.cr3 |= 1;
            let kernel = std::mem::replace(&mut registers.segments[seg::GS].base, 0x7ff6_0000_1000);
            registers.msrs.kernel_gs_base = kernel;
        } else {
            registers.segments[seg::FS].base = 0x7ffd_e000;
            registers.segments[seg::FS].selector = 0x3b;
        }
    }

    fn processes(&mut self) {
        let head = self.global(Global::PsActiveProcessHead);
        let link = self.field(Field::EprocessActiveProcessLinks);
        let mut links = vec![head];
        for (index, name) in ["System", "smss.exe", "csrss.exe"].iter().enumerate() {
            let process = self.allocate(0x1000);
            self.set(process, &[3]);
            let root = self.kernel_tables.root;
            self.set_word(process + self.field(Field::KprocessDirectoryTableBase), root);
            let id = 4 + 0x134 * index as u64;
            self.set_word(process + self.field(Field::EprocessUniqueProcessId), id);
            let parent = process + self.field(Field::EprocessParentId);
            self.set_word(parent, if index == 0 { 0 } else { 4 });
            self.set(
                process + self.field(Field::EprocessImageFileName),
                name.as_bytes(),
            );
            links.push(process + link);
            let thread = if index == 0 {
                self.thread
            } else {
                self.allocate(0x1000)
            };
            self.thread_of(process, thread, id);
            if index == 0 {
                self.system = process;
                self.set_word(self.global(Global::PsInitialSystemProcess), process);
            }
        }
        self.link(&links);
    }

    fn thread_of(&mut self, process: u64, thread: u64, id: u64) {
        self.set(thread, &[6]);
        let cid = thread + self.field(Field::EthreadCid);
        self.set_word(cid, id);
        self.set_word(cid + self.pointer_size(), id + 8);
        self.set_word(thread + self.field(Field::KthreadProcess), process);
        let attached = self.field(Field::KthreadApcState) + 4 * self.pointer_size();
        self.set_word(thread + attached, process);
        self.set(thread + self.field(Field::KthreadState), &[5]);
        for (head, entry) in [
            (Field::EprocessThreadListHead, Field::EthreadThreadListEntry),
            (Field::KprocessThreadListHead, Field::KthreadThreadListEntry),
        ] {
            self.link(&[process + self.field(head), thread + self.field(entry)]);
        }
    }

    fn module_list(&mut self) {
        let (base_at, size_at, full, name) = match self.arch {
            Arch::X64 => (0x30, 0x40, 0x48, 0x58),
            Arch::X86 => (0x18, 0x20, 0x24, 0x2c),
        };
        let mut links = vec![self.global(Global::PsLoadedModuleList)];
        for (index, file) in ["ntoskrnl.exe", "hal.dll", "disk.sys"].iter().enumerate() {
            let entry = self.allocate(0x100);
            let base = self.base + index as u64 * 0x200_0000;
            self.set_word(entry + base_at, base);
            self.set(entry + size_at, &SIZE_OF_IMAGE.to_le_bytes());
            self.unicode(entry + full, &format!("\\SystemRoot\\system32\\{file}"));
            self.unicode(entry + name, file);
            links.push(entry);
            self.modules.push(entry);
        }
        self.link(&links);
        let array = self.allocate(0x28 * 50);
        self.set_word(self.global(Global::MmUnloadedDrivers), array);
        self.set(self.global(Global::MmLastUnloadedDriver), &1u32.to_le_bytes());
        self.unicode(array, "old.sys");
        self.set(self.global(Global::KiBugCheckData), &[0; 40]);
    }

    fn debugger_data(&mut self, persona: &Persona) {
        let version = self.global(Global::KdVersionBlock);
        let head = self.global(Global::KdpDebuggerDataListHead);
        let block_at = self.global(Global::KdDebuggerDataBlock);
        let modules = self.global(Global::PsLoadedModuleList);
        self.set(version, &[0; 0x28]);
        self.set(version, &0xfu16.to_le_bytes());
        self.set(version + 2, &(self.layout.build as u16).to_le_bytes());
        self.set(version + 8, &self.arch.machine().to_le_bytes());
        self.set_pointer64(version + 0x10, self.base);
        self.set_pointer64(version + 0x18, modules);
        self.set_pointer64(version + 0x20, head);
        self.set_word(head, block_at);
        self.set_word(head + self.pointer_size(), block_at);

        // Addresses are zero-extended on x86, and its links a LIST_ENTRY of two words.
        let width = self.arch.pointer_size();
        let size = kdbg::size_of_build(self.layout.build);
        let mut block = vec![0; size];
        let mut put = |at: usize, bytes: &[u8]| {
            if at + bytes.len() <= size {
                block[at..at + bytes.len()].copy_from_slice(bytes);
            }
        };
        put(0, &head.to_le_bytes()[..width]);
        put(width, &head.to_le_bytes()[..width]);
        put(kdbg::OWNER_TAG, b"KDBG");
        put(kdbg::SIZE, &(size as u32).to_le_bytes());
        put(kdbg::KERN_BASE, &self.base.to_le_bytes());
        put(kdbg::PAGE_SIZE, &0x1000u64.to_le_bytes());
        for &(at, global) in kdbg::ADDRESSES {
            put(at, &self.global(global).to_le_bytes());
        }
        for &(at, field) in kdbg::OFFSETS_16 {
            put(
                at,
                &(self.layout.get(field).unwrap_or_default() as u16).to_le_bytes(),
            );
        }
        self.block = block.clone();
        let (never, always, flag) = (
            self.global(Global::KiWaitNever),
            self.global(Global::KiWaitAlways),
            self.global(Global::KdpDataBlockEncoded),
        );
        self.set(never, &NEVER.to_le_bytes());
        self.set(always, &ALWAYS.to_le_bytes());
        self.set(flag, &[u8::from(persona.encoded)]);
        if persona.encoded && self.arch == Arch::X64 {
            let key = Key::of_kernel(NEVER, ALWAYS, flag);
            for word in block.as_chunks_mut::<8>().0 {
                *word = key.encode(u64::from_le_bytes(*word)).to_le_bytes();
            }
        }
        self.set(block_at, &block);
    }

    /// The kernel decodes its block, as in a bugcheck.
    pub(crate) fn decode_in_place(&mut self) {
        let block = self.block.clone();
        self.set(self.global(Global::KdDebuggerDataBlock), &block);
    }
}
