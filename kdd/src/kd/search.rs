//! SearchMemory and FillMemory: work on whole ranges, bounded so that a reply comes in time.

use super::guest::Guest;
use super::reply::Reply;
use super::scan::Scan;
use hv_core::{GuestPhysAddr, GuestVirtAddr};
use protocol::manipulate::{Fill, Manipulate, Search, fill};
use protocol::status::NtStatus;
use std::ops::ControlFlow;

/// Bytes that one search looks at; a host waits less than half a second.
const MOST_SEARCHED: u64 = 256 << 20;
/// Pages and holes that one search goes through.
const MOST_PIECES: u32 = 1 << 16;
/// Bytes that one piece holds at most, and a multiple of what it is aligned to: as much as a large page.
const PIECE: u64 = 2 << 20;
/// Bytes that one request fills.
const MOST_FILLED: u64 = 64 << 20;
const CHUNK: usize = 1 << 16;

/// SearchMemory.
pub(super) fn search(guest: &mut Guest, mut header: Manipulate, data: &[u8], reply: &mut Reply) {
    let mut request: Search = header.get();
    let Some(pattern) = data.get(..request.pattern_length.get() as usize) else {
        return reply.finish(header, NtStatus::INVALID_PARAMETER, 0);
    };
    let start = guest.arch().address(request.address.get());
    let status = match find(guest, start, request.length.get(), pattern) {
        Ok(Some(address)) => {
            request.address = guest.wire(address).into();
            header.set(&request);
            NtStatus::SUCCESS
        }
        Ok(None) => NtStatus::NOT_FOUND,
        Err(status) => status,
    };
    reply.finish(header, status, 0);
}

fn find(
    guest: &mut Guest,
    start: GuestVirtAddr,
    length: u64,
    pattern: &[u8],
) -> Result<Option<GuestVirtAddr>, NtStatus> {
    if pattern.is_empty() || pattern.len() as u64 > length {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let last = start.0.saturating_add(length - 1);
    let mut scan = Scan::new(pattern);
    let mut buffer = Vec::new();
    let mut at = start.0;
    let mut searched = 0;
    for _ in 0..MOST_PIECES {
        let mut wanted = (last - at).saturating_add(1).min(PIECE - at % PIECE) as usize;
        let from = GuestVirtAddr(at);
        let mut found = None;
        let got = if guest.shows_otherwise(from, wanted) {
            wanted = wanted.min(CHUNK);
            buffer.resize(wanted, 0);
            let got = guest.read_virtual(from, &mut buffer);
            found = scan.take(&buffer[..got]);
            got
        } else {
            let space = guest.space(from);
            let mut look = |bytes: &[u8]| {
                found = scan.take(bytes);
                if found.is_some() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            guest
                .target
                .visit_virtual(space, from, wanted, &mut look)
                .unwrap_or(0)
        };
        if let Some(back) = found {
            // So far before the end of what was looked at.
            return Ok(Some(GuestVirtAddr(
                at.wrapping_add(got as u64).wrapping_sub(back as u64),
            )));
        }
        searched += got as u64;
        let next = if got == wanted {
            at.checked_add(got as u64)
        } else {
            // From the hole that ended this piece to what is behind it.
            scan.forget();
            let hole = GuestVirtAddr(at.saturating_add(got as u64));
            let space = guest.space(hole);
            match guest.target.region(space, hole) {
                Ok(region) if region.rights.is_none() => region.last.0.checked_add(1),
                // Mapped to where there is no memory.
                _ => (hole.0 | 0xfff).checked_add(1),
            }
        };
        match next {
            Some(next) if next <= last => at = next,
            _ => return Ok(None),
        }
        if searched > MOST_SEARCHED {
            break;
        }
    }
    tracing::info!("a search of {length:#x} bytes from {start} is given up at {at:#x}");
    Err(NtStatus::UNSUCCESSFUL)
}

/// FillMemory.
pub(super) fn fill(guest: &mut Guest, mut header: Manipulate, data: &[u8], reply: &mut Reply) {
    let mut request: Fill = header.get();
    let pattern = data.get(..usize::from(request.pattern_length.get()));
    let kind = request.flags.get();
    let (Some(pattern), true) = (pattern, matches!(kind, fill::VIRTUAL | fill::PHYSICAL)) else {
        return reply.finish(header, NtStatus::INVALID_PARAMETER, 0);
    };
    if pattern.is_empty() {
        return reply.finish(header, NtStatus::INVALID_PARAMETER, 0);
    }
    let wanted = u64::from(request.length.get());
    let length = wanted.min(MOST_FILLED);
    // Whole patterns, so that each piece begins with one.
    let piece = pattern.repeat((CHUNK / pattern.len()).max(1));
    let start = request.address.get();
    let mut done = 0;
    while done < length {
        let bytes = &piece[..piece.len().min((length - done) as usize)];
        let at = start.wrapping_add(done);
        let written = if kind == fill::VIRTUAL {
            guest.write_virtual(guest.arch().address(at), bytes)
        } else {
            guest.write_physical(GuestPhysAddr(at), bytes)
        };
        done += written as u64;
        if written < bytes.len() {
            break;
        }
    }
    guest.memory_changed();
    request.length = (done as u32).into();
    header.set(&request);
    let status = if done == wanted {
        NtStatus::SUCCESS
    } else {
        NtStatus::UNSUCCESSFUL
    };
    reply.finish(header, status, 0);
}
