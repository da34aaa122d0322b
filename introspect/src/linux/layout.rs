//! Where the members of the kernel's structures are in this build.

use super::Linux;
use super::error::Unknown;

/// How a member's place is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The kernel's BTF.
    Btf,
    /// VMCOREINFO.
    VmcoreInfo,
    /// What the structure looks like in memory: the kernel has no BTF.
    Inferred,
}

impl Linux {
    /// The offset in bytes of a member, by its path (`thread.sp`), and how it is known.
    pub fn offset_of(&self, structure: &str, member: &str) -> Option<(u64, Source)> {
        let by_btf = || self.btf.as_ref()?.structure(structure)?.offset(member);
        let by_info = || self.vmcoreinfo.as_ref()?.offset(structure, member);
        let by_looks = || self.inferred.as_ref()?.offset(structure, member);
        by_btf()
            .map(|offset| (offset, Source::Btf))
            .or_else(|| by_info().map(|offset| (offset, Source::VmcoreInfo)))
            .or_else(|| by_looks().map(|offset| (offset, Source::Inferred)))
    }

    /// The size in bytes of a structure, and how it is known.
    pub fn size_of(&self, structure: &str) -> Option<(u64, Source)> {
        let by_btf = || Some(self.btf.as_ref()?.structure(structure)?.size());
        let by_info = || self.vmcoreinfo.as_ref()?.size(structure);
        let by_looks = || self.inferred.as_ref()?.size(structure);
        by_btf()
            .map(|size| (size, Source::Btf))
            .or_else(|| by_info().map(|size| (size, Source::VmcoreInfo)))
            .or_else(|| by_looks().map(|size| (size, Source::Inferred)))
    }

    /// The same as [`Linux::offset_of`], or what is missing.
    pub(super) fn offset(&self, structure: &'static str, member: &'static str) -> Result<u64, Unknown> {
        self.offset_of(structure, member)
            .map(|(offset, _)| offset)
            .ok_or(Unknown::Member(structure, member))
    }

    /// The same as [`Linux::size_of`], or what is missing.
    pub(super) fn size(&self, structure: &'static str) -> Result<u64, Unknown> {
        self.size_of(structure)
            .map(|(size, _)| size)
            .ok_or(Unknown::Size(structure))
    }

    /// A number of VMCOREINFO.
    pub(super) fn number(&self, name: &'static str) -> Result<u64, Unknown> {
        self.vmcoreinfo
            .as_ref()
            .and_then(|info| info.number(name))
            .ok_or(Unknown::Number(name))
    }
}
