//! Compiles, links and finishes the images of a profile.

use crate::code::{Code, moved_name};
use crate::coff::{self, Object};
use crate::images::{ImagePlan, Role, SOURCES, compile_flags, images};
use crate::msf::Msf;
use crate::pe::{self, Finish};
use crate::place::{Extra, Plan, decorated};
use crate::profile::{Arch, Profile};
use crate::symbols::{Symbol, symbols};
use crate::toolchain::{run, versions};
use crate::types::Types;
use crate::{NtError, header};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const MANIFEST: &str = "manifest.json";
const MANIFEST_MAX: u64 = 1 << 20;
const IMAGES_MAX: usize = 64;
/// Tells apart builders that make different things of the same inputs: a hash of this crate's own sources.
const BUILDER: &str = env!("NT_GUEST_BUILDER");
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

/// What a build made: `manifest.json` in its folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The profile's name.
    pub profile: String,
    /// Version of the kernel that it has the shape of.
    pub version: String,
    /// Its architecture: `x64` or `x86`.
    pub arch: String,
    /// Whether kernels of that version lie at multiples of 2 MiB.
    pub large_aligned: bool,
    /// Whether the guest can run: for some architectures there is only a kernel image with its symbols.
    pub runs: bool,
    /// Whether it is to run with PAE, if it is for x86; otherwise the loader option `NOPAE` says so.
    #[serde(default = "yes")]
    pub pae: bool,
    /// Whether that version draws the place of the page tables at boot.
    pub random_pte_base: bool,
    /// The images, the kernel first.
    pub images: Vec<ImageEntry>,
    /// Hash of everything that went in.
    pub inputs: String,
}

fn yes() -> bool {
    true
}

/// A function of the sources that is a section of an object.
struct Body {
    object: String,
    section: String,
    size: u32,
}

impl Manifest {
    /// Reads the manifest of a build's folder.
    ///
    /// # Errors
    ///
    /// When there is none, or it isn't one: names of files that lie elsewhere, or too many.
    pub fn read(folder: &Path) -> Result<Manifest, NtError> {
        let path = folder.join(MANIFEST);
        let broken = |problem: String| NtError::Broken {
            file: path.display().to_string(),
            problem,
        };
        let length = std::fs::metadata(&path).map_err(NtError::io(&path))?.len();
        if length > MANIFEST_MAX {
            return Err(broken("is too large for a manifest".to_owned()));
        }
        let text = std::fs::read_to_string(&path).map_err(NtError::io(&path))?;
        let manifest: Manifest =
            serde_json::from_str(&text).map_err(|error| broken(format!("isn't a manifest: {error}")))?;
        let plain = |name: &str| !name.is_empty() && name != ".." && !name.contains(['/', '\\', '\0']);
        if manifest.images.len() > IMAGES_MAX || !manifest.images.iter().all(|image| plain(&image.file)) {
            return Err(broken("names images that a guest can't have".to_owned()));
        }
        Ok(manifest)
    }
}

/// An image in a [`Manifest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// What it is to the guest.
    pub role: Role,
    /// Whether it is loaded before the kernel runs; otherwise only its file is kept in memory.
    pub boot: bool,
    /// Its file name, in the build's folder and in the guest.
    pub file: String,
    /// Its path in the guest.
    pub path: String,
    /// The file name of its PDB, in the build's folder.
    pub pdb: String,
    /// Identity of its PDB, as a symbol store writes it.
    pub guid: String,
    /// Age of its PDB.
    pub age: u32,
}

/// A finished build.
#[derive(Clone, Debug)]
pub struct Built {
    /// Its folder.
    pub folder: PathBuf,
    /// What is in it.
    pub manifest: Manifest,
    /// What compiler and linker had to say. Empty when nothing was built.
    pub messages: String,
}

impl Built {
    /// Opens a finished build; `None` if the folder holds none, or one of another guest than `profile`'s.
    pub fn open(profile: &Profile, folder: &Path) -> Option<Built> {
        let manifest = Manifest::read(folder).ok()?;
        let whole = manifest
            .images
            .iter()
            .all(|image| folder.join(&image.file).is_file());
        // The compiler may be gone, or another: what it made is still good.
        let inputs = manifest.inputs.split_once(' ').map(|(inputs, _)| inputs);
        (whole && manifest.runs && inputs == inputs_of(profile).ok().as_deref()).then(|| Built {
            folder: folder.to_owned(),
            manifest,
            messages: String::new(),
        })
    }
}

/// Builds a profile's guest into `folder`, unless the same is there already.
///
/// # Errors
///
/// When the profile can't be laid out, a tool is missing or fails, or files can't be written.
pub fn build(profile: &Profile, folder: &Path) -> Result<Built, NtError> {
    build_with(profile, folder, true)
}

/// Builds a kernel image with all symbols of a profile, and its PDB, but without the guest's code: for readers of
/// symbols. It can't run.
///
/// # Errors
///
/// As [`build`].
pub fn build_symbols(profile: &Profile, folder: &Path) -> Result<Built, NtError> {
    build_with(profile, folder, false)
}

fn build_with(profile: &Profile, folder: &Path, runs: bool) -> Result<Built, NtError> {
    let tools = versions()?;
    let tools_hash = blake3::hash(format!("{tools}{runs}").as_bytes());
    let inputs = format!("{} {}", inputs_of(profile)?, tools_hash.to_hex());
    if let Some(built) = Built::open(profile, folder).filter(|built| built.manifest.inputs == inputs) {
        return Ok(built);
    }
    // There whole, or not at all.
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let work = folder.with_file_name(name);
    remove(&work)?;
    let result = Build::new(profile, &work, inputs, runs).and_then(|build| build.all());
    let (manifest, messages) = match result {
        Ok(done) => done,
        Err(error) => {
            let _ = remove(&work);
            return Err(error);
        }
    };
    // Somebody else may have built the same meanwhile.
    if let Some(built) = Built::open(profile, folder).filter(|built| built.manifest.inputs == manifest.inputs)
    {
        remove(&work)?;
        return Ok(built);
    }
    remove(folder)?;
    std::fs::rename(&work, folder).map_err(NtError::io(folder))?;
    Ok(Built {
        folder: folder.to_owned(),
        manifest,
        messages,
    })
}

fn remove(folder: &Path) -> Result<(), NtError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(NtError::io(folder)(error)),
        _ => Ok(()),
    }
}

/// Hash of everything that a build depends on, but for the tools.
fn inputs_of(profile: &Profile) -> Result<String, NtError> {
    let mut hash = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(BUILDER.as_bytes());
    add(header::header(profile)?.as_bytes());
    add(format!("{:?}", profile).as_bytes());
    for (name, content) in SOURCES {
        add(name.as_bytes());
        add(content);
    }
    Ok(hash.finalize().to_hex().to_string())
}

fn write(path: &Path, content: &[u8]) -> Result<(), NtError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(NtError::io(folder))?;
    }
    std::fs::write(path, content).map_err(NtError::io(path))
}

fn read(path: &Path) -> Result<Vec<u8>, NtError> {
    std::fs::read(path).map_err(NtError::io(path))
}

struct Build<'a> {
    profile: &'a Profile,
    types: Types,
    symbols: Vec<Symbol>,
    images: Vec<ImagePlan>,
    runs: bool,
    work: &'a Path,
    inputs: String,
    messages: String,
}

/// A source's object: its path from the sources' folder, and what is in it.
type Compiled = Vec<(String, Object)>;

impl<'a> Build<'a> {
    fn new(profile: &'a Profile, work: &'a Path, inputs: String, runs: bool) -> Result<Build<'a>, NtError> {
        Ok(Build {
            profile,
            types: Types::new(profile)?,
            symbols: symbols(profile),
            images: images(profile, runs),
            runs,
            work,
            inputs,
            messages: String::new(),
        })
    }

    fn sources(&self) -> PathBuf {
        self.work.join("src")
    }

    fn all(mut self) -> Result<(Manifest, String), NtError> {
        for (name, content) in SOURCES {
            write(&self.sources().join(name), content)?;
        }
        let generated = self.sources().join("generated");
        write(
            &generated.join("nt_layout.h"),
            header::header(self.profile)?.as_bytes(),
        )?;
        write(
            &generated.join("nt_types.c"),
            header::type_keeper(self.profile)?.as_bytes(),
        )?;
        let compiled = self.compile()?;
        let mut libraries = Vec::new();
        for (image, objects) in self.images.iter().zip(&compiled) {
            libraries.extend(self.import_library(image, objects)?);
        }
        let mut entries = Vec::new();
        for (image, objects) in self.images.iter().zip(&compiled) {
            let (entry, messages) = self.link(image, objects, &libraries)?;
            self.messages.push_str(&messages);
            entries.push(entry);
        }
        let objects = self.work.join("obj");
        remove(&objects)?;
        let manifest = Manifest {
            profile: self.profile.name.clone(),
            version: self.profile.version.clone(),
            arch: self.profile.arch.name().to_owned(),
            runs: self.runs,
            large_aligned: self.profile.large_aligned(),
            pae: self.profile.pae,
            random_pte_base: self.profile.pte_base_random(),
            images: entries,
            inputs: self.inputs,
        };
        let text =
            serde_json::to_string_pretty(&manifest).map_err(|error| self.profile.error(error.to_string()))?;
        write(&self.work.join(MANIFEST), text.as_bytes())?;
        Ok((manifest, self.messages))
    }

    /// Compiles every source, as many at a time as there are processors.
    fn compile(&mut self) -> Result<Vec<Compiled>, NtError> {
        let mut jobs = Vec::new();
        for (number, image) in self.images.iter().enumerate() {
            let generated = (image.role == Role::Kernel).then_some("generated/nt_types.c");
            for source in image.sources.iter().copied().chain(generated) {
                let object = format!("../obj/{number}/{}.obj", source.replace('/', "_"));
                write(&self.sources().join(&object), &[])?;
                let mut arguments = compile_flags(image.role, source, self.profile.arch);
                arguments.extend([source.to_owned(), "-o".to_owned(), object.clone()]);
                jobs.push((number, object, arguments));
            }
        }
        let folder = self.sources();
        let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let workers = std::thread::available_parallelism()
            .map_or(2, usize::from)
            .min(jobs.len());
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while let Some((_, _, arguments)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = run("clang", &folder, arguments);
                        if let Ok(mut results) = results.lock() {
                            results.push(result);
                        }
                    }
                });
            }
        });
        for result in results.into_inner().unwrap_or_default() {
            self.messages.push_str(&result?);
        }
        let mut compiled: Vec<Compiled> = self.images.iter().map(|_| Vec::new()).collect();
        for (number, object, _) in jobs {
            let bytes = read(&folder.join(&object))?;
            let found = coff::read(&bytes).ok_or_else(|| self.broken(&object, "isn't an object file"))?;
            if let Some(all) = compiled.get_mut(number) {
                all.push((object, found));
            }
        }
        Ok(compiled)
    }

    fn broken(&self, file: &str, problem: &str) -> NtError {
        NtError::Broken {
            file: file.to_owned(),
            problem: problem.to_owned(),
        }
    }

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

    fn import_library(
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

    fn link(
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

    /// Writes what the linker can't into image and PDB, checks the symbols' places, and files the PDB.
    fn finish(&self, image: &ImagePlan, plan: Option<&Plan>) -> Result<ImageEntry, NtError> {
        let (image_path, pdb_path) = (self.work.join(&image.file), self.work.join(&image.pdb));
        let bad_pdb = || self.broken(&image.pdb, "isn't the PDB that was expected of the linker");
        let bad_image = || self.broken(&image.file, "isn't the image that was expected of the linker");
        let mut bytes = read(&image_path)?;
        let mut msf = Msf::new(read(&pdb_path)?).ok_or_else(bad_pdb)?;
        let mut identity = None;
        if let Some(plan) = plan {
            let guid =
                guid_bytes(&self.profile.guid()).ok_or_else(|| self.profile.error("the GUID isn't one"))?;
            identity = Some((guid, self.profile.age));
            msf.set_identity(guid, self.profile.age).ok_or_else(bad_pdb)?;
            msf.name_sections(plan).ok_or_else(bad_pdb)?;
            self.check_places(&bytes, &msf)?;
        }
        let number = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        let version = (number(self.profile.major()), number(self.profile.minor()));
        pe::finish(
            &mut bytes,
            &Finish {
                plan,
                identity,
                version,
            },
        )
        .ok_or_else(bad_image)?;
        let (guid, age) = pe::identity(&bytes).ok_or_else(bad_image)?;
        if msf.identity() != Some((guid, age)) {
            return Err(bad_pdb());
        }
        write(&image_path, &bytes)?;
        let pdb = msf.into_bytes();
        write(&pdb_path, &pdb)?;
        let digits = guid_digits(&guid);
        let store = self
            .work
            .join("symbols")
            .join(&image.pdb)
            .join(format!("{digits}{age:X}"));
        write(&store.join(&image.pdb), &pdb)?;
        Ok(ImageEntry {
            role: image.role,
            boot: image.is_boot(),
            file: image.file.clone(),
            path: image.path(),
            pdb: image.pdb.clone(),
            guid: digits,
            age,
        })
    }

    /// Whether every symbol that the profile places is where it says.
    fn check_places(&self, image: &[u8], msf: &Msf) -> Result<(), NtError> {
        let sections = pe::sections(image).unwrap_or_default();
        let publics = msf.publics().unwrap_or_default();
        for symbol in &self.symbols {
            let Some(wanted) = symbol.rva else { continue };
            let found =
                publics
                    .get(&decorated(&symbol.name, self.profile.arch))
                    .and_then(|&(section, offset)| {
                        let section = sections.get(usize::from(section).checked_sub(1)?)?;
                        section.rva.checked_add(offset)
                    });
            if found != Some(wanted) {
                let found = found.map_or("nowhere".to_owned(), |rva| format!("at {rva:#x}"));
                return Err(self.profile.error(format!(
                    "{} should be at {wanted:#x}, but is {found}",
                    symbol.name
                )));
            }
        }
        Ok(())
    }
}

/// A GUID's bytes from the digits of a symbol store: its first three numbers are little-endian.
fn guid_bytes(digits: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Some(bytes)
}

fn guid_digits(guid: &[u8; 16]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    order
        .iter()
        .filter_map(|&at: &usize| guid.get(at))
        .map(|byte| format!("{byte:02X}"))
        .collect()
}
