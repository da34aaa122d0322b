//! Every Windows version that the guest can take the shape of.

use super::{lives, nothing_wrong, options, tick};
use nt_guest::{Arch, Profile};
use tests::{Engine, has_engine, nt_guest};

/// Attaches to a guest of a profile, looks, breaks, and leaves.
fn is_known(name: &str) {
    if !has_engine() {
        return;
    }
    let Some(guest) = nt_guest(name, 1) else { return };
    let mut service = guest.service();
    let mut engine = Engine::attached(&service.kd_address(), &options(guest));
    let version = engine.run("vertarget");
    let build = format!(" Kernel Version {} ", guest.profile.build());
    assert!(version.contains(&build), "{name}: {version}");
    let base = format!("Kernel base = 0x{} ", tick(guest.base()));
    assert!(version.contains(&base), "{name}: {version}");
    // Two of the profiles have few addresses.
    for symbol in ["PsLoadedModuleList", "KeBugCheckEx"] {
        if guest.profile.rvas.contains_key(symbol) {
            let found = engine.run(&format!("x nt!{symbol}"));
            assert!(found.starts_with(&tick(guest.symbol(symbol))), "{name}: {found}");
        }
    }
    engine.run(".reload");
    let modules = engine.run("lm");
    for module in guest.modules() {
        assert!(
            modules.contains(&tick(module.base)),
            "{name}: {module:?}:\n{modules}"
        );
    }
    engine.run("bp nt!KeClockInterruptNotify");
    let hit = engine.run("g");
    assert!(
        hit.starts_with("Breakpoint 0 hit\nnt!KeClockInterruptNotify"),
        "{name}: {hit}"
    );
    assert!(engine.run("k").contains("nt!KeClockInterruptNotify"), "{name}");
    engine.run("bc *");
    nothing_wrong(&engine);
    engine.detach();
    lives(&mut service);
}

/// Long, since each guest is built first.
#[test]
#[ignore = "long"]
fn every_64_bit_kernel_is_known() {
    let profiles = Profile::names().filter(|name| {
        let profile = Profile::built_in(name).unwrap_or_else(|error| panic!("{error}"));
        profile.arch == Arch::X64
    });
    let mut wrong = Vec::new();
    for name in profiles {
        if let Err(why) = std::panic::catch_unwind(|| is_known(name)) {
            let why = why.downcast_ref::<String>().cloned().unwrap_or_default();
            wrong.push(format!("{name}: {why}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn windows_7_is_known() {
    is_known("win7-x64");
}
