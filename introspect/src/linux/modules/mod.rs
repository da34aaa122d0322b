//! Loaded modules.

mod file;
mod symbols;

pub use symbols::{ModuleSection, ModuleSymbol};

use super::error::Error;
use super::list::Ring;
use super::space::Space;
use super::{Linux, Walk};
use hv_core::GuestVirtAddr;
use hv_core::introspect::ReadMemory;

/// MODULE_REF_BASE: what the count is of a module that nobody uses.
const UNUSED: u32 = 1;
/// The most modules that are read.
const MAX_MODULES: usize = 4096;
/// The most uses of modules by others, in all.
const MAX_USERS: usize = 1 << 14;
/// MODULE_NAME_LEN.
const MAX_NAME: usize = 56;
/// Kinds of a module's memory (enum mod_mem_type, 6.4), in their order.
const KINDS: [&str; 7] = [
    "text",
    "data",
    "rodata",
    "ro_after_init",
    "init text",
    "init data",
    "init rodata",
];

/// Where a module's life is (enum module_state).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ModuleState {
    /// It is there.
    Live,
    /// Its initialisation runs.
    Coming,
    /// It goes away.
    Going,
    /// It is being set up.
    Unformed,
}

/// A part of a module's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ModulePart {
    /// `core` or `init` before 6.4; `text`, `data`, `rodata` … since.
    pub kind: &'static str,
    /// Its first byte.
    pub base: GuestVirtAddr,
    /// Bytes.
    pub size: u32,
}

/// A loaded module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Module {
    /// Its `struct module`.
    pub address: GuestVirtAddr,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: ModuleState,
    /// Its memory; what was only needed to initialise it is gone when it is live.
    pub parts: Vec<ModulePart>,
    /// How many use it, where modules can be unloaded: other modules, open files, devices in use.
    pub references: Option<u32>,
    /// The modules that use what is in it.
    pub users: Vec<String>,
}

impl Module {
    /// Where its text begins: the address in /proc/modules.
    pub fn base(&self) -> Option<GuestVirtAddr> {
        self.parts.first().map(|part| part.base)
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: GuestVirtAddr) -> bool {
        let inside = |part: &ModulePart| address.0.wrapping_sub(part.base.0) < u64::from(part.size);
        self.parts.iter().any(inside)
    }

    /// Bytes in all, as /proc/modules counts them.
    pub fn size(&self) -> u64 {
        self.parts.iter().map(|part| u64::from(part.size)).sum()
    }
}

/// Where the parts of a module are written.
enum Parts {
    /// `mem[]`, from 6.4: the array, its stride, base and size in an element.
    Array(u64, u64, u64, u64),
    /// `core_layout` and `init_layout`, from 4.5: their places, base and size in one.
    Pair(u64, Option<u64>, u64, u64),
}

impl Linux {
    /// Loaded modules, the newest first.
    ///
    /// # Errors
    /// [`Error`] if the layout isn't known or the list's head can't be read.
    pub fn modules(&self, memory: &dyn ReadMemory) -> Result<Walk<Module>, Error> {
        let space = self.space(memory);
        let member = |name| self.offset("module", name);
        let (name, state, list) = (member("name")?, member("state")?, member("list")?);
        let parts = match member("mem") {
            Ok(array) => Parts::Array(
                array,
                self.size("module_memory")?,
                self.offset("module_memory", "base")?,
                self.offset("module_memory", "size")?,
            ),
            Err(_) => Parts::Pair(
                member("core_layout")?,
                member("init_layout").ok(),
                self.offset("module_layout", "base")?,
                self.offset("module_layout", "size")?,
            ),
        };
        let references = member("refcnt").ok();
        let users = Users::of(self, name).ok();
        // Of all modules together: a module may claim the users of others.
        let mut left = MAX_USERS;
        let ring = Ring {
            name: "module list",
            head: self.needed("modules")?,
            link: list,
            limit: MAX_MODULES,
        };
        ring.walk(&space, |address| {
            Ok(Module {
                address,
                name: space.text("module name", address.wrapping_add(name), MAX_NAME)?,
                state: match space.u32("module state", address.wrapping_add(state))? {
                    0 => ModuleState::Live,
                    1 => ModuleState::Coming,
                    2 => ModuleState::Going,
                    _ => ModuleState::Unformed,
                },
                parts: parts.read(&space, address)?,
                references: references.and_then(|offset| {
                    let count = space.u32("module", address.wrapping_add(offset)).ok()?;
                    Some(count.saturating_sub(UNUSED))
                }),
                users: users.as_ref().map_or_else(Vec::new, |users| {
                    let names = users.read(&space, address, left);
                    left -= names.len();
                    names
                }),
            })
        })
    }
}

/// Where it is written who uses a module (`source_list`, of `struct module_use`).
struct Users {
    list: u64,
    link: u64,
    source: u64,
    name: u64,
}

impl Users {
    fn of(linux: &Linux, name: u64) -> Result<Users, Error> {
        Ok(Users {
            list: linux.offset("module", "source_list")?,
            link: linux.offset("module_use", "source_list")?,
            source: linux.offset("module_use", "source")?,
            name,
        })
    }

    /// Their names, the newest first; none where the list can't be read.
    fn read(&self, space: &Space<'_>, module: GuestVirtAddr, limit: usize) -> Vec<String> {
        let ring = Ring {
            name: "users of a module",
            head: module.wrapping_add(self.list),
            link: self.link,
            limit,
        };
        let walk = ring.walk(space, |at| {
            let user = space.pointer("module_use", at.wrapping_add(self.source))?;
            space.text("module name", user.wrapping_add(self.name), MAX_NAME)
        });
        walk.map_or_else(|_| Vec::new(), |walk| walk.items)
    }
}

impl Parts {
    fn read(&self, space: &Space<'_>, module: GuestVirtAddr) -> Result<Vec<ModulePart>, Error> {
        let part = |kind, at: u64, base: u64, size: u64| {
            let at = module.wrapping_add(at);
            Ok(ModulePart {
                kind,
                base: GuestVirtAddr(space.u64("module", at.wrapping_add(base))?),
                size: space.u32("module", at.wrapping_add(size))?,
            })
        };
        let parts: Result<Vec<_>, Error> = match *self {
            Parts::Array(array, stride, base, size) => (0..)
                .zip(KINDS)
                .map(|(number, kind)| part(kind, array + number * stride, base, size))
                .collect(),
            Parts::Pair(core, init, base, size) => [("core", Some(core)), ("init", init)]
                .into_iter()
                .filter_map(|(kind, at)| Some(part(kind, at?, base, size)))
                .collect(),
        };
        let mut parts = parts?;
        parts.retain(|part| part.size != 0 && space.is_kernel(part.base));
        Ok(parts)
    }
}
