//! The packets that are done beside gdbstub, a file for each feature.
//!
//! A handler gets what follows the packet's name and says how it goes on. What none of them takes goes to
//! [`crate::stub`].

mod breakpoints;
mod crc;
mod exec_file;
mod files;
mod handshake;
mod libraries;
mod life;
pub(crate) mod lldb_threads;
mod memory;
mod physical;
mod region;
mod resume;
mod search;
mod threads;

use crate::guest::Guest;

/// How a packet goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Flow {
    /// With this body as its answer.
    Answer(Vec<u8>),
    /// Without an answer.
    Silent,
    /// To gdbstub.
    PassOn,
    /// To gdbstub, in this form.
    PassOnAs(Vec<u8>),
    /// With this answer, and then the client's part in the guest ends.
    Detach(Option<Vec<u8>>),
}

impl Flow {
    fn text(text: impl Into<String>) -> Flow {
        Flow::Answer(text.into().into_bytes())
    }
    /// `OK`.
    fn ok() -> Flow {
        Flow::text("OK")
    }
    /// [`Code::Refused`], with a sentence in the log.
    fn refused(why: &str) -> Flow {
        tracing::info!(%why, "a packet is refused");
        Flow::error(Code::Refused)
    }
    /// `E` and two digits.
    fn error(code: Code) -> Flow {
        Flow::text(match code {
            Code::NoThread => "E03",
            Code::NoMemory => "E14",
            Code::Refused => "E22",
        })
    }
}

/// Why a packet isn't done. The numbers are errno's, in decimal as QEMU's stub prints them.
#[derive(Clone, Copy, Debug)]
enum Code {
    /// ESRCH.
    NoThread,
    /// EFAULT.
    NoMemory,
    /// EINVAL: the packet is malformed, or asks for what can't be.
    Refused,
}

type Handler = fn(&mut Guest, &[u8]) -> Flow;

/// Every packet that is done here, by how it begins; the first that fits is taken.
const HANDLERS: &[(&str, Handler)] = &[
    ("qSupported", handshake::supported),
    ("QStartNoAckMode", handshake::no_acks),
    ("QNonStop:", handshake::non_stop),
    ("vMustReplyEmpty", handshake::nothing),
    ("!", handshake::extended),
    ("?", handshake::why_stopped),
    ("H", threads::select),
    ("qXfer:threads:read:", threads::document),
    ("qOffsets", exec_file::offsets),
    ("qXfer:exec-file:read:", exec_file::read),
    ("qXfer:libraries:read:", libraries::read),
    ("vFile:", files::request),
    ("m", memory::read),
    ("x", memory::read_binary),
    ("M", memory::write),
    ("X", memory::write_binary),
    ("Z", breakpoints::insert),
    ("qSearch:memory:", search::search),
    ("qCRC:", crc::crc),
    ("qC", threads::current),
    ("qThreadStopInfo", threads::stop_info),
    ("qMemoryRegionInfo:", region::region),
    ("QThreadSuffixSupported", handshake::suffixes),
    ("QEnableErrorStrings", handshake::error_strings),
    ("QListThreadsInStopReply", lldb_threads::list_in_stops),
    ("jThreadsInfo", lldb_threads::all),
    ("qQemu.PhyMemMode", physical::query),
    ("qqemu.PhyMemMode", physical::query),
    ("Qqemu.PhyMemMode:", physical::set),
    ("qWatchpointSupportInfo:", breakpoints::watchpoints),
    ("vCont;", resume::actions),
    ("c", resume::go),
    ("C", resume::go_with_signal),
    ("s", resume::step),
    ("S", resume::step_with_signal),
    ("vKill", life::kill),
    ("k", life::kill_silently),
    ("vAttach;", life::attach),
    ("R", life::restart),
];

/// Finds the handler of a packet and calls it.
pub fn handle(guest: &mut Guest, body: &[u8]) -> Flow {
    if guest.detached && means_a_process(body) {
        return Flow::error(Code::NoThread);
    }
    for (name, handler) in HANDLERS {
        if let Some(rest) = body.strip_prefix(name.as_bytes()) {
            return handler(guest, rest);
        }
    }
    Flow::PassOn
}

/// Whether a packet is about the vCPUs or memory, which a client that has detached has none of.
fn means_a_process(body: &[u8]) -> bool {
    let one_letter = body
        .first()
        .is_some_and(|letter| b"gGpPmMxXzZcCsST".contains(letter));
    let others: [&[u8]; 5] = [b"vCont;", b"qC", b"qSearch", b"qThreadExtraInfo", b"jThreadsInfo"];
    one_letter || others.iter().any(|name| body.starts_with(name))
}

/// `first,second`, both numbers.
fn pair(text: &[u8]) -> Option<(u64, u64)> {
    let comma = text.iter().position(|&b| b == b',')?;
    Some((
        crate::hex::number(&text[..comma])?,
        crate::hex::number(&text[comma + 1..])?,
    ))
}
