//! The script of a watch: it gets the facts, a limit, and no way to hold up the service.

use crate::control::message::{Incident, ScriptReport};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// What is kept of what it prints.
const MAX_OUTPUT: usize = 16 << 10;
/// How often a script that runs is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Runs a command for an incident, with the facts in its environment and as JSON on standard input.
///
/// It is ended with everything it started after `limit`, or when it is no longer `wanted`.
pub(super) fn run(
    command: &str,
    folder: Option<&Path>,
    limit: Duration,
    incident: &Incident,
    wanted: &dyn Fn() -> bool,
) -> ScriptReport {
    let failed = |error: String| ScriptReport {
        status: None,
        error: Some(error),
        output: String::new(),
    };
    let mut shell = Command::new("/bin/sh");
    shell
        .arg("-c")
        .arg(command)
        .envs(environment(incident))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that its end is the end of all that it started.
        .process_group(0);
    if let Some(folder) = folder {
        shell.current_dir(folder);
    }
    match shell.spawn() {
        Ok(child) => attend(child, limit, incident, wanted),
        Err(error) => failed(format!("it can't be started: {error}")),
    }
}

/// Feeds it, reads what it prints, and waits for its end.
fn attend(mut child: Child, limit: Duration, incident: &Incident, wanted: &dyn Fn() -> bool) -> ScriptReport {
    let (sender, printed) = mpsc::sync_channel::<Vec<u8>>(16);
    if let Some(mut input) = child.stdin.take() {
        let facts = serde_json::to_vec(incident).unwrap_or_default();
        // One that doesn't read would hold up a write.
        let _ = thread::Builder::new().name("script-input".into()).spawn(move || {
            let _ = input.write_all(&facts).and_then(|()| input.write_all(b"\n"));
        });
    }
    let outputs: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|pipe| Box::new(pipe) as _),
        child.stderr.take().map(|pipe| Box::new(pipe) as _),
    ];
    for mut pipe in outputs.into_iter().flatten() {
        let sender = sender.clone();
        let _ = thread::Builder::new()
            .name("script-output".into())
            .spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = pipe.read(&mut buffer) {
                    if sender.send(buffer[..read].to_vec()).is_err() {
                        return;
                    }
                }
            });
    }
    drop(sender);
    let begun = Instant::now();
    let mut output = Vec::new();
    let mut printing = true;
    let mut error = None;
    let status = loop {
        if printing {
            match printed.recv_timeout(LOOK_EVERY) {
                // What is beyond the limit is read and dropped: a flood doesn't block the script.
                Ok(bytes) => {
                    let room = MAX_OUTPUT - output.len();
                    output.extend_from_slice(&bytes[..bytes.len().min(room)]);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => printing = false,
            }
        } else {
            thread::sleep(Duration::from_millis(5));
        }
        match child.try_wait() {
            // What it left running may print on; that isn't waited for.
            Ok(Some(status)) => break Some(status),
            Ok(None) if begun.elapsed() >= limit => {
                error = Some(format!("it took longer than {} s and was ended", limit.as_secs()));
            }
            Ok(None) if !wanted() => error = Some("the watch ended before it did".into()),
            Ok(None) => continue,
            Err(failure) => error = Some(failure.to_string()),
        }
        end(&mut child);
        break None;
    };
    while let Ok(bytes) = printed.try_recv() {
        let room = MAX_OUTPUT - output.len();
        output.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
    let status = status.map(|status| match (status.code(), status) {
        (Some(code), _) => Ok(code),
        (None, status) => Err(status.to_string()),
    });
    ScriptReport {
        error: error.or_else(|| match &status {
            Some(Ok(0)) | None => None,
            Some(Ok(code)) => Some(format!("it failed with status {code}")),
            Some(Err(words)) => Some(format!("it ended by {words}")),
        }),
        status: status.and_then(Result::ok),
        output: String::from_utf8_lossy(&output).into_owned(),
    }
}

fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

/// The facts as a shell has them. What isn't known is empty.
fn environment(incident: &Incident) -> Vec<(&'static str, String)> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let dump = incident.dump.as_ref();
    let mut variables = vec![
        ("KDD_DOMAIN", incident.domain.clone()),
        ("KDD_DOMAIN_ID", incident.id.clone()),
        ("KDD_NUMBER", incident.number.to_string()),
        ("KDD_CAUSE", incident.cause.clone()),
        ("KDD_DETAIL", incident.detail.clone()),
        ("KDD_TIME", incident.time.clone()),
        (
            "KDD_VCPU",
            incident.vcpu.map_or_else(String::new, |vcpu| vcpu.to_string()),
        ),
        (
            "KDD_RIP",
            incident.rip.map_or_else(String::new, |rip| rip.to_string()),
        ),
        ("KDD_OS", text(&incident.os)),
        (
            "KDD_BUGCHECK",
            incident
                .bugcheck_code
                .map_or_else(String::new, |code| code.to_string()),
        ),
        (
            "KDD_DUMP",
            dump.map_or_else(String::new, |dump| dump.path.display().to_string()),
        ),
        ("KDD_DUMP_ERROR", text(&incident.dump_error)),
    ];
    // A NUL can't be in an environment.
    for (_, value) in &mut variables {
        value.retain(|c| c != '\0');
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message::Then;

    fn incident() -> Incident {
        Incident {
            domain: "web".into(),
            id: "1".into(),
            number: 1,
            cause: "panic".into(),
            detail: "Kernel panic - not\0 syncing".into(),
            time: "2026-11-24T12:34:56Z".into(),
            uptime_instructions: 5,
            vcpu: None,
            rip: None,
            os: None,
            bugcheck_code: None,
            bugcheck_parameters: Vec::new(),
            dump: None,
            dump_error: None,
            removed: Vec::new(),
            script: None,
            then: Then::Resume,
            then_error: None,
        }
    }

    fn run_for(command: &str, limit: Duration) -> ScriptReport {
        run(command, None, limit, &incident(), &|| true)
    }

    #[test]
    fn a_script_gets_the_facts_both_ways() {
        let report = run_for(
            "cat; echo \"$KDD_CAUSE of $KDD_DOMAIN\" >&2",
            Duration::from_secs(20),
        );
        assert_eq!((report.status, &report.error), (Some(0), &None));
        assert!(report.output.contains("\"cause\":\"panic\""), "{report:?}");
        assert!(report.output.contains("panic of web"), "{report:?}");
    }

    #[test]
    fn a_script_that_fails_hangs_or_floods_is_told_of_and_holds_up_nothing() {
        let report = run_for("exit 3", Duration::from_secs(20));
        assert_eq!(report.status, Some(3));
        assert!(report.error.is_some());
        let report = run_for("sleep 100 & sleep 100", Duration::from_millis(200));
        assert!(report.error.unwrap().contains("longer"));
        let report = run_for("yes | head -c 3000000; echo done >&2", Duration::from_secs(20));
        assert_eq!((report.status, report.output.len()), (Some(0), MAX_OUTPUT));
        let report = run("sleep 100", None, Duration::from_secs(20), &incident(), &|| false);
        assert!(report.error.unwrap().contains("watch ended"));
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let nowhere = Some(Path::new("/nonexistent/folder"));
        let report = run("true", nowhere, Duration::from_secs(1), &incident(), &|| true);
        assert!(report.error.unwrap().contains("can't be started"));
    }
}
