//! Symbols of a Linux kernel and its modules, by kallsyms.

use crate::Failure;
use crate::control::message::{GuestSymbol, GuestSymbols};
use crate::parse;
use crate::serve::Managed;
use crate::serve::kernel::{HINT, no_symbol, printable};
use crate::serve::list::List;
use crate::serve::pause::Plain;
use hv_core::GuestVirtAddr;
use introspect::linux::{Linux, Module, ModuleSymbol};
use std::collections::HashMap;
use symbols::kallsyms::Symbol;

/// The modules of a guest that stands still, and their symbols, read when they are asked for.
pub(super) struct Modules<'a> {
    managed: &'a Managed,
    linux: &'a Linux,
    loaded: Option<Vec<Module>>,
    symbols: HashMap<usize, Vec<ModuleSymbol>>,
}

impl<'a> Modules<'a> {
    /// None is read yet.
    pub fn new(managed: &'a Managed, linux: &'a Linux) -> Modules<'a> {
        Modules {
            managed,
            linux,
            loaded: None,
            symbols: HashMap::new(),
        }
    }

    /// Them, in the kernel's order; none where the list can't be read.
    fn loaded(&mut self) -> &[Module] {
        self.loaded.get_or_insert_with(|| {
            let walk = self.linux.modules(self.managed.domain());
            walk.map_or_else(|_| Vec::new(), |walk| walk.items)
        })
    }

    /// The name and the symbols of a module by its place in the order; none where they can't be read.
    fn symbols(&mut self, number: usize) -> Option<(String, &[ModuleSymbol])> {
        let module = self.loaded().get(number)?.clone();
        let (linux, domain) = (self.linux, self.managed.domain());
        let symbols = self.symbols.entry(number).or_insert_with(|| {
            let read = linux.module_symbols(domain, &module);
            read.inspect_err(|error| tracing::debug!(module = module.name, %error, "a module's symbols"))
                .unwrap_or_default()
        });
        Some((module.name, symbols))
    }

    /// Calls `found` with every symbol, until it says that it has enough.
    fn each(&mut self, mut found: impl FnMut(&str, &ModuleSymbol) -> bool) -> bool {
        (0..self.loaded().len()).all(|number| {
            let all = self.symbols(number);
            let (name, symbols) = all.unwrap_or_default();
            symbols.iter().all(|symbol| found(&name, symbol))
        })
    }
}

/// The address of a symbol of a module.
pub(in crate::serve) fn module_symbol(managed: &Managed, linux: &Linux, name: &str) -> Option<GuestVirtAddr> {
    let mut address = None;
    Modules::new(managed, linux).each(|_, symbol| {
        let is_it = symbol.name == name.as_bytes();
        address = is_it.then_some(symbol.address);
        !is_it
    });
    address
}

/// The symbol that names an address of the kernel or of a module.
pub(super) fn nearest(linux: &Linux, modules: &mut Modules<'_>, at: GuestVirtAddr) -> Option<GuestSymbol> {
    if let Some((symbol, offset)) = linux.nearest_symbol(at) {
        return Some(told(symbol, None, Some(offset)));
    }
    let number = modules.loaded().iter().position(|module| module.contains(at))?;
    let (name, symbols) = modules.symbols(number)?;
    let before = symbols.iter().filter(|symbol| symbol.address <= at);
    let symbol = before.max_by_key(|symbol| symbol.address)?;
    let offset = at.0.wrapping_sub(symbol.address.0);
    Some(told(symbol.as_symbol(), Some(&name), Some(offset)))
}

/// Symbols: all from one on, as many as fit into a message; all of a name; or the nearest to an address.
pub(in crate::serve) fn symbols(
    managed: &Managed,
    linux: &Linux,
    find: Option<&str>,
    skip: u64,
) -> Result<GuestSymbols, Failure> {
    let kallsyms = linux.kallsyms().ok_or_else(|| {
        let why = Plain("its kernel's symbols were not found: it has no kallsyms, or is only starting");
        managed.failure(&why, HINT)
    })?;
    let mut modules = Modules::new(managed, linux);
    let mut list = List::new(None);
    let Some(find) = find else {
        let mut left = usize::try_from(skip).unwrap_or(usize::MAX);
        let kernels = kallsyms
            .iter()
            .skip(left)
            .all(|symbol| list.offer(told(symbol, None, None)));
        left = left.saturating_sub(kallsyms.len());
        let all = kernels
            && modules.each(|module, symbol| {
                if left > 0 {
                    left -= 1;
                    return true;
                }
                list.offer(told(symbol.as_symbol(), Some(module), None))
            });
        return Ok(GuestSymbols {
            next: (!all).then_some(skip.saturating_add(list.items.len() as u64)),
            symbols: list.items,
        });
    };
    for symbol in kallsyms.all_of_name(find) {
        list.offer(told(symbol, None, None));
    }
    modules.each(|module, symbol| {
        symbol.name != find.as_bytes() || list.offer(told(symbol.as_symbol(), Some(module), None))
    });
    if list.items.is_empty() {
        let address = parse::address(find).map_err(|_| no_symbol(managed, find))?;
        let at = GuestVirtAddr(address);
        let symbol = nearest(linux, &mut modules, at).ok_or_else(|| outside(managed, linux, at))?;
        list.offer(symbol);
    }
    Ok(GuestSymbols {
        symbols: list.items,
        next: None,
    })
}

fn told(symbol: Symbol<'_>, module: Option<&str>, offset: Option<u64>) -> GuestSymbol {
    GuestSymbol {
        address: symbol.address.into(),
        kind: Some(symbol.kind.into()),
        name: printable(&symbol.text()),
        module: module.map(str::to_owned),
        offset,
    }
}

/// Why an address has no symbol.
fn outside(managed: &Managed, linux: &Linux, address: GuestVirtAddr) -> Failure {
    let kernel = linux.kernel();
    Failure::new(
        format_args!("domain '{}'", managed.domain().name()),
        format_args!(
            "{address} is not in its kernel, which is {:#x} bytes at {}, nor in a module",
            kernel.size, kernel.base
        ),
        "'kdd modules' shows what is outside of the kernel",
    )
}
