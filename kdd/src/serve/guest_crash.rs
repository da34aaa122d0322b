//! What a guest says of a crash of its own, in words.

use super::capture::bugcheck_words;
use dump::windows::bugcheck_name;
use hv_core::introspect::GuestCrash;
use introspect::windows::Bugcheck;

/// The top byte of an open-source system's identity (TLFS, "Guest OS Identity"): Linux gives it as the second parameter.
const OPEN_SOURCE: u64 = 0x81;

/// The bugcheck that the parameters are, if they look like one of Windows.
pub(super) fn bugcheck(crash: &GuestCrash) -> Option<Bugcheck> {
    let GuestCrash::Reported {
        parameters: [code, parameters @ ..],
        message: None,
        ..
    } = crash
    else {
        return None;
    };
    let code = u32::try_from(*code).ok()?;
    let known = bugcheck_name(code).is_some() && parameters[0] >> 56 != OPEN_SOURCE;
    known.then_some(Bugcheck {
        code,
        parameters: *parameters,
    })
}

/// In a line.
pub(super) fn words(crash: &GuestCrash) -> String {
    match bugcheck(crash) {
        Some(bugcheck) => format!("the guest reported a bugcheck: {}", bugcheck_words(&bugcheck)),
        None => crash.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::VcpuId;

    fn reported(parameters: [u64; 5], message: Option<&str>) -> String {
        words(&GuestCrash::Reported {
            vcpu: VcpuId(0),
            parameters,
            message: message.map(str::to_owned),
        })
    }

    #[test]
    fn a_bugcheck_is_named_and_a_linux_report_is_not_taken_for_one() {
        assert_eq!(
            reported([0xe2, 1, 2, 3, 4], None),
            "the guest reported a bugcheck: 0x000000e2 MANUALLY_INITIATED_CRASH (0x1, 0x2, 0x3, 0x4)"
        );
        let linux = [0xa, 0x8100_0001_0c00_0000, 3, 4, 5];
        assert!(reported(linux, None).starts_with("the guest reported a crash: 0xa ("));
        assert!(reported([1 << 32 | 0xe2, 1, 2, 3, 4], None).starts_with("the guest reported a crash: "));
        let text = reported([0, 0, 0, 0x1000, 20], Some("Kernel panic: it"));
        assert_eq!(text, "the guest reported a crash: Kernel panic: it");
    }
}
