//! What a kernel that was found says of itself.

use super::find::{BANNER, Found};
use super::image::KernelImage;
use super::in_memory::{self, ROOTS};
use super::infer;
use super::space::{Space, printable};
use super::vmcoreinfo::VmcoreInfo;
use super::{Linux, Regions, Report};
use crate::paging::PagingMode;
use hv_core::GuestVirtAddr;
use memchr::memmem;
use std::sync::{Arc, OnceLock};
use symbols::btf::Btf;
use symbols::kallsyms::Kallsyms;

/// The longest banner.
const MAX_BANNER: usize = 512;
/// A kernel's BTF has megabytes; modules leave smaller ones behind.
const MIN_BTF: usize = 256 << 10;

/// Learns the rest.
pub(super) fn learn(found: Found<'_>, mut report: Report) -> Linux {
    let Found {
        space,
        image,
        bytes,
        kallsyms,
        vmcoreinfo,
    } = found;
    report.found(
        "kernel",
        format!(
            "{} at {}, {:#x} bytes, moved by {:#x}; physical {}, phys_base {:#x}",
            if space.mode == PagingMode::Level5 {
                "5-level"
            } else {
                "4-level"
            },
            image.base,
            image.size,
            image.slide(),
            image.physical,
            image.phys_base()
        ),
    );
    match &kallsyms {
        Some(symbols) => {
            let tables = symbols.tables();
            report.found(
                "symbols",
                format!(
                    "{} by kallsyms at _text + {:#x}, {:?}",
                    symbols.len(),
                    tables.names,
                    tables.addressing
                ),
            );
        }
        None => report.missing("symbols", "no kallsyms in the image"),
    }
    let symbol = |name: &str| kallsyms.as_ref()?.address(name).map(GuestVirtAddr);
    let space = own_tables(space, &image, &symbol, &mut report);
    let banner = banner(&space, kallsyms.as_ref()).or_else(|| {
        let at = memmem::find(&bytes, BANNER)?;
        Some(first_line(&bytes[at..]))
    });
    match &banner {
        Some(text) => report.found("banner", text.clone()),
        None => report.missing("banner", "it isn't in the image"),
    }
    let vmcoreinfo = vmcoreinfo_of(&space, &image, &symbol, vmcoreinfo, &mut report);
    let btf = btf(&image, &bytes, &symbol, &mut report);
    let regions = regions(&space, &symbol);
    let inferred = btf.is_none().then(|| {
        let kernel = infer::Kernel {
            space: &space,
            image: &image,
            symbol: &symbol,
        };
        infer::infer(&kernel)
    });
    match &inferred {
        Some(found) if found.is_complete() => report.found("layout", format!("by its looks: {found}")),
        Some(found) => report.missing("layout", format!("by its looks alone: {found}")),
        None => {}
    }
    Linux {
        mode: space.mode,
        root: space.root,
        image,
        kallsyms: kallsyms.map(Arc::new),
        btf: btf.map(Arc::new),
        inferred,
        vmcoreinfo,
        banner,
        regions,
        report,
        orc: OnceLock::new(),
    }
}

/// The kernel's own tables, if they map the same image.
fn own_tables<'a>(
    space: Space<'a>,
    image: &KernelImage,
    symbol: &dyn Fn(&str) -> Option<GuestVirtAddr>,
    report: &mut Report,
) -> Space<'a> {
    if let Some(variable) = symbol("phys_base")
        && let Ok(value) = space.u64("phys_base", variable)
    {
        let computed = image.phys_base();
        if value == computed {
            report.found("phys_base", "the kernel's variable is what the page tables say");
        } else {
            report.missing("phys_base", format!("the kernel's variable has {value:#x}"));
        }
    }
    let own = ROOTS
        .iter()
        .filter_map(|name| Some((name, space.physical(symbol(name)?)?)))
        .map(|(name, root)| (name, Space::new(space.memory, space.mode, root)))
        .find(|(_, own)| own.physical(image.base) == Some(image.physical));
    match own {
        Some((name, own)) => {
            report.found("kernel's page tables", format!("{}, {name}", own.root));
            own
        }
        None => {
            report.missing("kernel's page tables", "those of a process are used");
            space
        }
    }
}

/// `linux_banner`.
pub(super) fn banner(space: &Space<'_>, kallsyms: Option<&Kallsyms>) -> Option<String> {
    let at = GuestVirtAddr(kallsyms?.address("linux_banner")?);
    let mut text = [0; MAX_BANNER];
    space.read_some(at, &mut text);
    text.starts_with(BANNER).then(|| first_line(&text))
}

fn first_line(text: &[u8]) -> String {
    let text = &text[..text.len().min(MAX_BANNER)];
    let end = memchr::memchr2(0, b'\n', text).unwrap_or(text.len());
    printable(&text[..end], false)
}

fn vmcoreinfo_of(
    space: &Space<'_>,
    image: &KernelImage,
    symbol: &dyn Fn(&str) -> Option<GuestVirtAddr>,
    known: Option<VmcoreInfo>,
    report: &mut Report,
) -> Option<VmcoreInfo> {
    let by_symbols = symbol("vmcoreinfo_data")
        .zip(symbol("vmcoreinfo_size"))
        .and_then(|(data, size)| VmcoreInfo::read(space, data, size));
    if let Some(info) = by_symbols {
        let bytes = info.text().len();
        report.found("VMCOREINFO", format!("{bytes} bytes, by vmcoreinfo_data"));
        return Some(info);
    }
    if let Some(info) = known {
        let bytes = info.text().len();
        report.found("VMCOREINFO", format!("{bytes} bytes, that led to the kernel"));
        return Some(info);
    }
    let ours = |info: &VmcoreInfo| {
        let phys_base = info.number("phys_base");
        let start = info.symbol("_stext").map(GuestVirtAddr);
        phys_base == Some(image.phys_base()) && start.is_some_and(|start| image.contains(start))
    };
    let notes = in_memory::notes(space.memory);
    match notes.into_iter().find(|(_, info)| ours(info)) {
        Some((at, info)) => {
            let bytes = info.text().len();
            report.found("VMCOREINFO", format!("{bytes} bytes, in memory at {at}"));
            Some(info)
        }
        None => {
            report.missing("VMCOREINFO", "the kernel has none (yet)");
            None
        }
    }
}

fn btf(
    image: &KernelImage,
    bytes: &[u8],
    symbol: &dyn Fn(&str) -> Option<GuestVirtAddr>,
    report: &mut Report,
) -> Option<Btf> {
    let by_symbol = symbol("__start_BTF").and_then(|start| {
        let offset = usize::try_from(start.0.checked_sub(image.base.0)?).ok()?;
        Some((offset, "__start_BTF"))
    });
    // Its header; 24 bytes long, with the types first.
    let by_content = memmem::find_iter(bytes, b"\x9f\xeb\x01\x00\x18\x00\x00\x00\x00\x00\x00\x00")
        .map(|offset| (offset, "its header"));
    let mut why = "none in the image".to_owned();
    for (offset, how) in by_symbol.into_iter().chain(by_content).take(16) {
        let rest = bytes.get(offset..).unwrap_or_default();
        let read = Btf::size(rest)
            .map_err(|error| error.to_string())
            .and_then(|size| match rest.get(..size) {
                Some(btf) if size >= MIN_BTF => Btf::parse(btf.to_vec()).map_err(|error| error.to_string()),
                _ => Err(format!("{size} bytes can't be a kernel's")),
            });
        match read {
            Ok(btf) => {
                let at = image.base.wrapping_add(offset as u64);
                report.found("types", format!("{} by BTF at {at}, by {how}", btf.len()));
                return Some(btf);
            }
            Err(error) => why = format!("BTF by {how}: {error}"),
        }
    }
    report.missing("types", why);
    None
}

/// The variables that KASLR sets, or what they were compiled with.
fn regions(space: &Space<'_>, symbol: &dyn Fn(&str) -> Option<GuestVirtAddr>) -> Regions {
    let base = |name: &'static str, four: u64, five: u64| {
        let read = symbol(name).and_then(|at| space.pointer(name, at).ok());
        let fixed = if space.mode == PagingMode::Level5 {
            five
        } else {
            four
        };
        read.unwrap_or(GuestVirtAddr(fixed))
    };
    Regions {
        direct_map: base("page_offset_base", 0xffff_8880_0000_0000, 0xff11_0000_0000_0000),
        vmalloc: base("vmalloc_base", 0xffff_c900_0000_0000, 0xffa0_0000_0000_0000),
        vmemmap: base("vmemmap_base", 0xffff_ea00_0000_0000, 0xffd4_0000_0000_0000),
    }
}
