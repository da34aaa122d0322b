//! `kdd run`: a service with one domain in the foreground.

use super::common::Common;
use super::guest::GuestArgs;
use super::host::{Host, Signals, Socket};
use super::{kd, output};
use crate::Failure;
use crate::console::{self, Action, Keys, RawTerminal};
use crate::control::message::DomainSummary;
use crate::control::socket::default_paths;
use crate::parse::{ConsoleTarget, KdAddress, ListenAddress};
use crate::serve::{Lifecycle, Managed};
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long debuggers may take to hear that the guest has ended.
const LAST_DEBUGGERS: Duration = Duration::from_secs(2);

/// Run a guest in the foreground, its console on the terminal, and let debuggers attach
///
/// Without a guest it runs the stock Linux that set-up put in place; if nothing is said about the guest at all, also the
/// NT-shaped one that setup/guest-nt.sh made, beside it. The lines for gdb, lldb and WinDbg are printed to standard error, ready to paste; standard output is
/// the guest's. Ctrl-] then q leaves, Ctrl-] then ? helps.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit status: 0 when the guest powers off or is left; the low 8 bits of the value that the \
    guest writes to --debug-exit; 1 when it crashes (after debuggers that are attached have left); \
    124 when --timeout passes.\n\n\
    Examples:\n  kdd run\n  kdd run --append 'console=ttyS0 nokaslr' --paused --gdb 127.0.0.1:1234\n  \
    kdd run --kernel vmlinux --initrd initramfs.cpio --append console=ttyS0 --memory 1G --cpus 4\n  \
    kdd run --nt win10-19041-x64\n  kdd run --dump memory.dmp"
)]
pub(super) struct Args {
    #[command(flatten)]
    guest: GuestArgs,
    /// Where its console goes: stdio, unix:PATH, file:PATH or none
    #[arg(long, value_name = "TARGET", default_value = "stdio")]
    console: ConsoleTarget,
    /// Let gdb attach at HOST:PORT, tcp:HOST:PORT or unix:PATH; port 0 picks a free one. May be repeated
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    gdb: Vec<ListenAddress>,
    /// Let WinDbg attach at HOST:PORT, tcp:HOST:PORT, unix:PATH, connect:HOST:PORT or pty. May be repeated; an NT guest
    /// and a dump have 127.0.0.1:0 where none is named
    #[arg(long, value_name = "ADDR")]
    kd: Vec<KdAddress>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn execute(args: Args) -> Result<u8, Failure> {
    if args.guest.lists_profiles(args.common.json)? {
        return Ok(0);
    }
    let beside = args.guest.default_nt()?;
    let guest = args.guest.or_default()?;
    let kd = if args.kd.is_empty() && guest.may_be_windows() {
        vec![KdAddress::LOOPBACK]
    } else {
        args.kd
    };
    let request = guest.request(args.console.clone(), args.gdb, kd)?;
    let paused = request.paused;
    let host = Host::start(Socket::chosen_or_beside(args.common.control.as_deref())?)?;
    let result = host.enter(Signals::install).and_then(|signals| {
        let managed = host.service().prepare(request)?;
        announce(&host, &managed.summary(), &args.console, args.common.json)?;
        if let Some(request) = beside {
            let nt = host.service().prepare(request)?;
            announce(&host, &nt.summary(), &ConsoleTarget::None, args.common.json)?;
            host.service().start(&nt, false)?;
        }
        let terminal = match args.console {
            ConsoleTarget::Stdio => Some(Terminal::connect(&managed)?),
            _ => None,
        };
        host.service().start(&managed, paused)?;
        let status = host.block_on(wait(&managed, terminal, signals, args.common.timeout));
        managed.flush_console();
        status
    });
    host.stop();
    result
}

/// Says where things are: to people on standard error, because standard output is the guest's.
fn announce(host: &Host, domain: &DomainSummary, console: &ConsoleTarget, json: bool) -> Result<(), Failure> {
    if json {
        let mut object = serde_json::to_value(domain)
            .map_err(|e| Failure::new("standard output", e, "leave --json out"))?;
        object["control"] = host.control().to_string_lossy().into();
        object["pid"] = std::process::id().into();
        output::print_json(&object)?;
    }
    let mut text = format!("kdd: domain '{}' ({})", domain.name, domain.id);
    if *console == ConsoleTarget::Stdio && io::stdin().is_terminal() {
        text += "; Ctrl-] then q leaves, Ctrl-] then ? helps";
    }
    text.push('\n');
    for endpoint in &domain.endpoints {
        kd::warn_if_open(endpoint);
        for (debugger, line) in kd::attach_lines(endpoint) {
            text += &format!("  {debugger:<6} {line}\n");
        }
    }
    let control = host.control().display();
    if default_paths()
        .first()
        .is_some_and(|usual| usual == host.control())
    {
        text += &format!("  kdd    kdd info {}\n", domain.name);
    } else {
        text += &format!("  kdd    kdd info {} --control {control}\n", domain.name);
    }
    if !json {
        eprint!("{text}");
    }
    Ok(())
}

/// The user's keys, and the terminal's settings for as long as they are read.
struct Terminal {
    actions: mpsc::UnboundedReceiver<Action>,
    _raw: Option<RawTerminal>,
}

impl Terminal {
    fn connect(managed: &Arc<Managed>) -> Result<Terminal, Failure> {
        let raw = RawTerminal::enter()
            .map_err(|e| Failure::new("terminal", e, "use --console none, file:PATH or unix:PATH"))?;
        let (sender, actions) = mpsc::unbounded_channel();
        // A terminal that is another job's at the moment would stop us.
        if raw.is_some() || !io::stdin().is_terminal() {
            let weak = Arc::downgrade(managed);
            let is_terminal = raw.is_some();
            let reader = move || {
                let mut keys = Keys::default();
                console::read_stdin(|typed| {
                    let Some(managed) = weak.upgrade() else {
                        return false;
                    };
                    if !is_terminal {
                        managed.console_input(typed);
                        return true;
                    }
                    let mut guest = Vec::new();
                    let actions = keys.feed(typed, &mut guest);
                    if !guest.is_empty() {
                        managed.console_input(&guest);
                    }
                    actions.into_iter().all(|action| sender.send(action).is_ok())
                });
            };
            std::thread::Builder::new()
                .name("keyboard".into())
                .spawn(reader)
                .map_err(|e| Failure::new("terminal", e, "free some threads"))?;
        }
        Ok(Terminal { actions, _raw: raw })
    }

    /// Waits until the user leaves; for ever if nobody types.
    async fn left(terminal: &mut Option<Terminal>) {
        if let Some(terminal) = terminal {
            while let Some(action) = terminal.actions.recv().await {
                match action {
                    Action::Quit => return,
                    Action::Help => eprint!("\n{}", console::HELP),
                }
            }
        }
        std::future::pending().await
    }
}

/// Waits for the guest's end, or for somebody to end it: the exit status.
async fn wait(
    managed: &Arc<Managed>,
    mut terminal: Option<Terminal>,
    mut signals: Signals,
    limit: Option<Duration>,
) -> Result<u8, Failure> {
    tokio::select! {
        end = guest_ends(managed) => end,
        () = Terminal::left(&mut terminal) => Ok(0),
        () = signals.wait() => Ok(0),
        failure = Host::timeout(limit) => Err(failure),
    }
}

async fn guest_ends(managed: &Arc<Managed>) -> Result<u8, Failure> {
    let mut lifecycle = managed.lifecycle();
    loop {
        let now = lifecycle.borrow_and_update().clone();
        match now {
            Lifecycle::Alive => {}
            Lifecycle::ShutDown => {
                // Debuggers are told how it ended, and leave.
                let _ = tokio::time::timeout(LAST_DEBUGGERS, no_debuggers(managed)).await;
                return Ok(0);
            }
            // The process' exit status has 8 bits.
            Lifecycle::DebugExit(value) => {
                let _ = tokio::time::timeout(LAST_DEBUGGERS, no_debuggers(managed)).await;
                return Ok(value as u8);
            }
            Lifecycle::Crashed(reason) => {
                if !managed.target().sessions().is_empty() {
                    tracing::warn!("the guest crashed: {reason}; waiting for its debuggers to leave");
                }
                // Its state is there to be looked at, for as long as anybody does; and it may be reset.
                tokio::select! {
                    () = no_debuggers(managed) => {
                        return Err(Failure::new(
                            format_args!("domain '{}'", managed.domain().name()),
                            format_args!("it crashed: {reason}"),
                            "attach a debugger before it does, to see its state",
                        ));
                    }
                    _ = lifecycle.changed() => continue,
                }
            }
        }
        if lifecycle.changed().await.is_err() {
            return Ok(0);
        }
    }
}

/// Waits until nobody debugs the domain.
async fn no_debuggers(managed: &Managed) {
    while !managed.target().sessions().is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
