//! Profiles: the offsets, symbol addresses and PDB identity of one kernel.

use crate::NtError;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The profiles that come with the project: name and JSON.
const BUILT_IN: &[(&str, &str)] = &[
    ("win7-x64", include_str!("../profiles/win7-x64.json")),
    ("win7-x86", include_str!("../profiles/win7-x86.json")),
    ("win8-x64", include_str!("../profiles/win8-x64.json")),
    ("win81-x64", include_str!("../profiles/win81-x64.json")),
    ("win10-1607-x64", include_str!("../profiles/win10-1607-x64.json")),
    ("win10-1809-x64", include_str!("../profiles/win10-1809-x64.json")),
    ("win10-1903-x64", include_str!("../profiles/win10-1903-x64.json")),
    (
        "win10-19041-x64",
        include_str!("../profiles/win10-19041-x64.json"),
    ),
    ("win10-x86", include_str!("../profiles/win10-x86.json")),
    (
        "win11-22000-x64",
        include_str!("../profiles/win11-22000-x64.json"),
    ),
    (
        "win11-22621-x64",
        include_str!("../profiles/win11-22621-x64.json"),
    ),
    ("win2022-x64", include_str!("../profiles/win2022-x64.json")),
];

/// The profile that is meant when none is named.
pub const DEFAULT_PROFILE: &str = "win10-19041-x64";

/// A profile's file has at most this many bytes.
const FILE_MAX: u64 = 4 << 20;
/// Structures have at most this many bytes; symbols lie at most this far from the image's base.
const STRUCT_MAX: u32 = 0x4_0000;
pub(crate) const RVA_MAX: u32 = 0x400_0000;

/// What KVA shadow's entries use of the KPRCB, and how far behind KernelDirectoryTableBase it is. (Public PDBs, 7 to 11.)
const SHADOW_FIELDS: [(&str, u32); 3] = [
    ("RspBaseShadow", 8),
    ("UserRspShadow", 0x10),
    ("ShadowFlags", 0x18),
];

/// A processor architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit.
    X64,
    /// 32-bit.
    X86,
}

impl Arch {
    /// Bytes of a pointer.
    pub fn pointer(self) -> u32 {
        match self {
            Arch::X64 => 8,
            Arch::X86 => 4,
        }
    }

    /// As profiles write it.
    pub fn name(self) -> &'static str {
        match self {
            Arch::X64 => "x64",
            Arch::X86 => "x86",
        }
    }
}

/// Field offsets of one structure, in bytes; `_size` is the structure's.
pub type Fields = BTreeMap<String, u32>;

/// One kernel's layout and identity.
#[derive(Clone, Debug, Deserialize)]
pub struct Profile {
    /// What the profile is called.
    #[serde(skip)]
    pub name: String,
    /// Where its facts come from.
    #[serde(rename = "_about", default)]
    pub about: String,
    /// Version of the kernel: `10.0.19041.3570`.
    pub version: String,
    /// The Windows that has it.
    #[serde(default)]
    pub os: String,
    /// Its architecture.
    pub arch: Arch,
    /// File name of its PDB.
    #[serde(default)]
    pdb: Option<String>,
    /// Identity of its PDB, as in a symbol store's path. Absent: one is derived from the profile.
    #[serde(default)]
    guid: Option<String>,
    /// Age of its PDB.
    #[serde(default = "one")]
    pub age: u32,
    /// Size of KDDEBUGGER_DATA64, if it isn't what the version has.
    #[serde(default)]
    kdbg_size: Option<u32>,
    /// TimeDateStamp of the image.
    #[serde(default)]
    time_date_stamp: Option<u32>,
    /// Text of NtBuildLab, if it isn't what the version has.
    #[serde(default)]
    build_lab: Option<String>,
    /// Whether an x86 kernel is one with PAE.
    #[serde(default = "yes")]
    pub pae: bool,
    /// Structures by name (`_EPROCESS`).
    #[serde(default)]
    pub structs: BTreeMap<String, Fields>,
    /// Symbols by name, in bytes from the image's base.
    #[serde(default)]
    pub rvas: BTreeMap<String, u32>,
    /// What was made of the profile that it doesn't say itself, for its user.
    #[serde(skip)]
    pub note: Option<String>,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

impl Profile {
    /// The names of the built-in profiles, oldest Windows first.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// A built-in profile.
    ///
    /// # Errors
    ///
    /// When there is none of that name; the error lists them.
    pub fn built_in(name: &str) -> Result<Profile, NtError> {
        let Some((name, json)) = BUILT_IN.iter().find(|(known, _)| *known == name) else {
            let known = Self::names().collect::<Vec<_>>().join(", ");
            return Err(NtError::NoProfile {
                name: name.to_owned(),
                known,
            });
        };
        Self::parse(name, json)
    }

    /// A built-in profile by name, or one from a JSON file by path.
    ///
    /// # Errors
    ///
    /// When there is neither, or the file isn't a profile.
    pub fn load(name: &str) -> Result<Profile, NtError> {
        let path = Path::new(name);
        if !name.contains('/') && path.extension().is_none_or(|ending| ending != "json") {
            return Self::built_in(name);
        }
        let length = std::fs::metadata(path).map_err(NtError::io(path))?.len();
        let stem = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or("profile");
        if length > FILE_MAX {
            let problem = format!("the file has {length} bytes; a profile has {FILE_MAX} at most");
            return Err(NtError::Profile {
                name: stem.to_owned(),
                problem,
            });
        }
        let text = std::fs::read_to_string(path).map_err(NtError::io(path))?;
        let mut profile = Self::parse(stem, &text)?;
        profile.settle_identity(&text)?;
        Ok(profile)
    }

    /// A real kernel's identity is for that kernel's layout alone: who reads it takes the rest from the PDB's name. So a
    /// profile that has a built-in one's and says less is completed from it; one that says otherwise gets another.
    fn settle_identity(&mut self, json: &str) -> Result<(), NtError> {
        for name in Self::names() {
            let known = Self::built_in(name)?;
            if known.guid() != self.guid() || known.age != self.age || known.arch != self.arch {
                continue;
            }
            let same =
                |own: &Fields, known: &Fields| own.iter().all(|(key, value)| known.get(key) == Some(value));
            let agrees = same(&self.rvas, &known.rvas)
                && self.structs.iter().all(|(structure, fields)| {
                    known
                        .structs
                        .get(structure)
                        .is_some_and(|known| same(fields, known))
                });
            if agrees && self.build() == known.build() {
                self.structs = known.structs;
                self.rvas = known.rvas;
            } else {
                self.guid = Some(derived_guid(json));
                self.note = Some(format!(
                    "{}: guid is that of {name}, but the layout isn't; the build's GUID is {}",
                    self.name,
                    self.guid()
                ));
            }
            return Ok(());
        }
        Ok(())
    }

    /// A profile from JSON text.
    ///
    /// # Errors
    ///
    /// When the text isn't a profile, or what it says can't be laid out.
    pub fn parse(name: &str, json: &str) -> Result<Profile, NtError> {
        let mut profile: Profile = serde_json::from_str(json).map_err(|error| NtError::Profile {
            name: name.to_owned(),
            problem: error.to_string(),
        })?;
        profile.name = name.to_owned();
        profile.check()?;
        if profile.guid.is_none() {
            profile.guid = Some(derived_guid(json));
        }
        profile.add_shadow_fields();
        Ok(profile)
    }

    pub(crate) fn error(&self, problem: impl Into<String>) -> NtError {
        NtError::Profile {
            name: self.name.clone(),
            problem: problem.into(),
        }
    }

    fn check(&self) -> Result<(), NtError> {
        let numbers: Vec<_> = self.version.split('.').map(str::parse::<u32>).collect();
        if !(3..=4).contains(&numbers.len()) || numbers.iter().any(Result::is_err) {
            return Err(self.error(format!("version '{}' isn't like 10.0.19041.3570", self.version)));
        }
        let name_ok = |name: &str| {
            !name.is_empty()
                && name.len() <= 100
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && !name.starts_with(|c: char| c.is_ascii_digit())
        };
        for (name, fields) in &self.structs {
            if !name_ok(name) || !name.starts_with('_') {
                return Err(self.error(format!("'{name}' isn't the name of a structure")));
            }
            let size = fields.get("_size").copied();
            if size.is_some_and(|size| size == 0 || size > STRUCT_MAX) {
                return Err(self.error(format!("the size of {name} is beyond 1..{STRUCT_MAX}")));
            }
            for (field, &offset) in fields {
                if !field.split('.').all(name_ok) {
                    return Err(self.error(format!("'{field}' in {name} isn't the name of a field")));
                }
                if field != "_size" && offset >= size.unwrap_or(STRUCT_MAX) {
                    return Err(self.error(format!("{name}.{field} at {offset} lies outside the structure")));
                }
            }
        }
        for (name, &rva) in &self.rvas {
            if !name_ok(name) {
                return Err(self.error(format!("'{name}' isn't the name of a symbol")));
            }
            if !(0x1000..RVA_MAX).contains(&rva) {
                return Err(self.error(format!("{name} at {rva:#x} is outside 0x1000..{RVA_MAX:#x}")));
            }
        }
        if let Some(guid) = &self.guid
            && (guid.len() != 32 || !guid.chars().all(|c| c.is_ascii_hexdigit()))
        {
            return Err(self.error(format!("guid '{guid}' isn't 32 hexadecimal digits")));
        }
        let pdb = self.pdb();
        if pdb.len() > 64
            || !pdb.ends_with(".pdb")
            || !pdb
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        {
            return Err(self.error(format!("'{pdb}' isn't the file name of a PDB")));
        }
        if let Some(lab) = &self.build_lab
            && (lab.len() > 60
                || !lab
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)))
        {
            return Err(self.error("build_lab isn't like 19041.1.amd64fre.vb_release.191206-1406"));
        }
        self.kdbg_size_checked()?;
        Ok(())
    }

    fn number(&self, index: usize) -> u32 {
        self.version
            .split('.')
            .nth(index)
            .and_then(|part| part.parse().ok())
            .unwrap_or(0)
    }

    /// Major version of Windows NT: 6 or 10.
    pub fn major(&self) -> u32 {
        self.number(0)
    }

    /// Minor version of Windows NT.
    pub fn minor(&self) -> u32 {
        self.number(1)
    }

    /// Build number: 19041.
    pub fn build(&self) -> u32 {
        self.number(2)
    }

    /// Number of the update: 3570.
    pub fn revision(&self) -> u32 {
        self.number(3)
    }

    /// File name of the PDB.
    pub fn pdb(&self) -> &str {
        self.pdb.as_deref().unwrap_or(match self.arch {
            Arch::X64 => "ntkrnlmp.pdb",
            Arch::X86 if self.pae => "ntkrpamp.pdb",
            Arch::X86 => "ntkrnlmp.pdb",
        })
    }

    /// Identity of the PDB: the digits of a symbol store's path.
    pub fn guid(&self) -> String {
        self.guid.as_deref().unwrap_or_default().to_ascii_uppercase()
    }

    /// TimeDateStamp of the images.
    pub fn time_date_stamp(&self) -> u32 {
        // Without one: a date that can't be taken for a real kernel's, and stays the same.
        self.time_date_stamp
            .unwrap_or(0x4b44_4400 + (self.build() & 0xff))
    }

    fn kdbg_size_checked(&self) -> Result<u32, NtError> {
        match self.kdbg_size {
            Some(size) if !(0x208..=0x1000).contains(&size) || size % 8 != 0 => Err(self.error(format!(
                "kdbg_size {size:#x} isn't a multiple of 8 in 0x208..=0x1000"
            ))),
            Some(size) => Ok(size),
            None => Ok(match self.build() {
                ..7600 => 0x330,
                7600..9200 => 0x340,
                9200..14393 => 0x360,
                14393..17763 => 0x368,
                17763..22621 => 0x380,
                22621..26100 => 0x3a0,
                26100.. => 0x3a8,
            }),
        }
    }

    /// Size of KDDEBUGGER_DATA64 in bytes.
    pub fn kdbg_size(&self) -> u32 {
        self.kdbg_size_checked().unwrap_or(0x380)
    }

    /// Whether the kernel encodes KDDEBUGGER_DATA64 when it isn't booted for debugging.
    pub fn kdbg_encoded(&self) -> bool {
        self.arch == Arch::X64 && self.build() >= 9200
    }

    /// Whether the kernel knows page tables of their own for user mode.
    pub fn kva_shadow(&self) -> bool {
        let has = |name: &str, field: &str| {
            self.structs
                .get(name)
                .is_some_and(|fields| fields.contains_key(field))
        };
        self.arch == Arch::X64
            && has("_KPRCB", "KernelDirectoryTableBase")
            && SHADOW_FIELDS.iter().all(|(field, _)| has("_KPRCB", field))
            && has("_KPROCESS", "UserDirectoryTableBase")
    }

    /// The fields behind KernelDirectoryTableBase lie side by side in every x64 kernel that has them.
    fn add_shadow_fields(&mut self) {
        let Some(prcb) = self.structs.get_mut("_KPRCB").filter(|_| self.arch == Arch::X64) else {
            return;
        };
        let Some(&root) = prcb.get("KernelDirectoryTableBase") else {
            return;
        };
        let is_taken = |at: &u32| (root + 8..root + 0x20).contains(at);
        let listed = |field: &str| SHADOW_FIELDS.iter().any(|(shadow, _)| *shadow == field);
        if prcb
            .iter()
            .any(|(field, at)| field != "_size" && !listed(field) && is_taken(at))
        {
            return;
        }
        for (field, distance) in SHADOW_FIELDS {
            prcb.entry(field.to_owned()).or_insert(root + distance);
        }
    }

    /// Whether the page tables' place in the address space is drawn at boot.
    pub fn pte_base_random(&self) -> bool {
        self.arch == Arch::X64 && self.build() >= 14393
    }

    /// Whether kernels of this version lie at multiples of 2 MiB.
    pub fn large_aligned(&self) -> bool {
        self.arch == Arch::X64 && self.build() >= 18362
    }

    /// Whether processor 0's KPCR is inside the image.
    pub fn kpcr_in_image(&self) -> bool {
        self.build() < 15063
    }

    /// Lowest kernel address, as MmSystemRangeStart has it.
    pub fn system_range_start(&self) -> u64 {
        match (self.arch, self.build()) {
            (Arch::X86, _) => 0x8000_0000,
            (Arch::X64, ..9600) => 0xffff_0800_0000_0000,
            (Arch::X64, _) => 0xffff_8000_0000_0000,
        }
    }

    /// Text of NtBuildLab.
    pub fn build_lab(&self) -> String {
        if let Some(lab) = &self.build_lab {
            return lab.clone();
        }
        let branch = match self.build() {
            7600..9200 => "win7sp1_rtm.101119-1850",
            9200..9600 => "win8_rtm.120725-1247",
            9600..10240 => "winblue_rtm.130821-1623",
            14393..15063 => "rs1_release.160715-1616",
            17763..18362 => "rs5_release.180914-1434",
            18362..19041 => "19h1_release.190318-1202",
            19041..20348 => "vb_release.191206-1406",
            20348..22000 => "fe_release.210507-1500",
            22000..22621 => "co_release.210604-1628",
            22621..26100 => "ni_release.220506-1250",
            26100.. => "ge_release.240331-1435",
            _ => "release.000000-0000",
        };
        let revision = match self.build() {
            7601 => 17514,
            9200 | 9600 => 16384,
            14393 => 0,
            _ => 1,
        };
        let machine = match self.arch {
            Arch::X64 => "amd64fre",
            Arch::X86 => "x86fre",
        };
        format!("{}.{revision}.{machine}.{branch}", self.build())
    }

    /// CmNtCSDVersion: the service pack in bits 8 to 15.
    pub fn csd_version(&self) -> u32 {
        if self.build() == 7601 { 0x100 } else { 0 }
    }
}

/// A GUID that no real kernel has: a hash of the profile, marked as random (version 4).
fn derived_guid(json: &str) -> String {
    let hash = blake3::hash(json.as_bytes());
    let mut digits = hash.to_hex()[..32].to_ascii_uppercase();
    digits.replace_range(12..13, "4");
    digits.replace_range(16..17, "9");
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(json: &str) -> String {
        Profile::parse("test", json).unwrap_err().to_string()
    }

    #[test]
    fn every_built_in_profile_is_one_and_says_where_it_is_from() {
        for name in Profile::names() {
            let profile = Profile::built_in(name).unwrap();
            assert!(profile.about.len() > 40, "{name}");
            assert!(profile.structs.contains_key("_EPROCESS"), "{name}");
        }
        assert!(Profile::built_in(DEFAULT_PROFILE).is_ok());
        assert!(
            Profile::built_in("win3")
                .unwrap_err()
                .to_string()
                .contains("win7-x64")
        );
    }

    #[test]
    fn versions_have_their_size_of_the_debugger_block() {
        let sizes = [
            ("win7-x64", 0x340),
            ("win8-x64", 0x360),
            ("win81-x64", 0x360),
            ("win10-1607-x64", 0x368),
            ("win10-1809-x64", 0x380),
            ("win11-22000-x64", 0x380),
            ("win11-22621-x64", 0x3a0),
        ];
        for (name, size) in sizes {
            assert_eq!(Profile::built_in(name).unwrap().kdbg_size(), size, "{name}");
        }
    }

    #[test]
    fn mistakes_in_a_profile_are_named() {
        assert!(why("{").contains("EOF"));
        assert!(why(r#"{"version": "10", "arch": "x64"}"#).contains("version"));
        let with = |rest: &str| why(&format!(r#"{{"version": "10.0.1.1", "arch": "x64", {rest}}}"#));
        assert!(with(r#""guid": "12""#).contains("32 hexadecimal"));
        assert!(with(r#""pdb": "../x.pdb""#).contains("file name"));
        assert!(with(r#""kdbg_size": 9"#).contains("multiple of 8"));
        assert!(with(r#""rvas": {"A": 1}"#).contains("outside"));
        assert!(with(r#""rvas": {"A b": 4096}"#).contains("'A b'"));
        assert!(with(r#""structs": {"_X": {"_size": 4, "F": 4}}"#).contains("_X.F"));
        assert!(with(r#""structs": {"_X": {"_size": 4294967295}}"#).contains("size"));
        assert!(with(r#""build_lab": "\"; x""#).contains("build_lab"));
    }

    #[test]
    fn a_real_kernels_identity_belongs_to_its_layout_alone() {
        let json = BUILT_IN.iter().find(|(name, _)| *name == "win7-x64").unwrap().1;
        let settled = |text: &str| {
            let mut profile = Profile::parse("copy", text).unwrap();
            profile.settle_identity(text).unwrap();
            profile
        };
        let known = Profile::built_in("win7-x64").unwrap();
        // What says less is the same kernel.
        let mut less: serde_json::Value = serde_json::from_str(json).unwrap();
        less["rvas"] = serde_json::json!({"KdVersionBlock": known.rvas["KdVersionBlock"]});
        let less = settled(&less.to_string());
        assert_eq!(
            (less.guid(), &less.rvas, less.note),
            (known.guid(), &known.rvas, None)
        );
        // What says otherwise isn't.
        let moved = json.replace("\"ImageFileName\": 736", "\"ImageFileName\": 737");
        assert_ne!(moved, json);
        let moved = settled(&moved);
        assert_ne!(moved.guid(), known.guid());
        assert!(moved.note.unwrap().contains("win7-x64"));
    }

    #[test]
    fn a_profile_without_identity_gets_its_own_every_time_the_same() {
        let json = r#"{"version": "10.0.19041.1", "arch": "x64"}"#;
        let guid = Profile::parse("a", json).unwrap().guid();
        assert_eq!(guid.len(), 32);
        assert_eq!(guid, Profile::parse("b", json).unwrap().guid());
        assert_ne!(
            guid,
            Profile::parse("a", &json.replace("19041", "19042"))
                .unwrap()
                .guid()
        );
    }
}
