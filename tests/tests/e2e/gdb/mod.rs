//! Stock gdb debugs the stock kernel.
//!
//! The kernel's functions that tests stop at are reached from the guest's shell: `hostname NAME` calls
//! `__x64_sys_sethostname` once, and every program that starts opens files with `do_sys_openat2`.

mod breakpoints;
mod hostile;
mod memory;
mod process;
mod registers;
mod sessions;
mod stepping;
mod symbols;
mod tasks;
mod threads;
mod watchpoints;

use tests::{Gdb, Service, Snapshot, four_vcpus, has_tool, one_vcpu};

/// A guest with one vCPU, its service, and gdb attached.
fn attached() -> Option<(&'static Snapshot, Service, Gdb)> {
    attached_to(one_vcpu()?)
}

/// The same with four vCPUs.
fn attached_four() -> Option<(&'static Snapshot, Service, Gdb)> {
    attached_to(four_vcpus()?)
}

fn attached_to(snapshot: &'static Snapshot) -> Option<(&'static Snapshot, Service, Gdb)> {
    if !has_tool("gdb") {
        return None;
    }
    let service = snapshot.service();
    let gdb = Gdb::attached(&service.gdb_address());
    Some((snapshot, service, gdb))
}

/// Where the guest's host name is: a string of the kernel's that the guest can change and show.
#[track_caller]
fn host_name(snapshot: &Snapshot, service: &Service) -> u64 {
    let names = snapshot.symbol("init_uts_ns");
    let bytes = service
        .kdd(&["mem", "read", "vm", &format!("{names:x}"), "256", "-o", "-"])
        .done()
        .stdout;
    let at = bytes
        .windows(9)
        .position(|window| window == b"kdd-guest")
        .expect("the host's name");
    names + at as u64
}

/// Waits until the service knows of so many debuggers of the domain.
#[track_caller]
fn sessions_become(service: &Service, count: usize) {
    tests::until("the sessions", || {
        service.info("vm")["sessions"]
            .as_array()
            .is_some_and(|sessions| sessions.len() == count)
    });
}
