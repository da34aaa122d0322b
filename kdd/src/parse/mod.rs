//! What users type, turned into values: sizes, addresses, ports to listen on, names.
//!
//! Each parser takes a `&str` and gives a value or a sentence that says what is wrong with it. They are used by the
//! command line and by the service's configuration file alike.

mod address;
mod console_target;
mod kd_address;
mod name;
mod place;
mod size;

pub use address::{address, hex_bytes, port};
pub use console_target::ConsoleTarget;
pub use endpoint::ListenAddress;
pub use kd_address::KdAddress;
pub use name::{domain_name, looks_like_an_id};
pub use place::Place;
pub use size::{length, memory_size};

/// Implements serde for a type that is written as its `Display` and read by its `FromStr`.
macro_rules! serde_as_string {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_string;
