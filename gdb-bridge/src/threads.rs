//! vCPUs as threads.

use crate::guest::Guest;
use hv_core::addr::VcpuId;
use hv_core::regs::{Activity, Registers};

/// A thread's name.
pub fn name(vcpu: VcpuId) -> String {
    format!("vCPU {vcpu}")
}

/// Whether it runs, in a word or three.
pub fn activity(registers: &Registers) -> &'static str {
    match registers.activity {
        Activity::Running => "running",
        Activity::Halted => "halted",
        Activity::WaitForSipi => "waiting for SIPI",
    }
}

/// What the vCPU is doing, for a person.
pub fn extra(guest: &Guest, vcpu: VcpuId) -> String {
    match guest.domain().registers(vcpu) {
        Ok(registers) => {
            let activity = activity(&registers);
            format!("{activity}, rip {:#x}, ring {}", registers.rip, registers.cpl())
        }
        Err(error) => error.to_string(),
    }
}

/// The `qXfer:threads` document.
pub fn document(guest: &Guest) -> String {
    let line = |index| {
        let vcpu = VcpuId(index);
        format!(
            "<thread id=\"{:x}\" core=\"{index}\" name=\"{}\">{}</thread>\n",
            index + 1,
            name(vcpu),
            extra(guest, vcpu)
        )
    };
    let threads: String = (0..guest.domain().vcpu_count()).map(line).collect();
    format!("<?xml version=\"1.0\"?>\n<threads>\n{threads}</threads>\n")
}

/// The document when the client has detached.
pub fn nobody() -> String {
    "<?xml version=\"1.0\"?>\n<threads>\n</threads>\n".into()
}

/// A thread id in a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ThreadId {
    /// `-1`.
    All,
    /// `0`.
    Any,
    /// A number from 1 on.
    One(u64),
}

impl ThreadId {
    /// Reads `-1`, a number, or `pP.T` whose process is ignored: there is only one.
    pub fn parse(text: &[u8]) -> Option<ThreadId> {
        let text = match text {
            [b'p', rest @ ..] => match rest.iter().position(|&b| b == b'.') {
                Some(dot) => &rest[dot + 1..],
                None => b"-1",
            },
            text => text,
        };
        match text {
            b"-1" => Some(ThreadId::All),
            text => Some(match crate::hex::number(text)? {
                0 => ThreadId::Any,
                id => ThreadId::One(id),
            }),
        }
    }

    /// The vCPU meant, `default` for all and any; `None` if there is none of that number.
    pub fn vcpu(self, guest: &Guest, default: VcpuId) -> Option<VcpuId> {
        match self {
            ThreadId::All | ThreadId::Any => Some(default),
            ThreadId::One(id) => {
                let index = u32::try_from(id - 1).ok()?;
                (index < guest.domain().vcpu_count()).then_some(VcpuId(index))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_with_and_without_a_process() {
        assert_eq!(ThreadId::parse(b"-1"), Some(ThreadId::All));
        assert_eq!(ThreadId::parse(b"0"), Some(ThreadId::Any));
        assert_eq!(ThreadId::parse(b"1f"), Some(ThreadId::One(0x1f)));
        assert_eq!(ThreadId::parse(b"p1.2"), Some(ThreadId::One(2)));
        assert_eq!(ThreadId::parse(b"p1.-1"), Some(ThreadId::All));
        assert_eq!(ThreadId::parse(b"p1"), Some(ThreadId::All));
        assert_eq!(ThreadId::parse(b"x"), None);
        assert_eq!(ThreadId::parse(b""), None);
    }
}
