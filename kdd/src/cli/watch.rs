//! `kdd watch`: waits for crashes of a domain, captures them, calls a script.

use super::common::{Common, absolute, unexpected};
use super::output;
use crate::Failure;
use crate::control::message::{
    DEFAULT_EXEC_LIMIT, DumpFormat, Incident, Progress, Reply, Request, Then, Trigger, WatchEvent,
    WatchRequest, WatchRule,
};
use crate::parse;
use std::path::PathBuf;

/// Wait for crashes of a domain; capture them, call a script, and let the guest go on
///
/// Nothing is needed in the guest. The watch lasts until it is interrupted or the domain is gone; what it says is one line
/// for each incident. Breakpoints in the kernel are set as soon as it is recognised, and again after each reset.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The script is run by /bin/sh. It gets KDD_CAUSE, KDD_DETAIL, KDD_DOMAIN, KDD_DOMAIN_ID, KDD_TIME, KDD_DUMP, \
    KDD_DUMP_ERROR, KDD_OS, KDD_BUGCHECK, KDD_VCPU, KDD_RIP and KDD_NUMBER in its environment, and a JSON object with these \
    and more on standard input; the guest stands still until it ends.\n\n\
    Examples:\n  kdd watch web --on crash,panic --dump /var/crash --keep 5 --then reset\n  \
    kdd watch web --on bugcheck --dump . --exec ./notify.sh\n  \
    kdd watch web --on breakpoint=nt!NtLoadDriver --exec 'logger driver' --count 1"
)]
pub(super) struct Args {
    /// The domain's name or id
    #[arg(value_name = "DOM")]
    domain: String,
    /// What to wait for: crash (a triple fault, all vCPUs halted for good, pvpanic, the guest's own report), bugcheck, panic,
    /// oops, reset, shutdown, breakpoint=ADDR (an address or a symbol of the kernel)
    #[arg(long, value_name = "WHAT", value_delimiter = ',', required = true)]
    on: Vec<Trigger>,
    /// Write a dump into this folder each time
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// The dumps' format [default: windows for a Windows guest, elf for others]
    #[arg(long, value_name = "FORMAT", requires = "dump")]
    format: Option<DumpFormat>,
    /// How many dumps of this domain stay in the folder
    #[arg(long, value_name = "N", requires = "dump", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    /// How much disk space they take at most: 512M, 20G. The newest always stays
    #[arg(long, value_name = "SIZE", requires = "dump", value_parser = parse::length)]
    keep_bytes: Option<u64>,
    /// Call this command, in this folder
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
    /// End it after so many seconds
    #[arg(long, value_name = "SECONDS", requires = "exec", default_value_t = DEFAULT_EXEC_LIMIT,
          value_parser = clap::value_parser!(u64).range(1..))]
    exec_limit: u64,
    /// What becomes of the guest afterwards
    #[arg(long, value_name = "WHAT", default_value = "resume")]
    then: Then,
    /// End after so many incidents
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn execute(args: Args) -> Result<(), Failure> {
    let directory = match &args.exec {
        Some(_) => Some(absolute(".".into())?),
        None => None,
    };
    let request = WatchRequest {
        domain: args.domain,
        rule: WatchRule {
            on: args.on,
            dump: args.dump.map(absolute).transpose()?,
            format: args.format,
            keep: args.keep,
            keep_bytes: args.keep_bytes,
            exec: args.exec,
            exec_directory: directory,
            exec_limit: args.exec_limit,
            then: args.then,
        },
        count: args.count,
    };
    let json = args.common.json;
    let mut printed = Ok(());
    let answer = args
        .common
        .client()?
        .ask_and_watch(Request::Watch(Box::new(request)), |progress| {
            if let Progress::Watch(event) = progress
                && printed.is_ok()
            {
                printed = show(&event, json);
            }
        })?;
    printed?;
    match answer {
        Reply::Watched { .. } => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn show(event: &WatchEvent, json: bool) -> Result<(), Failure> {
    if json {
        return output::print_json(event);
    }
    match event {
        WatchEvent::Waiting { on, missing } => {
            let on: Vec<String> = on.iter().map(ToString::to_string).collect();
            let mut text = format!("watching for {}\n", on.join(", "));
            for why in missing {
                text += &format!("  not yet: {why}\n");
            }
            output::print(&text)
        }
        WatchEvent::Incident(incident) => output::print(&words(incident)),
    }
}

/// A line of what happened, and one for each thing that was done.
fn words(incident: &Incident) -> String {
    let at = incident
        .vcpu
        .map_or_else(String::new, |vcpu| format!(" at vCPU {vcpu}"));
    let mut text = format!(
        "{} {} {}{at}: {}\n",
        incident.time, incident.domain, incident.cause, incident.detail
    );
    if let Some(dump) = &incident.dump {
        text += &format!(
            "  dump {} ({} bytes)\n",
            dump.path.display(),
            output::grouped(dump.bytes)
        );
        for warning in &dump.warnings {
            text += &format!("  warning: {warning}\n");
        }
    }
    if let Some(why) = &incident.dump_error {
        text += &format!("  no dump: {why}\n");
    }
    for path in &incident.removed {
        text += &format!("  removed {}\n", path.display());
    }
    if let Some(script) = &incident.script {
        for line in script.output.lines() {
            let line: String = line.chars().filter(|c| !c.is_control()).collect();
            text += &format!("  script: {line}\n");
        }
        if let Some(why) = &script.error {
            text += &format!("  script failed: {why}\n");
        }
    }
    if let Some(why) = &incident.then_error {
        text += &format!("  then: {why}\n");
    }
    text
}
