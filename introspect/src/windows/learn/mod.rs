//! What a kernel's layout is: from its PDB, the table of known kernels, or its structure, in that order.
//!
//! Each fact keeps the first source that knew it. What a source contributes is a step of the report.

mod code;
mod data;
mod similar;

use super::entry::KpcrOffsets;
use super::facts::Arch;
use super::field::{Field, Global, Source};
use super::known::KnownKernel;
use super::space::Space;
use super::{FindPdb, Windows};
use symbols::pe::Exports;

/// Without these the process and thread lists can't be walked.
const NEEDED: [Field; 6] = [
    Field::EprocessUniqueProcessId,
    Field::EprocessActiveProcessLinks,
    Field::EprocessImageFileName,
    Field::EprocessThreadListHead,
    Field::EthreadThreadListEntry,
    Field::EthreadCid,
];

impl Windows {
    /// Learns all that can be learned.
    pub(super) fn learn(&mut self, space: &Space<'_>, find_pdb: impl FindPdb) {
        self.learn_from_pdb(find_pdb);
        self.learn_from_table();
        self.learn_from_exports(space);
        self.learn_architecture();
        self.learn_from_version_block(space);
        self.learn_from_debugger_data(space);
        self.learn_build(space);
        if !self.knows_what_is_needed() {
            self.learn_from_code(space);
            self.learn_from_similar(space);
            self.learn_from_links(space);
        }
        let missing: Vec<_> = NEEDED
            .iter()
            .filter(|&&field| self.layout.find(field).is_none())
            .collect();
        if !missing.is_empty() {
            let names: Vec<_> = missing.iter().map(|field| field.name()).collect();
            self.report.missing("layout", names.join(", "));
        }
    }

    fn knows_what_is_needed(&self) -> bool {
        NEEDED.iter().all(|&field| self.layout.find(field).is_some())
    }

    fn learn_from_pdb(&mut self, find_pdb: impl FindPdb) {
        let Some(id) = self.image.pdb.clone() else {
            self.report
                .missing("PDB", "the kernel's debug directory can't be read");
            return;
        };
        let pdb = match find_pdb(&id) {
            Ok(found) => found,
            Err(why) => {
                self.report.missing("PDB", why);
                return;
            }
        };
        let place = pdb
            .path()
            .map_or_else(String::new, |path| format!("{}: ", path.display()));
        let mut fields = 0;
        for &field in Field::ALL {
            let (structure, member) = self.pdb_names(field);
            let found = pdb.structure(structure).and_then(|structure| match member {
                "_size" => u32::try_from(structure.size).ok(),
                member => u32::try_from(structure.field(member)?.offset).ok(),
            });
            if let Some(offset) = found {
                self.layout.learn(field, offset, Source::Pdb);
                fields += 1;
            }
        }
        let mut variables = 0;
        for &global in Global::ALL {
            if let Some(rva) = pdb.rva(global.name()) {
                self.learn_global(global, self.image.base.wrapping_add(u64::from(rva)), Source::Pdb);
                variables += 1;
            }
        }
        self.report
            .found("PDB", format!("{place}{fields} fields, {variables} variables"));
        self.pdb = Some(pdb);
    }

    /// A field's structure and name in this architecture's PDBs.
    fn pdb_names(&self, field: Field) -> (&'static str, &'static str) {
        let (structure, member) = field.name().split_once('.').unwrap_or((field.name(), ""));
        match (self.arch, field) {
            (Arch::X86, Field::KpcrSelf) => (structure, "SelfPcr"),
            (Arch::X86, Field::KpcrCurrentPrcb) => (structure, "Prcb"),
            (Arch::X86, Field::KpcrPrcb) => (structure, "PrcbData"),
            _ => (structure, member),
        }
    }

    fn learn_from_table(&mut self) {
        let known = self.image.pdb.as_ref().and_then(KnownKernel::find);
        let Some(kernel) = known.filter(|_| self.arch == Arch::X64) else {
            self.report.missing("known kernel", "its GUID isn't in the table");
            return;
        };
        for (global, rva) in kernel.globals() {
            self.learn_global(
                global,
                self.image.base.wrapping_add(u64::from(rva)),
                Source::KnownKernel,
            );
        }
        self.build = kernel.build();
        let (kprcb, eprocess) = kernel.sizes();
        self.layout.learn(Field::KprcbSize, kprcb, Source::KnownKernel);
        self.layout
            .learn(Field::EprocessSize, eprocess, Source::KnownKernel);
        let layout = match kernel.layout() {
            Some(layout) => {
                layout.teach(&mut self.layout, Source::KnownKernel);
                format!("layout of {}", layout.name)
            }
            None => "its layout isn't in the table".to_owned(),
        };
        self.report
            .found("known kernel", format!("{}, {layout}", kernel.version));
    }

    fn learn_from_exports(&mut self, space: &Space<'_>) {
        let Some(headers) = self.headers.clone() else {
            return;
        };
        let image = space.image(self.image.base);
        let exports = match Exports::open(&headers, &image) {
            Ok(exports) => exports,
            Err(error) => {
                self.report.missing("exports", error.to_string());
                return;
            }
        };
        let mut count = 0;
        for &global in Global::ALL {
            if self.find_global(global).is_none()
                && let Some(rva) = exports.find(global.name())
            {
                self.learn_global(
                    global,
                    self.image.base.wrapping_add(u64::from(rva)),
                    Source::Export,
                );
                count += 1;
            }
        }
        if count > 0 {
            self.report
                .found("exports", format!("{count} variables and functions"));
        }
    }

    /// Offsets that no version changed (nt kernel public PDBs, 7 to 11).
    fn learn_architecture(&mut self) {
        let kpcr = KpcrOffsets::of(self.arch);
        let (root, threads) = match self.arch {
            Arch::X64 => (0x28, 0x30),
            Arch::X86 => (0x18, 0x2c),
        };
        for (field, offset) in [
            (Field::KpcrSelf, kpcr.self_pointer),
            (Field::KpcrCurrentPrcb, kpcr.current_prcb),
            (Field::KpcrPrcb, kpcr.prcb),
            (Field::KprcbCurrentThread, kpcr.current_thread),
            (Field::KprcbNextThread, kpcr.next_thread),
            (Field::KprcbIdleThread, kpcr.idle_thread),
            (Field::KprcbNumber, kpcr.number),
            (Field::KprocessDirectoryTableBase, root),
            (Field::KprocessThreadListHead, threads),
        ] {
            self.layout.learn(field, offset as u32, Source::Architecture);
        }
    }

    fn learn_build(&mut self, space: &Space<'_>) {
        let by_variable = self
            .global(Global::NtBuildNumber)
            .ok()
            .and_then(|address| space.u32("NtBuildNumber", address).ok())
            .filter(|build| matches!(build >> 28, 0xf | 0xc))
            .map(|build| build & 0xffff);
        let by_shared_data = self.shared.as_ref().and_then(|shared| shared.build);
        self.build = by_variable.or(by_shared_data).or(self.build);
        self.build_lab = self
            .global(Global::NtBuildLab)
            .ok()
            .and_then(|address| space.text("NtBuildLab", address, 64).ok())
            .filter(|lab| lab.starts_with(|c: char| c.is_ascii_digit()) && lab.is_ascii());
        match self.build {
            Some(build) => self.report.found("build", build.to_string()),
            None => self
                .report
                .missing("build", "neither NtBuildNumber nor KUSER_SHARED_DATA tells it"),
        }
    }
}
