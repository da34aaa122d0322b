//! Watches: a domain is waited for, and what happens is captured, told and acted on.
//!
//! ```text
//!  kdd watch ──► WatchRequest ──┐                    ┌─► dump into the folder, old ones go   (folder, capture)
//!  kdd serve's configuration ───┴─► Watch ─ incident ┼─► the script, with the facts          (script)
//!                                    │               └─► resume, pause, reset, destroy
//!                                    └ an introspect::Session with private breakpoints       (triggers)
//! ```
//!
//! A watch runs on a thread of its own. While an incident is dealt with, its session holds the guest; whatever happens
//! to the watch, the guest gets that hold back. Kernels come and go: breakpoints are set when one is recognised, and
//! again after each reset.

mod folder;
mod script;
mod triggers;

use super::capture::{System, bugcheck_words};
use super::kernel::Kernel;
use super::{Managed, Service, guest_crash, lock};
use crate::Failure;
use crate::control::caller::Caller;
use crate::control::hex::Hex;
use crate::control::message::{
    DumpFormat, Incident, Progress, Then, Trigger, WatchEvent, WatchRequest, WatchRule,
};
use crate::time::rfc3339;
use hv_core::VcpuId;
use hv_core::introspect::{CrashReason, DomainState, GuestCrash, StopReason};
use introspect::windows::Bugcheck;
use introspect::{Session, TargetEvent};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use triggers::Triggers;

/// How often a watch looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long it waits before it looks for a kernel again: at first, and at most.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(8);
/// Events that wait for a watch that is busy with an incident; more are dropped, which only a guest that resets without
/// end brings about.
const MAX_QUEUED: usize = 256;

impl Service {
    /// Watches a domain until the caller leaves, `count` incidents have been, or the domain is gone. How many there were.
    ///
    /// # Errors
    /// The rule makes no sense, or the domain went away.
    pub fn watch(self: &Arc<Self>, request: &WatchRequest, caller: &Caller) -> Result<u64, Failure> {
        let managed = self.find(&request.domain)?;
        let tell = |event: WatchEvent| caller.tell(Progress::Watch(event));
        let wanted = || !caller.is_gone() && !self.shutdown().is_triggered();
        Watch::new(self, &managed, &request.rule, &tell, &wanted)?.run(request.count)
    }

    /// Watches a domain by a rule of the configuration, for as long as both last. What can be waited for by now is, when
    /// this returns.
    ///
    /// # Errors
    /// The rule makes no sense, or not for this domain.
    pub fn watch_always(self: &Arc<Self>, managed: &Arc<Managed>, rule: WatchRule) -> Result<(), Failure> {
        check(&rule)?;
        let (service, managed) = (self.clone(), managed.clone());
        let name = managed.domain().name();
        let (sender, armed) = mpsc::channel();
        let run = move || {
            let wanted = || !service.shutdown().is_triggered();
            let tell = |event: WatchEvent| match event {
                WatchEvent::Waiting { on, missing } => {
                    tracing::info!(domain = name, ?on, ?missing, "watching")
                }
                WatchEvent::Incident(incident) => {
                    let facts = serde_json::to_string(&incident).unwrap_or_default();
                    tracing::warn!(
                        domain = name,
                        cause = incident.cause,
                        facts,
                        "{}",
                        incident.detail
                    );
                }
            };
            let mut watch = match Watch::new(&service, &managed, &rule, &tell, &wanted) {
                Ok(watch) => watch,
                // Whoever started it waits for this.
                Err(failure) => return drop(sender.send(Err(failure))),
            };
            watch.arm();
            let _ = sender.send(Ok(()));
            if let Err(failure) = watch.run(None) {
                tracing::info!("{failure}");
            }
        };
        let thread = std::thread::Builder::new()
            .name("watch".into())
            .spawn(run)
            .map_err(|error| Failure::new("watch", error, "free some threads"))?;
        lock(&self.watches).push(thread);
        armed
            .recv()
            .unwrap_or_else(|_| Err(Failure::new("watch", "it ended at once", "see the log")))
    }
}

/// Whether a rule can be followed at all.
fn check(rule: &WatchRule) -> Result<(), Failure> {
    let refused = |why: &str, hint: &str| Err(Failure::new("watch", why, hint));
    if rule.on.is_empty() {
        return refused("it waits for nothing", "name what to wait for with --on");
    }
    if rule.dump.is_none() && (rule.keep.is_some() || rule.keep_bytes.is_some() || rule.format.is_some()) {
        return refused("no dumps are written", "name a folder for them with --dump");
    }
    if rule.keep == Some(0) {
        return refused("the newest dump always stays", "keep 1 or more");
    }
    match &rule.dump {
        Some(folder) if !folder.is_dir() => Err(Failure::new(
            format_args!("watch: {}", folder.display()),
            "there is no such folder",
            "make it first",
        )),
        _ => Ok(()),
    }
}

/// A domain that is watched.
struct Watch<'a> {
    service: &'a Service,
    managed: &'a Arc<Managed>,
    rule: &'a WatchRule,
    tell: &'a dyn Fn(WatchEvent),
    wanted: &'a dyn Fn() -> bool,
    session: Session,
    events: Receiver<TargetEvent>,
    triggers: Triggers,
    kernel: Option<Kernel>,
    /// When to look for a kernel again, and how long to wait after that.
    retry: Option<(Instant, Duration)>,
    /// What was told of last.
    told: Option<WatchEvent>,
    incidents: u64,
    /// Resets of its own that it has yet to hear of.
    own_resets: u32,
    /// The guest's death was told: what else it dies of before it is reset is nothing new.
    dead: bool,
}

/// What happened.
struct Cause {
    name: &'static str,
    detail: String,
    vcpu: Option<VcpuId>,
    bugcheck: Option<Bugcheck>,
    /// Whether memory is still that of the moment.
    dumpable: bool,
}

impl<'a> Watch<'a> {
    fn new(
        service: &'a Service,
        managed: &'a Arc<Managed>,
        rule: &'a WatchRule,
        tell: &'a dyn Fn(WatchEvent),
        wanted: &'a dyn Fn() -> bool,
    ) -> Result<Watch<'a>, Failure> {
        check(rule)?;
        if managed.domain().control_run().is_none() {
            return Err(Failure::new(
                format_args!("domain '{}'", managed.domain().name()),
                "it never runs",
                "'kdd dump' and 'kdd info' look at it",
            ));
        }
        if let Some(folder) = &rule.dump {
            folder::clean(folder);
        }
        let (sender, events) = mpsc::sync_channel(MAX_QUEUED);
        let sink = move |event: &TargetEvent| {
            if !matches!(event, TargetEvent::Console { .. }) {
                let _ = sender.try_send(event.clone());
            }
        };
        Ok(Watch {
            service,
            managed,
            rule,
            tell,
            wanted,
            session: managed.target().attach("watch", Box::new(sink)),
            events,
            triggers: Triggers::default(),
            kernel: None,
            retry: Some((Instant::now(), FIRST_RETRY)),
            told: None,
            incidents: 0,
            own_resets: 0,
            dead: false,
        })
    }

    fn run(&mut self, count: Option<u32>) -> Result<u64, Failure> {
        // What has happened before counts: a domain that is dead already is an incident.
        if let DomainState::Crashed(reason) = self.managed.domain().state() {
            self.crashed(&reason);
        }
        let enough = |incidents| count.is_some_and(|count| incidents >= u64::from(count));
        while (self.wanted)() && !enough(self.incidents) {
            if self.retry.is_some_and(|(at, _)| at <= Instant::now()) {
                self.arm();
            }
            let due = self
                .retry
                .map_or(LOOK_EVERY, |(at, _)| at.saturating_duration_since(Instant::now()));
            match self.events.recv_timeout(due.min(LOOK_EVERY)) {
                Ok(event) => self.on_event(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            // One that has powered off may be reset.
            if self.is_gone() {
                let queued: Vec<_> = self.events.try_iter().collect();
                for event in queued {
                    self.on_event(event);
                }
                let by_us = self.rule.then == Then::Destroy && self.incidents > 0;
                return if by_us || enough(self.incidents) {
                    Ok(self.incidents)
                } else {
                    Err(self.ended("it is gone", "'kdd list' shows those that are left"))
                };
            }
        }
        if self.service.shutdown().is_triggered() && !enough(self.incidents) {
            return Err(self.ended("the service stops", "watch it again when there is another"));
        }
        Ok(self.incidents)
    }

    fn is_gone(&self) -> bool {
        !lock(&self.service.domains).contains_key(&self.managed.domain().id())
    }

    /// Sets breakpoints in the kernel, if it is there by now.
    fn arm(&mut self) {
        let wait = self.retry.map_or(FIRST_RETRY, |(_, wait)| wait);
        let needs_kernel = self.rule.on.iter().any(|trigger| match trigger {
            Trigger::Crash | Trigger::Reset | Trigger::ShutDown => false,
            Trigger::Breakpoint(_) => !trigger.is_address(),
            Trigger::Bugcheck | Trigger::Panic | Trigger::Oops => true,
        });
        // Symbols may come late, while a kernel boots; one that is there without them is looked at a few times only.
        if needs_kernel && let Some(kernel) = self.recognise() {
            self.kernel = Some(kernel);
        }
        let missing = self
            .triggers
            .arm(&self.session, &self.rule.on, self.kernel.as_ref());
        let given_up = self.kernel.is_some() && wait >= LAST_RETRY;
        self.retry = (missing.iter().any(|missing| missing.may_come) && !given_up)
            .then(|| (Instant::now() + wait, (wait * 2).min(LAST_RETRY)));
        let on = self.rule.on.clone();
        let missing = missing.into_iter().map(|missing| missing.why).collect();
        self.say(WatchEvent::Waiting { on, missing });
    }

    fn recognise(&self) -> Option<Kernel> {
        self.managed.known_kernel(&self.service.symbols)
    }

    /// Tells what isn't told already.
    fn say(&mut self, event: WatchEvent) {
        if self.told.as_ref() != Some(&event) {
            (self.tell)(event.clone());
            self.told = Some(event);
        }
    }

    fn on_event(&mut self, event: TargetEvent) {
        match event {
            TargetEvent::Stopped { vcpu, reason, mine } => self.stopped(vcpu, &reason, mine),
            TargetEvent::Crashed(reason) => self.crashed(&reason),
            TargetEvent::GuestCrash(crash) => self.reported(&crash),
            TargetEvent::Reset(cause) => {
                self.triggers.disarm(&self.session);
                self.kernel = None;
                self.dead = false;
                self.retry = Some((Instant::now(), FIRST_RETRY));
                if self.own_resets > 0 {
                    self.own_resets -= 1;
                } else if self.rule.on.contains(&Trigger::Reset) {
                    self.incident(Cause {
                        name: "reset",
                        detail: cause.to_string(),
                        vcpu: None,
                        bugcheck: None,
                        dumpable: false,
                    });
                }
            }
            TargetEvent::ShutDown | TargetEvent::DebugExit(_)
                if self.rule.on.contains(&Trigger::ShutDown) =>
            {
                let detail = match event {
                    TargetEvent::DebugExit(value) => {
                        format!("the guest wrote {value:#x} to its debug-exit device")
                    }
                    _ => "the guest powered off, or the domain was destroyed".into(),
                };
                self.incident(Cause {
                    name: "shutdown",
                    detail,
                    vcpu: None,
                    bugcheck: None,
                    dumpable: false,
                });
            }
            _ => {}
        }
    }

    fn stopped(&mut self, vcpu: VcpuId, reason: &StopReason, mine: bool) {
        let trigger = match reason {
            StopReason::Breakpoint { ids, .. } if mine => self.triggers.hit(ids).cloned(),
            // Another debugger's stop, or a death that has an event of its own.
            _ => None,
        };
        match trigger.and_then(|trigger| self.cause(&trigger, vcpu)) {
            Some(cause) => self.incident(cause),
            None => self.let_go(),
        }
    }

    /// What a stop at a trigger's breakpoint means; `None` if the breakpoint belonged to a kernel that is gone.
    fn cause(&self, trigger: &Trigger, vcpu: VcpuId) -> Option<Cause> {
        let domain = self.managed.domain();
        let kernel = self.kernel.as_ref();
        let mut bugcheck = None;
        let (name, detail) = match (trigger, kernel) {
            (Trigger::Breakpoint(place), _) => ("breakpoint", format!("vCPU {vcpu} came to {place}")),
            (_, Some(kernel)) if !kernel.is_still_there(domain) => return None,
            (Trigger::Bugcheck, Some(Kernel::Windows(windows))) => {
                bugcheck = windows.bugcheck_at_entry(domain.into(), vcpu);
                let words = bugcheck
                    .as_ref()
                    .map_or_else(|| "its arguments can't be read".into(), bugcheck_words);
                ("bugcheck", words)
            }
            (Trigger::Panic | Trigger::Oops, Some(Kernel::Linux(linux))) => {
                let words = match linux.crash(domain) {
                    Ok(crash) if !triggers::counts(trigger, linux, domain, vcpu, crash.kdump_loaded) => {
                        return None;
                    }
                    Ok(crash) => {
                        let said = crash.panic.as_deref().or(crash.oops.as_deref());
                        said.or(crash.message()).map(str::to_owned)
                    }
                    Err(error) => Some(error.to_string()),
                };
                let name = if *trigger == Trigger::Panic {
                    "panic"
                } else {
                    "oops"
                };
                (name, words.unwrap_or_else(|| "its log says nothing of it".into()))
            }
            _ => return None,
        };
        Some(Cause {
            name,
            detail,
            vcpu: Some(vcpu),
            bugcheck,
            dumpable: true,
        })
    }

    fn crashed(&mut self, reason: &CrashReason) {
        if self.dead || !self.rule.on.contains(&Trigger::Crash) {
            return;
        }
        let vcpu = match reason {
            CrashReason::TripleFault { vcpu, .. } => Some(*vcpu),
            CrashReason::HaltedForever | CrashReason::Panic => None,
        };
        self.incident(Cause {
            name: "crash",
            detail: reason.to_string(),
            vcpu,
            bugcheck: None,
            dumpable: true,
        });
    }

    /// The guest says that it crashed, and runs on.
    fn reported(&mut self, crash: &GuestCrash) {
        if !self.rule.on.contains(&Trigger::Crash) {
            return;
        }
        if let Err(error) = self.session.stop() {
            tracing::debug!(%error, "the guest can't be held");
        }
        let vcpu = match crash {
            GuestCrash::Reported { vcpu, .. } => Some(*vcpu),
            GuestCrash::CrashKernel => None,
        };
        self.incident(Cause {
            name: "crash",
            detail: guest_crash::words(crash),
            vcpu,
            bugcheck: guest_crash::bugcheck(crash),
            dumpable: true,
        });
    }

    /// Captures, calls the script, and does what is to be done then.
    fn incident(&mut self, cause: Cause) {
        self.incidents += 1;
        self.dead |= matches!(cause.name, "crash" | "bugcheck" | "panic");
        let domain = self.managed.domain();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let registers = cause.vcpu.and_then(|vcpu| domain.registers(vcpu).ok());
        let mut incident = Incident {
            domain: domain.name(),
            id: domain.id().to_string(),
            number: self.incidents,
            cause: cause.name.into(),
            detail: cause.detail,
            time: rfc3339(now.as_secs()),
            uptime_instructions: domain.uptime().0,
            vcpu: cause.vcpu.map(|vcpu| vcpu.0),
            rip: registers.map(|registers| registers.rip.into()),
            os: self.kernel.as_ref().map(Kernel::name),
            bugcheck_code: cause.bugcheck.map(|bugcheck| u64::from(bugcheck.code).into()),
            bugcheck_parameters: cause
                .bugcheck
                .map(|bugcheck| bugcheck.parameters.map(Hex::from).to_vec())
                .unwrap_or_default(),
            dump: None,
            dump_error: None,
            removed: Vec::new(),
            script: None,
            then: self.rule.then,
            then_error: None,
        };
        match &self.rule.dump {
            Some(folder) if cause.dumpable => self.dump(folder, cause.bugcheck, &mut incident),
            Some(_) => incident.dump_error = Some("the memory of before is gone".into()),
            None => {}
        }
        if let Some(command) = &self.rule.exec {
            let limit = Duration::from_secs(self.rule.exec_limit.max(1));
            let folder = self.rule.exec_directory.as_deref();
            incident.script = Some(script::run(command, folder, limit, &incident, self.wanted));
        }
        // Who left meanwhile wants nothing done to the guest: it goes on.
        if !(self.wanted)() {
            self.let_go();
        } else if let Err(failure) = self.then() {
            incident.then_error = Some(failure.to_string());
        }
        self.say(WatchEvent::Incident(Box::new(incident)));
    }

    fn dump(&self, folder: &Path, bugcheck: Option<Bugcheck>, incident: &mut Incident) {
        let system = System::recognise(self.managed.domain(), self.kernel.clone());
        let format = self
            .rule
            .format
            .unwrap_or_else(|| system.usual_format(self.managed.domain()));
        let extension = match format {
            DumpFormat::Windows | DumpFormat::WindowsBitmap | DumpFormat::WindowsKernel => "dmp",
            DumpFormat::Elf | DumpFormat::Kdump => "vmcore",
        };
        let path = folder::new_path(
            folder,
            &incident.domain,
            &incident.time,
            &incident.cause,
            extension,
        );
        match self
            .service
            .capture(self.managed, &system, format, bugcheck, &path, self.wanted)
        {
            Ok(report) => {
                let limits = folder::Limits {
                    files: self.rule.keep,
                    bytes: self.rule.keep_bytes,
                };
                incident.removed =
                    folder::prune(folder, &incident.domain, &path, limits).unwrap_or_else(|error| {
                        tracing::warn!(folder = %folder.display(), %error, "old dumps stay");
                        Vec::new()
                    });
                incident.dump = Some(report);
            }
            Err(failure) => incident.dump_error = Some(failure.to_string()),
        }
    }

    fn then(&mut self) -> Result<(), Failure> {
        match self.rule.then {
            Then::Resume => {}
            // The operator's pause comes before the session's goes: no instruction runs in between.
            Then::Pause => {
                if !matches!(self.managed.domain().state(), DomainState::Crashed(_)) {
                    self.managed.pause()?;
                }
            }
            Then::Reset => {
                self.managed.reset()?;
                self.own_resets += 1;
            }
            Then::Destroy => self.service.destroy(self.managed)?,
        }
        self.let_go();
        Ok(())
    }

    /// Gives the session's hold back.
    fn let_go(&self) {
        if let Err(error) = self.session.resume() {
            tracing::debug!(%error, "the guest doesn't run on");
        }
    }

    fn ended(&self, why: &str, hint: &str) -> Failure {
        let incidents = match self.incidents {
            0 => "nothing had happened".to_owned(),
            1 => "after 1 incident".to_owned(),
            count => format!("after {count} incidents"),
        };
        Failure::new(
            format_args!("domain '{}'", self.managed.domain().name()),
            format_args!("{why}, {incidents}"),
            hint,
        )
    }
}
