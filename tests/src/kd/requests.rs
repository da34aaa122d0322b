//! Every request, with its fields by name.
//!
//! An answer is what the target says: a failure is `Err` with its NTSTATUS. That none comes at all is a panic, unless
//! the request is sent by [`KdClient::ask`].

use super::client::KdClient;
use super::message::{Api, Manipulate, SUCCESS, StateChange, Version, api};
use super::packet::{long, quad, word};
use std::time::Duration;

/// What a target answers, or its NTSTATUS.
pub type Answer<T> = Result<T, u32>;

/// Continue, the exception is handled.
pub const DBG_CONTINUE: u32 = 0x0001_0002;
/// The same, as WinDbg's `g` says it.
pub const DBG_EXCEPTION_HANDLED: u32 = 0x0001_0001;
/// Continue, the exception is the guest's.
pub const DBG_EXCEPTION_NOT_HANDLED: u32 = 0x8001_0001;

/// How to go on: DBGKD_CONTINUE2 with AMD64_DBGKD_CONTROL_SET.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Continue {
    pub status: u32,
    pub trace: bool,
    pub dr7: u64,
}

impl KdClient {
    /// Asks, and panics if there is no answer.
    #[track_caller]
    pub fn must(&mut self, request: &Manipulate) -> Answer<Manipulate> {
        match self.ask(request) {
            Ok(answer) if answer.status == SUCCESS => Ok(answer),
            Ok(answer) => Err(answer.status),
            Err(trouble) => panic!("{:#06x}: {trouble:?}", request.api),
        }
    }

    /// Tells, and panics if it isn't acknowledged.
    #[track_caller]
    pub fn must_tell(&mut self, request: &Manipulate) {
        if let Err(trouble) = self.tell(request) {
            panic!("{:#06x}: {trouble:?}", request.api);
        }
    }

    /// GetVersion.
    #[track_caller]
    pub fn version(&mut self) -> Version {
        let answer = self.must(&Manipulate::new(api::GET_VERSION));
        match answer {
            Ok(answer) => Version::parse(&answer.fields),
            Err(status) => panic!("GetVersion: {status:#x}"),
        }
    }

    #[track_caller]
    fn read_by(&mut self, api: Api, processor: u16, address: u64, count: u32) -> Answer<Vec<u8>> {
        let answer = self.must(&Manipulate::new(api).quad(0, address).long(8, count).on(processor))?;
        assert_eq!(long(&answer.fields, 12) as usize, answer.data.len(), "{answer:?}");
        assert!(answer.data.len() <= count as usize, "{answer:?}");
        Ok(answer.data)
    }

    #[track_caller]
    fn write_by(&mut self, api: Api, processor: u16, address: u64, data: &[u8]) -> Answer<u32> {
        let request = Manipulate::new(api).quad(0, address).long(8, data.len() as u32);
        let answer = self.must(&request.on(processor).data(data))?;
        Ok(long(&answer.fields, 12))
    }

    /// ReadVirtualMemory: what is there, which may be less than was asked for.
    #[track_caller]
    pub fn read_virtual(&mut self, address: u64, count: u32) -> Answer<Vec<u8>> {
        self.read_by(api::READ_VIRTUAL, 0, address, count)
    }

    /// ReadVirtualMemory until all of it is there.
    #[track_caller]
    pub fn read_all(&mut self, address: u64, count: usize) -> Answer<Vec<u8>> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let piece = (count - bytes.len()).min(3000) as u32;
            let more = self.read_virtual(address.wrapping_add(bytes.len() as u64), piece)?;
            assert!(!more.is_empty(), "an empty success at {address:#x}");
            bytes.extend_from_slice(&more);
        }
        Ok(bytes)
    }

    /// 64 bits of virtual memory.
    #[track_caller]
    pub fn read_quad(&mut self, address: u64) -> Answer<u64> {
        Ok(quad(&self.read_all(address, 8)?, 0))
    }

    /// WriteVirtualMemory: how many bytes were written.
    #[track_caller]
    pub fn write_virtual(&mut self, address: u64, data: &[u8]) -> Answer<u32> {
        self.write_by(api::WRITE_VIRTUAL, 0, address, data)
    }

    /// ReadPhysicalMemory.
    #[track_caller]
    pub fn read_physical(&mut self, address: u64, count: u32) -> Answer<Vec<u8>> {
        self.read_by(api::READ_PHYSICAL, 0, address, count)
    }

    /// WritePhysicalMemory: how many bytes were written.
    #[track_caller]
    pub fn write_physical(&mut self, address: u64, data: &[u8]) -> Answer<u32> {
        self.write_by(api::WRITE_PHYSICAL, 0, address, data)
    }

    /// ReadControlSpace of a CPU; on AMD64 0 is its KPCR, 1 its KPRCB, 2 its special registers, 3 its KTHREAD.
    #[track_caller]
    pub fn read_control_space(&mut self, processor: u16, selector: u64, count: u32) -> Answer<Vec<u8>> {
        self.read_by(api::READ_CONTROL_SPACE, processor, selector, count)
    }

    /// WriteControlSpace of a CPU.
    #[track_caller]
    pub fn write_control_space(&mut self, processor: u16, selector: u64, data: &[u8]) -> Answer<u32> {
        self.write_by(api::WRITE_CONTROL_SPACE, processor, selector, data)
    }

    /// GetContext: CONTEXT.
    #[track_caller]
    pub fn context(&mut self, processor: u16) -> Answer<Vec<u8>> {
        let answer = self.must(&Manipulate::new(api::GET_CONTEXT).on(processor))?;
        Ok(answer.data)
    }

    /// SetContext.
    #[track_caller]
    pub fn set_context(&mut self, processor: u16, context: &[u8]) -> Answer<()> {
        let request = Manipulate::new(api::SET_CONTEXT).long(0, long(context, 0x30));
        self.must(&request.on(processor).data(context)).map(|_| ())
    }

    /// GetContextEx: a piece of CONTEXT.
    #[track_caller]
    pub fn context_ex(&mut self, processor: u16, offset: u32, count: u32) -> Answer<Vec<u8>> {
        let request = Manipulate::new(api::GET_CONTEXT_EX)
            .long(0, offset)
            .long(4, count);
        let answer = self.must(&request.on(processor))?;
        assert_eq!(long(&answer.fields, 8) as usize, answer.data.len(), "{answer:?}");
        Ok(answer.data)
    }

    /// SetContextEx: how many bytes were taken.
    #[track_caller]
    pub fn set_context_ex(&mut self, processor: u16, offset: u32, piece: &[u8], total: u32) -> Answer<u32> {
        let request = Manipulate::new(api::SET_CONTEXT_EX)
            .long(0, offset)
            .long(4, piece.len() as u32)
            .long(8, total);
        let answer = self.must(&request.on(processor).data(piece))?;
        Ok(long(&answer.fields, 8))
    }

    /// WriteBreakPoint: its handle.
    #[track_caller]
    pub fn write_breakpoint(&mut self, address: u64) -> Answer<u32> {
        let answer = self.must(&Manipulate::new(api::WRITE_BREAKPOINT).quad(0, address))?;
        Ok(long(&answer.fields, 8))
    }

    /// RestoreBreakPoint.
    #[track_caller]
    pub fn restore_breakpoint(&mut self, handle: u32) -> Answer<()> {
        self.must(&Manipulate::new(api::RESTORE_BREAKPOINT).long(0, handle))
            .map(|_| ())
    }

    /// WriteBreakPointEx: what came of each of the addresses, as data.
    #[track_caller]
    pub fn write_breakpoints(&mut self, addresses: &[u64], status: u32) -> Answer<Vec<u8>> {
        let mut data = Vec::new();
        for address in addresses {
            data.extend_from_slice(&address.to_le_bytes());
            data.extend_from_slice(&[0; 8]);
        }
        let request = Manipulate::new(api::WRITE_BREAKPOINT_EX)
            .long(0, addresses.len() as u32)
            .long(4, status);
        Ok(self.must(&request.data(&data))?.data)
    }

    /// RestoreBreakPointEx.
    #[track_caller]
    pub fn restore_breakpoints(&mut self, handles: &[u32]) -> Answer<Vec<u8>> {
        let data: Vec<u8> = handles.iter().flat_map(|handle| handle.to_le_bytes()).collect();
        let request = Manipulate::new(api::RESTORE_BREAKPOINT_EX).long(0, handles.len() as u32);
        Ok(self.must(&request.data(&data))?.data)
    }

    /// ReadIoSpace: the value.
    #[track_caller]
    pub fn read_io(&mut self, port: u64, size: u32) -> Answer<u32> {
        let answer = self.must(&Manipulate::new(api::READ_IO_SPACE).quad(0, port).long(8, size))?;
        Ok(long(&answer.fields, 12))
    }

    /// WriteIoSpace.
    #[track_caller]
    pub fn write_io(&mut self, port: u64, size: u32, value: u32) -> Answer<()> {
        let request = Manipulate::new(api::WRITE_IO_SPACE)
            .quad(0, port)
            .long(8, size)
            .long(12, value);
        self.must(&request).map(|_| ())
    }

    /// ReadIoSpaceExtended on the ISA bus: the value.
    #[track_caller]
    pub fn read_io_extended(&mut self, port: u64, size: u32) -> Answer<u32> {
        let request = Manipulate::new(api::READ_IO_SPACE_EXTENDED)
            .long(0, size)
            .long(4, 1)
            .long(12, 1)
            .quad(16, port);
        Ok(long(&self.must(&request)?.fields, 24))
    }

    /// WriteIoSpaceExtended on the ISA bus.
    #[track_caller]
    pub fn write_io_extended(&mut self, port: u64, size: u32, value: u32) -> Answer<()> {
        let request = Manipulate::new(api::WRITE_IO_SPACE_EXTENDED)
            .long(0, size)
            .long(4, 1)
            .long(12, 1)
            .quad(16, port)
            .long(24, value);
        self.must(&request).map(|_| ())
    }

    /// ReadMSR.
    #[track_caller]
    pub fn read_msr(&mut self, processor: u16, msr: u32) -> Answer<u64> {
        let answer = self.must(&Manipulate::new(api::READ_MSR).long(0, msr).on(processor))?;
        Ok(quad(&answer.fields, 4))
    }

    /// WriteMSR.
    #[track_caller]
    pub fn write_msr(&mut self, processor: u16, msr: u32, value: u64) -> Answer<()> {
        let request = Manipulate::new(api::WRITE_MSR).long(0, msr).quad(4, value);
        self.must(&request.on(processor)).map(|_| ())
    }

    /// SearchMemory: where the pattern is.
    #[track_caller]
    pub fn search(&mut self, start: u64, length: u64, pattern: &[u8]) -> Answer<u64> {
        let request = Manipulate::new(api::SEARCH_MEMORY)
            .quad(0, start)
            .quad(8, length)
            .long(16, pattern.len() as u32);
        Ok(quad(&self.must(&request.data(pattern))?.fields, 0))
    }

    /// FillMemory with a pattern: how many bytes were written.
    #[track_caller]
    pub fn fill(&mut self, address: u64, length: u32, physical: bool, pattern: &[u8]) -> Answer<u32> {
        let flags = if physical { 2 } else { 1 };
        let request = Manipulate::new(api::FILL_MEMORY)
            .quad(0, address)
            .long(8, length)
            .long(12, flags | (pattern.len() as u32) << 16);
        Ok(long(&self.must(&request.data(pattern))?.fields, 8))
    }

    /// QueryMemory: the kind of address space, and the rights.
    #[track_caller]
    pub fn query_memory(&mut self, address: u64) -> Answer<(u32, u32)> {
        let answer = self.must(&Manipulate::new(api::QUERY_MEMORY).quad(0, address))?;
        Ok((long(&answer.fields, 16), long(&answer.fields, 20)))
    }

    /// GetBusData.
    #[track_caller]
    pub fn bus_data(&mut self, kind: u32, bus: u32, slot: u32, offset: u32, length: u32) -> Answer<Vec<u8>> {
        Ok(self
            .must(&bus_request(api::GET_BUS_DATA, [kind, bus, slot, offset, length]))?
            .data)
    }

    /// SetBusData.
    #[track_caller]
    pub fn set_bus_data(
        &mut self,
        kind: u32,
        number: u32,
        slot: u32,
        offset: u32,
        data: &[u8],
    ) -> Answer<u32> {
        let request = bus_request(api::SET_BUS_DATA, [kind, number, slot, offset, data.len() as u32]);
        Ok(long(&self.must(&request.data(data))?.fields, 16))
    }

    /// A request with no fields but zeros: those that a target refuses, or whose status is all.
    #[track_caller]
    pub fn plain(&mut self, api: Api) -> Answer<Manipulate> {
        self.must(&Manipulate::new(api))
    }

    /// ClearAllInternalBreakpoints.
    #[track_caller]
    pub fn clear_internal_breakpoints(&mut self) {
        self.must_tell(&Manipulate::new(api::CLEAR_ALL_INTERNAL));
    }

    /// Reboot.
    #[track_caller]
    pub fn reboot(&mut self) {
        self.must_tell(&Manipulate::new(api::REBOOT));
    }

    /// CauseBugCheck.
    #[track_caller]
    pub fn bug_check(&mut self) {
        self.must_tell(&Manipulate::new(api::CAUSE_BUG_CHECK));
    }

    /// SwitchProcessor: the report of that CPU.
    #[track_caller]
    pub fn switch_processor(&mut self, processor: u16) -> StateChange {
        self.must_tell(&Manipulate::new(api::SWITCH_PROCESSOR).on(processor));
        self.stopped()
    }

    /// Continue, the old request.
    #[track_caller]
    pub fn go_plain(&mut self, status: u32) {
        self.must_tell(&Manipulate::new(api::CONTINUE).long(0, status));
    }

    /// Continue2.
    #[track_caller]
    pub fn go_with(&mut self, how: Continue) {
        let request = Manipulate::new(api::CONTINUE2)
            .long(0, how.status)
            .long(4, u32::from(how.trace))
            .quad(8, how.dr7)
            .quad(16, 1);
        self.must_tell(&request);
    }

    /// Lets the target run, as `g` does.
    #[track_caller]
    pub fn go(&mut self) {
        self.go_with(Continue {
            status: DBG_EXCEPTION_HANDLED,
            trace: false,
            dr7: 0x400,
        });
    }

    /// One instruction: the report of the stop behind it.
    #[track_caller]
    pub fn step(&mut self) -> StateChange {
        self.go_with(Continue {
            status: DBG_EXCEPTION_HANDLED,
            trace: true,
            dr7: 0x400,
        });
        self.stopped()
    }

    /// The report of the next stop.
    #[track_caller]
    pub fn stopped(&mut self) -> StateChange {
        self.stopped_within(crate::LIMIT)
    }

    /// The same with another limit.
    #[track_caller]
    pub fn stopped_within(&mut self, limit: Duration) -> StateChange {
        match self.report(limit) {
            Ok(report) => report,
            Err(trouble) => panic!("no stop: {trouble:?}"),
        }
    }
}

fn bus_request(api: Api, fields: [u32; 5]) -> Manipulate {
    let request = Manipulate::new(api);
    (0..5).fold(request, |request, n| request.long(4 * n, fields[n]))
}

/// Registers of a CONTEXT for AMD64 (1232 bytes), by name and offset.
const REGISTERS: &[(&str, usize)] = &[
    ("rax", 0x78),
    ("rcx", 0x80),
    ("rdx", 0x88),
    ("rbx", 0x90),
    ("rsp", 0x98),
    ("rbp", 0xa0),
    ("rsi", 0xa8),
    ("rdi", 0xb0),
    ("r8", 0xb8),
    ("r9", 0xc0),
    ("r10", 0xc8),
    ("r11", 0xd0),
    ("r12", 0xd8),
    ("r13", 0xe0),
    ("r14", 0xe8),
    ("r15", 0xf0),
    ("rip", 0xf8),
];

/// The size of a CONTEXT for AMD64.
pub const CONTEXT: usize = 1232;

/// A general register of a CONTEXT.
#[track_caller]
pub fn register(context: &[u8], name: &str) -> u64 {
    quad(context, offset(name))
}

/// Changes a general register of a CONTEXT.
#[track_caller]
pub fn set_register(context: &mut [u8], name: &str, value: u64) {
    let at = offset(name);
    context[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// A selector of a CONTEXT: cs, ds, es, fs, gs, ss.
#[track_caller]
pub fn selector(context: &[u8], name: &str) -> u16 {
    let names = ["cs", "ds", "es", "fs", "gs", "ss"];
    match names.iter().position(|&known| known == name) {
        Some(n) => word(context, 0x38 + 2 * n),
        None => panic!("no selector {name}"),
    }
}

#[track_caller]
fn offset(name: &str) -> usize {
    match REGISTERS.iter().find(|(known, _)| *known == name) {
        Some((_, offset)) => *offset,
        None => panic!("no register {name}"),
    }
}
