//! MMX and SSE up to SSE4.2, AES and PCLMULQDQ as pure functions.
//!
//! Integer operations are generic over [`Vector`], so that an MMX instruction and its SSE2 form are one function at
//! two widths. Floating-point ones take an [`Env`], which holds MXCSR's controls and gathers exception flags:
//!
//! ```text
//!  MXCSR ──Env::new──► operations on lanes ──Env::finish──► MXCSR with flags, or an unmasked exception
//! ```
//!
//! Nothing here knows of guest memory or of the register file; the instruction handlers do.

pub mod aes;
pub mod approx;
pub mod bytes;
pub mod clmul;
pub mod convert;
pub mod crc32;
pub mod env;
pub mod integer;
pub mod packed;
pub mod pcmpstr;
pub mod scalar;
pub mod shift;
pub mod shuffle;
pub mod vector;

pub use env::Env;
pub use vector::Vector;
