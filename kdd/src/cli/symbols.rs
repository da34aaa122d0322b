//! `kdd symbols`.

use super::common::{Common, unexpected};
use super::destination::Destination;
use super::output;
use crate::Failure;
use crate::control::message::{GuestSymbol, Reply, Request, SymbolFileReport};
use std::fmt::Write;
use std::path::PathBuf;

/// List or look up the symbols of the guest's kernel, or write them to a file for a debugger
///
/// They come from the guest's memory alone (kallsyms, and those of its modules), at the addresses of this boot; of a Windows kernel from its PDB.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Lines are those of /proc/kallsyms: address, type, name. For an address it is the symbol that it is in, with the \
    distance: do_exit+0x10; a module's name comes behind. With --json: an object a symbol, with `address`, `type`, `name`, `module`, `offset`.\n\n\
    Examples:\n  kdd symbols linux > kallsyms\n  kdd symbols linux do_exit\n  kdd symbols linux ffffffff81234567\n  \
    kdd symbols linux --elf vmlinux && gdb vmlinux"
)]
pub(super) struct Args {
    /// The domain's name or id
    #[arg(value_name = "DOM")]
    domain: String,
    /// A name, for all that have it; or an address, for the nearest before it
    #[arg(value_name = "NAME|ADDR", conflicts_with = "elf")]
    find: Option<String>,
    /// Write an ELF file with symbols, types and rules for unwinding, which gdb and lldb take for the kernel's vmlinux; '-' is
    /// standard output
    #[arg(long, value_name = "FILE")]
    elf: Option<PathBuf>,
    /// Replace a file that exists
    #[arg(long, requires = "elf")]
    force: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) fn execute(args: Args) -> Result<(), Failure> {
    match &args.elf {
        Some(path) => {
            let destination = Destination::new("symbols", path)?;
            write(args, destination)
        }
        None => list(&args),
    }
}

fn list(args: &Args) -> Result<(), Failure> {
    let mut client = args.common.client()?;
    let (mut skip, mut held) = (0, false);
    loop {
        let request = Request::Symbols {
            domain: args.domain.clone(),
            find: args.find.clone(),
            skip,
        };
        let found = match client.ask(request)? {
            Reply::Symbols(found) => found,
            other => return Err(unexpected(&other)),
        };
        if found.next.is_some() && !held {
            // More than one message: all of them are of the same kernel.
            client.ask(Request::Hold {
                domain: args.domain.clone(),
            })?;
            held = true;
            continue;
        }
        print(&found.symbols, args.common.json)?;
        match found.next {
            Some(next) if next > skip => skip = next,
            _ => return Ok(()),
        }
    }
}

fn print(symbols: &[GuestSymbol], json: bool) -> Result<(), Failure> {
    let mut text = String::with_capacity(symbols.len() * 48);
    for symbol in symbols {
        if json {
            let object = serde_json::to_string(symbol)
                .map_err(|error| Failure::new("standard output", error, "leave --json out"))?;
            text += &object;
            text.push('\n');
        } else {
            line(symbol, &mut text);
        }
    }
    output::print(&text)
}

/// As /proc/kallsyms has it.
fn line(symbol: &GuestSymbol, text: &mut String) {
    let kind = symbol.kind.as_deref().unwrap_or("?");
    let _ = write!(text, "{:016x} {kind} {}", symbol.address.0, symbol.name);
    if let Some(offset) = symbol.offset {
        let _ = write!(text, "+{offset:#x}");
    }
    if let Some(module) = &symbol.module {
        let _ = write!(text, "\t[{module}]");
    }
    text.push('\n');
}

fn write(args: Args, destination: Destination) -> Result<(), Failure> {
    let to_stdout = destination.is_stdout();
    let request = Request::SymbolFile {
        domain: args.domain.clone(),
        path: destination.path(),
        force: args.force,
    };
    let asked = args.common.ask(request);
    let copied = destination.finish();
    let report = match asked? {
        Reply::SymbolFile(report) => report,
        other => return Err(unexpected(&other)),
    };
    copied?;
    output::print_report(&report, args.common.json, to_stdout, words)
}

fn words(report: &SymbolFileReport) -> String {
    format!(
        "{} ({} bytes)\n  of {}, at {}\n",
        report.path.display(),
        output::grouped(report.bytes),
        report.os,
        report.kernel_base
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_kallsyms() {
        let mut symbol = GuestSymbol {
            address: 0xffff_ffff_8100_0000.into(),
            kind: Some("T".into()),
            name: "_stext".into(),
            module: None,
            offset: None,
        };
        let mut text = String::new();
        line(&symbol, &mut text);
        symbol.address = 0.into();
        symbol.module = Some("loop".into());
        symbol.offset = Some(16);
        line(&symbol, &mut text);
        assert_eq!(
            text,
            "ffffffff81000000 T _stext\n0000000000000000 T _stext+0x10\t[loop]\n"
        );
    }
}
