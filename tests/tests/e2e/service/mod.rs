//! The service and its commands: what scripts rely on.

mod commands;
mod control;
mod copies;
mod life;
mod linux;
mod refusals;
mod windows;

use tests::{Service, Snapshot, one_vcpu};

const NOTHING: &[&str] = &[];

/// A service with one guest, `vm`, that has booted.
fn with_guest() -> Option<(&'static Snapshot, Service)> {
    let snapshot = one_vcpu()?;
    let service = Service::serve(NOTHING);
    service
        .kdd(&["create", "--restore", snapshot.state(), "--name", "vm"])
        .done();
    Some((snapshot, service))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
