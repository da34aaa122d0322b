//! The NTSTATUS values that replies carry, and the exception codes of state changes (ntstatus.h).

use std::fmt;

/// An NTSTATUS value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NtStatus(pub u32);

#[allow(missing_docs)] // the names are ntstatus.h's
impl NtStatus {
    pub const SUCCESS: NtStatus = NtStatus(0);
    pub const UNSUCCESSFUL: NtStatus = NtStatus(0xc000_0001);
    pub const NOT_IMPLEMENTED: NtStatus = NtStatus(0xc000_0002);
    pub const INVALID_PARAMETER: NtStatus = NtStatus(0xc000_000d);
    pub const NO_SUCH_DEVICE: NtStatus = NtStatus(0xc000_000e);
    pub const NOT_FOUND: NtStatus = NtStatus(0xc000_0225);
    pub const DATATYPE_MISALIGNMENT: NtStatus = NtStatus(0x8000_0002);

    pub const BREAKPOINT: NtStatus = NtStatus(0x8000_0003);
    pub const SINGLE_STEP: NtStatus = NtStatus(0x8000_0004);
    pub const WAKE_SYSTEM_DEBUGGER: NtStatus = NtStatus(0x8000_0007);
    pub const ACCESS_VIOLATION: NtStatus = NtStatus(0xc000_0005);
    pub const ASSERTION_FAILURE: NtStatus = NtStatus(0xc000_0420);

    pub const DBG_EXCEPTION_HANDLED: NtStatus = NtStatus(0x0001_0001);
    pub const DBG_CONTINUE: NtStatus = NtStatus(0x0001_0002);
    pub const DBG_EXCEPTION_NOT_HANDLED: NtStatus = NtStatus(0x8001_0001);

    /// NT_SUCCESS: neither a warning nor an error.
    pub const fn is_success(self) -> bool {
        self.0 < 0x8000_0000
    }
}

impl fmt::Debug for NtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NtStatus({:#010x})", self.0)
    }
}

impl fmt::Display for NtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_continues_with_counts_as_nt_success_does() {
        assert!(NtStatus::DBG_CONTINUE.is_success() && NtStatus::DBG_EXCEPTION_HANDLED.is_success());
        assert!(!NtStatus::DBG_EXCEPTION_NOT_HANDLED.is_success());
    }
}
