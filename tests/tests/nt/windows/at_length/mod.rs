//! Sessions at length, in every Windows version that the guest can take the shape of: what a user looks at
//! ([`looks`]), how the guest runs under the debugger ([`runs`]), what is changed ([`changes`]).
//!
//! Every profile has one, with one processor or with four. With `NT_MATRIX=1` in the environment, as in the nightly
//! script, every profile has both.

mod changes;
mod looks;
mod runs;

use super::{lives, nothing_wrong, options, tick};
use nt_guest::{Arch, Profile};
use tests::{Engine, LIMIT, NtGuest, Service, has_engine, nt_guest};

/// A user at the engine's prompt, with what is known of the guest.
struct User {
    guest: &'static NtGuest,
    service: Service,
    engine: Engine,
    cpus: u32,
}

impl User {
    fn is_x86(&self) -> bool {
        self.guest.profile.arch == Arch::X86
    }

    /// The length of a pointer.
    fn pointer(&self) -> u64 {
        u64::from(self.guest.profile.arch.pointer())
    }

    /// An address as the engine prints it.
    fn shown(&self, address: u64) -> String {
        if self.is_x86() {
            format!("{address:08x}")
        } else {
            tick(address)
        }
    }

    /// The address of a symbol, where the profile has it: two of them have few.
    fn symbol(&self, name: &str) -> Option<u64> {
        let rvas = &self.guest.profile.rvas;
        rvas.contains_key(name).then(|| self.guest.symbol(name))
    }

    /// Runs a command, whose answer has all of this.
    #[track_caller]
    fn says(&mut self, command: &str, words: &[impl AsRef<str>]) -> String {
        let answer = self.engine.run(command);
        self.has(command, &answer, words);
        answer
    }

    #[track_caller]
    fn has(&self, command: &str, answer: &str, words: &[impl AsRef<str>]) {
        for word in words.iter().map(AsRef::as_ref) {
            let profile = &self.guest.profile.name;
            assert!(
                answer.contains(word),
                "{profile}, {} CPUs: {command}: no {word:?} in:\n{answer}",
                self.cpus
            );
        }
    }

    /// What an expression is, in the engine's own eyes.
    #[track_caller]
    fn value(&mut self, expression: &str) -> u64 {
        let answer = self.engine.run(&format!("? {expression}"));
        let digits = answer.rsplit(' ').next().unwrap_or_default();
        let value = u64::from_str_radix(&digits.trim().replace('`', ""), 16);
        value.unwrap_or_else(|_| panic!("{}: ? {expression}: {answer}", self.guest.profile.name))
    }

    /// Lets the guest run, gives it a command on its console, and waits for the next stop.
    #[track_caller]
    fn goes_with(&mut self, command: &str) -> String {
        self.engine.begin("g");
        self.service.console().types(&format!("{command}\r"));
        self.engine.end()
    }
}

/// A whole session.
fn at_length(profile: &str, usual: u32) {
    if !has_engine() {
        return;
    }
    let matrix = std::env::var_os("NT_MATRIX").is_some_and(|value| value == "1");
    for cpus in if matrix { vec![1, 4] } else { vec![usual] } {
        let Some(guest) = nt_guest(profile, cpus) else {
            return;
        };
        let service = guest.service();
        let engine = Engine::attached(&service.kd_address(), &options(guest));
        let mut user = User {
            guest,
            service,
            engine,
            cpus,
        };
        looks::all(&mut user);
        changes::all(&mut user);
        runs::all(&mut user);
        nothing_wrong(&user.engine);
        user.engine.detach();
        lives(&mut user.service);
        // The guest's watch over its code, tables and registers has gone round meanwhile.
        let mut console = user.service.console().from_now();
        console.types("sum\r");
        console.shows("changes 0", LIMIT);
    }
}

macro_rules! profiles {
    ($($test:ident $profile:literal $cpus:literal;)*) => {
        const TESTED: &[&str] = &[$($profile),*];
        $(
            #[test]
            fn $test() {
                at_length($profile, $cpus);
            }
        )*
    };
}

profiles! {
    windows_7 "win7-x64" 4;
    windows_8 "win8-x64" 1;
    windows_8_1 "win81-x64" 4;
    windows_10_1607 "win10-1607-x64" 1;
    windows_10_1809 "win10-1809-x64" 4;
    windows_10_1903 "win10-1903-x64" 1;
    windows_10_2004 "win10-19041-x64" 4;
    windows_11_21h2 "win11-22000-x64" 1;
    windows_11_22h2 "win11-22621-x64" 4;
    windows_server_2022 "win2022-x64" 1;
    windows_7_32_bit "win7-x86" 4;
    windows_10_32_bit "win10-x86" 1;
}

#[test]
fn every_profile_has_its_test() {
    let mut tested = TESTED.to_vec();
    let mut names: Vec<&str> = Profile::names().collect();
    tested.sort_unstable();
    names.sort_unstable();
    assert_eq!(tested, names);
}
