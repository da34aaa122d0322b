//! Addresses, identifiers and units: one type for each space, so that they can't be mixed up.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl $name {
            /// The address `offset` bytes further on, wrapping at 2^64.
            pub const fn wrapping_add(self, offset: u64) -> Self {
                Self(self.0.wrapping_add(offset))
            }
            /// The address `offset` bytes further on, or `None` past the end of the space.
            pub const fn checked_add(self, offset: u64) -> Option<Self> {
                match self.0.checked_add(offset) {
                    Some(a) => Some(Self(a)),
                    None => None,
                }
            }
            /// The start of the 4 KiB page that holds this address.
            pub const fn page_base(self) -> Self {
                Self(self.0 & !0xfff)
            }
            /// The offset of this address in its 4 KiB page.
            pub const fn page_offset(self) -> usize {
                (self.0 & 0xfff) as usize
            }
            /// The number of the 4 KiB page that holds this address.
            pub const fn frame(self) -> u64 {
                self.0 >> 12
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// A guest-physical address: what the guest's page tables map to.
    GuestPhysAddr
}
address! {
    /// A guest linear (virtual) address: after segmentation, before paging.
    GuestVirtAddr
}

/// A vCPU of a domain, counted from 0; equals its initial APIC id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct VcpuId(pub u32);

impl VcpuId {
    /// The id as an index into per-vCPU tables.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for VcpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A domain's identity: random, never reused while the host runs, kept by save, restore and migration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct DomId(pub u64);

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Virtual time of a domain. One tick is one retired instruction of any vCPU (each iteration of a REP string
/// instruction counts as one), or an equal time that passed while every vCPU was halted. A tick is
/// [`Ticks::NANOSECONDS`] of guest time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Ticks(pub u64);

impl Ticks {
    /// Guest nanoseconds in one tick: the engine's nominal speed is 100 million instructions a second.
    pub const NANOSECONDS: u64 = 10;
    /// Ticks in one guest second.
    pub const PER_SECOND: u64 = 1_000_000_000 / Self::NANOSECONDS;
    /// A time that is never reached.
    pub const NEVER: Ticks = Ticks(u64::MAX);

    /// Guest nanoseconds since the domain was created.
    pub const fn nanoseconds(self) -> u64 {
        self.0.wrapping_mul(Self::NANOSECONDS)
    }
    /// The first tick at which at least `ns` guest nanoseconds have passed.
    pub const fn from_nanoseconds_ceil(ns: u64) -> Ticks {
        Ticks(ns.div_ceil(Self::NANOSECONDS))
    }
    /// `ticks` later; saturates at [`Ticks::NEVER`].
    pub const fn after(self, ticks: u64) -> Ticks {
        Ticks(self.0.saturating_add(ticks))
    }
}
