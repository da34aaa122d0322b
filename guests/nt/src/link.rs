//! What the linker is told: exports, import libraries, and for the kernel where every symbol lies.

use crate::NtError;
use crate::builder::{Build, Compiled, read, write};
use crate::code::{Code, moved_name};
use crate::coff;
use crate::images::{ImagePlan, Role, compile_flags};
use crate::manifest::ImageEntry;
use crate::place::{Extra, Plan, decorated};
use crate::profile::Arch;
use crate::toolchain::run;
use std::collections::BTreeMap;

/// What a Windows kernel exports of what every profile has.
const EXPORTS: &[&str] = &[
    "DbgBreakPoint",
    "DbgBreakPointWithStatus",
    "DbgPrint",
    "InitSafeBootMode",
    "KdDebuggerEnabled",
    "KdDebuggerNotPresent",
    "KeBugCheckEx",
    "KeNumberProcessors",
    "MmHighestUserAddress",
    "MmSystemRangeStart",
    "MmUserProbeAddress",
    "NtBuildNumber",
    "PsInitialSystemProcess",
    "PsLoadedModuleList",
];

/// A function of the sources that is a section of an object.
struct Body {
    object: String,
    section: String,
    size: u32,
}

impl Build<'_> {
    fn machine(&self) -> String {
        match self.profile.arch {
            Arch::X64 => "/machine:x64".to_owned(),
            Arch::X86 => "/machine:x86".to_owned(),
        }
    }

    /// What an image exports: its sources' wishes, and for the kernel what a Windows kernel exports.
    fn exports(&self, image: &ImagePlan, objects: &Compiled) -> Vec<String> {
        let plain = |name: &String| match self.profile.arch {
            Arch::X64 => name.clone(),
            Arch::X86 => name.trim_start_matches('_').to_owned(),
        };
        let mut names: Vec<String> = objects
            .iter()
            .flat_map(|(_, object)| object.exports.iter().map(plain))
            .collect();
        // Without sources there is only what the builder makes.
        if self.runs {
            names.extend(image.exports.iter().cloned());
        }
        if image.role == Role::Kernel {
            for symbol in self
                .symbols
                .iter()
                .filter(|symbol| EXPORTS.contains(&symbol.name.as_str()))
            {
                let data = if symbol.kind.is_code() { "" } else { ",DATA" };
                names.push(format!("{}{data}", symbol.name));
            }
            // Since Windows 10.
            if self.profile.major() < 10 {
                names.retain(|name| name != "PsLoadedModuleList,DATA");
            }
        }
        names.sort();
        names.dedup();
        names
    }

    pub(crate) fn import_library(
        &self,
        image: &ImagePlan,
        objects: &Compiled,
    ) -> Result<Option<(Role, String)>, NtError> {
        let exports = self.exports(image, objects);
        if exports.is_empty() || matches!(image.role, Role::Driver | Role::Program) {
            return Ok(None);
        }
        let mut text = format!("LIBRARY {}\nEXPORTS\n", image.file);
        for export in exports {
            text.push_str(&format!("  {}\n", export.replace(",DATA", " DATA")));
        }
        let (definition, library) = (
            format!("../obj/{}.def", image.stem()),
            format!("../obj/{}.lib", image.stem()),
        );
        write(&self.sources().join(&definition), text.as_bytes())?;
        // lld-link's own /lib takes no definitions before version 16.
        let machine = match self.profile.arch {
            Arch::X64 => "i386:x86-64",
            Arch::X86 => "i386",
        };
        let arguments = ["-m", machine, "-d", &definition, "-l", &library].map(str::to_owned);
        run("llvm-dlltool", &self.sources(), &arguments)?;
        Ok(Some((image.role, library)))
    }

    pub(crate) fn link(
        &self,
        image: &ImagePlan,
        objects: &Compiled,
        libraries: &[(Role, String)],
    ) -> Result<(ImageEntry, String), NtError> {
        let arch = self.profile.arch;
        let (file, pdb) = (format!("../{}", image.file), format!("../{}", image.pdb));
        let mut arguments: Vec<String> = vec![
            "/nodefaultlib".into(),
            self.machine(),
            "/subsystem:native".into(),
            format!("/entry:{}", image.entry),
            "/debug".into(),
            "/opt:noref".into(),
            "/opt:noicf".into(),
            "/incremental:no".into(),
            "/fixed:no".into(),
            "/dynamicbase".into(),
            "/pdbsourcepath:.".into(),
            format!("/timestamp:{}", self.profile.time_date_stamp()),
            format!("/pdb:{pdb}"),
            format!("/pdbaltpath:{}", image.pdb),
            format!("/implib:../obj/linked-{}.lib", image.stem()),
            format!("/out:{file}"),
        ];
        if arch == Arch::X86 {
            arguments.push("/safeseh:no".into());
        }
        if image.role == Role::Hal {
            arguments.push("/dll".into());
        }
        for export in self.exports(image, objects) {
            // The objects ask for theirs themselves.
            if !objects.iter().any(|(_, object)| object.exports.contains(&export)) {
                arguments.push(format!("/export:{export}"));
            }
        }
        let plan = if image.role == Role::Kernel {
            Some(self.place(objects, &mut arguments)?)
        } else {
            arguments.push(match image.role {
                Role::Program => "/base:0x140000000".into(),
                _ => "/base:0x1c0000000".into(),
            });
            None
        };
        if arch == Arch::X86 {
            arguments.retain(|argument| !argument.starts_with("/base:"));
            arguments.push(if image.role == Role::Kernel {
                "/base:0x400000".into()
            } else {
                "/base:0x10000".into()
            });
        }
        arguments.extend(objects.iter().map(|(object, _)| object.clone()));
        arguments.extend(
            libraries
                .iter()
                .filter(|(role, _)| *role != image.role)
                .map(|(_, library)| library.clone()),
        );
        let messages = run("lld-link", &self.sources(), &arguments)?;
        let entry = self.finish(image, plan.as_ref())?;
        Ok((entry, messages))
    }

    /// The functions of the sources that are sections of their own, by name.
    fn functions(&self, objects: &Compiled) -> BTreeMap<String, Body> {
        let mut found = BTreeMap::new();
        for (object, content) in objects {
            for section in content.sections.iter().filter(|section| section.execute) {
                let Some((_, name)) = section.name.split_once('$') else {
                    continue;
                };
                let name = match self.profile.arch {
                    Arch::X64 => name,
                    // Assembly has the name as the linker sees it.
                    Arch::X86 => name.trim_start_matches('_'),
                };
                let body = Body {
                    object: object.clone(),
                    section: section.name.clone(),
                    size: section.size,
                };
                found.insert(name.to_owned(), body);
            }
        }
        found
    }

    /// Changes the object that a function is in.
    fn change(
        &self,
        bodies: &BTreeMap<String, Body>,
        function: &str,
        how: impl Fn(&mut Vec<u8>, &Body) -> Option<()>,
    ) -> Result<(), NtError> {
        let Some(body) = bodies.get(function) else {
            return Ok(());
        };
        let path = self.sources().join(&body.object);
        let mut bytes = read(&path)?;
        how(&mut bytes, body).ok_or_else(|| {
            self.broken(
                &body.object,
                &format!("has no {function} as was expected of the compiler"),
            )
        })?;
        write(&path, &bytes)
    }

    /// Makes the assembly that places the kernel's symbols, and the linker's arguments for it.
    fn place(&self, objects: &Compiled, arguments: &mut Vec<String>) -> Result<Plan, NtError> {
        let arch = self.profile.arch;
        let known = [".text", ".rdata", ".data", ".bss", ".pdata", ".xdata"];
        let sections = objects.iter().flat_map(|(_, object)| &object.sections);
        let bodies = self.functions(objects);
        let sizes = bodies
            .iter()
            .map(|(name, body)| (name.clone(), body.size))
            .collect();
        let code = Code::new(&self.symbols, &sizes, arch);
        let is_placed = |section: &coff::Section| {
            let mut placed = code.placed.keys().filter_map(|name| bodies.get(name));
            placed.any(|body| body.section == section.name)
        };
        let extras: Vec<Extra> = sections
            .filter(|section| section.linked && section.size > 0 && !is_placed(section))
            .filter(|section| !known.contains(&section.name.split('$').next().unwrap_or_default()))
            .map(|section| Extra {
                name: section.name.split('$').next().unwrap_or_default().to_owned(),
                size: section.size,
                align: section.align,
                execute: section.execute,
                write: section.write,
            })
            .collect();
        let plan = Plan::new(self.profile, &self.types, &self.symbols, &extras, code.clone())?;
        let (source, object) = ("generated/nt_place.S", "../obj/nt_place.obj");
        let (text, pieces) = plan.assembly(&self.types, arch);
        write(&self.sources().join(source), text.as_bytes())?;
        let mut compile = compile_flags(Role::Kernel, source, arch);
        compile.extend([source.to_owned(), "-o".to_owned(), object.to_owned()]);
        run("clang", &self.sources(), &compile)?;
        for piece in &pieces {
            self.change(&bodies, &piece.function, |bytes, body| {
                coff::rename_section(bytes, &body.section, &piece.section, piece.write)
            })?;
        }
        for name in &code.moved {
            let (from, to) = (decorated(name, arch), decorated(&moved_name(name), arch));
            self.change(&bodies, name, |bytes, _| coff::rename_symbol(bytes, &from, &to))?;
        }
        for (from, to) in &plan.merges {
            arguments.push(format!("/merge:{from}={to}"));
        }
        arguments.push("/base:0x140000000".into());
        arguments.push(object.to_owned());
        Ok(plan)
    }
}
