//! `kdd mem read`, `kdd mem write`.

use super::common::{Common, unexpected};
use super::output;
use crate::control::hex::HexBytes;
use crate::control::message::{MAX_MEMORY, MemorySpace, Reply, Request};
use crate::parse;
use crate::{Failure, FailureKind};
use clap::Subcommand;
use serde_json::json;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Read or write guest memory
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  kdd mem read linux ffffffff81000000 64")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Read(ReadArgs),
    Write(WriteArgs),
}

/// Read guest memory: a hex dump, or a file
///
/// The guest is paused only while it is read. A read stops at the first page that isn't there, shows what it has,
/// and ends with status 1.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "With --json: one object for at most 1 MiB each, with \"address\" and \"bytes\".\n\n\
    Example:\n  kdd mem read linux 0 256M --phys -o memory.raw"
)]
struct ReadArgs {
    #[command(flatten)]
    place: Place,
    /// How many bytes: 64, 0x40, 4K, 16M
    #[arg(value_name = "LEN", value_parser = parse::length)]
    length: u64,
    /// Write the bytes to this file ('-' is standard output)
    #[arg(short, long, value_name = "FILE", conflicts_with = "json")]
    output: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// Write guest memory; the guest sees changed code at once
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  kdd mem write linux ffffffff81000000 90 90 cc")]
struct WriteArgs {
    #[command(flatten)]
    place: Place,
    /// The bytes in hex
    #[arg(value_name = "BYTES", value_parser = bytes, required_unless_present = "input", conflicts_with = "input")]
    bytes: Vec<HexBytes>,
    /// Take the bytes from this file ('-' is standard input)
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args, Debug)]
struct Place {
    /// The domain's name or id
    #[arg(value_name = "DOM")]
    domain: String,
    /// The address, in hex: virtual, as the vCPU sees it; or a symbol of the kernel: do_exit+0x10
    #[arg(value_name = "ADDR")]
    address: parse::Place,
    /// The address is guest-physical
    #[arg(long, conflicts_with = "vcpu")]
    phys: bool,
    /// The vCPU whose page tables count
    #[arg(long, value_name = "N", default_value_t = 0)]
    vcpu: u32,
}

impl Place {
    fn space(&self) -> MemorySpace {
        if self.phys {
            MemorySpace::Physical
        } else {
            MemorySpace::Vcpu(self.vcpu)
        }
    }

    /// The range must fit the address space.
    fn check(&self, length: u64) -> Result<(), Failure> {
        if matches!(self.address, parse::Place::Symbol { .. }) && self.phys {
            return Err(Failure::new(
                format_args!("memory at {}", self.address),
                "a symbol has no physical address",
                "leave --phys out, or ask 'kdd translate'",
            )
            .of_kind(FailureKind::Usage));
        }
        if length == 0 || self.address.checked_add(length - 1).is_some() {
            return Ok(());
        }
        Err(Failure::new(
            format_args!("memory at {}", self.address),
            format_args!("{length} bytes from there go past the end of the address space"),
            "give a smaller LEN",
        )
        .of_kind(FailureKind::Usage))
    }

    /// So many bytes behind its start.
    fn after(&self, done: u64) -> Result<parse::Place, Failure> {
        self.address.checked_add(done).ok_or_else(|| {
            Failure::new(
                format_args!("memory at {}", self.address),
                "the address space ends",
                "give a smaller LEN",
            )
        })
    }

    fn stopped(&self, what: &str, done: u64, wanted: u64, why: &str) -> Failure {
        Failure::new(
            format_args!("domain '{}'", self.domain),
            format_args!("only {done} of {wanted} bytes were {what}: {why}"),
            "'kdd translate' shows what is mapped there",
        )
    }
}

pub(super) fn execute(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::Read(args) => read(&args),
        Command::Write(args) => write(args),
    }
}

fn read(args: &ReadArgs) -> Result<(), Failure> {
    args.place.check(args.length)?;
    let mut client = args.common.client()?;
    if args.length > MAX_MEMORY {
        // More than one request: all of them see the same moment.
        client.ask(Request::Hold {
            domain: args.place.domain.clone(),
        })?;
    }
    let mut sink = None;
    let mut done = 0;
    loop {
        let reply = client.ask(Request::ReadMemory {
            domain: args.place.domain.clone(),
            space: args.place.space(),
            address: args.place.after(done)?,
            length: (args.length - done).min(MAX_MEMORY),
        });
        let (address, bytes, mut stopped) = match reply {
            Ok(Reply::Memory(dump)) => (dump.address.low(), dump.bytes.0, dump.stopped),
            Ok(other) => return Err(unexpected(&other)),
            Err(failure) if done > 0 && failure.kind == FailureKind::Failed => {
                (0, Vec::new(), Some(failure.why))
            }
            Err(failure) => return Err(failure),
        };
        done += bytes.len() as u64;
        // Not before there is something to write: an older file outlives a mistyped name.
        match &mut sink {
            Some(open) => open,
            none => none.insert(Sink::open(args)?),
        }
        .put(address, &bytes)?;
        if bytes.is_empty() && done < args.length {
            stopped.get_or_insert_with(|| "nothing more is there".into());
        }
        if let Some(why) = stopped {
            return Err(args.place.stopped("read", done, args.length, &why));
        }
        if done >= args.length {
            return Ok(());
        }
    }
}

fn write(args: WriteArgs) -> Result<(), Failure> {
    let bytes = match &args.input {
        Some(path) => input(path)?,
        None => args.bytes.iter().flat_map(|b| b.0.iter().copied()).collect(),
    };
    args.place.check(bytes.len() as u64)?;
    let mut client = args.common.client()?;
    if bytes.len() as u64 > MAX_MEMORY {
        client.ask(Request::Hold {
            domain: args.place.domain.clone(),
        })?;
    }
    let wanted = bytes.len() as u64;
    let mut done = 0_u64;
    for chunk in bytes.chunks(MAX_MEMORY as usize) {
        let reply = client.ask(Request::WriteMemory {
            domain: args.place.domain.clone(),
            space: args.place.space(),
            address: args.place.after(done)?,
            bytes: HexBytes(chunk.to_vec()),
        });
        let stopped = match reply {
            Ok(Reply::Written { bytes, stopped }) => {
                done += bytes;
                stopped
            }
            Ok(other) => return Err(unexpected(&other)),
            Err(failure) if done > 0 && failure.kind == FailureKind::Failed => Some(failure.why),
            Err(failure) => return Err(failure),
        };
        if let Some(why) = stopped {
            return Err(args.place.stopped("written", done, wanted, &why));
        }
    }
    if args.common.json {
        output::print_json(&json!({"bytes": done}))?;
    }
    Ok(())
}

/// More than any guest has; a mistyped device file ends there.
const MAX_INPUT: u64 = 1 << 32;

fn input(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| Failure::new(path.display(), error, "check the file");
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().take(MAX_INPUT).read_to_end(&mut bytes)
    } else {
        let file = File::open(path).map_err(failed)?;
        file.take(MAX_INPUT).read_to_end(&mut bytes)
    }
    .map_err(failed)?;
    Ok(bytes)
}

fn bytes(text: &str) -> Result<HexBytes, String> {
    parse::hex_bytes(text).map(HexBytes)
}

/// Where memory that was read goes.
enum Sink {
    File(File, PathBuf),
    Raw,
    Json,
    Dump,
}

impl Sink {
    fn open(args: &ReadArgs) -> Result<Sink, Failure> {
        Ok(match &args.output {
            Some(path) if path == Path::new("-") => Sink::Raw,
            Some(path) => {
                let file = File::create(path)
                    .map_err(|e| Failure::new(path.display(), e, "choose another file with -o"))?;
                Sink::File(file, path.clone())
            }
            None if args.common.json => Sink::Json,
            None => Sink::Dump,
        })
    }

    fn put(&mut self, address: u64, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Sink::File(file, path) => file
                .write_all(bytes)
                .map_err(|e| Failure::new(path.display(), e, "choose another file with -o")),
            Sink::Raw => output::print_bytes(bytes),
            Sink::Json => output::print_json(&json!({
                "address": format!("{address:#x}"),
                "bytes": HexBytes(bytes.to_vec()),
            })),
            Sink::Dump => output::print(&hex_dump(address, bytes)),
        }
    }
}

/// Sixteen bytes a line, at their addresses, with their ASCII.
fn hex_dump(address: u64, bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 5);
    for (index, line) in bytes.chunks(16).enumerate() {
        let at = address.wrapping_add(index as u64 * 16);
        let _ = write!(text, "{at:016x}  ");
        for column in 0..16 {
            match line.get(column) {
                Some(byte) => {
                    let _ = write!(text, "{byte:02x} ");
                }
                None => text.push_str("   "),
            }
            if column == 7 {
                text.push(' ');
            }
        }
        text.push_str(" |");
        text.extend(line.iter().map(|&b| match b {
            0x20..=0x7e => char::from(b),
            _ => '.',
        }));
        text.push_str("|\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hex_dump_is_what_hexdump_prints() {
        assert_eq!(
            hex_dump(0xffff_ffff_8100_0000, b"0123456789abcdef\x00A"),
            "ffffffff81000000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|\n\
             ffffffff81000010  00 41                                             |.A|\n"
        );
    }
}
