//! What `uname` says.

use super::Linux;
use super::error::Error;
use hv_core::introspect::ReadMemory;

/// `__NEW_UTS_LEN` and its NUL (include/uapi/linux/utsname.h).
pub const UTS_FIELD: usize = 65;

/// `struct new_utsname`: sysname, nodename, release, version, machine, domainname, each ended by a NUL.
pub type Utsname = [[u8; UTS_FIELD]; 6];

impl Linux {
    /// The initial namespace's names.
    ///
    /// # Errors
    /// [`Error`] if their place isn't known, or can't be read.
    pub fn utsname(&self, memory: &dyn ReadMemory) -> Result<Utsname, Error> {
        const WHAT: &str = "init_uts_ns";
        let namespace = self.needed(WHAT)?;
        let offset = self.offset("uts_namespace", "name")?;
        let mut bytes = [0; UTS_FIELD * 6];
        self.space(memory)
            .bytes(WHAT, namespace.wrapping_add(offset), &mut bytes)?;
        let mut names = [[0; UTS_FIELD]; 6];
        for (name, bytes) in names.iter_mut().zip(bytes.chunks_exact(UTS_FIELD)) {
            name.copy_from_slice(bytes);
            name[UTS_FIELD - 1] = 0;
        }
        Ok(names)
    }
}
