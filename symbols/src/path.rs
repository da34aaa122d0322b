//! The symbol path of the Debugging Tools for Windows ("Symbol path for Windows debuggers", Microsoft Learn).
//!
//! ```text
//!   path     element (';' element)*
//!   element  'srv*' chain | 'symsrv*' dll '*' chain | 'cache*' [folder] | folder | url
//!   chain    place ('*' place)*        the last is the store, those before are caches, the nearest first
//!   place    folder | url
//! ```

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path, in bytes.
const MAX_LENGTH: usize = 0x1_0000;
/// The most elements.
const MAX_ELEMENTS: usize = 256;

/// Where PDB files are looked for, in order. The default is empty: nothing is found and nothing fetched.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SymbolPath {
    pub(crate) elements: Vec<Element>,
}

/// One element of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Element {
    /// A folder: the file itself, or a store.
    Folder(PathBuf),
    /// A chain of caches, the nearest first, and the store behind them.
    Chain { caches: Vec<PathBuf>, store: Store },
    /// A cache for all elements that follow.
    Cache(PathBuf),
}

/// A symbol store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Store {
    Folder(PathBuf),
    /// `http://` or `https://`, without a slash at the end.
    Server(String),
}

/// Why a text is no symbol path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SymbolPathError {
    /// It, or a part of it, is longer than is sensible.
    #[error("the symbol path is too long")]
    TooLong,
    /// An element has no store where it needs one.
    #[error("'{0}' names no store: srv*CACHE*SERVER, srv*FOLDER or cache*FOLDER")]
    NoStore(String),
    /// A server stands where only a folder can.
    #[error("'{0}' can't be a cache: a cache is a folder")]
    ServerAsCache(String),
}

impl SymbolPath {
    /// The path in `_NT_SYMBOL_PATH`, empty if that isn't set.
    ///
    /// # Errors
    /// [`SymbolPathError`].
    pub fn from_environment() -> Result<SymbolPath, SymbolPathError> {
        match std::env::var("_NT_SYMBOL_PATH") {
            Ok(path) => path.parse(),
            Err(_) => Ok(SymbolPath::default()),
        }
    }

    /// Whether there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// Whether a lookup may go to a server.
    pub fn has_servers(&self) -> bool {
        let is_server = |element: &Element| {
            matches!(
                element,
                Element::Chain {
                    store: Store::Server(_),
                    ..
                }
            )
        };
        self.elements.iter().any(is_server)
    }

    /// The same without its servers; what they once brought into caches is still found. A lookup in it is quick.
    pub fn local(&self) -> SymbolPath {
        let elements = self.elements.iter().flat_map(|element| match element {
            Element::Chain {
                caches,
                store: Store::Server(_),
            } => caches.iter().cloned().map(Element::Folder).collect(),
            other => vec![other.clone()],
        });
        SymbolPath {
            elements: elements.collect(),
        }
    }

    /// This path, then another's elements.
    pub fn and(mut self, other: SymbolPath) -> SymbolPath {
        self.elements.extend(other.elements);
        self
    }
}

impl FromStr for SymbolPath {
    type Err = SymbolPathError;

    fn from_str(text: &str) -> Result<SymbolPath, SymbolPathError> {
        if text.len() > MAX_LENGTH || text.split(';').count() > MAX_ELEMENTS {
            return Err(SymbolPathError::TooLong);
        }
        let elements = text
            .split(';')
            .map(str::trim)
            .filter(|element| !element.is_empty());
        Ok(SymbolPath {
            elements: elements.map(element).collect::<Result<_, _>>()?,
        })
    }
}

fn element(text: &str) -> Result<Element, SymbolPathError> {
    let mut parts = text.split('*').map(str::trim);
    let first = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    if rest.is_empty() {
        return Ok(match store(first) {
            Store::Folder(folder) => Element::Folder(folder),
            store => Element::Chain {
                caches: Vec::new(),
                store,
            },
        });
    }
    let no_store = || SymbolPathError::NoStore(text.to_owned());
    match first.to_ascii_lowercase().as_str() {
        "srv" => chain(&rest).unwrap_or_else(|| Err(no_store())),
        // The DLL is whose protocol it is; there is one.
        "symsrv" => chain(&rest[1..]).unwrap_or_else(|| Err(no_store())),
        "cache" => match rest.as_slice() {
            [folder] if !folder.is_empty() => folder_of(folder).map(Element::Cache),
            _ => Err(no_store()),
        },
        _ => Err(no_store()),
    }
}

/// The places of a chain; `None` if it names no store. Empty ones stand for a default folder, which there isn't here.
fn chain(places: &[&str]) -> Option<Result<Element, SymbolPathError>> {
    let (last, caches) = places.split_last()?;
    if last.is_empty() {
        return None;
    }
    let caches: Result<Vec<_>, _> = caches
        .iter()
        .filter(|place| !place.is_empty())
        .map(|place| folder_of(place))
        .collect();
    Some(caches.map(|caches| Element::Chain {
        caches,
        store: store(last),
    }))
}

fn folder_of(place: &str) -> Result<PathBuf, SymbolPathError> {
    match store(place) {
        Store::Folder(folder) => Ok(folder),
        Store::Server(server) => Err(SymbolPathError::ServerAsCache(server)),
    }
}

fn store(place: &str) -> Store {
    let scheme = place
        .split_once("://")
        .map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("http" | "https") => Store::Server(place.trim_end_matches('/').to_owned()),
        _ => Store::Folder(PathBuf::from(place)),
    }
}

impl fmt::Display for SymbolPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, element) in self.elements.iter().enumerate() {
            if index > 0 {
                f.write_str(";")?;
            }
            match element {
                Element::Folder(folder) => write!(f, "{}", folder.display())?,
                Element::Cache(folder) => write!(f, "cache*{}", folder.display())?,
                Element::Chain { caches, store } => {
                    f.write_str("srv")?;
                    for cache in caches {
                        write!(f, "*{}", cache.display())?;
                    }
                    write!(f, "*{store}")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Store::Folder(folder) => write!(f, "{}", folder.display()),
            Store::Server(server) => f.write_str(server),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> SymbolPath {
        text.parse().unwrap()
    }

    #[test]
    fn chains_have_their_caches_before_the_store() {
        let expected = Element::Chain {
            caches: vec!["/near".into(), "/far".into()],
            store: Store::Server("http://server/store".to_owned()),
        };
        assert_eq!(
            path("SRV*/near*/far*http://server/store/").elements,
            std::slice::from_ref(&expected)
        );
        assert_eq!(
            path("symsrv*symsrv.dll*/near*/far*http://server/store").elements,
            [expected]
        );
    }

    #[test]
    fn elements_are_split_at_semicolons_and_empty_ones_left_out() {
        let path = path("/flat ; ;cache*/c;srv*/store;https://server");
        assert_eq!(path.to_string(), "/flat;cache*/c;srv*/store;srv*https://server");
        assert!(path.has_servers());
    }

    #[test]
    fn a_local_path_keeps_caches_and_has_no_server() {
        let path = path("srv*/c*http://s;/flat").local();
        assert_eq!(path.to_string(), "/c;/flat");
        assert!(!path.has_servers());
    }

    #[test]
    fn what_names_no_store_is_refused() {
        for text in ["srv*", "srv*/c*", "symsrv*x.dll", "cache*", "other*/x"] {
            assert_eq!(
                text.parse::<SymbolPath>(),
                Err(SymbolPathError::NoStore(text.to_owned()))
            );
        }
        assert!(matches!(
            "srv*http://a*http://b".parse::<SymbolPath>(),
            Err(SymbolPathError::ServerAsCache(_))
        ));
        assert_eq!(
            ";".repeat(300).parse::<SymbolPath>(),
            Err(SymbolPathError::TooLong)
        );
    }

    #[test]
    fn nothing_is_the_empty_path() {
        assert!(path("").is_empty());
    }
}
