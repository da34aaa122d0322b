//! Requests and their replies: the header DBGKD_MANIPULATE_STATE64 and what its union holds for each request.
//!
//! A host fills only what its request needs and leaves the rest as it was in its memory, so a reply is the request
//! with the answer written over it: take a [`Manipulate`] apart with [`Manipulate::get`], put the answer in with
//! [`Manipulate::set`].

use crate::api::Api;
use crate::assert_size;
use crate::status::NtStatus;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the union.
pub const UNION_SIZE: usize = 40;

/// DBGKD_MANIPULATE_STATE64 (nt kernel public PDB 10.0.19041).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Manipulate {
    /// [`Api`].
    pub api: U32,
    /// The processor family; whatever the host had there.
    pub processor_level: U16,
    /// The processor, where [`Api::is_per_processor`].
    pub processor: U16,
    /// An [`NtStatus`] in a reply.
    pub return_status: U32,
    /// Nothing.
    pub padding: U32,
    /// What the request needs, and what its reply says.
    pub union: [u8; UNION_SIZE],
}
assert_size!(Manipulate = 56);

/// A structure that lies in the union of a [`Manipulate`].
pub trait UnionMember: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned {}

impl Manipulate {
    /// A request as a host sends it.
    pub fn request(api: Api, processor: u16) -> Manipulate {
        Manipulate {
            api: api.number().into(),
            processor_level: 0.into(),
            processor: processor.into(),
            return_status: 0.into(),
            padding: 0.into(),
            union: [0; UNION_SIZE],
        }
    }

    /// The header at the front of a payload, and the data behind it.
    pub fn split(payload: &[u8]) -> Option<(Manipulate, &[u8])> {
        Manipulate::read_from_prefix(payload).ok()
    }

    /// What is asked, if that is known.
    pub fn known_api(&self) -> Option<Api> {
        Api::from_number(self.api.get())
    }

    /// The union as one of its members.
    pub fn get<T: UnionMember>(&self) -> T {
        // Members are no larger than the union: asserted beside each.
        T::read_from_prefix(&self.union).map_or_else(|_| T::new_zeroed(), |(member, _)| member)
    }

    /// Writes a member into the union; what is behind it stays.
    pub fn set<T: UnionMember>(&mut self, member: &T) {
        let size = size_of::<T>().min(UNION_SIZE);
        self.union[..size].copy_from_slice(&member.as_bytes()[..size]);
    }

    /// Sets the outcome.
    pub fn set_status(&mut self, status: NtStatus) {
        self.return_status = status.0.into();
    }

    /// The outcome.
    pub fn status(&self) -> NtStatus {
        NtStatus(self.return_status.get())
    }
}

macro_rules! members {
    ($($(#[$doc:meta])* struct $name:ident = $size:literal {
        $($(#[$field_doc:meta])* $field:ident: $type:ty,)+
    })+) => {
        $(
            $(#[$doc])*
            #[derive(
                Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
            )]
            #[repr(C)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $type,)+
            }
            assert_size!($name = $size);
            const _: () = assert!($size <= UNION_SIZE);
            impl UnionMember for $name {}
        )+
    };
}

members! {
    /// DBGKD_READ_MEMORY64 and DBGKD_WRITE_MEMORY64: memory, virtual or physical, and the control space.
    struct Memory = 16 {
        /// From where.
        address: U64,
        /// Bytes asked for.
        count: U32,
        /// Bytes done. In requests for physical memory: how to cache, which nobody needs.
        actual: U32,
    }
    /// DBGKD_SET_CONTEXT.
    struct SetContext = 4 {
        /// Not used: the flags in the CONTEXT itself count.
        context_flags: U32,
    }
    /// DBGKD_WRITE_BREAKPOINT64.
    struct WriteBreakPoint = 12 {
        /// Where.
        address: U64,
        /// Its handle from now on; never 0.
        handle: U32,
    }
    /// DBGKD_RESTORE_BREAKPOINT.
    struct RestoreBreakPoint = 4 {
        /// Which.
        handle: U32,
    }
    /// DBGKD_CONTINUE.
    struct Continue = 4 {
        /// An NTSTATUS.
        status: U32,
    }
    /// DBGKD_CONTINUE2 with AMD64_DBGKD_CONTROL_SET.
    struct Continue2Amd64 = 32 {
        /// An NTSTATUS.
        status: U32,
        /// Not 0: one instruction.
        trace_flag: U32,
        /// DR7 from now on, of every processor.
        dr7: U64,
        /// Tracing goes on by itself from here (1: no range) …
        symbol_start: U64,
        /// … to here.
        symbol_end: U64,
    }
    /// DBGKD_CONTINUE2 with X86_DBGKD_CONTROL_SET.
    struct Continue2X86 = 20 {
        /// An NTSTATUS.
        status: U32,
        /// Not 0: one instruction.
        trace_flag: U32,
        /// DR7 from now on, of every processor.
        dr7: U32,
        /// Tracing goes on by itself from here (1: no range) …
        symbol_start: U32,
        /// … to here.
        symbol_end: U32,
    }
    /// DBGKD_READ_WRITE_IO64.
    struct Io = 16 {
        /// The port.
        port: U64,
        /// 1, 2 or 4.
        size: U32,
        /// The value.
        value: U32,
    }
    /// DBGKD_READ_WRITE_IO_EXTENDED64, up to the value.
    struct IoExtended = 28 {
        /// 1, 2 or 4.
        size: U32,
        /// INTERFACE_TYPE; 1 is ISA.
        interface: U32,
        /// The bus.
        bus: U32,
        /// 1 is I/O space.
        address_space: U32,
        /// The port.
        port: U64,
        /// The value.
        value: U32,
    }
    /// DBGKD_READ_WRITE_MSR.
    struct Msr = 12 {
        /// Which.
        msr: U32,
        /// Bits 0 to 31.
        low: U32,
        /// Bits 32 to 63.
        high: U32,
    }
    /// DBGKD_SEARCH_MEMORY; the reply has the place found at the front.
    struct Search = 20 {
        /// From where; in the reply, where it is.
        address: U64,
        /// Bytes to look at.
        length: U64,
        /// Bytes to find; they follow the header.
        pattern_length: U32,
    }
    /// DBGKD_GET_SET_BUS_DATA.
    struct BusData = 20 {
        /// BUS_DATA_TYPE; 4 is PCI.
        data_type: U32,
        /// The bus.
        bus: U32,
        /// The slot.
        slot: U32,
        /// From which byte.
        offset: U32,
        /// Bytes.
        length: U32,
    }
    /// DBGKD_FILL_MEMORY.
    struct Fill = 16 {
        /// From where.
        address: U64,
        /// Bytes to fill.
        length: U32,
        /// 1 virtual, 2 physical.
        flags: U16,
        /// Bytes of the pattern; they follow the header.
        pattern_length: U16,
    }
    /// DBGKD_QUERY_MEMORY.
    struct QueryMemory = 24 {
        /// Which address.
        address: U64,
        /// 0.
        reserved: U64,
        /// 0 in the request; in the reply 0 process, 1 session, 2 kernel.
        address_space: U32,
        /// 1 read, 2 write, 4 execute, 8 fixed.
        flags: U32,
    }
    /// DBGKD_CONTEXT_EX.
    struct ContextEx = 12 {
        /// From which byte of the CONTEXT.
        offset: U32,
        /// How many.
        count: U32,
        /// How many were copied.
        copied: U32,
    }
    /// DBGKD_BREAKPOINTEX.
    struct BreakPointEx = 8 {
        /// How many entries follow the header.
        count: U32,
        /// An NTSTATUS.
        status: U32,
    }
}

impl UnionMember for crate::version::Version {}

/// What follows a WriteBreakPointEx, once for each breakpoint. Its layout is inferred.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct BreakPointEntry {
    /// Where.
    pub address: U64,
    /// Its handle; 0 if it couldn't be set.
    pub handle: U32,
    /// Nothing.
    pub padding: U32,
}
assert_size!(BreakPointEntry = 16);

/// The flags of a [`QueryMemory`].
#[allow(missing_docs)] // as windbgkd.h says
pub mod query {
    pub const SPACE_PROCESS: u32 = 0;
    pub const SPACE_SESSION: u32 = 1;
    pub const SPACE_KERNEL: u32 = 2;
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const EXECUTE: u32 = 4;
}

/// The flags of a [`Fill`].
#[allow(missing_docs)] // as windbgkd.h says
pub mod fill {
    pub const VIRTUAL: u16 = 1;
    pub const PHYSICAL: u16 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_header_file_has_them() {
        let mut request = Manipulate::request(Api::Continue2, 3);
        request.union = std::array::from_fn(|i| i as u8);
        let continue2: Continue2Amd64 = request.get();
        assert_eq!(continue2.dr7.get(), 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(continue2.symbol_start.get(), 0x1716_1514_1312_1110);
        let x86: Continue2X86 = request.get();
        assert_eq!(
            (x86.dr7.get(), x86.symbol_start.get()),
            (0x0b0a_0908, 0x0f0e_0d0c)
        );
        assert_eq!(request.get::<IoExtended>().value.get(), 0x1b1a_1918);
        assert_eq!(request.get::<QueryMemory>().flags.get(), 0x1716_1514);
        assert_eq!(request.get::<Search>().pattern_length.get(), 0x1312_1110);
        assert_eq!(request.get::<Fill>().pattern_length.get(), 0x0f0e);
        assert_eq!(request.as_bytes()[..8], [0x3c, 0x31, 0, 0, 0, 0, 3, 0]);
    }

    #[test]
    fn a_reply_keeps_what_it_does_not_change() {
        let mut reply = Manipulate::request(Api::WriteBreakPoint, 0);
        reply.union = [0x5a; UNION_SIZE];
        let mut member: WriteBreakPoint = reply.get();
        member.handle = 7.into();
        reply.set(&member);
        assert_eq!(reply.union[..12], *b"ZZZZZZZZ\x07\0\0\0");
        assert_eq!(reply.union[12..], [0x5a; 28]);
    }

    #[test]
    fn a_short_payload_is_no_request() {
        assert!(Manipulate::split(&[0; 55]).is_none());
        assert_eq!(Manipulate::split(&[0; 57]).map(|(_, data)| data.len()), Some(1));
    }
}
