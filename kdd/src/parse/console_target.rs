//! Where a guest's console goes: `stdio`, `unix:PATH`, `file:PATH`, `none`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the first serial port of a guest is connected.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ConsoleTarget {
    /// The terminal of `kdd run`.
    Stdio,
    /// A Unix socket that the service listens on.
    Unix(PathBuf),
    /// A file that output is appended to.
    File(PathBuf),
    /// Nowhere.
    #[default]
    None,
}

impl FromStr for ConsoleTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "stdio" => Ok(ConsoleTarget::Stdio),
            None if text == "none" => Ok(ConsoleTarget::None),
            Some(("unix", path)) if !path.is_empty() => Ok(ConsoleTarget::Unix(path.into())),
            Some(("file", path)) if !path.is_empty() => Ok(ConsoleTarget::File(path.into())),
            _ => Err(format!(
                "'{text}' is no console: write stdio, unix:PATH, file:PATH or none"
            )),
        }
    }
}

impl fmt::Display for ConsoleTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConsoleTarget::Stdio => f.write_str("stdio"),
            ConsoleTarget::Unix(path) => write!(f, "unix:{}", path.display()),
            ConsoleTarget::File(path) => write!(f, "file:{}", path.display()),
            ConsoleTarget::None => f.write_str("none"),
        }
    }
}

super::serde_as_string!(ConsoleTarget);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consoles_read_back_as_written() {
        for text in ["stdio", "none", "unix:/a b", "file:out.log"] {
            assert_eq!(text.parse::<ConsoleTarget>().unwrap().to_string(), text);
        }
        for text in ["", "tty", "unix:", "file", "stdio:"] {
            assert!(text.parse::<ConsoleTarget>().is_err(), "{text}");
        }
    }
}
