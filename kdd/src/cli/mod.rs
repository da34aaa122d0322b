//! The command line: one file for each command, which parses, asks a service, and prints.
//!
//! What they share: `common` has the options of every command, `guest` those that name a guest, `output`
//! prints. `run` and `serve` are services themselves; all others are clients.

mod common;
mod completions;
mod create;
mod destination;
mod dmesg;
mod dump;
mod dump_info;
mod fork;
mod gdb;
mod guest;
mod host;
mod info;
mod kd;
mod list;
mod man;
mod mem;
mod modules;
mod output;
mod ps;
mod regs;
mod run;
mod save;
mod serve;
mod state;
mod symbols;
mod threads;
mod translate;
mod watch;

use crate::Failure;
use clap::{Parser, Subcommand};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Debugs virtual machines from outside.
///
/// The service (kdd run, kdd serve) runs guests and lets stock gdb and lldb attach to them, without anything
/// installed or enabled in the guest. Every other command talks to a running service.
#[derive(Parser, Debug)]
#[command(name = "kdd", version, max_term_width = 110, disable_help_subcommand = true)]
#[command(
    after_help = "Exit status: 0 done; 1 it failed; 2 wrong usage; 3 no such domain; \
    4 the service cannot be reached; 124 a --timeout passed.\n\n\
    Example:\n  kdd run --gdb 127.0.0.1:1234"
)]
struct Cli {
    /// More log on standard error: -v says who asked for what, -vv details. KDD_LOG sets it in full
    /// (`KDD_LOG=kdd=debug,gdb_bridge=trace`)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(run::Args),
    Serve(serve::Args),
    Create(create::Args),
    List(list::Args),
    Info(info::Args),
    Pause(state::PauseArgs),
    Unpause(state::UnpauseArgs),
    Reset(state::ResetArgs),
    Destroy(state::DestroyArgs),
    Gdb(gdb::Args),
    Kd(kd::Args),
    Save(save::Args),
    Fork(fork::Args),
    Dump(dump::Args),
    DumpInfo(dump_info::Args),
    Watch(watch::Args),
    Regs(regs::Args),
    Mem(mem::Args),
    Translate(translate::Args),
    Ps(ps::Args),
    Modules(modules::Args),
    Threads(threads::Args),
    Dmesg(dmesg::Args),
    Symbols(symbols::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.verbose);
    match execute(cli.command, cli.verbose) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.exit_status())
        }
    }
}

fn execute(command: Command, verbose: u8) -> Result<u8, Failure> {
    let done = |()| 0;
    match command {
        Command::Run(args) => run::execute(args),
        Command::Serve(args) => serve::execute(args),
        Command::Create(args) => create::execute(args).map(done),
        Command::List(args) => list::execute(&args).map(done),
        Command::Info(args) => info::execute(args, verbose > 0).map(done),
        Command::Pause(args) => state::pause(args).map(done),
        Command::Unpause(args) => state::unpause(args).map(done),
        Command::Reset(args) => state::reset(args).map(done),
        Command::Destroy(args) => state::destroy(args).map(done),
        Command::Gdb(args) => gdb::execute(args).map(done),
        Command::Kd(args) => kd::execute(args).map(done),
        Command::Save(args) => save::execute(args).map(done),
        Command::Fork(args) => fork::execute(args).map(done),
        Command::Dump(args) => dump::execute(args).map(done),
        Command::DumpInfo(args) => dump_info::execute(&args).map(done),
        Command::Watch(args) => watch::execute(args).map(done),
        Command::Regs(args) => regs::execute(args).map(done),
        Command::Mem(args) => mem::execute(args).map(done),
        Command::Translate(args) => translate::execute(args).map(done),
        Command::Ps(args) => ps::execute(args).map(done),
        Command::Modules(args) => modules::execute(args).map(done),
        Command::Threads(args) => threads::execute(args).map(done),
        Command::Dmesg(args) => dmesg::execute(args).map(done),
        Command::Symbols(args) => symbols::execute(args).map(done),
        Command::Completions(args) => completions::execute(&args).map(done),
        Command::Man(args) => man::execute(&args).map(done),
    }
}

/// The definition of the command line, from which completions and man pages are made.
fn definition() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        // gdbstub tells of every packet that it doesn't know.
        1 => "info,gdbstub=warn",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("KDD_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    // A second subscriber would be an error only where a program that embeds this has its own.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(verbose > 1)
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound_and_every_command_has_an_example() {
        definition().debug_assert();
        let mut commands: Vec<clap::Command> = definition().get_subcommands().cloned().collect();
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands().cloned());
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.contains("Example"), "{} has no example", command.get_name());
        }
    }

    #[test]
    fn what_does_not_go_together_is_wrong_usage() {
        let refused = [
            "kdd create",
            "kdd create --kernel k --restore f",
            "kdd create --restore f --memory 1G",
            "kdd create --kernel k --memory 512",
            "kdd create --kernel k --cpus 0",
            "kdd create --kernel k --console stdio",
            "kdd create --kernel k --name 'a/b'",
            "kdd mem read x",
            "kdd mem write x 0",
            "kdd mem write x 0 9",
            "kdd list --timeout -1",
            "kdd gdb x --listen nowhere",
            "kdd kd x --listen connect:5",
            "kdd fork x --count 0",
            "kdd translate x 0xnothing",
            "kdd symbols x do_exit --elf f",
            "kdd symbols x --force",
        ];
        for line in refused {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn what_goes_together_is_accepted() {
        let accepted = [
            "kdd run",
            "kdd run --append nokaslr --gdb 127.0.0.1:0 --gdb unix:/tmp/x --paused",
            "kdd run --kernel k --initrd i --append x --memory 1G --cpus 4 --debug-exit 0xf4 --console none",
            "kdd run --restore f --json --timeout 1.5",
            "kdd run --kd 127.0.0.1:0 --kd pty --kd connect:host:5",
            "kdd kd x --listen pty",
            "kdd -vv serve --config c --control /x",
            "kdd list --json -v",
            "kdd mem read x fffff803`12400000 0x100 --phys -o f",
            "kdd mem write x ffffffff81000000 90 90cc",
            "kdd completions bash",
            "kdd translate x do_sys_openat2+0x10",
            "kdd mem read x nt!KeBugCheckEx 16",
            "kdd symbols x --elf - --force",
        ];
        for line in accepted {
            if let Err(error) = Cli::try_parse_from(line.split(' ')) {
                panic!("{line}: {error}");
            }
        }
    }
}
