//! Every Windows version that the guest can take the shape of.

use super::{lives, nothing_wrong, options, tick};
use nt_guest::{Arch, Profile};
use tests::{Engine, NtGuest, has_engine, nt_guest};

/// An address as the engine prints it.
fn shown(guest: &NtGuest, address: u64) -> String {
    match guest.profile.arch {
        Arch::X86 => format!("{address:08x}"),
        Arch::X64 => tick(address),
    }
}

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
    let base = format!("Kernel base = 0x{} ", shown(guest, guest.base()));
    assert!(version.contains(&base), "{name}: {version}");
    // Two of the profiles have few addresses.
    for symbol in ["PsLoadedModuleList", "KeBugCheckEx"] {
        if guest.profile.rvas.contains_key(symbol) {
            let found = engine.run(&format!("x nt!{symbol}"));
            assert!(
                found.starts_with(&shown(guest, guest.symbol(symbol))),
                "{name}: {found}"
            );
        }
    }
    engine.run(".reload");
    let modules = engine.run("lm");
    for module in guest.modules() {
        assert!(
            modules.contains(&shown(guest, module.base)),
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

macro_rules! known {
    ($($test:ident $profile:literal;)*) => {
        const TESTED: &[&str] = &[$($profile),*];
        $(
            #[test]
            fn $test() {
                is_known($profile);
            }
        )*
    };
}

known! {
    windows_7 "win7-x64";
    windows_8 "win8-x64";
    windows_8_1 "win81-x64";
    windows_10_1607 "win10-1607-x64";
    windows_10_1809 "win10-1809-x64";
    windows_10_1903 "win10-1903-x64";
    windows_10_2004 "win10-19041-x64";
    windows_11_21h2 "win11-22000-x64";
    windows_11_22h2 "win11-22621-x64";
    windows_server_2022 "win2022-x64";
    windows_7_32_bit "win7-x86";
    windows_10_32_bit "win10-x86";
}

#[test]
fn every_profile_has_its_test() {
    let mut tested = TESTED.to_vec();
    let mut names: Vec<&str> = Profile::names().collect();
    tested.sort_unstable();
    names.sort_unstable();
    assert_eq!(tested, names);
}
