use super::paging::LARGE_PAGE;
use super::*;
use crate::addr::GuestPhysAddr;
use crate::load::OutOfRange;

const MEMORY: u64 = 32 << 20;
const PREFERRED_BASE: u64 = 0x4000_0000;

/// A PE32+, or for x86 a PE32, with one section at RVA 0x1000 that may be read, written and executed as `flags` say. In it: a pointer to itself that
/// a relocation covers, an export directory with one name, and one import.
struct SmallPe {
    arch: Arch,
    export: &'static str,
    import: Option<(&'static str, &'static str)>,
    flags: u32,
}

impl SmallPe {
    fn bytes(&self) -> Vec<u8> {
        const EXPORTS: u32 = 0x1100;
        const IMPORTS: u32 = 0x1200;
        const RELOCATIONS: u32 = 0x1400;
        let wide = self.arch == Arch::X64;
        let width = self.arch.pointer();
        let (machine, magic, optional_size) = if wide {
            (0x8664u16, 0x20bu16, 240)
        } else {
            (0x14c, 0x10b, 224)
        };
        let count_at = optional_size - 132;
        let mut pe = vec![0; 0x1000];
        let mut put =
            |at: u32, value: &[u8]| pe[at as usize..at as usize + value.len()].copy_from_slice(value);
        put(0, b"MZ");
        put(0x3c, &0x80u32.to_le_bytes());
        put(0x80, b"PE\0\0");
        put(0x84, &machine.to_le_bytes());
        put(0x86, &1u16.to_le_bytes());
        put(0x88, &0x1234_5678u32.to_le_bytes());
        put(0x94, &(optional_size as u16).to_le_bytes());
        let optional = 0x98;
        put(optional, &magic.to_le_bytes());
        put(optional + 16, &0x1010u32.to_le_bytes());
        put(
            optional + 32 - width as u32,
            &PREFERRED_BASE.to_le_bytes()[..width],
        );
        put(optional + 32, &0x1000u32.to_le_bytes());
        put(optional + 36, &0x200u32.to_le_bytes());
        put(optional + 56, &0x2000u32.to_le_bytes());
        put(optional + 60, &0x400u32.to_le_bytes());
        put(optional + count_at, &16u32.to_le_bytes());
        let directories = [(0, EXPORTS, 0x80u32), (1, IMPORTS, 0x100), (5, RELOCATIONS, 12)];
        for (n, rva, size) in directories {
            if n == 1 && self.import.is_none() {
                continue;
            }
            put(optional + count_at + 4 + n * 8, &rva.to_le_bytes());
            put(optional + count_at + 8 + n * 8, &size.to_le_bytes());
        }
        let section = optional + optional_size;
        put(section, b".text");
        put(section + 8, &0x1000u32.to_le_bytes());
        put(section + 12, &0x1000u32.to_le_bytes());
        put(section + 16, &0x800u32.to_le_bytes());
        put(section + 20, &0x400u32.to_le_bytes());
        put(section + 36, &self.flags.to_le_bytes());

        // From here on RVAs; the section begins at file offset 0x400.
        let mut put = |rva: u32, value: &[u8]| put(rva - 0xc00, value);
        put(0x1000, &(PREFERRED_BASE + 0x1000).to_le_bytes()[..width]);
        put(EXPORTS + 20, &1u32.to_le_bytes());
        put(EXPORTS + 24, &1u32.to_le_bytes());
        put(EXPORTS + 28, &(EXPORTS + 0x40).to_le_bytes());
        put(EXPORTS + 32, &(EXPORTS + 0x44).to_le_bytes());
        put(EXPORTS + 36, &(EXPORTS + 0x48).to_le_bytes());
        put(EXPORTS + 0x40, &0x1010u32.to_le_bytes());
        put(EXPORTS + 0x44, &(EXPORTS + 0x50).to_le_bytes());
        put(EXPORTS + 0x50, self.export.as_bytes());
        if let Some((module, function)) = self.import {
            put(IMPORTS, &(IMPORTS + 0x40).to_le_bytes());
            put(IMPORTS + 12, &(IMPORTS + 0x80).to_le_bytes());
            put(IMPORTS + 16, &0x1300u32.to_le_bytes());
            put(IMPORTS + 0x40, &u64::from(IMPORTS + 0xa0).to_le_bytes());
            put(IMPORTS + 0x80, module.as_bytes());
            put(IMPORTS + 0xa2, function.as_bytes());
        }
        put(RELOCATIONS, &0x1000u32.to_le_bytes());
        put(RELOCATIONS + 4, &12u32.to_le_bytes());
        put(
            RELOCATIONS + 8,
            &(if wide { 0xa000u16 } else { 0x3000 }).to_le_bytes(),
        );
        pe
    }
}

const CODE: u32 = 0x6000_0020;

fn guest() -> NtBoot {
    guest_for(Arch::X64)
}

fn guest_for(arch: Arch) -> NtBoot {
    let file = |name: &str, pe: SmallPe| NtFile {
        path: format!("\\SystemRoot\\system32\\{name}"),
        bytes: pe.bytes().into(),
    };
    NtBoot {
        images: vec![
            file(
                "ntoskrnl.exe",
                SmallPe {
                    arch,
                    export: "KeBugCheckEx",
                    import: Some(("HAL.dll", "HalGo")),
                    flags: CODE,
                },
            ),
            file(
                "hal.dll",
                SmallPe {
                    arch,
                    export: "HalGo",
                    import: Some(("ntoskrnl.exe", "KeBugCheckEx")),
                    flags: CODE,
                },
            ),
        ],
        files: vec![NtFile {
            path: "\\x\\prog.exe".to_string(),
            bytes: vec![0x5a; 5000].into(),
        }],
        options: " NODEBUG".to_string(),
        large_aligned: true,
        random_pte_base: true,
    }
}

/// Guest memory, and the entry registers.
struct Loaded {
    memory: Vec<u8>,
    registers: Registers,
}

fn try_load(boot: &NtBoot, seed: u8) -> Result<Loaded, LoadError> {
    let mut memory = vec![0; MEMORY as usize];
    let mut write = |address: GuestPhysAddr, bytes: &[u8]| {
        let at = address.0 as usize;
        let target = memory.get_mut(at..at + bytes.len()).ok_or(OutOfRange {
            address,
            length: bytes.len(),
        })?;
        target.copy_from_slice(bytes);
        Ok(())
    };
    let mut context = LoadContext {
        memory_bytes: MEMORY,
        write: &mut write,
        rsdp: None,
        random_seed: [seed; 32],
        unpack: false,
    };
    let registers = load(boot, 2, &mut context)?;
    Ok(Loaded { memory, registers })
}

fn loaded(boot: &NtBoot, seed: u8) -> Loaded {
    try_load(boot, seed).expect("the guest loads")
}

impl Loaded {
    fn physical(&self, at: u64) -> u64 {
        u64::from_le_bytes(
            self.memory[at as usize..at as usize + 8]
                .try_into()
                .expect("8 bytes"),
        )
    }
    fn is_x86(&self) -> bool {
        self.registers.efer & efer::LMA == 0
    }
    /// The leaf entry that maps an address.
    fn entry(&self, address: u64) -> Option<(u64, u32)> {
        let has_pae = self.registers.cr4 & cr4::PAE != 0;
        let levels: &[u32] = match (self.is_x86(), has_pae) {
            (false, _) => &[39, 30, 21, 12],
            (true, true) => &[30, 21, 12],
            (true, false) => &[22, 12],
        };
        let mut table = self.registers.cr3;
        for &shift in levels {
            let entry = if has_pae {
                self.physical(table + (address >> shift & 0x1ff) * 8)
            } else {
                self.physical(table + (address >> shift & 0x3ff) * 4) & 0xffff_ffff
            };
            if entry & 1 == 0 {
                return None;
            }
            if shift == 12 || entry & 0x80 != 0 {
                return Some((entry, shift));
            }
            table = entry & 0x000f_ffff_ffff_f000;
        }
        None
    }
    fn translate(&self, address: u64) -> u64 {
        let (entry, shift) = self.entry(address).expect("the address is mapped");
        let mask = (1 << shift) - 1;
        (entry & 0x000f_ffff_ffff_f000 & !mask) | (address & mask)
    }
    fn read(&self, address: u64) -> u64 {
        self.physical(self.translate(address))
    }
    fn pointer(&self, address: u64) -> u64 {
        let value = self.read(address);
        if self.is_x86() { value & 0xffff_ffff } else { value }
    }
    fn block(&self) -> u64 {
        self.registers.gpr[gpr::RCX]
    }
    fn extension(&self) -> u64 {
        self.read(self.block() + 0xf0)
    }
    fn modules(&self) -> Vec<u64> {
        let head = self.block() + 0x10;
        let mut modules = Vec::new();
        let mut at = self.read(head);
        while at != head {
            assert!(modules.len() < 8);
            modules.push(at);
            at = self.read(at);
        }
        modules
    }
    fn unicode(&self, at: u64) -> String {
        let length = self.read(at) & 0xffff;
        let text = self.translate(self.read(at + 8)) as usize;
        let units: Vec<u16> = self.memory[text..text + length as usize]
            .chunks(2)
            .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
            .collect();
        String::from_utf16(&units).expect("a name")
    }
}

#[test]
fn the_kernel_is_entered_in_64_bit_mode_with_the_loader_block_in_rcx() {
    let guest = loaded(&guest(), 1);
    let kernel = guest.read(guest.modules()[0] + 0x30);
    assert_eq!(guest.registers.rip, kernel + 0x1010);
    assert_eq!(guest.registers.cr3, 0x1a_a000);
    assert_eq!(guest.registers.gpr[gpr::RSP] % 16, 8);
    assert_eq!(guest.read(guest.extension()) & 0xffff_ffff, 0xc0);
    assert_eq!(guest.read(guest.extension() + 0x20), 2);
}

#[test]
fn images_are_relocated_and_linked_to_each_other() {
    let guest = loaded(&guest(), 1);
    let bases: Vec<u64> = guest.modules().iter().map(|m| guest.read(m + 0x30)).collect();
    assert_eq!(bases.len(), 2);
    for (own, other) in [(bases[0], bases[1]), (bases[1], bases[0])] {
        assert_eq!(guest.read(own + 0x1000), own + 0x1000);
        assert_eq!(guest.read(own + 0x1300), other + 0x1010);
    }
}

#[test]
fn modules_are_listed_by_name_with_the_kernel_first() {
    let guest = loaded(&guest(), 1);
    let names: Vec<String> = guest.modules().iter().map(|m| guest.unicode(m + 0x58)).collect();
    assert_eq!(names, ["ntoskrnl.exe", "hal.dll"]);
    assert_eq!(
        guest.unicode(guest.modules()[0] + 0x48),
        "\\SystemRoot\\system32\\ntoskrnl.exe"
    );
}

#[test]
fn code_cannot_be_written_and_the_rest_cannot_be_executed() {
    let guest = loaded(&guest(), 1);
    let kernel = guest.read(guest.modules()[0] + 0x30);
    let rights = |address| {
        guest
            .entry(address)
            .map(|(entry, _)| (entry >> 1 & 1, entry >> 63))
    };
    // Boot images keep writable headers, as under Windows.
    assert_eq!(rights(kernel), Some((1, 1)));
    assert_eq!(rights(kernel + 0x1000), Some((0, 0)));
    assert_eq!(rights(guest.block()), Some((1, 1)));
    assert_eq!(rights(0xffff_f780_0000_0000), Some((1, 1)));
}

#[test]
fn the_page_tables_map_themselves_at_one_place() {
    for (random, seed) in [(false, 1), (true, 1), (true, 2), (true, 3)] {
        let boot = NtBoot {
            random_pte_base: random,
            ..guest()
        };
        let guest = loaded(&boot, seed);
        let selves: Vec<u64> = (0..512)
            .filter(|n| guest.physical(0x1a_a000 + n * 8) & 0x000f_ffff_ffff_f000 == 0x1a_a000)
            .collect();
        assert_eq!(selves.len(), 1);
        assert_eq!(
            guest.read(guest.extension() + 0x10),
            0xffff_0000_0000_0000 | selves[0] << 39
        );
        assert!(random || selves[0] == 0x1ed);
    }
}

#[test]
fn all_ram_is_mapped_and_kept_files_are_in_it() {
    let guest = loaded(&guest(), 1);
    let direct = guest.read(guest.extension() + 8);
    for physical in [0, 0x1a_a000, MEMORY - 8] {
        assert_eq!(guest.translate(direct + physical), physical);
    }
    let file = guest.read(guest.extension() + 0x80);
    assert_eq!(guest.read(file + 0x58), 5000);
    assert_eq!(guest.read(guest.read(file + 0x50) + 4992), 0x5a5a_5a5a_5a5a_5a5a);
}

#[test]
fn memory_descriptors_cover_usable_memory_without_overlap() {
    let guest = loaded(&guest(), 1);
    let head = guest.block() + 0x20;
    let (mut at, mut end, mut pages) = (guest.read(head), 0, 0);
    while at != head {
        let (base, count) = (guest.read(at + 0x18), guest.read(at + 0x20));
        assert!(base >= end);
        end = base + count;
        pages += count;
        at = guest.read(at);
    }
    assert_eq!(end, MEMORY >> 12);
    assert_eq!(pages, 0x9f + (MEMORY >> 12) - 0x100);
}

#[test]
fn the_base_depends_on_the_seed_and_keeps_its_alignment() {
    let base = |large_aligned, seed| {
        let guest = loaded(
            &NtBoot {
                large_aligned,
                ..guest()
            },
            seed,
        );
        guest.read(guest.modules()[0] + 0x30)
    };
    assert_eq!(base(true, 1), base(true, 1));
    assert_ne!(base(true, 1), base(true, 2));
    assert!((1..20).all(|seed| base(true, seed).is_multiple_of(LARGE_PAGE)));
    assert!((1..20).any(|seed| !base(false, seed).is_multiple_of(LARGE_PAGE)));
    assert!((1..20).all(|seed| base(false, seed) >> 36 == 0xfff_ff80 && base(false, seed) >> 32 & 0xf < 8));
}

#[test]
fn a_missing_import_is_named() {
    let mut boot = guest();
    boot.images[1].bytes = SmallPe {
        arch: Arch::X64,
        export: "HalOther",
        import: None,
        flags: CODE,
    }
    .bytes()
    .into();
    let error = try_load(&boot, 1).map(|_| ()).expect_err("nobody exports it");
    assert_eq!(
        error.to_string(),
        "ntoskrnl.exe can't be loaded: it needs hal.dll!HalGo, which nobody exports"
    );
}

#[test]
fn damaged_images_are_refused_or_loaded_but_never_panic() {
    for arch in [Arch::X64, Arch::X86] {
        damage(&guest_for(arch));
    }
}

fn damage(original: &NtBoot) {
    let mut refused = 0;
    for at in 0..0x700 {
        for value in [0x00, 0x7f, 0xff] {
            let mut boot = original.clone();
            let mut bytes = boot.images[0].bytes.to_vec();
            bytes[at] = value;
            boot.images[0].bytes = bytes.into();
            // Image and placement only: writing 32 MiB of memory each time would take long.
            let placed = parse_images(&boot).and_then(|images| {
                let places = Places::draw(&boot, images[0].arch, &[1; 32]);
                place_images(&boot, images, &places)
            });
            refused += u32::from(placed.is_err());
        }
    }
    assert!(refused > 100, "{refused}");
    for length in 0..original.images[0].bytes.len() {
        let cut = &original.images[0].bytes[..length];
        if let Ok(mut image) = Image::parse("cut.sys", cut) {
            let _ = image.relocate(0x1000);
            let _ = image.exports();
        }
    }
}

#[test]
fn an_x86_kernel_is_entered_in_protected_mode_with_the_loader_block_on_the_stack() {
    let guest = loaded(&guest_for(Arch::X86), 1);
    let registers = &guest.registers;
    let block = guest.pointer(registers.gpr[gpr::RSP] + 4);
    let kernel = guest.pointer(guest.pointer(block + 0x10) + 0x18);
    assert_eq!(registers.rip, kernel + 0x1010);
    assert!((0x8180_0000..0x8480_0000).contains(&kernel));
    assert_eq!(registers.efer & (efer::LME | efer::LMA), 0);
    assert_eq!(registers.segments[seg::CS].selector, 8);
    assert_eq!(registers.segments[seg::FS].selector, 0x30);
    let extension = guest.pointer(block + 0x84);
    assert_eq!(guest.read(extension + 0x10), 0xc000_0000);
    assert_eq!(guest.read(extension + 0x20), 2);
}

#[test]
fn x86_images_are_relocated_and_linked_to_each_other() {
    let guest = loaded(&guest_for(Arch::X86), 1);
    let block = guest.pointer(guest.registers.gpr[gpr::RSP] + 4);
    let first = guest.pointer(block + 0x10);
    let second = guest.pointer(first);
    assert_eq!(guest.pointer(second), block + 0x10);
    let bases = [first, second].map(|module| guest.pointer(module + 0x18));
    for (own, other) in [(bases[0], bases[1]), (bases[1], bases[0])] {
        assert_eq!(guest.pointer(own + 0x1000), own + 0x1000);
        assert_eq!(guest.pointer(own + 0x1300), other + 0x1010);
        assert_eq!(guest.pointer(own + 0xb4), own);
    }
}

#[test]
fn pae_tables_follow_their_root_and_map_themselves_by_four_entries() {
    let guest = loaded(&guest_for(Arch::X86), 1);
    let root = guest.registers.cr3;
    for n in 0..4 {
        assert_eq!(guest.physical(root + n * 8), root + (n + 1) * PAGE + 1);
        // The directories are the last level's tables of the last four page tables' addresses.
        assert_eq!(guest.translate(0xc060_0000 + n * PAGE), root + (n + 1) * PAGE);
    }
    assert!((4..512).all(|n| guest.physical(root + n * 8) == 0));
    assert_eq!(guest.translate(0xffdf_0000), block::SHARED_USER_DATA);
}

#[test]
fn without_pae_one_directory_maps_the_tables_by_an_entry_of_its_own() {
    let boot = NtBoot {
        options: " NODEBUG NOPAE".to_string(),
        ..guest_for(Arch::X86)
    };
    let guest = loaded(&boot, 1);
    let registers = &guest.registers;
    assert_eq!(registers.cr4 & (cr4::PAE | cr4::PSE), cr4::PSE);
    assert_eq!(registers.efer, 0);
    let root = registers.cr3;
    assert_eq!(guest.physical(root + 0xc00) & 0xffff_f000, root);
    assert_eq!(guest.translate(0xc030_0000), root);
    assert_eq!(guest.translate(0xffdf_0000), block::SHARED_USER_DATA);
    let block = guest.pointer(registers.gpr[gpr::RSP] + 4);
    let kernel = guest.pointer(guest.pointer(block + 0x10) + 0x18);
    assert_eq!(guest.pointer(kernel + 0x1000), kernel + 0x1000);
    // Code can't be written to, and RAM is mapped by pages of 4 MiB.
    assert_eq!(
        guest.entry(kernel + 0x1000).map(|(entry, _)| entry >> 1 & 1),
        Some(0)
    );
    assert_eq!(
        guest.entry(0x9000_0000 + (8 << 20)).map(|(_, shift)| shift),
        Some(22)
    );
    assert_eq!(guest.translate(0x9000_0000 + MEMORY - 8), MEMORY - 8);
}

#[test]
fn images_for_two_machines_are_refused() {
    let mut boot = guest();
    boot.images[1] = guest_for(Arch::X86).images.remove(1);
    let error = try_load(&boot, 1).map(|_| ()).expect_err("one is for x86");
    assert_eq!(
        error.to_string(),
        "hal.dll can't be loaded: it is for X86, the kernel for X64"
    );
}
