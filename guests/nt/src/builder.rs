//! Makes a folder with the images of a profile, unless it is there: writes the sources, compiles, links ([`crate::link`]) and
//! finishes ([`crate::finish`]).

use crate::coff::{self, Object};
use crate::images::{ImagePlan, Role, SOURCES, compile_flags, images};
use crate::manifest::{MANIFEST, Manifest};
use crate::profile::Profile;
use crate::symbols::{Symbol, symbols};
use crate::toolchain::{run, versions};
use crate::types::Types;
use crate::{NtError, header};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Tells apart builders that make different things of the same inputs: a hash of this crate's own sources.
const BUILDER: &str = env!("NT_GUEST_BUILDER");

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

pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), NtError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(NtError::io(folder))?;
    }
    std::fs::write(path, content).map_err(NtError::io(path))
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, NtError> {
    std::fs::read(path).map_err(NtError::io(path))
}

/// A build under way.
pub(crate) struct Build<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) types: Types,
    pub(crate) symbols: Vec<Symbol>,
    images: Vec<ImagePlan>,
    pub(crate) runs: bool,
    pub(crate) work: &'a Path,
    inputs: String,
    messages: String,
}

/// A source's object: its path from the sources' folder, and what is in it.
pub(crate) type Compiled = Vec<(String, Object)>;

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

    pub(crate) fn sources(&self) -> PathBuf {
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

    pub(crate) fn broken(&self, file: &str, problem: &str) -> NtError {
        NtError::Broken {
            file: file.to_owned(),
            problem: problem.to_owned(),
        }
    }
}
