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
    /// What its module-definition file exports: `name` or `name,DATA`.
    pub exports: Vec<String>,
    /// Its sources, relative to the folder of all sources.
    pub sources: Vec<&'static str>,
}

impl ImagePlan {
    /// Whether the loader maps it, and doesn't only keep its file.
    pub fn is_boot(&self) -> bool {
        match self.role {
            Role::Kernel | Role::Hal => true,
            Role::Driver => self.file.starts_with("boot"),
            Role::Program => false,
        }
    }

    /// Its path in the guest.
    pub fn path(&self) -> String {
        let folder = match self.role {
            Role::Driver => r"\SystemRoot\System32\drivers",
            Role::Kernel | Role::Hal => r"\SystemRoot\system32",
            Role::Program => r"\SystemRoot\System32",
        };
        format!(r"{folder}\{}", self.file)
    }

    /// Its name without the ending.
    pub fn stem(&self) -> &str {
        self.file.split('.').next().unwrap_or_default()
    }
}

/// The images of a profile's guest, the kernel first.
pub(crate) fn images(profile: &Profile, runs: bool) -> Vec<ImagePlan> {
    let image = |role, file: String, pdb: String, entry, folder: &str| ImagePlan {
        role,
        file,
        pdb,
        entry,
        exports: definition(folder),
        sources: if runs {
            compiled(folder, profile.arch)
        } else {
            Vec::new()
        },
    };
    let pdb = profile.pdb().to_owned();
    let entry = if runs {
        "KiSystemStartup"
    } else {
        "NtUnimplemented"
    };
    let mut images = vec![image(
        Role::Kernel,
        "ntoskrnl.exe".to_owned(),
        pdb,
        entry,
        "kernel/",
    )];
    if !runs {
        return images;
    }
    let mut drivers: Vec<&str> = SOURCES
        .iter()
        .filter_map(|(name, _)| name.strip_prefix("drivers/")?.split_once('/'))
        .map(|(name, _)| name)
        .collect();
    drivers.dedup();
    let mut add = |role, stem: &str, ending, entry, folder: &str| {
        let made = image(
            role,
            format!("{stem}.{ending}"),
            format!("{stem}.pdb"),
            entry,
            folder,
        );
        if !made.sources.is_empty() {
            images.push(made);
        }
    };
    add(Role::Hal, "hal", "dll", "HalInitSystem", "hal/");
    for driver in drivers {
        add(
            Role::Driver,
            driver,
            "sys",
            "DriverEntry",
            &format!("drivers/{driver}/"),
        );
    }
    add(Role::Program, "smss", "exe", "NtProcessStartup", "user/");
    images
}

/// The sources in a folder. On x86 those in its folder `x86` come too; each takes the place of one of the same name.
fn compiled(folder: &str, arch: Arch) -> Vec<&'static str> {
    let mut sources = BTreeMap::new();
    let own = (arch == Arch::X86).then(|| format!("{folder}{X86_FOLDER}/"));
    for folder in std::iter::once(folder).chain(own.as_deref()) {
        for &(path, _) in SOURCES {
            let name = path.strip_prefix(folder).filter(|name| !name.contains('/'));
            if let Some(name) = name.filter(|name| name.ends_with(".c") || name.ends_with(".S")) {
                sources.insert(name, path);
            }
        }
    }
    sources.into_values().collect()
}

/// The exports of the folder's module-definition file, if it has one.
fn definition(folder: &str) -> Vec<String> {
    let file = SOURCES.iter().find(|(name, _)| {
        name.strip_prefix(folder)
            .is_some_and(|rest| rest.ends_with(".def"))
    });
    let text = file
        .map(|(_, content)| String::from_utf8_lossy(content))
        .unwrap_or_default();
    let exports = text.lines().skip_while(|line| line.trim() != "EXPORTS").skip(1);
    exports
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(","))
        .filter(|name| !name.is_empty() && !name.starts_with(';'))
        .collect()
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
        "-ffile-compilation-dir=.",
    ];
    let own = format!("-I{folder}");
    flags.push(&own);
    // x86's files see what all of the image see.
    let shared = folder
        .strip_suffix(X86_FOLDER)
        .map(|folder| format!("-I{folder}"));
    flags.extend(shared.as_deref());
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
