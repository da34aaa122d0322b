//! Dump files to be damaged, made by the project's own writers: of the recorded Windows guests, of a machine of a few
//! instructions, of the stock Linux.

use crate::linux;
use crate::sample::Sample;
use crate::{lab, tapes};
use dump::elf::{ElfOptions, VirtualAddresses};
use dump::kdump::{Compression, KdumpOptions};
use dump::linux::{KeepAll, LinuxFacts, PageFilter};
use dump::windows::{self, Kind};
use dump::{Ignore, PAGE_SIZE, Pfn, Sink, Source};
use hv_core::introspect::{Error, Introspect, MemoryRegion, ReadMemory, ReadRegisters, Result, WriteMemory};
use hv_core::regs::{Registers, cr0, cr4, efer, seg};
use hv_core::{DomId, DomainConfig, GuestPhysAddr, GuestVirtAddr, Hypervisor, VcpuId};
use introspect::windows::{Global, Guest, Windows};
use introspect::{AddressSpace, PageTables};
use std::io::{self, Write};
use std::sync::{Arc, OnceLock};
use symbols::SymbolPath;
use tests::tape::{Player, Tape};

/// A range more than a full dump has room for, less one.
const MAX_RANGES: usize = 40;

/// What a Windows dump says of its type, and where: in x64's header, in x86's.
pub const DUMP_TYPE: [u64; 2] = [0xf98, 0xf88];

/// All of them. Those of the stock Linux, which take longest, come last.
pub fn all() -> &'static [Sample] {
    static ALL: OnceLock<Vec<Sample>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut files = Vec::new();
        files.extend(windows_files(
            0,
            &[Kind::Full, Kind::BitmapFull, Kind::BitmapKernel],
        ));
        files.extend(windows_files(3, &[Kind::Full, Kind::BitmapKernel]));
        files.extend(windows_files(2, &[Kind::Full]));
        files.extend(small_files());
        files.extend(linux_files());
        files.iter().filter_map(|bytes| Sample::new(bytes).ok()).collect()
    })
}

/// A sink that is a buffer.
#[derive(Default)]
struct Buffer(Vec<u8>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Buffer {
    fn zeros(&mut self, length: u64) -> io::Result<()> {
        self.0.resize(self.0.len() + length as usize, 0);
        Ok(())
    }

    fn rewrite(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0[at as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn can_rewrite(&self) -> bool {
        true
    }
}

/// A recorded guest, with zeros between the pages that were looked at.
struct Recorded {
    player: Arc<Player>,
    ram: Vec<MemoryRegion>,
}

impl Recorded {
    fn new(tape: &Arc<Tape>) -> Recorded {
        let mut frames = Vec::new();
        (**tape).clone().change_pages(|frame, _| frames.push(frame));
        frames.sort_unstable();
        frames.dedup();
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for frame in frames {
            match runs.last_mut() {
                Some((_, end)) if *end == frame => *end += 1,
                _ => runs.push((frame, frame + 1)),
            }
        }
        while runs.len() > MAX_RANGES {
            let gap = |n: &usize| runs[n + 1].0 - runs[*n].1;
            let Some(least) = (0..runs.len() - 1).min_by_key(gap) else {
                break;
            };
            runs[least].1 = runs.remove(least + 1).1;
        }
        let region = |(first, end): (u64, u64)| MemoryRegion {
            start: GuestPhysAddr(first << 12),
            length: (end - first) << 12,
            writable: true,
        };
        Recorded {
            player: Player::new(tape),
            ram: runs.into_iter().map(region).collect(),
        }
    }
}

impl ReadMemory for Recorded {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<()> {
        let (mut done, wanted) = (0, buffer.len());
        while done < wanted {
            let at = address.wrapping_add(done as u64);
            let part = (PAGE_SIZE - at.page_offset()).min(wanted - done);
            let inside = |it: &MemoryRegion| (it.start.0..it.start.0 + it.length).contains(&at.0);
            let bytes = &mut buffer[done..done + part];
            if self.player.read_physical(at, bytes).is_err() {
                if !self.ram.iter().any(inside) {
                    return Err(Error::NoMemory {
                        domain: DomId(1),
                        address: at,
                        done,
                        wanted,
                    });
                }
                bytes.fill(0);
            }
            done += part;
        }
        Ok(())
    }

    fn memory_regions(&self) -> Vec<MemoryRegion> {
        self.ram.clone()
    }
}

fn windows_files(tape: usize, kinds: &[Kind]) -> Vec<Vec<u8>> {
    let memory = Recorded::new(tapes::tape(tape));
    let guest = Guest::new(&memory, &*memory.player);
    let Ok(windows) = Windows::recognise(guest, &SymbolPath::default()) else {
        return Vec::new();
    };
    let write = |kind: &Kind| {
        let options = windows::Options {
            kind: *kind,
            comment: "for fuzzing".into(),
            ..windows::Options::default()
        };
        let mut file = Buffer::default();
        let written = windows::write(guest, &windows, &options, &mut file, &mut Ignore);
        written.is_ok().then_some(file.0)
    };
    let mut files: Vec<Vec<u8>> = kinds.iter().filter_map(write).collect();
    let small = files.first().and_then(|full| small_dump(guest, &windows, full));
    files.extend(small);
    files
}

/// A small dump (type 4) with the pages that a debugger looks at first. Nobody here writes such a file in earnest.
fn small_dump(guest: Guest<'_>, windows: &Windows, full: &[u8]) -> Option<Vec<u8>> {
    let x64 = full.get(4..8)? == b"DU64";
    let header = if x64 { 0x2000 } else { 0x1000 };
    let AddressSpace::Root(mode, root) = windows.kernel_space(guest, VcpuId(0)).ok()? else {
        return None;
    };
    let block = windows.debugger_data(guest).ok()?;
    let mut pages = vec![windows.kernel().base, block.address];
    pages.extend(
        [Global::PsLoadedModuleList, Global::PsActiveProcessHead]
            .iter()
            .filter_map(|it| windows.global(*it).ok()),
    );
    pages.extend(
        windows
            .modules(guest)
            .ok()?
            .items
            .iter()
            .map(|module| module.base),
    );
    pages.extend(windows.processor(guest, VcpuId(0)).ok().map(|it| it.kprcb));
    pages.extend(
        windows
            .processes(guest)
            .ok()?
            .items
            .iter()
            .map(|process| process.address),
    );
    let mut tables = PageTables::new(guest.memory, mode, root);
    let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
    for address in pages {
        let mut page = vec![0; PAGE_SIZE];
        let start = GuestVirtAddr(address.0 & !0xfff);
        if tables.read(start, &mut page).is_ok() {
            pieces.push((start.0, page));
        }
    }
    pieces.push((block.address.0, block.bytes.clone()));
    let mut file = full[..header].to_vec();
    let kind = DUMP_TYPE[usize::from(!x64)] as usize;
    file[kind..kind + 4].copy_from_slice(&4_u32.to_le_bytes());
    // TRIAGE_DUMP: 18 words, then by architecture; the tables of data blocks and the pieces follow.
    let table = header + 0x80;
    let first = table + 16 * pieces.len();
    let end = first + pieces.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    let mut words = vec![0_u32; 18];
    words[1] = end as u32 + 4;
    words[2] = end as u32;
    words.extend(if x64 { vec![0; 12] } else { vec![0; 6] });
    words.extend([table as u32, pieces.len() as u32]);
    file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    file.resize(table, 0);
    let mut at = first;
    for (address, bytes) in &pieces {
        file.extend(address.to_le_bytes());
        file.extend((at as u32).to_le_bytes());
        file.extend((bytes.len() as u32).to_le_bytes());
        at += bytes.len();
    }
    pieces.iter().for_each(|(_, bytes)| file.extend(bytes));
    file.extend(b"TRGD");
    Some(file)
}

/// A processor that runs a kernel in long mode, as far as files tell it.
fn in_long_mode(n: u64) -> Registers {
    let mut cpu = Registers::at_reset(n == 0);
    cpu.gpr = std::array::from_fn(|register| n << 32 | register as u64);
    (cpu.rip, cpu.rflags) = (0xffff_ffff_8100_0000 + n, 0x246);
    (cpu.cr0, cpu.cr3, cpu.cr4) = (cr0::PE | cr0::PG | cr0::WP, 0x1000 * (n + 1), cr4::PAE);
    cpu.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    (cpu.segments[seg::CS].selector, cpu.segments[seg::CS].attributes) = (0x10, 0xa09b);
    cpu
}

const VMCOREINFO: &str = "OSRELEASE=6.1.0-fuzz\nBUILD-ID=00112233\nPAGESIZE=4096\n\
    SYMBOL(init_uts_ns)=ffffffff82000000\nOFFSET(uts_namespace.name)=0\nSYMBOL(swapper_pg_dir)=ffffffff81001000\n\
    SYMBOL(_stext)=ffffffff81000000\nNUMBER(phys_base)=-16777216\nKERNELOFFSET=0\nCRASHTIME=1700000000\n";

/// Of a machine of 2 MiB: each format, with and without what they may have.
fn small_files() -> Vec<Vec<u8>> {
    let hypervisor = Hypervisor::new();
    let Ok(domain) = hypervisor.create(DomainConfig {
        name: None,
        machine: lab::config(2),
        paused: true,
        throttle: false,
    }) else {
        return Vec::new();
    };
    for n in 0..24_u64 {
        let page: Vec<u8> = (0..4096_u64).map(|at| (at * n >> 3) as u8).collect();
        let _ = domain.write_physical(GuestPhysAddr(0x4_0000 + n * 0x3000), &page);
    }
    let source = Source::new(&*domain as &dyn Introspect);
    let own: Vec<Registers> = (0..2).filter_map(|n| domain.registers(VcpuId(n)).ok()).collect();
    let long: Vec<Registers> = (0..3).map(in_long_mode).collect();
    let facts = LinuxFacts {
        vmcoreinfo: Some(VMCOREINFO.into()),
        page_offset_base: Some(GuestVirtAddr(0xffff_8880_0000_0000)),
        utsname: Some([[b'x'; 65]; 6]),
        ..LinuxFacts::default()
    };
    let mut files = Vec::new();
    for (cpus, facts, addresses) in [
        (&long, &facts, VirtualAddresses::DirectMap),
        (&long, &facts, VirtualAddresses::ForGdb),
        (&own, &LinuxFacts::default(), VirtualAddresses::Physical),
    ] {
        let mut file = Buffer::default();
        let options = ElfOptions { addresses };
        if dump::elf::write(&source, cpus, facts, &options, &mut file, &mut Ignore).is_ok() {
            files.push(file.0);
        }
    }
    for (compression, flattened) in [
        (Compression::None, false),
        (Compression::Zlib, false),
        (Compression::Zstd, false),
        (Compression::Snappy, false),
        (Compression::Zlib, true),
    ] {
        let mut file = Buffer::default();
        let options = KdumpOptions {
            compression,
            flattened,
            threads: Some(1),
        };
        let written = dump::kdump::write(
            &source,
            &long,
            &facts,
            &options,
            &mut KeepAll,
            &mut file,
            &mut Ignore,
        );
        if written.is_ok() {
            files.push(file.0);
        }
    }
    let (mut lime, mut raw) = (Vec::new(), Vec::new());
    for range in source.ram() {
        let mut bytes = vec![0; range.count as usize * PAGE_SIZE];
        if source.read(range.first, &mut bytes).is_err() {
            continue;
        }
        // `lime_mem_range_header`: magic, version, the first and the last address.
        lime.extend([0x4c69_4d45_u32, 1].iter().flat_map(|word| word.to_le_bytes()));
        let last = range.end().address().0 - 1;
        lime.extend(
            [range.first.address().0, last, 0]
                .iter()
                .flat_map(|word| word.to_le_bytes()),
        );
        lime.extend(&bytes);
        raw.resize(range.first.address().0 as usize, 0);
        raw.extend(bytes);
    }
    files.extend([lime, raw]);
    domain.destroy();
    files
}

/// Keeps what isn't zeros, and a part of that.
struct Few(Vec<bool>);

impl PageFilter for Few {
    fn keep(&mut self, pfn: Pfn) -> bool {
        self.0.get(pfn.0 as usize).copied().unwrap_or(false)
    }

    fn level(&self) -> u32 {
        31
    }
}

/// Of the stock Linux: ELF with all of it, kdump with the kernel's pages.
fn linux_files() -> Vec<Vec<u8>> {
    let Some((guest, linux)) = linux::guest().and_then(|guest| Some((guest, guest.linux()?))) else {
        return Vec::new();
    };
    let whole = guest.damaged(&[]);
    let source = Source::new(&whole);
    let facts = LinuxFacts {
        vmcoreinfo: linux.vmcoreinfo().map(|info| info.text().to_vec()),
        page_offset_base: Some(linux.regions().direct_map),
        phys_base: Some(linux.kernel().phys_base() as i64),
        ..LinuxFacts::default()
    };
    let end = source.ram().last().map_or(0, |range| range.end().0);
    let kept = linux.page_kinds(&whole).map(|mut kinds| {
        (0..end)
            .map(|pfn| !kinds.kind(GuestPhysAddr(pfn << 12)).is_left_out_at(31))
            .collect()
    });
    let mut files = Vec::new();
    let (mut elf, mut kdump) = (Buffer::default(), Buffer::default());
    let options = ElfOptions::default();
    if dump::elf::write(&source, &whole.registers, &facts, &options, &mut elf, &mut Ignore).is_ok() {
        files.push(elf.0);
    }
    let options = KdumpOptions {
        compression: Compression::Snappy,
        ..KdumpOptions::default()
    };
    let mut few = Few(kept.unwrap_or_default());
    if dump::kdump::write(
        &source,
        &whole.registers,
        &facts,
        &options,
        &mut few,
        &mut kdump,
        &mut Ignore,
    )
    .is_ok()
    {
        files.push(kdump.0);
    }
    files
}

#[cfg(test)]
mod undamaged {
    use super::*;
    use hv_core::introspect::Introspect;
    use introspect::linux::Linux;

    /// The formats, undamaged, and which system is recognised in each.
    fn found() -> Vec<(dump::Format, &'static str)> {
        let mut found = Vec::new();
        for (number, sample) in all().iter().enumerate() {
            let look = |path: &std::path::Path| {
                let image = dump::open(path).unwrap_or_else(|error| panic!("{number}: {error}"));
                let format = image.description().format;
                let domain = dump::DumpDomain::new(DomId(1), "dump".into(), image);
                let guest = || Guest::from(&domain as &dyn Introspect);
                let system = match (
                    Windows::recognise(guest(), &SymbolPath::default()),
                    Linux::recognise(guest()),
                ) {
                    (Ok(_), _) => "Windows",
                    (_, Ok(_)) => "Linux",
                    _ => "none",
                };
                found.push((format, system));
            };
            sample.damaged(&[], None, look).expect("it is ours");
        }
        found
    }

    #[test]
    fn every_format_is_there_and_opens_undamaged() {
        use dump::Format::*;
        let found = found();
        for format in [
            WindowsFull,
            WindowsBitmapFull,
            WindowsBitmapKernel,
            WindowsTriage,
            Elf,
            Kdump,
            Lime,
            Raw,
        ] {
            assert!(found.iter().any(|(it, _)| *it == format), "{format}: {found:?}");
        }
        assert!(
            found
                .iter()
                .filter(|(it, _)| matches!(it, WindowsFull))
                .all(|(_, system)| *system == "Windows"),
            "{found:?}"
        );
        if linux::guest().is_some() {
            for format in [Elf, Kdump] {
                assert!(found.contains(&(format, "Linux")), "{found:?}");
            }
        }
    }
}
