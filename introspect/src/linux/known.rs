//! What was recognised once, and is shared by all who look at a domain.

use super::{Linux, NotLinux, SymbolFileError};
use crate::target::Target;
use std::sync::{Arc, Mutex, PoisonError};
use symbols::synthetic::SymbolFile;
use symbols::synthetic::cache::Cache;

/// The Linux that was last seen in a domain. Its lock is apart from the target's: reading memory waits for nobody's events.
#[derive(Default)]
pub(crate) struct Known(Mutex<Option<Kept>>);

/// How often a kernel that doesn't tell all is looked at anew: while it starts, what it has grows.
const MOST_LOOKS: u32 = 8;

struct Kept {
    linux: Arc<Linux>,
    looks: u32,
    symbol_file: Option<Arc<SymbolFile>>,
}

impl Target {
    /// The Linux kernel of the guest, which stands still meanwhile: the one that was recognised before, if it is still there.
    ///
    /// # Errors
    /// [`NotLinux`]. A kernel that is still starting may be recognised later.
    pub fn linux(&self) -> Result<Arc<Linux>, NotLinux> {
        let mut known = self.linux.0.lock().unwrap_or_else(PoisonError::into_inner);
        let domain = self.domain();
        let kept = known.take().filter(|kept| kept.linux.is_still_there(&**domain));
        let looks = kept.as_ref().map_or(0, |kept| kept.looks);
        if let Some(kept) = kept.filter(|kept| kept.linux.is_complete() || looks >= MOST_LOOKS) {
            return Ok(known.insert(kept).linux.clone());
        }
        let linux = Linux::recognise((&**domain).into());
        let linux = match linux {
            // A dump may have no registers, and nothing older than the kernel whose dump it is.
            Err(_) if domain.control_run().is_none() => Linux::recognise_in_memory(&**domain),
            linux => linux,
        };
        let linux = Arc::new(linux?);
        *known = Some(Kept {
            linux: linux.clone(),
            looks: looks + 1,
            symbol_file: None,
        });
        Ok(linux)
    }

    /// The symbol file of `linux`, which is this guest's, made once for all who ask.
    ///
    /// # Errors
    /// [`SymbolFileError`].
    pub fn linux_symbol_file(
        &self,
        linux: &Arc<Linux>,
        cache: Option<&Cache>,
    ) -> Result<Arc<SymbolFile>, SymbolFileError> {
        let mut known = self.linux.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = known.as_mut().filter(|kept| Arc::ptr_eq(&kept.linux, linux));
        if let Some(file) = kept.as_ref().and_then(|kept| kept.symbol_file.clone()) {
            return Ok(file);
        }
        let file = Arc::new(linux.symbol_file(&**self.domain(), cache)?);
        if let Some(kept) = kept {
            kept.symbol_file = Some(file.clone());
        }
        Ok(file)
    }
}
