//! `qXfer:libraries:read`: the kernel's modules as shared libraries, or those of the process that is debugged. gdb fetches them by
//! `vFile`.

use super::threads::part;
use super::{Code, Flow, pair};
use crate::files;
use crate::guest::Guest;
use crate::threads::xml;
use std::fmt::Write;

/// `:offset,length`. An empty list where there is no Linux.
pub fn read(guest: &mut Guest, rest: &[u8]) -> Flow {
    let Some((offset, length)) = rest.strip_prefix(b":").and_then(pair) else {
        return Flow::error(Code::Refused);
    };
    let mut text = String::from("<library-list version=\"1.0\">");
    if let Some(process) = guest.inferior.process() {
        for (path, base) in process.libraries(guest) {
            let name = xml(&path);
            let _ = write!(
                text,
                "<library name=\"{name}\"><segment address=\"{:#x}\"/></library>",
                base.0
            );
        }
        text.push_str("</library-list>");
        return Flow::Answer(part(text.as_bytes(), offset, length));
    }
    let linux = guest.linux();
    let modules = linux
        .as_ref()
        .map(|linux| guest.modules(linux))
        .unwrap_or_default();
    if let Some(linux) = &linux {
        for module in &modules {
            // Nothing in it needs escapes.
            let name = guest.name_of_module(linux, module);
            let _ = write!(text, "<library name=\"{name}\">");
            for part in &module.parts {
                let _ = write!(text, "<section address=\"{:#x}\"/>", part.base.0);
            }
            text.push_str("</library>");
        }
    }
    text.push_str("</library-list>");
    guest.told_modules = Some(files::Told::new(linux, &modules));
    Flow::Answer(part(text.as_bytes(), offset, length))
}
