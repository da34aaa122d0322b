//! The guest, booted once, and the files of it.

use dump::elf::{ElfOptions, VirtualAddresses};
use dump::kdump::{Compression, KdumpOptions};
use dump::linux::{KeepAll, LinuxFacts, Vmcoreinfo};
use dump::{Absent, FileBytes, Ignore, Image, NewFile, PAGE_SIZE, Pfn, Source, Stream, Written};
use hv_core::regs::Registers;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tests::{LinuxMachine, Scratch};

/// The files, and what is in them.
pub struct Dumped {
    folder: Scratch,
    pub processors: Vec<Registers>,
    pub facts: LinuxFacts,
    ram: Vec<(u64, Vec<u8>)>,
    /// What the writers said of each file.
    pub written: Vec<(String, Written)>,
}

pub const KDUMPS: [Compression; 4] = [
    Compression::None,
    Compression::Zlib,
    Compression::Snappy,
    Compression::Zstd,
];

/// `None`, and it is said, where there is no guest.
#[track_caller]
pub fn dumped() -> Option<&'static Dumped> {
    static ONCE: OnceLock<Option<Dumped>> = OnceLock::new();
    ONCE.get_or_init(Dumped::make).as_ref()
}

impl Dumped {
    fn make() -> Option<Dumped> {
        let machine = LinuxMachine::boot(256 << 20, 2)?;
        let (processors, facts) = (machine.processors(), machine.facts());
        let source = Source::new(&machine);
        let folder = Scratch::default();
        let mut written = Vec::new();
        for (name, addresses) in [
            ("elf", VirtualAddresses::DirectMap),
            ("elf-physical", VirtualAddresses::Physical),
            ("elf-gdb", VirtualAddresses::ForGdb),
        ] {
            let mut file = NewFile::create(&folder.path(name), false).expect("a new file");
            let options = ElfOptions { addresses };
            let done = dump::elf::write(&source, &processors, &facts, &options, &mut file, &mut Ignore);
            written.push((name.to_owned(), done.expect("the dump is written")));
            file.commit().expect("the file is complete");
        }
        for compression in KDUMPS {
            let mut file = NewFile::create(&folder.path(compression.name()), false).expect("a new file");
            let options = KdumpOptions {
                compression,
                ..KdumpOptions::default()
            };
            let done = dump::kdump::write(
                &source,
                &processors,
                &facts,
                &options,
                &mut KeepAll,
                &mut file,
                &mut Ignore,
            );
            written.push((compression.name().to_owned(), done.expect("the dump is written")));
            file.commit().expect("the file is complete");
        }
        let mut stream = Stream(std::fs::File::create(folder.path("flattened")).expect("a new file"));
        let options = KdumpOptions::default();
        let done = dump::kdump::write(
            &source,
            &processors,
            &facts,
            &options,
            &mut KeepAll,
            &mut stream,
            &mut Ignore,
        );
        written.push(("flattened".into(), done.expect("the dump is written")));
        Some(Dumped {
            folder,
            processors,
            facts,
            ram: machine.ram(),
            written,
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path(name)
    }

    pub fn info(&self) -> Vmcoreinfo<'_> {
        Vmcoreinfo::new(self.facts.vmcoreinfo.as_deref().expect("the kernel has it"))
    }

    /// The kernel's release, from `init_uts_ns`.
    pub fn release(&self) -> String {
        let names = self.facts.utsname.expect("the kernel has names");
        String::from_utf8_lossy(&names[2])
            .trim_end_matches('\0')
            .to_owned()
    }

    /// Bytes of the guest's memory.
    pub fn bytes(&self, physical: u64, length: usize) -> &[u8] {
        memory(&self.ram, physical, length)
    }

    /// The virtual and the physical address of the kernel's names.
    pub fn names(&self) -> (u64, u64) {
        let info = self.info();
        let symbol = info.symbol("init_uts_ns").expect("it is in VMCOREINFO");
        let offset = info
            .get("OFFSET(uts_namespace.name)")
            .and_then(|text| text.parse::<u64>().ok());
        let address = symbol + offset.expect("it is in VMCOREINFO");
        let base = self.facts.phys_base.expect("it is in VMCOREINFO");
        (
            address,
            (address - 0xffff_ffff_8000_0000).wrapping_add_signed(base),
        )
    }

    /// That the image has the guest's memory: every page, or all that it has. Pages that it has.
    #[track_caller]
    pub fn assert_same_memory(&self, image: &dyn Image, may_lack: bool) -> u64 {
        assert_same_memory(&self.ram, image, may_lack)
    }
}

fn memory(ram: &[(u64, Vec<u8>)], physical: u64, length: usize) -> &[u8] {
    let (start, bytes) = ram
        .iter()
        .find(|(start, bytes)| (*start..*start + bytes.len() as u64).contains(&physical))
        .expect("there is RAM");
    &bytes[(physical - start) as usize..][..length]
}

#[track_caller]
pub fn assert_same_memory(ram: &[(u64, Vec<u8>)], image: &dyn Image, may_lack: bool) -> u64 {
    let (mut page, mut there) = ([0; PAGE_SIZE], 0);
    for (start, bytes) in ram {
        let first = start.div_ceil(PAGE_SIZE as u64);
        let end = (start + bytes.len() as u64) / PAGE_SIZE as u64;
        for pfn in first..end {
            match image.read_page(Pfn(pfn), &mut page) {
                Ok(()) => {
                    there += 1;
                    let expected = memory(ram, pfn * PAGE_SIZE as u64, PAGE_SIZE);
                    assert!(
                        page == expected || may_lack && page == [0; PAGE_SIZE],
                        "page {pfn:#x}"
                    );
                }
                Err(Absent::LeftOut) if may_lack => {}
                Err(other) => panic!("page {pfn:#x}: {other}"),
            }
        }
    }
    there
}

/// Opens a file with our reader.
#[track_caller]
pub fn ours(path: &Path) -> Box<dyn Image> {
    let mut bytes = FileBytes::open(path).expect("the file is there");
    if bytes.is_flattened().expect("it can be read") {
        bytes = bytes.unflatten().expect("its records fit");
    }
    let start: [u8; 8] = bytes.array("the start", 0).expect("it isn't empty");
    if dump::elf::is_elf(&start) {
        Box::new(dump::elf::open(bytes).unwrap_or_else(|error| panic!("{error}")))
    } else {
        assert!(dump::kdump::is_kdump(&start));
        Box::new(dump::kdump::open(bytes).unwrap_or_else(|error| panic!("{error}")))
    }
}
