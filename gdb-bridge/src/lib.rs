//! The GDB remote stub.
