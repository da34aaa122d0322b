//! Finding a PDB file along a symbol path.
//!
//! A file counts only if its GUID and age are the ones asked for, so a flat folder may hold another version.

use crate::http;
use crate::id::PdbId;
use crate::path::{Element, Store, SymbolPath};
use crate::pdb::Pdb;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A PDB file that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Where it is; of a server's file, where it was put.
    pub path: PathBuf,
    /// The server that it was just fetched from.
    pub fetched_from: Option<String>,
}

/// No place of the path has the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocateError {
    /// What was looked for.
    pub id: PdbId,
    /// Where, and why it wasn't there.
    pub tried: Vec<Tried>,
}

/// A place that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The folder or server.
    pub place: String,
    /// Why the file wasn't taken from there.
    pub why: String,
}

impl std::error::Error for LocateError {}

impl fmt::Display for LocateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not on the symbol path", self.id)?;
        if self.tried.is_empty() {
            return f.write_str(", which is empty");
        }
        for (index, tried) in self.tried.iter().enumerate() {
            let sep = if index == 0 { ": " } else { "; " };
            write!(f, "{sep}{}: {}", tried.place, tried.why)?;
        }
        Ok(())
    }
}

impl SymbolPath {
    /// Looks for a PDB file, in the path's order. A server is asked if its turn comes, and what it has is put into the
    /// nearest cache.
    ///
    /// # Errors
    /// [`LocateError`], with all that was tried.
    pub fn locate(&self, id: &PdbId) -> Result<Found, LocateError> {
        let mut search = Search {
            id,
            tried: Vec::new(),
            cache: None,
        };
        if !id.has_plain_name() {
            search.miss("the guest", "that is no name of a file");
            return Err(search.error());
        }
        for element in &self.elements {
            if let Some(found) = search.element(element) {
                return Ok(found);
            }
        }
        Err(search.error())
    }
}

struct Search<'a> {
    id: &'a PdbId,
    tried: Vec<Tried>,
    /// The last `cache*`.
    cache: Option<&'a Path>,
}

impl<'a> Search<'a> {
    fn element(&mut self, element: &'a Element) -> Option<Found> {
        match element {
            Element::Folder(folder) => {
                let path = self.in_folder(folder)?;
                Some(self.keep(path, self.cache.into_iter(), None))
            }
            Element::Cache(folder) => {
                self.cache = Some(folder);
                let path = self.in_folder(folder)?;
                Some(Found {
                    path,
                    fetched_from: None,
                })
            }
            Element::Chain { caches, store } => self.chain(caches, store),
        }
    }

    fn chain(&mut self, caches: &'a [PathBuf], store: &Store) -> Option<Found> {
        for (index, cache) in caches.iter().enumerate() {
            if let Some(path) = self.in_folder(cache) {
                return Some(self.keep(path, caches[..index].iter().map(PathBuf::as_path), None));
            }
        }
        let outer = self.cache;
        let places = caches.iter().map(PathBuf::as_path).chain(outer);
        match store {
            Store::Folder(folder) => {
                let path = self.in_folder(folder)?;
                Some(self.keep(path, places, None))
            }
            Store::Server(server) => {
                let mut places = places;
                // The farthest cache gets the file first, as the nearer ones are filled from it.
                let Some(first) = places.next() else {
                    self.miss(
                        server,
                        "it needs a cache to put files into: srv*FOLDER*SERVER, or cache*FOLDER before it",
                    );
                    return None;
                };
                let path = self.fetch(server, first)?;
                Some(self.keep(path, places, Some(server)))
            }
        }
    }

    /// The file in a folder: flat, in a store, or in a store of two tiers.
    fn in_folder(&mut self, folder: &Path) -> Option<PathBuf> {
        let mut why = None;
        for candidate in self.candidates(folder) {
            match Pdb::identify(&candidate) {
                Ok(found) if found.guid == self.id.guid && found.ages.contains(&self.id.age) => {
                    return Some(candidate);
                }
                Ok(found) => why = Some(format!("the file there is {}", found.guid)),
                Err(error) if error.is_not_found() => {}
                Err(error) => why = Some(error.to_string()),
            }
        }
        let why = why
            .or_else(|| self.unusable(folder))
            .unwrap_or_else(|| "not there".to_owned());
        self.miss(&folder.display().to_string(), &why);
        None
    }

    fn candidates(&self, folder: &Path) -> Vec<PathBuf> {
        let name = &self.id.name;
        let lower = name.to_ascii_lowercase();
        let mut paths = Vec::new();
        for name in [name.as_str(), lower.as_str()] {
            let tail = Path::new(name).join(self.id.key()).join(name);
            if let Some(two) = name.get(..2) {
                paths.push(folder.join(two).join(&tail));
            }
            paths.push(folder.join(&tail));
            paths.push(folder.join(name));
        }
        paths.dedup();
        paths
    }

    /// What a store has in place of the file that can't be used here.
    fn unusable(&self, folder: &Path) -> Option<String> {
        let inside = folder.join(&self.id.name).join(self.id.key());
        let compressed = format!("{}_", &self.id.name[..self.id.name.len() - 1]);
        if inside.join(compressed).exists() {
            Some("it is there compressed (.pd_): expand it".to_owned())
        } else if inside.join("file.ptr").exists() {
            Some("the store only points elsewhere (file.ptr): put that place on the symbol path".to_owned())
        } else {
            None
        }
    }

    /// Fetches into a cache: under another name first, so that nobody sees half a file.
    fn fetch(&mut self, server: &str, cache: &Path) -> Option<PathBuf> {
        let url = format!("{server}/{}/{}/{}", self.id.name, self.id.key(), self.id.name);
        let result = put(&self.in_store(cache), |temporary| {
            http::fetch(&url, temporary)?;
            let found = Pdb::identify(temporary).map_err(|error| error.to_string())?;
            if found.guid == self.id.guid {
                Ok(())
            } else {
                Err(format!("it sent another file, of {}", found.guid))
            }
        });
        match result {
            Ok(path) => Some(path),
            Err(why) => {
                self.miss(server, &why);
                None
            }
        }
    }

    /// Copies what was found into caches on the way. That a cache can't be written is no reason not to use the file.
    fn keep<'p>(&self, path: PathBuf, caches: impl Iterator<Item = &'p Path>, server: Option<&str>) -> Found {
        for cache in caches {
            let to = self.in_store(cache);
            if to == path || to.exists() {
                continue;
            }
            let copied = put(&to, |temporary| {
                fs::copy(&path, temporary)
                    .map(drop)
                    .map_err(|error| error.to_string())
            });
            if let Err(why) = copied {
                tracing::debug!(cache = %cache.display(), why, "a symbol cache wasn't filled");
            }
        }
        Found {
            path,
            fetched_from: server.map(str::to_owned),
        }
    }

    fn in_store(&self, folder: &Path) -> PathBuf {
        folder.join(&self.id.name).join(self.id.key()).join(&self.id.name)
    }

    fn miss(&mut self, place: &str, why: &str) {
        self.tried.push(Tried {
            place: place.to_owned(),
            why: why.to_owned(),
        });
    }

    fn error(self) -> LocateError {
        LocateError {
            id: self.id.clone(),
            tried: self.tried,
        }
    }
}

/// Makes a file with `write`, which gets a temporary name beside it, and renames it into place.
fn put(path: &Path, write: impl FnOnce(&Path) -> Result<(), String>) -> Result<PathBuf, String> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().ok_or("the cache has no folder")?;
    let wrong = |what: &str, error: io::Error| format!("{what} {}: {error}", folder.display());
    fs::create_dir_all(folder).map_err(|error| wrong("cannot make", error))?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!(".{}-{number}.part", std::process::id()));
    let result = write(&temporary)
        .and_then(|()| fs::rename(&temporary, path).map_err(|error| wrong("cannot write into", error)));
    match result {
        Ok(()) => Ok(path.to_owned()),
        Err(why) => {
            // It may never have been made.
            let _ = fs::remove_file(&temporary);
            Err(why)
        }
    }
}
