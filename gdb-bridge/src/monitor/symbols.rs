//! `symbols`: the symbol file for debuggers that don't fetch it by themselves, and what they do with it.

use crate::files::{file_name, plain};
use crate::guest::Guest;
use std::fmt::Write;
use std::path::PathBuf;

/// The service's name for the file is taken again for the next kernel of the domain; a user's file must be new.
pub fn symbols(guest: &mut Guest, arguments: &[&str]) -> Result<String, String> {
    guest.hold();
    let linux = guest.target.linux().map_err(|why| why.to_string())?;
    let cache = guest.options.symbols.clone();
    let file = guest
        .target
        .linux_symbol_file(&linux, cache.as_deref())
        .map_err(|why| why.to_string())?;
    let path = match (arguments, &cache) {
        ([path], _) => {
            let written = std::fs::File::create_new(path)
                .and_then(|mut out| std::io::Write::write_all(&mut out, file.bytes()));
            written.map_err(|error| format!("{path}: {error}"))?;
            PathBuf::from(path)
        }
        ([], Some(cache)) => {
            let name = format!("{}-{}", plain(&guest.domain().name()), file_name(&linux));
            cache.export(&name, &file).map_err(|error| error.to_string())?
        }
        ([], None) => return Err("this service keeps no files; say where to: symbols FILE".into()),
        _ => return Err("one file name, without spaces".into()),
    };
    let path = path.display();
    let (base, slide) = (linux.kernel().base, linux.kernel().slide());
    let mut text = format!("{}, _text at {base}, moved by {slide:#x}\n", linux.description());
    let _ = write!(
        text,
        "lldb, before gdb-remote:  target create {path}\n\
         lldb, after it:           target modules add {path}\n\
         \x20                         target modules load --file {path} --slide 0\n\
         gdb, without fetching:    symbol-file {path}\n\
         with the build's own vmlinux in place of this file:\n\
         gdb:                      add-symbol-file vmlinux -o {slide:#x}\n\
         lldb:                     target modules add vmlinux\n\
         \x20                         target modules load --file vmlinux --slide {slide:#x}\n"
    );
    Ok(text)
}
