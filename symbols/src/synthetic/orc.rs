//! ORC: the tables by which the kernel itself unwinds its stacks (Documentation/arch/x86/orc-unwinder.rst,
//! arch/x86/include/asm/orc_types.h).

use crate::btf::Btf;
use crate::kallsyms::Kallsyms;

/// The most rows that are read. Distributions' kernels have 370,000 to 600,000.
pub const MAX_ROWS: usize = 4 << 20;
/// Bytes of a row: `struct orc_entry`.
const ROW: usize = 6;

/// How the bits of a row are laid out; nothing in the table says it before 6.4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OrcVersion {
    /// 4.14 to 6.2.
    V1,
    /// 6.3: with a bit for signal frames.
    V2,
    /// 6.4 to 7.0: with types for what has no rule and for the end of the stack.
    V3,
    /// From 7.1: as before, with other numbers of registers.
    V4,
}

/// What stands between `__start_orc_header` and `__stop_orc_header`, by version (scripts/orc_hash.sh makes it of the
/// layout).
const HASHES: [([u8; 20], OrcVersion); 3] = [
    (
        [
            0xdb, 0x84, 0xae, 0xd4, 0x10, 0x3b, 0x31, 0xdd, 0x51, 0xe0, 0x17, 0xf8, 0xf7, 0x97, 0x83, 0xca,
            0x98, 0x5c, 0x2c, 0x51,
        ],
        OrcVersion::V2,
    ),
    (
        [
            0xfe, 0x5d, 0x32, 0xbf, 0x58, 0x1b, 0xd6, 0x3b, 0x2c, 0xa9, 0xa5, 0xc6, 0x5b, 0xa5, 0xa6, 0x25,
            0xea, 0xb3, 0xfe, 0x24,
        ],
        OrcVersion::V3,
    ),
    (
        [
            0x13, 0x7c, 0x36, 0xad, 0x76, 0x27, 0xc4, 0xdd, 0x55, 0x93, 0x21, 0x76, 0xbb, 0x0e, 0xcd, 0xbd,
            0x50, 0x41, 0xfc, 0x82,
        ],
        OrcVersion::V4,
    ),
];

impl OrcVersion {
    /// By the header's hash, else by the members of `struct orc_entry`. Without either it is the oldest: kernels without
    /// BTF that have ORC are old.
    pub fn detect(header: Option<&[u8]>, btf: Option<&Btf>) -> OrcVersion {
        if let Some(header) = header
            && let Some((_, version)) = HASHES.iter().find(|(hash, _)| header == hash)
        {
            return *version;
        }
        let Some(entry) = btf.and_then(|btf| btf.structure("orc_entry")) else {
            return OrcVersion::V1;
        };
        match (entry.member("signal").is_some(), entry.member("end").is_some()) {
            (false, _) => OrcVersion::V1,
            (true, true) => OrcVersion::V2,
            (true, false) => OrcVersion::V3,
        }
    }
}

/// The tables as they are in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Orc {
    /// The address of the first element of [`Orc::ips`].
    pub start: u64,
    /// `__start_orc_unwind_ip`: for each row the distance from the element to the row's first instruction.
    pub ips: Vec<u8>,
    /// `__start_orc_unwind`: the rows.
    pub rows: Vec<u8>,
    /// What their bits mean.
    pub version: OrcVersion,
}

impl Orc {
    /// The tables of a kernel. `read` fills the buffer with what is at an address of its image, or says that it can't.
    pub fn find(symbols: &Kallsyms, btf: Option<&Btf>, read: impl Fn(u64, &mut [u8]) -> bool) -> Option<Orc> {
        let part = |from: &str, to: &str, limit: usize| {
            let start = symbols.address(from)?;
            let size = symbols.address(to)?.checked_sub(start)?;
            let size = usize::try_from(size).ok().filter(|&size| size <= limit)?;
            let mut bytes = vec![0; size];
            read(start, &mut bytes).then_some((start, bytes))
        };
        let (start, ips) = part("__start_orc_unwind_ip", "__stop_orc_unwind_ip", 4 * MAX_ROWS)?;
        let (_, rows) = part("__start_orc_unwind", "__stop_orc_unwind", ROW * MAX_ROWS)?;
        let header = part("__start_orc_header", "__stop_orc_header", 64);
        Some(Orc {
            start,
            ips,
            rows,
            version: OrcVersion::detect(header.as_ref().map(|(_, bytes)| &bytes[..]), btf),
        })
    }

    /// Whether the rows are by rising address, as the kernel leaves them once it has started.
    pub fn is_sorted(&self) -> bool {
        let count = self.ips.len() / 4;
        (0..count).is_sorted_by_key(|number| self.address(number))
    }

    /// The row for an address, if they are sorted. There is none before the first; the last has no end.
    pub fn row(&self, address: u64) -> Option<Row> {
        let count = (self.ips.len() / 4).min(self.rows.len() / ROW);
        let (mut from, mut to) = (0, count);
        // The last of those at or before.
        while from < to {
            let middle = from + (to - from) / 2;
            if self.address(middle) <= address {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        let row = self.rows.as_chunks::<ROW>().0.get(from.checked_sub(1)?)?;
        Some(Row::read(*row, self.version))
    }

    /// The first instruction of a row.
    fn address(&self, number: usize) -> u64 {
        let ip = self.ips.as_chunks::<4>().0.get(number);
        let distance = ip.map_or(0, |ip| i64::from(i32::from_le_bytes(*ip)));
        self.start
            .wrapping_add(4 * number as u64)
            .wrapping_add_signed(distance)
    }

    /// The rows by rising address, each with its first one.
    pub(super) fn sorted(&self) -> Vec<(u64, Row)> {
        let ips = self.ips.as_chunks::<4>().0.iter();
        let rows = self.rows.as_chunks::<ROW>().0.iter();
        let slots = (0..).map(|number: u64| self.start.wrapping_add(4 * number));
        let mut sorted: Vec<(u64, Row)> = slots
            .zip(ips.zip(rows))
            .take(MAX_ROWS)
            .map(|(slot, (ip, row))| {
                let distance = i64::from(i32::from_le_bytes(*ip));
                (slot.wrapping_add_signed(distance), Row::read(*row, self.version))
            })
            .collect();
        if !sorted.is_sorted_by_key(|(address, _)| *address) {
            sorted.sort_by_key(|(address, _)| *address);
        }
        // The end of a section and the start of the next one share an address; the latter counts, and comes last.
        sorted
    }
}

/// What a register's value is found by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    /// It isn't known, or is what it was.
    Undefined,
    /// The stack pointer of the caller.
    PreviousSp,
    /// A register, by its number in DWARF.
    Register(u8),
    /// What is in memory where the stack pointer points.
    SpIndirect,
    /// What is in memory where the frame pointer and the offset point.
    BpIndirect,
}

/// What lies at the frame's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame {
    /// Nothing is known, or this is the outermost frame.
    End,
    /// A return address.
    Call,
    /// `struct pt_regs`.
    Registers,
    /// What the processor pushes at an interrupt.
    Interrupt,
}

/// A row: how the caller's registers are found from those of the code that it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// What the frame's end is found by,
    pub sp: Base,
    /// and how far it is from there.
    pub sp_offset: i16,
    /// What the frame pointer is found by,
    pub bp: Base,
    /// and how far it is from there.
    pub bp_offset: i16,
    /// What lies at the frame's end.
    pub frame: Frame,
}

impl Row {
    fn read(bytes: [u8; ROW], version: OrcVersion) -> Row {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let flags = half(4);
        let sp = base(flags & 0xf, version);
        let lost = matches!(sp, Base::Undefined | Base::PreviousSp);
        let frame = match version {
            OrcVersion::V1 | OrcVersion::V2 => {
                let end = if version == OrcVersion::V1 {
                    1 << 10
                } else {
                    1 << 11
                };
                match flags >> 8 & 3 {
                    _ if flags & end != 0 || lost => Frame::End,
                    0 => Frame::Call,
                    1 => Frame::Registers,
                    2 => Frame::Interrupt,
                    _ => Frame::End,
                }
            }
            OrcVersion::V3 | OrcVersion::V4 => match flags >> 8 & 7 {
                _ if lost => Frame::End,
                2 => Frame::Call,
                3 => Frame::Registers,
                4 => Frame::Interrupt,
                _ => Frame::End,
            },
        };
        Row {
            sp,
            sp_offset: half(0) as i16,
            bp: base(flags >> 4 & 0xf, version),
            bp_offset: half(2) as i16,
            frame,
        }
    }
}

/// The numbers of DWARF for x86-64 (System V ABI, figure 3.36).
pub(super) const RDX: u8 = 1;
pub(super) const RDI: u8 = 5;
pub(super) const RBP: u8 = 6;
pub(super) const RSP: u8 = 7;

/// ORC_REG_….
fn base(number: u16, version: OrcVersion) -> Base {
    let old = version != OrcVersion::V4;
    match number {
        1 if old => Base::PreviousSp,
        2 => Base::Register(RDX),
        3 if old => Base::Register(RDI),
        4 => Base::Register(RBP),
        5 if old => Base::Register(RSP),
        6 => Base::Register(10),
        7 => Base::Register(13),
        8 if old => Base::BpIndirect,
        9 => Base::SpIndirect,
        1 => Base::Register(0),
        3 => Base::Register(RSP),
        5 => Base::Register(RDI),
        8 => Base::PreviousSp,
        10 if !old => Base::BpIndirect,
        _ => Base::Undefined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bits of a CALL row with rsp as its base, and of the end of a stack, in each version.
    #[test]
    fn rows_of_each_version_mean_the_same() {
        let row = |flags: u16| {
            let [low, high] = flags.to_le_bytes();
            [16, 0, 0xf0, 0xff, low, high]
        };
        let call = Row {
            sp: Base::Register(RSP),
            sp_offset: 16,
            bp: Base::PreviousSp,
            bp_offset: -16,
            frame: Frame::Call,
        };
        for (version, flags) in [
            (OrcVersion::V1, 0x015),
            (OrcVersion::V2, 0x015),
            (OrcVersion::V3, 0x215),
            (OrcVersion::V4, 0x283),
        ] {
            assert_eq!(Row::read(row(flags), version), call, "{version:?}");
        }
        for (version, flags) in [
            (OrcVersion::V1, 0x400),
            (OrcVersion::V2, 0x815),
            (OrcVersion::V3, 0x115),
            (OrcVersion::V3, 0x000),
        ] {
            assert_eq!(
                Row::read(row(flags), version).frame,
                Frame::End,
                "{version:?} {flags:x}"
            );
        }
        assert_eq!(Row::read(row(0x105), OrcVersion::V1).frame, Frame::Registers);
        assert_eq!(Row::read(row(0xb05), OrcVersion::V3).frame, Frame::Registers);
        assert_eq!(Row::read(row(0x405), OrcVersion::V3).frame, Frame::Interrupt);
    }

    #[test]
    fn addresses_count_from_their_own_slots() {
        let orc = Orc {
            start: 0x1000,
            ips: [0x100_i32, 0x80, 0x200].map(i32::to_le_bytes).concat(),
            rows: vec![0; 2 * ROW], // One row too few.
            version: OrcVersion::V3,
        };
        let addresses: Vec<u64> = orc.sorted().iter().map(|(address, _)| *address).collect();
        assert_eq!(addresses, [0x1084, 0x1100]);
    }

    #[test]
    fn the_row_of_an_address_is_the_last_at_or_before() {
        // Two rows at one address: the end of a section, and the start of the next.
        let addresses = [0x2000, 0x2010, 0x2010, 0x2040];
        let ips = (0..).zip(addresses).map(|(slot, at)| at - (0x1000 + 4 * slot));
        let row = |offset: u8| [offset, 0, 0, 0, 5, 2];
        let mut orc = Orc {
            start: 0x1000,
            ips: ips.flat_map(i32::to_le_bytes).collect(),
            rows: [8, 16, 24, 32].map(row).concat(),
            version: OrcVersion::V3,
        };
        assert!(orc.is_sorted());
        let offset = |orc: &Orc, address| orc.row(address).map(|row| row.sp_offset);
        assert_eq!(offset(&orc, 0x1fff), None);
        assert_eq!(offset(&orc, 0x200f), Some(8));
        assert_eq!(offset(&orc, 0x2010), Some(24));
        assert_eq!(offset(&orc, u64::MAX), Some(32));
        orc.rows.truncate(ROW);
        assert_eq!(offset(&orc, u64::MAX), Some(8), "rows that aren't there");
        orc.ips[3] = 0x7f;
        assert!(!orc.is_sorted());
    }
}
