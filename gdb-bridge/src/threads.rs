//! Threads as a person sees them: names, what they are doing, the list.

use crate::guest::Guest;
use crate::hex;
use crate::tasks::{Snapshot, Stopped};
use crate::thread::Thread;
use hv_core::addr::VcpuId;
use hv_core::regs::{Activity, Registers};
use introspect::linux::{Task, Unwinder};
use std::fmt::Write;

/// A thread's name.
pub fn name(guest: &Guest, thread: Thread) -> String {
    match thread {
        Thread::Vcpu(vcpu) => vcpu_name(vcpu),
        Thread::Task(pid) => match guest.task(pid) {
            Some(Stopped { task, .. }) => task.name,
            None => format!("pid {pid}"),
        },
    }
}

/// A vCPU's name.
pub fn vcpu_name(vcpu: VcpuId) -> String {
    format!("vCPU {vcpu}")
}

/// The name as a field of a stop reply. That of a task may hold any character.
pub fn put_name(guest: &Guest, thread: Thread, body: &mut Vec<u8>) {
    match thread {
        Thread::Vcpu(vcpu) => body.extend_from_slice(format!("name:{};", vcpu_name(vcpu)).as_bytes()),
        Thread::Task(_) => {
            body.extend_from_slice(b"hexname:");
            hex::encode(body, name(guest, thread).as_bytes());
            body.push(b';');
        }
    }
}

/// Whether it runs, in a word or three.
pub fn activity(registers: &Registers) -> &'static str {
    match registers.activity {
        Activity::Running => "running",
        Activity::Halted => "halted",
        Activity::WaitForSipi => "waiting for SIPI",
    }
}

/// What a thread is doing, for a person.
pub fn extra(guest: &Guest, thread: Thread) -> String {
    match thread {
        Thread::Vcpu(vcpu) => vcpu_extra(guest, vcpu),
        Thread::Task(pid) => match guest.task(pid) {
            Some(Stopped { tasks, task }) => {
                task_extra(guest, &tasks, &mut tasks.unwinder(guest.domain()), &task)
            }
            None => String::from("there is no such task"),
        },
    }
}

/// What a vCPU is doing, for a person.
pub fn vcpu_extra(guest: &Guest, vcpu: VcpuId) -> String {
    let mut text = match guest.domain().registers(vcpu) {
        Ok(registers) => {
            let activity = activity(&registers);
            format!("{activity}, rip {:#x}, ring {}", registers.rip, registers.cpl())
        }
        Err(error) => error.to_string(),
    };
    if let Some(tasks) = guest.tasks()
        && let Some(task) = tasks.current(vcpu)
    {
        let _ = write!(text, ", task {} {}", task.pid, task.name);
    }
    if vcpu == VcpuId(0)
        && let Some(note) = guest.listed.note()
    {
        let _ = write!(text, "; {note}");
    }
    text
}

fn task_extra(guest: &Guest, tasks: &Snapshot, unwinder: &mut Unwinder<'_>, task: &Task) -> String {
    let mut text = format!("pid {}", task.pid);
    if task.tgid != task.pid {
        let _ = write!(text, " of {}", task.tgid);
    }
    if let Some(vcpu) = tasks.vcpu_of(task) {
        let _ = write!(text, ", on vCPU {vcpu}: its registers are that one's");
        return text;
    }
    let _ = write!(text, ", {}", task.state);
    if let Some(place) = tasks.place(guest.domain(), unwinder, task) {
        let _ = write!(text, " in {place}");
    }
    text
}

/// The `qXfer:threads` document.
pub fn document(guest: &Guest) -> String {
    let mut text = String::from("<?xml version=\"1.0\"?>\n<threads>\n");
    let mut put = |thread: Thread, vcpu: Option<VcpuId>, name: &str, extra: &str| {
        let _ = write!(text, "<thread id=\"{:x}\"", thread.id());
        if let Some(vcpu) = vcpu {
            let _ = write!(text, " core=\"{vcpu}\"");
        }
        let _ = writeln!(text, " name=\"{}\">{}</thread>", xml(name), xml(extra));
    };
    let tasks = guest.tasks();
    let mut unwinder = tasks.as_ref().map(|tasks| tasks.unwinder(guest.domain()));
    for thread in guest.inferior.threads(guest) {
        let task = match (thread, &tasks, &mut unwinder) {
            (Thread::Task(pid), Some(tasks), Some(unwinder)) => {
                tasks.get(pid).map(|it| (it, tasks, unwinder))
            }
            _ => None,
        };
        match task {
            Some((task, tasks, unwinder)) => {
                let extra = task_extra(guest, tasks, unwinder, task);
                put(thread, tasks.vcpu_of(task), &task.name, &extra);
            }
            None => put(
                thread,
                guest.vcpu_of(thread).ok(),
                &name(guest, thread),
                &extra(guest, thread),
            ),
        }
    }
    text + "</threads>\n"
}

/// The document when the client has detached.
pub fn nobody() -> String {
    "<?xml version=\"1.0\"?>\n<threads>\n</threads>\n".into()
}

/// Text of the guest, as XML has to have it.
fn xml(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            // Noncharacters, which XML can't hold.
            '\u{fffe}' | '\u{ffff}' => safe.push(char::REPLACEMENT_CHARACTER),
            c if c.is_control() => safe.push(char::REPLACEMENT_CHARACTER),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_guest_stays_a_name_in_the_document() {
        assert_eq!(
            xml("<a>&\"\u{1}\u{ffff}é"),
            "&lt;a&gt;&amp;&quot;\u{fffd}\u{fffd}é"
        );
    }
}
