//! The images of the guest: which sources each is made of, and how they are compiled.

use crate::profile::{Arch, Profile};
use std::collections::BTreeMap;

/// The folder, within an image's, of what is x86's own.
const X86_FOLDER: &str = "x86";

/// Every source file: path and content.
pub(crate) const SOURCES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/sources.rs"));

/// What an image is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// ntoskrnl.exe.
    Kernel,
    /// hal.dll.
    Hal,
    /// A driver.
    Driver,
    /// The program that runs in user mode.
    Program,
}

/// An image to be made.
pub(crate) struct ImagePlan {
    pub role: Role,
    /// Its file name.
    pub file: String,
    /// The file name of its PDB.
    pub pdb: String,
    pub entry: &'static str,
    /// Its sources, relative to the folder of all sources.
    pub sources: Vec<&'static str>,
}

impl ImagePlan {
    /// Its path in the guest.
    pub fn path(&self) -> String {
        let folder = match self.role {
            Role::Driver => r"\SystemRoot\System32\drivers",
            _ => r"\SystemRoot\system32",
        };
        format!(r"{folder}\{}", self.file)
    }

    /// Its name without the ending.
    pub fn stem(&self) -> &str {
        self.file.split('.').next().unwrap_or_default()
    }
}

/// The sources in a folder. On x86 those in its folder `x86` come too; each takes the place of one of the same name.
fn sources_of(folder: &str, arch: Arch) -> Vec<&'static str> {
    let names = SOURCES.iter().map(|(name, _)| *name);
    let sources: BTreeMap<&str, &'static str> = names
        .filter(|name| name.ends_with(".c") || name.ends_with(".S"))
        .filter_map(|name| Some((name.strip_prefix(folder)?, name)))
        .filter(|(rest, _)| !rest.contains('/'))
        .collect();
    if arch == Arch::X64 {
        return sources.into_values().collect();
    }
    let mut all = sources;
    all.extend(
        sources_of(&format!("{folder}{X86_FOLDER}/"), Arch::X64)
            .into_iter()
            .map(|name| (name.rsplit('/').next().unwrap_or(name), name)),
    );
    all.into_values().collect()
}

/// The images of a profile's guest, the kernel first.
pub(crate) fn images(profile: &Profile) -> Vec<ImagePlan> {
    let of = |folder: &str| sources_of(folder, profile.arch);
    let mut images = vec![ImagePlan {
        role: Role::Kernel,
        file: "ntoskrnl.exe".to_owned(),
        pdb: profile.pdb().to_owned(),
        entry: "KiSystemStartup",
        sources: of("kernel/"),
    }];
    let mut add = |role, stem: &str, ending, entry, sources: Vec<_>| {
        if !sources.is_empty() {
            images.push(ImagePlan {
                role,
                file: format!("{stem}.{ending}"),
                pdb: format!("{stem}.pdb"),
                entry,
                sources,
            });
        }
    };
    add(Role::Hal, "hal", "dll", "HalInitSystem", of("hal/"));
    let mut drivers: Vec<&str> = SOURCES
        .iter()
        .filter_map(|(name, _)| name.strip_prefix("drivers/")?.split_once('/'))
        .map(|(name, _)| name)
        .collect();
    drivers.dedup();
    for driver in drivers {
        add(
            Role::Driver,
            driver,
            "sys",
            "DriverEntry",
            of(&format!("drivers/{driver}/")),
        );
    }
    add(Role::Program, "smss", "exe", "NtProcessStartup", of("user/"));
    images
}

/// Clang's arguments for a source, without the files.
pub(crate) fn compile_flags(role: Role, source: &str, arch: Arch) -> Vec<String> {
    let target = match arch {
        Arch::X64 => "--target=x86_64-pc-windows-msvc",
        Arch::X86 => "--target=i686-pc-windows-msvc",
    };
    let folder = source.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut flags = vec![
        target,
        "-c",
        "-Iinclude",
        "-Igenerated",
        "-fdebug-compilation-dir=.",
    ];
    let own = format!("-I{folder}");
    flags.push(&own);
    // x86's files see what all of the image see.
    let shared = folder
        .strip_suffix(X86_FOLDER)
        .map(|folder| format!("-I{folder}"));
    flags.extend(shared.as_deref());
    match role {
        Role::Kernel => flags.push("-DNTOS_BUILD"),
        Role::Hal => flags.push("-DHAL_BUILD"),
        Role::Driver | Role::Program => {}
    }
    if source.ends_with(".c") {
        flags.extend([
            "-std=gnu11",
            "-ffreestanding",
            "-fshort-wchar",
            "-fasynchronous-unwind-tables",
            "-mno-red-zone",
            "-mno-stack-arg-probe",
            "-fno-stack-protector",
            "-fno-strict-aliasing",
            "-fno-omit-frame-pointer",
            "-O1",
            "-g",
            "-gcodeview",
            "-Wall",
            "-Wextra",
            "-Wno-unused-parameter",
        ]);
        if role != Role::Program {
            flags.push("-mgeneral-regs-only");
        }
        if source.ends_with("/nt_types.c") {
            flags.push("-fno-eliminate-unused-debug-types");
        }
    }
    flags.into_iter().map(str::to_owned).collect()
}
