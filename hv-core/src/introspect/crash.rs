//! What a guest does about its own end while the domain lives: it is reset, or it reports a crash and runs on.

use crate::addr::VcpuId;
use std::fmt;

/// Who reset a domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResetCause {
    /// The guest, by a write to this port.
    Port(u16),
    /// Somebody outside: [`crate::introspect::ControlRun::reset`].
    Operator,
}

impl fmt::Display for ResetCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = match self {
            ResetCause::Operator => return f.write_str("the guest was reset from outside"),
            ResetCause::Port(0xcf9) => " (reset control)",
            ResetCause::Port(0x64) => " (keyboard controller)",
            ResetCause::Port(0x92) => " (system control)",
            ResetCause::Port(_) => "",
        };
        let ResetCause::Port(port) = self else {
            return Ok(());
        };
        write!(f, "the guest reset itself by port {port:#x}{device}")
    }
}

/// What a guest says of a crash of its own. It runs on: a crash kernel may follow, or a dump be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GuestCrash {
    /// It panicked, and starts its crash kernel (pvpanic's CRASH_LOADED).
    CrashKernel,
    /// It wrote to the crash registers of the Microsoft hypervisor interface (TLFS, "Guest Crash Enlightenment").
    Reported {
        /// The vCPU that wrote.
        vcpu: VcpuId,
        /// HV_X64_MSR_CRASH_P0 to P4. Windows: the bugcheck's code and its four parameters.
        parameters: [u64; 5],
        /// The text that comes along, if one does: Linux gives the end of its log.
        message: Option<String>,
    },
}

/// Characters of a message that are shown in a line.
const SHOWN: usize = 200;

impl GuestCrash {
    /// The line of the message that says most: that of a Linux panic, or else the first.
    pub fn headline(&self) -> Option<&str> {
        let GuestCrash::Reported { message, .. } = self else {
            return None;
        };
        let lines = || message.iter().flat_map(|text| text.lines()).map(str::trim);
        let line = lines()
            .find(|line| line.contains("Kernel panic"))
            .or_else(|| lines().find(|line| !line.is_empty()))?;
        Some(
            line.char_indices()
                .nth(SHOWN)
                .map_or(line, |(end, _)| &line[..end]),
        )
    }
}

impl fmt::Display for GuestCrash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GuestCrash::CrashKernel => {
                f.write_str("the guest reported a panic and starts its crash kernel (pvpanic)")
            }
            GuestCrash::Reported { parameters, .. } => {
                f.write_str("the guest reported a crash")?;
                if let Some(line) = self.headline() {
                    return write!(f, ": {line}");
                }
                let [p0, p1, p2, p3, p4] = parameters;
                write!(f, ": {p0:#x} ({p1:#x}, {p2:#x}, {p3:#x}, {p4:#x})")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(message: Option<&str>) -> GuestCrash {
        GuestCrash::Reported {
            vcpu: VcpuId(0),
            parameters: [0xe2, 1, 2, 3, 4],
            message: message.map(str::to_owned),
        }
    }

    #[test]
    fn a_reset_names_its_port() {
        let words = |port| ResetCause::Port(port).to_string();
        assert_eq!(
            words(0xcf9),
            "the guest reset itself by port 0xcf9 (reset control)"
        );
        assert_eq!(
            words(0x64),
            "the guest reset itself by port 0x64 (keyboard controller)"
        );
    }

    #[test]
    fn a_report_shows_the_panic_of_its_message_or_its_parameters() {
        let text = "<6>[ 1.0] usual\n<0>[ 2.0] Kernel panic - not syncing: it\n<6>[ 2.1] CPU: 0";
        assert_eq!(
            reported(Some(text)).to_string(),
            "the guest reported a crash: <0>[ 2.0] Kernel panic - not syncing: it"
        );
        let none = "the guest reported a crash: 0xe2 (0x1, 0x2, 0x3, 0x4)";
        assert_eq!(reported(None).to_string(), none);
        assert_eq!(reported(Some("\n \n")).to_string(), none);
        let long = "é".repeat(1000);
        assert_eq!(reported(Some(&long)).headline().unwrap().chars().count(), SHOWN);
    }
}
