//! Ports and buses. A hypervisor can't make a guest's device answer without its state changing, so these are refused,
//! with the status that a kernel has for each mistake.

use super::reply::Reply;
use protocol::api::Api;
use protocol::manipulate::{BusData, Io, IoExtended, Manipulate};
use protocol::status::NtStatus;

/// ReadIoSpace, WriteIoSpace and their extended forms.
pub(super) fn port(api: Api, mut header: Manipulate, reply: &mut Reply) {
    let status = if matches!(api, Api::ReadIoSpaceExtended | Api::WriteIoSpaceExtended) {
        let mut io: IoExtended = header.get();
        let standard = io.interface.get() == 1 && io.bus.get() == 0 && io.address_space.get() == 1;
        let status = refusal(io.size.get(), io.port.get());
        if api == Api::ReadIoSpaceExtended {
            io.value = 0.into();
        }
        io.size = 0.into();
        header.set(&io);
        if standard {
            status
        } else {
            NtStatus::INVALID_PARAMETER
        }
    } else {
        let mut io: Io = header.get();
        let status = refusal(io.size.get(), io.port.get());
        if api == Api::ReadIoSpace {
            io.value = 0.into();
        }
        io.size = 0.into();
        header.set(&io);
        status
    };
    reply.finish(header, status, 0);
}

fn refusal(size: u32, port: u64) -> NtStatus {
    match size {
        1 | 2 | 4 if !port.is_multiple_of(u64::from(size)) => NtStatus::DATATYPE_MISALIGNMENT,
        1 | 2 | 4 => NtStatus::UNSUCCESSFUL,
        _ => NtStatus::INVALID_PARAMETER,
    }
}

/// GetBusData and SetBusData.
pub(super) fn bus(mut header: Manipulate, reply: &mut Reply) {
    let mut data: BusData = header.get();
    data.length = 0.into();
    header.set(&data);
    reply.finish(header, NtStatus::UNSUCCESSFUL, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_has_its_status() {
        assert_eq!(refusal(4, 0xcf8), NtStatus::UNSUCCESSFUL);
        assert_eq!(refusal(2, 0xcf9), NtStatus::DATATYPE_MISALIGNMENT);
        assert_eq!(refusal(3, 0), NtStatus::INVALID_PARAMETER);
    }
}
