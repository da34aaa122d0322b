//! `struct module`.

use super::{Inferred, Kernel, Sample, is_name};
use hv_core::GuestVirtAddr;

/// Bytes of a module that are looked at.
const SIZE: usize = 0x800;
/// The state, the list and the name begin `struct module` in every version.
const LIST: u64 = 8;
const NAME: u64 = 24;
/// MODULE_NAME_LEN.
const NAME_SIZE: usize = 56;
/// Modules of the sample.
const MOST: usize = 8;
/// The largest part of a module.
const MAX_PART: u32 = 64 << 20;
/// The most symbols.
const MAX_SYMBOLS: u64 = 1 << 18;
/// Elements of `mem[]`: with the tree of addresses in each, which grew.
const STRIDES: [u64; 3] = [0x48, 0x50, 0x58];
const MODULE: &str = "module";

pub(super) fn infer(kernel: &Kernel<'_, '_>, found: &mut Inferred) -> Option<()> {
    let head = (kernel.symbol)("modules")?.0;
    found.set(MODULE, "state", 0);
    found.set(MODULE, "list", LIST);
    found.set(MODULE, "name", NAME);
    let mut all = Vec::new();
    let mut at = kernel.word(head)?;
    while at != head && kernel.is_pointer(at) && all.len() < MOST {
        let module = Sample::read(kernel, at.wrapping_sub(LIST), SIZE);
        at = module.word(LIST);
        let name = module.bytes.get(NAME as usize..).unwrap_or_default();
        if is_name(&name[..name.len().min(NAME_SIZE)]) && module.half(0) == 0 {
            all.push(module);
        }
    }
    if all.is_empty() {
        return None;
    }
    let places = || (0x40..SIZE as u64 - 0x100).step_by(8);
    let fits = |good: &dyn Fn(&Sample) -> bool| all.iter().all(good);
    if let Some(core) = places().find(|&at| fits(&|it| is_layout(kernel, it, at))) {
        found.set(MODULE, "core_layout", core);
        found.set("module_layout", "base", 0);
        found.set("module_layout", "size", 8);
    } else {
        let arrays = places().flat_map(|at| STRIDES.map(|stride| (at, stride)));
        let mut arrays = arrays.filter(|&(at, stride)| {
            fits(&|it| (0..3).all(|number| is_part(kernel, it, at + number * stride)))
        });
        if let Some((array, stride)) = arrays.next() {
            found.set(MODULE, "mem", array);
            found.set("module_memory", "base", 0);
            found.set("module_memory", "size", 8);
            found.sizes.insert("module_memory", stride);
        }
    }
    let mut letters = true;
    let table = places().find(|&at| fits(&|it| has_symbols(kernel, it, it.word(at))))?;
    found.set(MODULE, "kallsyms", table);
    for module in &all {
        let typetab = kernel.word(module.word(table).wrapping_add(0x18));
        letters &= typetab.is_some_and(|at| is_module_address(kernel, at));
    }
    let members = ["symtab", "num_symtab", "strtab", "typetab"];
    for (member, offset) in members.into_iter().zip([0, 8, 16, 24]) {
        if letters || member != "typetab" {
            found.set("mod_kallsyms", member, offset);
        }
    }
    Some(())
}

/// Behind the image, up to the fixed mappings.
fn is_module_address(kernel: &Kernel<'_, '_>, address: u64) -> bool {
    let end = kernel.image.base.0.saturating_add(kernel.image.size);
    (end..0xffff_ffff_ff00_0000).contains(&address)
}

fn is_part(kernel: &Kernel<'_, '_>, module: &Sample, at: u64) -> bool {
    let (base, size) = (module.word(at), module.half(at + 8));
    base.is_multiple_of(0x1000)
        && is_module_address(kernel, base)
        && (1..=MAX_PART).contains(&size)
        && kernel.space.physical(GuestVirtAddr(base)).is_some()
}

/// `struct module_layout`, from 4.5 to 6.3: base, size, and how much of it is text, and is not written.
fn is_layout(kernel: &Kernel<'_, '_>, module: &Sample, at: u64) -> bool {
    let (size, text, read_only) = (module.half(at + 8), module.half(at + 12), module.half(at + 16));
    is_part(kernel, module, at) && (1..=size).contains(&text) && (text..=size).contains(&read_only)
}

/// `struct mod_kallsyms`, which is inside the module.
fn has_symbols(kernel: &Kernel<'_, '_>, module: &Sample, table: u64) -> bool {
    if !table.is_multiple_of(8) || !(1..SIZE as u64).contains(&table.wrapping_sub(module.address)) {
        return false;
    }
    let mut words = [0; 3];
    let read = kernel
        .space
        .words("mod_kallsyms", GuestVirtAddr(table), &mut words);
    let [symbols, count, names] = words;
    read.is_ok()
        && is_module_address(kernel, symbols)
        && (1..MAX_SYMBOLS).contains(&(count & 0xffff_ffff))
        && is_module_address(kernel, names)
}
