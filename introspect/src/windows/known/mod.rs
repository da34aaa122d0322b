//! The built-in table of known kernels: x64 kernels by the GUID of their PDB, and layouts by Windows version.
//!
//! `generate.py` makes `table.rs` from a file of facts that come from the kernels' public PDBs.

mod table;

use super::facts::{Arch, KernelImage};
use super::field::{Field, Global, Source};
use super::layout::Layout;
use hv_core::GuestVirtAddr;
use symbols::{Guid, PdbId};
use table::{COLUMNS, KERNELS, LAYOUTS};

/// A kernel whose variables' places are known.
pub(crate) struct KnownKernel {
    guid: u128,
    age: u32,
    /// Its version, such as `10.0.19041.329`.
    pub(crate) version: &'static str,
    layout: Option<usize>,
    kprcb_size: u16,
    eprocess_size: u16,
    rvas: [u32; COLUMNS.len()],
    more: &'static [(Global, u32)],
}

/// The structure offsets of a kernel or of a Windows version.
pub(crate) struct KnownLayout {
    /// The kernel's or Windows' version.
    pub(crate) name: &'static str,
    pub(crate) arch: Arch,
    /// Its build number.
    pub(crate) build: u32,
    offsets: [u16; Field::COUNT],
}

impl KnownKernel {
    /// The kernel that a PDB belongs to.
    pub(crate) fn find(id: &PdbId) -> Option<&'static KnownKernel> {
        let index = KERNELS.binary_search_by_key(&id.guid.0, |kernel| kernel.guid);
        index
            .ok()
            .map(|index| &KERNELS[index])
            .filter(|kernel| kernel.age == id.age)
    }

    /// All.
    pub(crate) fn all() -> &'static [KnownKernel] {
        KERNELS
    }

    /// The build number.
    pub(crate) fn build(&self) -> Option<u32> {
        self.version.split('.').nth(2)?.parse().ok()
    }

    /// The variables and functions whose RVAs are known.
    pub(crate) fn globals(&self) -> impl Iterator<Item = (Global, u32)> + '_ {
        COLUMNS
            .iter()
            .copied()
            .zip(self.rvas)
            .chain(self.more.iter().copied())
    }

    /// The RVA of one.
    pub(crate) fn rva(&self, global: Global) -> Option<u32> {
        self.globals()
            .find(|(known, _)| *known == global)
            .map(|(_, rva)| rva)
    }

    /// The layout that is exactly this kernel's.
    pub(crate) fn layout(&self) -> Option<&'static KnownLayout> {
        self.layout.and_then(|index| LAYOUTS.get(index))
    }

    /// The kernel as an image, when its header can't be read.
    pub(crate) fn image(&self, base: GuestVirtAddr) -> KernelImage {
        let last = self.globals().map(|(_, rva)| rva).max().unwrap_or_default();
        KernelImage {
            base,
            size: (last | 0xfff) + 1,
            time_date_stamp: 0,
            check_sum: 0,
            pdb: Some(PdbId {
                name: "ntkrnlmp.pdb".to_owned(),
                guid: Guid(self.guid),
                age: self.age,
            }),
        }
    }

    /// The two sizes that tell layouts of one build apart.
    pub(crate) fn sizes(&self) -> (u32, u32) {
        (u32::from(self.kprcb_size), u32::from(self.eprocess_size))
    }
}

impl KnownLayout {
    /// All.
    pub(crate) fn all() -> &'static [KnownLayout] {
        LAYOUTS
    }

    /// A field's offset.
    pub(crate) fn get(&self, field: Field) -> Option<u32> {
        match self.offsets[field as usize] {
            u16::MAX => None,
            offset => Some(u32::from(offset)),
        }
    }

    /// Puts all its fields where nothing better is known.
    pub(crate) fn teach(&self, layout: &mut Layout, source: Source) {
        for &field in Field::ALL {
            if let Some(offset) = self.get(field) {
                layout.learn(field, offset, source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_sorted_by_guid_and_all_are_found() {
        assert!(KERNELS.is_sorted_by(|a, b| a.guid < b.guid));
        for kernel in KERNELS {
            let id = PdbId {
                name: "ntkrnlmp.pdb".into(),
                guid: Guid(kernel.guid),
                age: kernel.age,
            };
            assert_eq!(KnownKernel::find(&id).map(|k| k.version), Some(kernel.version));
        }
    }

    #[test]
    fn an_other_age_is_another_kernel() {
        let id = PdbId {
            name: "ntkrnlmp.pdb".into(),
            guid: Guid(KERNELS[0].guid),
            age: 99,
        };
        assert!(KnownKernel::find(&id).is_none());
    }

    #[test]
    fn the_table_has_the_facts_of_19041() {
        let guid = Guid::from_hex("BBED7C2955FBE4522AAA23F4B8677AD9").unwrap();
        let kernel = KERNELS.iter().find(|kernel| kernel.guid == guid.0).unwrap();
        let layout = kernel.layout().unwrap();
        assert_eq!(layout.get(Field::EprocessActiveProcessLinks), Some(0x448));
        assert_eq!(layout.get(Field::KprcbContext), Some(0x85c0));
        assert_eq!(kernel.sizes(), (0xaf00, 0xa40));
    }
}
