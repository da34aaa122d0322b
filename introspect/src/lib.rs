//! The dom0 side of a domain: one [`Target`] per domain, shared by all debuggers.
