//! Every Windows version that the guest can take the shape of, dumped.
//!
//! Each profile has a case or more: the four that differ most have all kinds of dumps, each other has one; all kinds of
//! dumps, all ways to stand, and both numbers of processors are there. With `NT_MATRIX=1` in the environment, as in the
//! nightly script, every profile has all of it.

use super::{KINDS, PROFILE, Stands, same};
use Stands::{Bugcheck, Live, Paused};
use nt_guest::Profile;

const FULL: &[&str] = &["windows"];
const BITMAP: &[&str] = &["windows-bitmap"];
const KERNEL: &[&str] = &["windows-kernel"];

/// A case of the test command.
struct Case(u32, Stands, &'static [&'static str]);

fn dumped(profile: &str, cases: &[Case]) {
    let matrix = std::env::var_os("NT_MATRIX").is_some_and(|value| value == "1");
    if matrix {
        for cpus in [1, 4] {
            for stands in [Paused, Bugcheck, Live] {
                same(profile, cpus, stands, KINDS);
            }
        }
    } else {
        for Case(cpus, stands, kinds) in cases {
            same(profile, *cpus, *stands, kinds);
        }
    }
}

macro_rules! profiles {
    ($($test:ident $profile:literal $($cpus:literal $stands:ident $kinds:ident),+;)*) => {
        const TESTED: &[&str] = &[$($profile),*];
        $(
            #[test]
            fn $test() {
                dumped($profile, &[$(Case($cpus, $stands, $kinds)),+]);
            }
        )*
    };
}

// Numbers of processors as in the sessions at length, where there is a choice: those guests are booted already.
profiles! {
    windows_7 "win7-x64" 4 Bugcheck KINDS;
    windows_8 "win8-x64" 1 Paused FULL;
    windows_8_1 "win81-x64" 4 Bugcheck BITMAP;
    windows_10_1607 "win10-1607-x64" 1 Live KERNEL;
    windows_10_1809 "win10-1809-x64" 4 Paused KERNEL;
    windows_10_1903 "win10-1903-x64" 1 Bugcheck FULL;
    windows_10_2004 "win10-19041-x64" 1 Bugcheck KINDS, 4 Paused KINDS, 1 Live KINDS;
    windows_11_21h2 "win11-22000-x64" 1 Live BITMAP;
    windows_11_22h2 "win11-22621-x64" 4 Bugcheck KERNEL;
    windows_server_2022 "win2022-x64" 1 Live FULL;
    windows_7_32_bit "win7-x86" 4 Paused KINDS;
    windows_10_32_bit "win10-x86" 1 Bugcheck KINDS;
}

#[test]
fn every_profile_has_its_test() {
    let mut tested = TESTED.to_vec();
    let mut names: Vec<&str> = Profile::names().collect();
    tested.sort_unstable();
    names.sort_unstable();
    assert_eq!(tested, names);
    assert!(TESTED.contains(&PROFILE));
}
