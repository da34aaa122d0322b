//! Threads and their ids.

use gdbstub::common::Tid;
use hv_core::addr::VcpuId;

/// The id of a task is its pid and this: there are never so many vCPUs.
const FIRST_TASK: usize = 1000;

/// What a thread id of the client means.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Thread {
    /// A vCPU.
    Vcpu(VcpuId),
    /// A task of the guest's kernel, by its pid, which isn't 0.
    Task(u32),
}

impl Thread {
    /// Its id: clients can't have a thread 0.
    pub fn id(self) -> Tid {
        Tid::MIN.saturating_add(match self {
            Thread::Vcpu(vcpu) => vcpu.index(),
            Thread::Task(pid) => FIRST_TASK - 1 + pid as usize,
        })
    }

    /// What an id means, whether there is such a thread or not.
    pub fn of(id: u64) -> Option<Thread> {
        match id.checked_sub(FIRST_TASK as u64) {
            Some(0) => None,
            Some(pid) => Some(Thread::Task(u32::try_from(pid).ok()?)),
            None => Some(Thread::Vcpu(VcpuId(u32::try_from(id.checked_sub(1)?).ok()?))),
        }
    }
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

    #[test]
    fn an_id_means_the_thread_that_has_it() {
        for thread in [
            Thread::Vcpu(VcpuId(0)),
            Thread::Vcpu(VcpuId(7)),
            Thread::Task(1),
            Thread::Task(u32::MAX),
        ] {
            assert_eq!(Thread::of(thread.id().get() as u64), Some(thread));
        }
        assert_eq!(Thread::Task(148).id().get(), 1148);
        assert_eq!(Thread::of(0), None);
        assert_eq!(Thread::of(1000), None, "an idle task is no thread");
        assert_eq!(Thread::of(u64::MAX), None);
    }
}
