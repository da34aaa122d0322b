//! A domain as the service keeps it: with its debuggers' target, its endpoints, its console, and what became of it.

use super::console::ConsoleSink;
use super::endpoint::Endpoint;
use super::kernel::Known;
use super::lock;
use crate::parse::ConsoleTarget;
use hv_core::Registration;
use hv_core::domain::Hardware;
use hv_core::introspect::{Event, Introspect, SubscriptionId};
use introspect::Target;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// What became of a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lifecycle {
    /// It can run.
    Alive,
    /// It powered itself off, or was destroyed.
    ShutDown,
    /// The guest wrote this to its debug-exit device.
    DebugExit(u32),
    /// It died, for this reason.
    Crashed(String),
}

/// A domain of the service.
pub struct Managed {
    domain: Arc<dyn Introspect>,
    target: Arc<Target>,
    hardware: Hardware,
    guest: String,
    console: Arc<ConsoleSink>,
    subscription: Option<SubscriptionId>,
    lifecycle: Arc<watch::Sender<Lifecycle>>,
    pub(super) endpoints: Mutex<Vec<Endpoint>>,
    /// The operating system that was last recognised in it.
    pub(super) known: Mutex<Known>,
    /// Pauses that the operator made with `kdd pause`; and the one it is created with, until it is started.
    pub(super) operator_pauses: Mutex<u32>,
    /// Its name, if the hypervisor doesn't keep it.
    pub(super) registration: Option<Registration>,
}

impl Managed {
    /// Takes a domain, whose console goes to `console`. It holds `operator_pauses` pauses already.
    pub(super) fn new(
        domain: Arc<dyn Introspect>,
        hardware: Hardware,
        guest: String,
        console: ConsoleSink,
        operator_pauses: u32,
    ) -> Managed {
        let console = Arc::new(console);
        let lifecycle = Arc::new(watch::Sender::new(Lifecycle::Alive));
        let subscription = domain.events().map(|events| {
            let (console, lifecycle, name) = (console.clone(), lifecycle.clone(), domain.name());
            events.subscribe(Box::new(move |event| {
                on_event(&name, event, &console, &lifecycle);
            }))
        });
        Managed {
            target: Target::new(domain.clone()),
            domain,
            hardware,
            guest,
            console,
            subscription,
            lifecycle,
            endpoints: Mutex::default(),
            known: Mutex::default(),
            operator_pauses: Mutex::new(operator_pauses),
            registration: None,
        }
    }

    /// The domain.
    pub fn domain(&self) -> &dyn Introspect {
        &*self.domain
    }

    /// What its debuggers share.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// The machine that it was created with.
    pub fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    /// What was booted, in words.
    pub fn guest(&self) -> &str {
        &self.guest
    }

    /// Where its console goes.
    pub fn console(&self) -> &ConsoleTarget {
        self.console.target()
    }

    /// Told when it ends, and when it is reset after that.
    pub fn lifecycle(&self) -> watch::Receiver<Lifecycle> {
        self.lifecycle.subscribe()
    }

    /// Types at its console.
    pub fn console_input(&self, bytes: &[u8]) {
        if let Some(events) = self.domain.events() {
            events.console_input(0, bytes);
        }
    }

    /// Lets unix clients of its console type, once it is known to all.
    pub(super) fn connect_console(self: &Arc<Self>) {
        self.console.connect(self);
    }

    /// Ends its endpoints and its console; what was written to it so far is completed.
    pub(super) fn close(&self) {
        let endpoints = std::mem::take(&mut *lock(&self.endpoints));
        drop(endpoints);
        if let (Some(events), Some(id)) = (self.domain.events(), self.subscription) {
            events.unsubscribe(id);
        }
        self.lifecycle
            .send_if_modified(|now| end(now, Lifecycle::ShutDown));
        self.console.close();
    }

    /// Completes what was written to its console so far.
    pub fn flush_console(&self) {
        self.console.close();
    }
}

/// On the domain's own thread: quick, and it calls nothing of the domain.
fn on_event(name: &str, event: &Event, console: &ConsoleSink, lifecycle: &watch::Sender<Lifecycle>) {
    match event {
        Event::Console { port: 0, bytes } => console.write(bytes),
        Event::Console { .. } => {}
        Event::ShutDown => {
            tracing::info!(domain = name, "powered off");
            lifecycle.send_if_modified(|now| end(now, Lifecycle::ShutDown));
        }
        Event::DebugExit(value) => {
            tracing::info!(domain = name, value, "left by its debug-exit device");
            lifecycle.send_if_modified(|now| end(now, Lifecycle::DebugExit(*value)));
        }
        Event::Crashed(reason) => {
            tracing::info!(domain = name, %reason, "crashed");
            lifecycle.send_if_modified(|now| end(now, Lifecycle::Crashed(reason.to_string())));
        }
        Event::Reset(cause) => {
            tracing::info!(domain = name, "{cause}");
            lifecycle.send_replace(Lifecycle::Alive);
        }
        Event::GuestCrash(crash) => tracing::warn!(domain = name, "{crash}"),
        Event::Stopped { vcpu, reason } => tracing::debug!(domain = name, %vcpu, ?reason, "stopped"),
        Event::Paused(paused) => tracing::debug!(domain = name, paused, "paused or not"),
        Event::VcpuUp(vcpu) => tracing::debug!(domain = name, %vcpu, "vCPU up"),
    }
}

/// The first end counts: a guest that wrote its exit value is powered off as well.
fn end(now: &mut Lifecycle, to: Lifecycle) -> bool {
    let alive = *now == Lifecycle::Alive;
    if alive {
        *now = to;
    }
    alive
}
