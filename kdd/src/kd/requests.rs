//! Requests of a stopped guest: which file answers which.

use super::context::{self, Extra};
use super::memory::Kind;
use super::session::{KdSession, State};
use super::{breakpoints, control_space, io, memory, msr, search, version};
use protocol::api::Api;
use protocol::link::Patience;
use protocol::manipulate::{Continue, Manipulate};
use protocol::packet::PacketType;
use protocol::status::NtStatus;
use std::time::Instant;

impl KdSession {
    /// Carries out a request and sends its answer.
    pub(super) fn request(&mut self, payload: &[u8], now: Instant) {
        let Some((header, data)) = Manipulate::split(payload) else {
            return;
        };
        if self.state != State::Stopped {
            // A kernel that runs hears no requests.
            tracing::debug!(
                api = header.api.get(),
                "a request while the guest runs is dropped"
            );
            return;
        }
        self.asked = true;
        self.reply.clear();
        match header.known_api() {
            Some(api) => self.dispatch(api, header, data, now),
            None => {
                tracing::debug!(api = header.api.get(), "an unknown request");
                self.reply.finish(header, NtStatus::UNSUCCESSFUL, 0);
            }
        }
        if let Some(payload) = self.reply.payload() {
            tracing::trace!(api = header.api.get(), status = ?payload.get(8..12), "answered");
            self.link
                .send(PacketType::StateManipulate, payload, Patience::Forever, now);
        }
    }

    fn dispatch(&mut self, api: Api, header: Manipulate, data: &[u8], now: Instant) {
        let mut vcpu = self.guest.current;
        if api.is_per_processor() {
            match self.guest.vcpu(header.processor.get()) {
                Some(named) => vcpu = named,
                None if api == Api::SwitchProcessor => {}
                None => return self.reply.finish(header, NtStatus::INVALID_PARAMETER, 0),
            }
        }
        let KdSession {
            guest,
            reply,
            table,
            debug,
            trap,
            ..
        } = self;
        let mut extra = Extra { debug, trap };
        match api {
            Api::ReadVirtualMemory => memory::read(guest, header, Kind::Virtual, reply),
            Api::WriteVirtualMemory => memory::write(guest, header, data, Kind::Virtual, reply),
            Api::ReadPhysicalMemory => memory::read(guest, header, Kind::Physical, reply),
            Api::WritePhysicalMemory => memory::write(guest, header, data, Kind::Physical, reply),
            Api::QueryMemory => memory::query(guest, header, reply),
            Api::SearchMemory => search::search(guest, header, data, reply),
            Api::FillMemory => search::fill(guest, header, data, reply),
            Api::GetContext => match context::read(guest, vcpu, &extra) {
                Some(context) => reply.finish_with(header, NtStatus::SUCCESS, &context),
                None => reply.finish(header, NtStatus::UNSUCCESSFUL, 0),
            },
            Api::SetContext => {
                let status = context::write(guest, vcpu, data, &mut extra);
                reply.finish(header, status, 0);
            }
            Api::GetContextEx => context::read_part(guest, vcpu, header, &extra, reply),
            Api::SetContextEx => context::write_part(guest, vcpu, header, data, &mut extra, reply),
            Api::ReadControlSpace => control_space::read(guest, vcpu, header, &extra, reply),
            Api::WriteControlSpace => control_space::write(guest, vcpu, header, data, &mut extra, reply),
            Api::WriteBreakPoint => breakpoints::write(guest, table, header, reply),
            Api::RestoreBreakPoint => breakpoints::restore(table, header, reply),
            Api::WriteBreakPointEx => breakpoints::write_all(guest, table, header, data, reply),
            Api::RestoreBreakPointEx => breakpoints::restore_all(table, header, data, reply),
            Api::ReadMsr => msr::read(guest, vcpu, header, reply),
            Api::WriteMsr => msr::write(guest, vcpu, header, reply),
            Api::ReadIoSpace | Api::WriteIoSpace | Api::ReadIoSpaceExtended | Api::WriteIoSpaceExtended => {
                io::port(guest.domain(), api, header, reply);
            }
            Api::GetBusData | Api::SetBusData => io::bus(header, reply),
            Api::GetVersion => {
                let mut header = header;
                header.set(&version::version(guest));
                reply.finish(header, NtStatus::SUCCESS, 0);
            }
            Api::Continue => {
                let status = NtStatus(header.get::<Continue>().status.get());
                self.go_on(status, None, now);
            }
            Api::Continue2 => {
                let (status, control) = self.control_set(&header);
                self.go_on(status, Some(control), now);
            }
            Api::SwitchProcessor => self.switch_processor(vcpu, now),
            Api::Reboot => self.reboot(now),
            Api::CauseBugCheck => self.cause_bugcheck(now),
            // Kernels answer none of these: only `wt` sends them.
            Api::ClearAllInternalBreakpoints
            | Api::SetSpecialCall
            | Api::ClearSpecialCalls
            | Api::SetInternalBreakPoint => {}
            Api::QuerySpecialCalls
            | Api::GetInternalBreakPoint
            | Api::PageIn
            | Api::OldVlm1
            | Api::OldVlm2
            | Api::CheckLowMemory
            | Api::SwitchPartition
            | Api::WriteCustomBreakpointOld
            | Api::WriteCustomBreakpoint
            | Api::ReadPhysicalMemoryLong => reply.finish(header, NtStatus::UNSUCCESSFUL, 0),
        }
    }
}
