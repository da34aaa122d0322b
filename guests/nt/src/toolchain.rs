//! The compiler and the linker: Debian's `clang`, `lld-link` and `llvm-dlltool`.

use crate::NtError;
use std::path::Path;
use std::process::Command;

/// What says how to get the tools.
const HINT: &str = "setup/guest-nt.sh installs it (Debian's packages clang, lld and llvm)";

/// Runs a tool in a folder; what it prints is returned.
pub(crate) fn run(tool: &str, folder: &Path, arguments: &[String]) -> Result<String, NtError> {
    let output = Command::new(tool)
        .args(arguments)
        .current_dir(folder)
        .output()
        .map_err(|error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                NtError::NoTool {
                    tool: tool.to_owned(),
                    hint: HINT,
                }
            } else {
                NtError::Io {
                    path: tool.into(),
                    error,
                }
            }
        })?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        Ok(text)
    } else {
        Err(NtError::Tool {
            tool: tool.to_owned(),
            output: text,
        })
    }
}

/// The versions of the tools, as they print them.
///
/// # Errors
///
/// When one isn't installed.
pub fn versions() -> Result<String, NtError> {
    let mut text = String::new();
    for (tool, argument) in [("clang", "--version"), ("lld-link", "--version")] {
        let printed = run(tool, Path::new("."), &[argument.to_owned()])?;
        text.push_str(printed.lines().next().unwrap_or_default());
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_is_not_there_is_named_with_what_installs_it() {
        let error = run("no-such-compiler", Path::new("."), &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains("no-such-compiler isn't installed"), "{error}");
        assert!(error.contains("setup/guest-nt.sh"), "{error}");
    }
}
