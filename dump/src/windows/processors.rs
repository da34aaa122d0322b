//! The registers of the processors in a dump: from each KPRCB, as the debugger data block says where.
//!
//! CONTEXT and KSPECIAL_REGISTERS have no hidden parts of segments and not all MSRs. Descriptors come from the GDT,
//! and what nobody wrote down is as it must have been for the paging mode.

use super::kdbg::{Address, DebuggerBlock, PrcbOffset};
use hv_core::regs::{Registers, Segment, cr0, cr4, efer, rflags, seg};
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use introspect::windows::{Arch, state};
use introspect::{PageTables, PagingMode};
use protocol::context::{amd64, x86};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Most processors that are looked for.
const MAX_PROCESSORS: u32 = 2048;

/// What is read through.
pub(super) struct Reader<'a, 'm> {
    pub arch: Arch,
    pub mode: PagingMode,
    pub root: GuestPhysAddr,
    pub tables: &'a mut PageTables<'m>,
}

impl Reader<'_, '_> {
    fn pointer(&mut self, address: GuestVirtAddr) -> Option<GuestVirtAddr> {
        let mut bytes = [0; 8];
        let size = self.arch.pointer_size();
        self.tables.read(address, &mut bytes[..size]).ok()?;
        Some(GuestVirtAddr(u64::from_le_bytes(bytes))).filter(|address| address.0 != 0)
    }

    /// Each processor's registers, up to the first that can't be read.
    pub(super) fn all(&mut self, block: &DebuggerBlock<'_>, count: u32) -> Vec<Registers> {
        let Some(list) = block.address(Address::ProcessorBlock) else {
            return Vec::new();
        };
        let size = self.arch.pointer_size() as u64;
        (0..u64::from(count.min(MAX_PROCESSORS)))
            .map_while(|index| {
                let prcb = self.pointer(list.wrapping_add(index * size))?;
                self.one(block, prcb)
            })
            .collect()
    }

    /// The registers that a KPRCB has.
    fn one(&mut self, block: &DebuggerBlock<'_>, prcb: GuestVirtAddr) -> Option<Registers> {
        let frame = block
            .offset(PrcbOffset::ContextFrame)
            .map(|offset| prcb.wrapping_add(offset));
        let pointed = block
            .offset(PrcbOffset::Context)
            .and_then(|offset| self.pointer(prcb.wrapping_add(offset)));
        let context = [pointed, frame]
            .into_iter()
            .flatten()
            .find_map(|address| self.context(address))?;
        let special = block.offset(PrcbOffset::SpecialRegisters).and_then(|offset| {
            let room = block
                .offset(PrcbOffset::ContextFrame)
                .and_then(|frame| frame.checked_sub(offset));
            self.special(prcb.wrapping_add(offset), room)
        });
        let pcr = block.prcb_in_pcr().and_then(|offset| prcb.0.checked_sub(offset));
        Some(self.registers(&context, special, pcr.map(GuestVirtAddr)))
    }

    fn context(&mut self, address: GuestVirtAddr) -> Option<Context> {
        let mut bytes = vec![0; Context::size(self.arch)];
        self.tables.read(address, &mut bytes).ok()?;
        Context::new(self.arch, &bytes)
    }

    /// Special registers; older versions have fewer bytes of them.
    fn special(&mut self, address: GuestVirtAddr, room: Option<u64>) -> Option<Special> {
        let mut special = match self.arch {
            Arch::X64 => Special::X64(amd64::SpecialRegisters::new_zeroed()),
            Arch::X86 => Special::X86(x86::SpecialRegisters::new_zeroed()),
        };
        let bytes = match &mut special {
            Special::X64(special) => special.as_mut_bytes(),
            Special::X86(special) => special.as_mut_bytes(),
        };
        let room = room
            .and_then(|room| usize::try_from(room).ok())
            .unwrap_or(bytes.len());
        let length = bytes.len().min(room);
        self.tables.read(address, &mut bytes[..length]).ok()?;
        // One that was never saved is zero.
        let cr0 = match &special {
            Special::X64(special) => special.cr0.get(),
            Special::X86(special) => special.cr0.get().into(),
        };
        let paging = cr0::PE | cr0::PG;
        (cr0 & paging == paging).then_some(special)
    }

    /// A vCPU's state of what is known of it.
    pub(super) fn registers(
        &mut self,
        context: &Context,
        special: Option<Special>,
        pcr: Option<GuestVirtAddr>,
    ) -> Registers {
        let mut registers = Registers::at_reset(true);
        registers.segments = [Segment::default(); 6];
        registers.gpr = [0; 16];
        let told = special.is_some();
        match &special {
            Some(Special::X64(special)) => state::amd64::apply_special(special, &mut registers),
            Some(Special::X86(special)) => state::x86::apply_special(special, &mut registers),
            None => {
                registers.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::PG;
                registers.cr3 = self.root.0;
                registers.cr4 = cr4::PSE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT;
                self.tables_of(pcr, &mut registers);
            }
        }
        let selectors = match context {
            Context::X64(context) => state::amd64::apply(context, &mut registers),
            Context::X86(context) => state::x86::apply(context, &mut registers),
        };
        registers.rflags |= rflags::FIXED;
        self.mode_bits(&mut registers);
        let bases = [registers.segments[seg::FS].base, registers.segments[seg::GS].base];
        let code = selectors[seg::CS].unwrap_or_default();
        for (index, selector) in selectors.into_iter().enumerate() {
            registers.segments[index] = self.segment(&registers, index, selector.unwrap_or_default(), code);
        }
        if self.arch == Arch::X64 {
            [registers.segments[seg::FS].base, registers.segments[seg::GS].base] = bases;
            if let Some(pcr) = pcr.filter(|_| !told) {
                if code & 3 == 0 {
                    registers.segments[seg::GS].base = pcr.0;
                } else {
                    registers.msrs.kernel_gs_base = pcr.0;
                }
            }
        } else if let Some(pcr) = pcr
            && registers.segments[seg::FS].base == 0
            && code & 3 == 0
        {
            registers.segments[seg::FS].base = pcr.0;
        }
        self.system_segments(special.as_ref(), &mut registers);
        registers
    }

    /// GDTR and IDTR as the KPCR has them (nt kernel public PDBs, 7 to 11).
    fn tables_of(&mut self, pcr: Option<GuestVirtAddr>, registers: &mut Registers) {
        let (idt, gdt) = match self.arch {
            Arch::X64 => (0x38, 0),
            Arch::X86 => (0x38, 0x3c),
        };
        let mut read = |offset| self.pointer(pcr?.wrapping_add(offset));
        registers.idtr.base = read(idt).unwrap_or_default().0;
        registers.gdtr.base = read(gdt).unwrap_or_default().0;
        registers.idtr.limit = 0xfff;
        registers.gdtr.limit = 0x7f;
    }

    /// The control bits that the paging mode needs, whatever was written down.
    fn mode_bits(&self, registers: &mut Registers) {
        registers.cr0 |= cr0::PE | cr0::PG;
        if registers.cr3 == 0 {
            registers.cr3 = self.root.0;
        }
        registers.efer = match self.arch {
            Arch::X64 => efer::SCE | efer::LME | efer::LMA | efer::NXE,
            Arch::X86 => 0,
        };
        match self.mode {
            PagingMode::None | PagingMode::Bits32 { .. } => {
                registers.cr4 = registers.cr4 & !cr4::PAE | cr4::PSE;
            }
            PagingMode::Pae => {
                registers.cr4 |= cr4::PAE;
                registers.efer |= efer::NXE;
            }
            PagingMode::Level4 => registers.cr4 = (registers.cr4 | cr4::PAE) & !cr4::LA57,
            PagingMode::Level5 => registers.cr4 |= cr4::PAE | cr4::LA57,
        }
    }

    /// A segment register: its descriptor from the GDT, or as flat as Windows has them all.
    fn segment(&mut self, registers: &Registers, index: usize, selector: u16, code: u16) -> Segment {
        if selector & !3 == 0 {
            return Segment {
                selector,
                attributes: if index == seg::SS && self.arch == Arch::X64 {
                    // The null SS of 64-bit mode has the code's level.
                    Segment::UNUSABLE | u32::from(code & 3) << 5
                } else {
                    Segment::UNUSABLE
                },
                ..Segment::default()
            };
        }
        let from_table = self
            .descriptor(registers, selector)
            .map(|bytes| state::segment(selector, bytes));
        from_table
            .filter(|segment| segment.is_code_or_data() && segment.present())
            .unwrap_or_else(|| {
                let level = u32::from(
                    if index == seg::CS || index == seg::SS {
                        code
                    } else {
                        selector
                    } & 3,
                );
                let long = self.arch == Arch::X64 && (index != seg::CS || selector & !3 != COMPATIBLE_CODE);
                let kind = match (index == seg::CS, long) {
                    (true, true) => 0xa09b,
                    (true, false) => 0xc09b,
                    (false, _) => 0xc093,
                };
                Segment {
                    selector,
                    base: 0,
                    limit: u32::MAX,
                    attributes: kind | level << 5,
                }
            })
    }

    fn descriptor(&mut self, registers: &Registers, selector: u16) -> Option<[u8; 8]> {
        let offset = u64::from(selector & !7);
        let in_gdt = selector & 4 == 0 && offset + 7 <= u64::from(registers.gdtr.limit);
        let table = GuestVirtAddr(registers.gdtr.base);
        if !in_gdt || table.0 == 0 {
            return None;
        }
        let mut bytes = [0; 8];
        self.tables.read(table.wrapping_add(offset), &mut bytes).ok()?;
        Some(bytes)
    }

    /// TR and LDTR, whose descriptors have 16 bytes in long mode.
    fn system_segments(&mut self, special: Option<&Special>, registers: &mut Registers) {
        let (task, local) = match special {
            Some(Special::X64(special)) => (special.tr.get(), special.ldtr.get()),
            Some(Special::X86(special)) => (special.tr.get(), special.ldtr.get()),
            None => (0, 0),
        };
        let mut system = |selector: u16, unusable| {
            let low = self
                .descriptor(registers, selector)
                .filter(|_| selector & !3 != 0);
            let mut segment = low.map_or(unusable, |bytes| state::segment(selector, bytes));
            if self.arch == Arch::X64
                && low.is_some()
                && let Some(high) = self.descriptor(registers, selector.wrapping_add(8))
            {
                let [b0, b1, b2, b3, ..] = high;
                segment.base |= u64::from(u32::from_le_bytes([b0, b1, b2, b3])) << 32;
            }
            segment
        };
        let tr = system(task, registers.tr);
        let ldtr = system(
            local,
            Segment {
                attributes: Segment::UNUSABLE,
                ..Segment::default()
            },
        );
        (registers.tr, registers.ldtr) = (tr, ldtr);
    }
}

/// The selector of 32-bit user code on x64, without its level.
const COMPATIBLE_CODE: u16 = 0x20;

/// KSPECIAL_REGISTERS.
pub(super) enum Special {
    X64(amd64::SpecialRegisters),
    X86(x86::SpecialRegisters),
}

/// A CONTEXT that holds something.
pub(super) enum Context {
    X64(Box<amd64::Context>),
    X86(Box<x86::Context>),
}

impl Context {
    pub(super) const fn size(arch: Arch) -> usize {
        match arch {
            Arch::X64 => size_of::<amd64::Context>(),
            Arch::X86 => size_of::<x86::Context>(),
        }
    }

    /// From its bytes; `None` if its flags say that nothing is in it.
    pub(super) fn new(arch: Arch, bytes: &[u8]) -> Option<Context> {
        match arch {
            Arch::X64 => {
                let (context, _) = amd64::Context::read_from_prefix(bytes).ok()?;
                let flags = context.context_flags.get();
                let held = flags & amd64::flags::AMD64 != 0 && flags & amd64::flags::CONTROL != 0;
                held.then(|| Context::X64(Box::new(context)))
            }
            Arch::X86 => {
                let (context, _) = x86::Context::read_from_prefix(bytes).ok()?;
                let flags = context.context_flags.get();
                let held = flags & x86::flags::I386 != 0 && flags & x86::flags::CONTROL != 0;
                held.then(|| Context::X86(Box::new(context)))
            }
        }
    }

    /// The two places of MXCSR agree, as some readers demand.
    pub(super) fn mxcsr_agrees(&self) -> bool {
        match self {
            Context::X64(context) => context.mxcsr == context.fxsave.mxcsr,
            Context::X86(_) => true,
        }
    }
}
