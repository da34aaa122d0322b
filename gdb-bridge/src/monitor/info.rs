//! `info`.

use crate::guest::{Guest, OtherStops};
use crate::threads;
use hv_core::addr::VcpuId;
use hv_core::introspect::DomainState;
use hv_core::regs::rflags;
use std::fmt::Write;

pub fn info(guest: &mut Guest, arguments: &[&str]) -> Result<String, String> {
    match arguments {
        ["domain"] => Ok(domain(guest)),
        ["devices"] => described(guest.domain().describe_devices()),
        ["interrupts"] => described(guest.domain().describe_interrupts()).map(|text| flags(guest) + &text),
        ["sessions"] => Ok(sessions(guest)),
        // The kernel's gdb scripts ask for it, and number CPUs by threads where there is an answer, as with QEMU.
        ["version"] => Ok(format!("kdd {}\n", env!("CARGO_PKG_VERSION"))),
        _ => Err("domain, devices, interrupts, sessions or version".into()),
    }
}

/// Whether each vCPU takes interrupts.
fn flags(guest: &Guest) -> String {
    let mut text = String::new();
    for index in 0..guest.domain().vcpu_count() {
        let vcpu = VcpuId(index);
        if let Ok(registers) = guest.domain().registers(vcpu) {
            let on = |bit: bool| if bit { "on" } else { "off" };
            let _ = writeln!(
                text,
                "{}: {}, interrupts {}{}{}",
                threads::vcpu_name(vcpu),
                threads::activity(&registers),
                on(registers.rflags & rflags::IF != 0),
                if registers.nmi_blocked {
                    ", NMIs blocked"
                } else {
                    ""
                },
                if registers.interrupt_shadow {
                    ", in an interrupt shadow"
                } else {
                    ""
                },
            );
        }
    }
    text
}

fn described(text: String) -> Result<String, String> {
    match text.trim_end() {
        "" => Err("this domain says nothing about them".into()),
        text => Ok(text.to_owned() + "\n"),
    }
}

fn domain(guest: &Guest) -> String {
    let domain = guest.domain();
    let state = match domain.state() {
        DomainState::Running => "running".into(),
        DomainState::Paused(1) => "paused by one".into(),
        DomainState::Paused(count) => format!("paused by {count}"),
        DomainState::Crashed(reason) => format!("crashed: {reason}"),
        DomainState::ShutDown => "shut down".into(),
    };
    let mut text = format!("{} ({}), {state}\n", domain.name(), domain.id());
    let uptime = domain.uptime();
    let _ = writeln!(
        text,
        "up {} instructions, {} ms of guest time",
        uptime.0,
        uptime.nanoseconds() / 1_000_000
    );
    for index in 0..domain.vcpu_count() {
        let vcpu = VcpuId(index);
        let _ = writeln!(
            text,
            "{}: {}",
            threads::vcpu_name(vcpu),
            threads::vcpu_extra(guest, vcpu)
        );
    }
    for region in domain.memory_regions() {
        let kind = if region.writable { "RAM" } else { "ROM" };
        let _ = writeln!(text, "{kind} at {}, {} KiB", region.start, region.length >> 10);
    }
    text
}

fn sessions(guest: &Guest) -> String {
    let mut text = String::new();
    for session in guest.target.sessions() {
        let _ = writeln!(
            text,
            "{}{} {}, {} breakpoints{}",
            if session.id == guest.session.id() {
                '*'
            } else {
                ' '
            },
            session.id,
            session.description,
            session.breakpoints,
            if session.holds { ", holds the guest" } else { "" },
        );
    }
    let policy = match guest.other_stops {
        OtherStops::Note => "note",
        OtherStops::Stop => "stop",
    };
    let _ = writeln!(text, "pause policy of this one: {policy}");
    text
}
