//! What a dump says of itself, for people, and what readers will hold against it.

use super::bugcheck;
use super::header::{FILLER, attributes};
use super::kdbg::{Address, DebuggerBlock};
use super::map::BitmapFacts;
use super::physical::Physical;
use super::processors::Context;
use super::read::{Found, Header, address};
use crate::image::{Description, Format, Problem};
use hv_core::GuestVirtAddr;
use introspect::windows::{Arch, release_name};
use introspect::{PageTables, PagingMode};
use std::time::Duration;

/// LIVE_SYSTEM_DUMP: nothing had gone wrong.
const LIVE: u32 = 0x161;
/// Seconds from 1601 to 1970.
const UNIX_EPOCH: u64 = 11_644_473_600;
/// 100 ns in a second.
const TICKS: u64 = 10_000_000;

const VOLATILITY: &str = "volatility3";
const KDMP_PARSER: &str = "kdmp-parser";
const LEECHCORE: &str = "LeechCore";
const RADARE: &str = "radare2";
const WINDBG: &str = "WinDbg";

pub(super) fn describe(
    format: Format,
    header: &Header,
    physical: &Physical,
    found: &Found,
    processors: usize,
    bitmap: Option<BitmapFacts>,
) -> Description {
    let mut description = Description::new(format);
    description.arch = header.arch.map(|arch| match arch {
        Arch::X64 => "x64",
        Arch::X86 => "x86",
    });
    let server = written(header.product_type).is_some_and(|product| product != 1);
    let name = release_name(header.minor & 0xffff, server);
    let machine = match (header.arch, header.machine) {
        (Some(arch), _) => arch.to_string(),
        (None, 0xaa64) => "ARM64".to_owned(),
        (None, machine) => format!("machine {machine:#x}"),
    };
    description.os = written(header.minor).map(|build| format!("{name} {machine}, build {}", build & 0xffff));
    description.time = ticks(header.system_time)
        .and_then(|ticks| (ticks / TICKS).checked_sub(UNIX_EPOCH))
        .filter(|time| *time < 1 << 40);
    description.uptime = ticks(header.up_time).map(|ticks| Duration::from_nanos(ticks.saturating_mul(100)));
    description.crash = crash(header);
    description.root = Some(found.root).filter(|root| root.0 != 0);
    description.kernel = kernel(header, found);
    description.pages = physical.count();
    fields(&mut description, header, physical, found);
    let mut problems = Problems(&mut description.problems);
    problems.of_format(format, header, bitmap.as_ref());
    problems.of_header(header, physical, bitmap.as_ref());
    problems.of_contents(format, header, found, processors);
    description
}

/// A field that was written.
fn written(value: u32) -> Option<u32> {
    (value != FILLER && value != 0).then_some(value)
}

/// A time that was written.
fn ticks(value: i64) -> Option<u64> {
    let filler = u64::from(FILLER) << 32 | u64::from(FILLER);
    u64::try_from(value)
        .ok()
        .filter(|&value| value != 0 && value != filler)
}

/// The bugcheck; none of a system that lived.
fn crash(header: &Header) -> Option<String> {
    let code = written(header.bugcheck).filter(|code| *code != LIVE)?;
    let name = bugcheck::name(code).map_or(String::new(), |name| format!(" {name}"));
    let [p1, p2, p3, p4] = header.parameters;
    Some(format!(
        "bugcheck {code:#x}{name} ({p1:#x}, {p2:#x}, {p3:#x}, {p4:#x})"
    ))
}

fn block<'a>(header: &Header, found: &'a Found) -> Option<DebuggerBlock<'a>> {
    DebuggerBlock::new(header.arch?, found.block.as_ref()?)
}

/// An address in the kernel: its base, or one of its variables.
fn kernel(header: &Header, found: &Found) -> Option<GuestVirtAddr> {
    let base = block(header, found).and_then(|block| block.address(Address::KernelBase));
    base.or_else(|| {
        let list = address(header, header.module_list);
        (list.0 != 0 && list.0 as u32 != FILLER).then_some(list)
    })
}

/// The header's text up to a NUL, without what moves a cursor.
fn text(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let printable = |byte: &u8| match char::from(*byte) {
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    bytes.iter().map(printable).collect()
}

fn fields(description: &mut Description, header: &Header, physical: &Physical, found: &Found) {
    let mut add = |name: &str, value: String| description.fields.push((name.to_owned(), value));
    add("dump type", format!("{:#x}", header.dump_type));
    let comment = text(&header.comment);
    if !comment.is_empty() && !comment.starts_with("PAGE") {
        add("comment", comment);
    }
    if let Some(lab) = build_lab(header, physical, found) {
        add("built by", lab);
    }
    let checked = if header.major == 12 { "checked" } else { "free" };
    add(
        "version",
        format!("{} {} ({checked})", header.major, header.minor),
    );
    if let Some(count) = written(header.processors) {
        add("processors", count.to_string());
    }
    let product = match header.product_type {
        1 => Some("workstation"),
        2 => Some("domain controller"),
        3 => Some("server"),
        _ => None,
    };
    if let Some(product) = product {
        add("product", product.to_owned());
    }
    if let Some(mask) = written(header.suite_mask) {
        add("suite mask", format!("{mask:#x}"));
    }
    add("page-table root", format!("{:#x}", header.root));
    let paging = match found.mode {
        PagingMode::None | PagingMode::Bits32 { .. } => "32-bit",
        PagingMode::Pae => "PAE",
        PagingMode::Level4 => "4-level",
        PagingMode::Level5 => "5-level",
    };
    add("paging", paging.to_owned());
    for (name, value) in [
        ("PsLoadedModuleList", header.module_list),
        ("PsActiveProcessHead", header.process_list),
        ("KdDebuggerDataBlock", header.debugger_data),
    ] {
        if value != 0 && value as u32 != FILLER {
            add(name, address(header, value).to_string());
        }
    }
    if let Some(code) = written(header.exception.0) {
        let at = address(header, header.exception.1);
        add("exception", format!("{code:#x} at {at}"));
    }
    if let Some(bits) = written(header.attributes) {
        const NAMES: [&str; 10] = [
            "hibernation crash",
            "device powered off",
            "dump file too small",
            "kernel-generated triage dump",
            "live dump",
            "generated offline",
            "filter dump file",
            "early boot crash",
            "encrypted",
            "decrypted",
        ];
        let known = NAMES.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 != 0);
        let names: Vec<&str> = known.map(|(_, name)| *name).collect();
        add(
            "attributes",
            format!("{bits:#x} {}", names.join(", ")).trim_end().to_owned(),
        );
    }
}

/// NtBuildLab.
fn build_lab(header: &Header, physical: &Physical, found: &Found) -> Option<String> {
    let at = block(header, found)?.address(Address::BuildLab)?;
    let mut tables = PageTables::new(physical, found.mode, found.root);
    let mut bytes = [0; 64];
    tables.read(at, &mut bytes).ok()?;
    Some(text(&bytes)).filter(|text| text.is_ascii() && text.len() > 4)
}

struct Problems<'a>(&'a mut Vec<Problem>);

impl Problems<'_> {
    fn add(&mut self, what: impl Into<String>, readers: &[&'static str]) {
        self.0.push(Problem {
            what: what.into(),
            readers: readers.to_vec(),
        });
    }

    /// What follows from the type alone.
    fn of_format(&mut self, format: Format, header: &Header, bitmap: Option<&BitmapFacts>) {
        match format {
            Format::WindowsBitmapKernel => {
                self.add("a kernel dump: memory of user mode isn't in it", &[VOLATILITY])
            }
            Format::WindowsSummary => self.add(
                "a kernel dump of before Windows 8 (type 2)",
                &[VOLATILITY, KDMP_PARSER, LEECHCORE, RADARE],
            ),
            Format::WindowsTriage => self.add(
                "a small memory dump: pieces of virtual memory alone; what lies around them reads as zeros",
                &[VOLATILITY, KDMP_PARSER, LEECHCORE],
            ),
            Format::WindowsLive => self.add(
                format!("of type {}, which only newer debuggers know", header.dump_type),
                &[VOLATILITY, LEECHCORE, RADARE],
            ),
            _ => {}
        }
        if header.arch == Some(Arch::X86) {
            self.add("a 32-bit dump", &[KDMP_PARSER, RADARE]);
        }
        if header.arch.is_none() {
            self.add(
                format!(
                    "machine {:#x}: its processors' registers aren't read",
                    header.machine
                ),
                &[],
            );
        }
        if format == Format::WindowsBitmapFull && bitmap.is_some_and(|facts| !facts.summary) {
            self.add("a bitmap with the signature FDMP", &[RADARE]);
        }
    }

    /// What the header contradicts or leaves open.
    fn of_header(&mut self, header: &Header, physical: &Physical, bitmap: Option<&BitmapFacts>) {
        if header.exception.0 == FILLER {
            self.add(
                format!("no exception record was written: {WINDBG} tells of exception 45474150"),
                &[],
            );
        }
        let there = physical.count();
        if let Some(facts) = bitmap.filter(|facts| facts.told != there) {
            self.add(
                format!(
                    "it says that {} pages are in it, but its bitmap has {there}",
                    facts.told
                ),
                &[RADARE],
            );
        } else if bitmap.is_none()
            && let Some(runs) = &header.runs
        {
            let sum: u64 = runs.iter().fold(0, |sum, (_, run)| sum.saturating_add(run.count));
            if sum != header.number_of_pages {
                self.add(
                    format!(
                        "it says that {} pages are in it, but its runs have {sum}",
                        header.number_of_pages
                    ),
                    &[],
                );
            }
        }
        // WinDbg 10.0.15063 reads nothing beyond it, where there is a bitmap.
        if bitmap.is_some()
            && let Ok(space) = u64::try_from(header.required_space)
            && space < physical.end()
        {
            self.add(
                format!(
                    "RequiredDumpSpace is {space} bytes, and the pages go on to {}",
                    physical.end()
                ),
                &[WINDBG],
            );
        }
        if header.attributes != FILLER && header.attributes & attributes::INSUFFICIENT_DUMPFILE_SIZE != 0 {
            self.add(
                "the disk was too small for all of it when it was written",
                &[WINDBG],
            );
        }
    }

    /// What should be in it, and isn't.
    fn of_contents(&mut self, format: Format, header: &Header, found: &Found, processors: usize) {
        let Some(arch) = header.arch else { return };
        if found.block.is_none() {
            let why = if format == Format::WindowsTriage {
                "KDDEBUGGER_DATA64 isn't in it"
            } else {
                "KDDEBUGGER_DATA64 isn't where the header says, or is encoded: no modules, processes and registers by it"
            };
            self.add(why, &[WINDBG]);
        }
        match Context::new(arch, &header.context) {
            None => self.add("the header has no CONTEXT", &[WINDBG]),
            Some(context) if !context.mxcsr_agrees() => {
                self.add("the header's CONTEXT has two values of MXCSR", &[KDMP_PARSER]);
            }
            Some(_) => {}
        }
        let told = written(header.processors).unwrap_or_default();
        if u64::from(told) > processors as u64 {
            self.add(
                format!("registers of {processors} of {told} processors are in it"),
                &[],
            );
        }
    }
}
