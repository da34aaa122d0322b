//! Recognition of guests made of bytes, in every mode a vCPU may be in, and with everything broken.

mod hostile;
mod memory;
mod nt;
mod recognise;
