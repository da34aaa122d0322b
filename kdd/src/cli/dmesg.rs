//! `kdd dmesg`.

use super::common::{Common, unexpected};
use super::output;
use crate::Failure;
use crate::control::message::{GuestLog, GuestLogRecord, Reply, Request};
use std::fmt::Write;

/// Show the log of the guest's Linux kernel, from outside
///
/// As the guest's own dmesg prints it, of a kernel that runs, hangs, or is dead.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "With --json: an object a record, with `seq`, `level` (0 to 7), `facility`, `time_ns`, `text`, and `caller` \
    where the kernel keeps it. That the log breaks off is said on standard error, with status 1.\n\n\
    Example:\n  kdd dmesg linux --json | jq -r 'select(.level <= 3) | .text'"
)]
pub(super) struct Args {
    /// The domain's name or id
    #[arg(value_name = "DOM")]
    domain: String,
    #[command(flatten)]
    common: Common,
}

pub(super) fn execute(args: Args) -> Result<(), Failure> {
    let mut client = args.common.client()?;
    let (mut skip, mut held) = (0, false);
    loop {
        let request = Request::Log {
            domain: args.domain.clone(),
            skip,
        };
        let log = match client.ask(request)? {
            Reply::Log(log) => log,
            other => return Err(unexpected(&other)),
        };
        if log.next.is_some() && !held {
            // More than one message: all of them see the same moment.
            client.ask(Request::Hold {
                domain: args.domain.clone(),
            })?;
            held = true;
            continue;
        }
        print(&log, args.common.json)?;
        match (log.next, log.broken) {
            (Some(next), _) if next > skip => skip = next,
            (None, None) => return Ok(()),
            (_, why) => {
                return Err(Failure::new(
                    format_args!("domain '{}'", args.domain),
                    format_args!(
                        "its log is not complete: {}",
                        why.as_deref().unwrap_or("the service doesn't go on")
                    ),
                    "what could be read was printed",
                ));
            }
        }
    }
}

fn print(log: &GuestLog, json: bool) -> Result<(), Failure> {
    if json {
        return log.records.iter().try_for_each(output::print_json);
    }
    let mut text = String::new();
    for record in &log.records {
        lines(record, &mut text);
    }
    output::print(&text)
}

/// Each line with the time before it.
fn lines(record: &GuestLogRecord, text: &mut String) {
    let (seconds, micros) = (record.time_ns / 1_000_000_000, record.time_ns / 1000 % 1_000_000);
    for line in record.text.split('\n') {
        let _ = writeln!(text, "[{seconds:5}.{micros:06}] {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_a_record_has_its_time() {
        let record = GuestLogRecord {
            seq: 1,
            level: 6,
            facility: 0,
            time_ns: 12_345_678_901,
            caller: None,
            text: "one\ntwo".into(),
        };
        let mut text = String::new();
        lines(&record, &mut text);
        assert_eq!(text, "[   12.345678] one\n[   12.345678] two\n");
    }
}
