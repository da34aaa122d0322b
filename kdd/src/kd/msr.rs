//! Model-specific registers, as RDMSR and WRMSR would have them.

use super::guest::Guest;
use super::reply::Reply;
use hv_core::VcpuId;
use protocol::manipulate::{Manipulate, Msr};
use protocol::status::NtStatus;

/// ReadMSR.
pub(super) fn read(guest: &Guest, vcpu: VcpuId, mut header: Manipulate, reply: &mut Reply) {
    let mut msr: Msr = header.get();
    let value = guest.domain().read_msr(vcpu, msr.msr.get()).ok().flatten();
    let both = value.unwrap_or(0);
    msr.low = (both as u32).into();
    msr.high = ((both >> 32) as u32).into();
    header.set(&msr);
    reply.finish(header, outcome(value.is_some()), 0);
}

/// WriteMSR.
pub(super) fn write(guest: &mut Guest, vcpu: VcpuId, header: Manipulate, reply: &mut Reply) {
    let msr: Msr = header.get();
    let value = u64::from(msr.low.get()) | u64::from(msr.high.get()) << 32;
    let write = guest.domain().write_registers();
    let done = write.is_some_and(|write| write.write_msr(vcpu, msr.msr.get(), value).unwrap_or(false));
    guest.memory_changed();
    reply.finish(header, outcome(done), 0);
}

fn outcome(done: bool) -> NtStatus {
    if done {
        NtStatus::SUCCESS
    } else {
        NtStatus::NO_SUCH_DEVICE
    }
}
