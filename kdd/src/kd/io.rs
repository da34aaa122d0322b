//! Ports and buses.
//!
//! Ports are those of the machine: a device answers as it would answer the guest's own IN, with whatever that does to it,
//! as on a machine whose kernel carries the request out. That is what somebody asks for who types `ib` or `ob`.
//!
//! Buses: the machine has none. There is no PCI host behind ports CF8 and CFC, and a kernel's HAL answers for a bus that
//! isn't there with no data. So does this.

use super::reply::Reply;
use hv_core::introspect::{Introspect, PortWidth};
use protocol::api::Api;
use protocol::manipulate::{BusData, Io, IoExtended, Manipulate};
use protocol::status::NtStatus;

/// INTERFACE_TYPE of ISA, and the number of I/O space (ntddk.h, wdbgexts.h).
const ISA: u32 = 1;
const IO_SPACE: u32 = 1;

/// An access, as a request describes it.
struct Access {
    port: u64,
    size: u32,
    /// What is to be written.
    write: Option<u32>,
}

/// ReadIoSpace, WriteIoSpace and their extended forms.
pub(super) fn port(domain: &dyn Introspect, api: Api, mut header: Manipulate, reply: &mut Reply) {
    let write = matches!(api, Api::WriteIoSpace | Api::WriteIoSpaceExtended);
    let status = if matches!(api, Api::ReadIoSpaceExtended | Api::WriteIoSpaceExtended) {
        let mut io: IoExtended = header.get();
        let outcome = if (io.interface.get(), io.bus.get(), io.address_space.get()) == (ISA, 0, IO_SPACE) {
            carry_out(
                domain,
                &Access {
                    port: io.port.get(),
                    size: io.size.get(),
                    write: write.then_some(io.value.get()),
                },
            )
        } else {
            Err(NtStatus::INVALID_PARAMETER)
        };
        // What can't be done has no size and, of a read, no value.
        io.value = outcome.unwrap_or(if write { io.value.get() } else { 0 }).into();
        io.size = outcome.map_or(0, |_| io.size.get()).into();
        header.set(&io);
        outcome.map(drop)
    } else {
        let mut io: Io = header.get();
        let outcome = carry_out(
            domain,
            &Access {
                port: io.port.get(),
                size: io.size.get(),
                write: write.then_some(io.value.get()),
            },
        );
        io.value = outcome.unwrap_or(if write { io.value.get() } else { 0 }).into();
        io.size = outcome.map_or(0, |_| io.size.get()).into();
        header.set(&io);
        outcome.map(drop)
    };
    reply.finish(header, status.err().unwrap_or(NtStatus::SUCCESS), 0);
}

/// The value that was read, or written.
fn carry_out(domain: &dyn Introspect, access: &Access) -> Result<u32, NtStatus> {
    let (port, width) = place(access.port, access.size)?;
    let ports = domain.io_ports().ok_or(NtStatus::UNSUCCESSFUL)?;
    let done = match access.write {
        None => ports.read_port(port, width),
        Some(value) => ports.write_port(port, width, value).map(|()| value),
    };
    done.map_err(|error| {
        tracing::info!(%error, port, "the host's access to a port is refused");
        NtStatus::UNSUCCESSFUL
    })
}

/// The port and the width, or what a kernel says to such an access.
fn place(port: u64, size: u32) -> Result<(u16, PortWidth), NtStatus> {
    let width = PortWidth::of_bytes(size).ok_or(NtStatus::INVALID_PARAMETER)?;
    if !port.is_multiple_of(u64::from(size)) {
        return Err(NtStatus::DATATYPE_MISALIGNMENT);
    }
    let port = u16::try_from(port).map_err(|_| NtStatus::INVALID_PARAMETER)?;
    Ok((port, width))
}

/// GetBusData and SetBusData: the bus isn't there.
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
        assert_eq!(place(0xcf8, 4), Ok((0xcf8, PortWidth::Dword)));
        assert_eq!(place(0xcf9, 2), Err(NtStatus::DATATYPE_MISALIGNMENT));
        assert_eq!(place(0, 3), Err(NtStatus::INVALID_PARAMETER));
        assert_eq!(place(0x1_0000, 1), Err(NtStatus::INVALID_PARAMETER));
    }
}
