//! `.debug_abbrev`: the shapes of entries, made as they are needed (DWARF 4, 7.5.3).

use super::out::Out;

/// Tags.
pub(super) mod tag {
    #![allow(missing_docs)]
    pub const ARRAY: u16 = 0x01;
    pub const ENUMERATION: u16 = 0x04;
    pub const PARAMETER: u16 = 0x05;
    pub const MEMBER: u16 = 0x0d;
    pub const POINTER: u16 = 0x0f;
    pub const COMPILE_UNIT: u16 = 0x11;
    pub const STRUCTURE: u16 = 0x13;
    pub const SUBROUTINE: u16 = 0x15;
    pub const TYPEDEF: u16 = 0x16;
    pub const UNION: u16 = 0x17;
    pub const UNSPECIFIED_PARAMETERS: u16 = 0x18;
    pub const SUBRANGE: u16 = 0x21;
    pub const BASE: u16 = 0x24;
    pub const CONST: u16 = 0x26;
    pub const ENUMERATOR: u16 = 0x28;
    pub const SUBPROGRAM: u16 = 0x2e;
    pub const VARIABLE: u16 = 0x34;
    pub const VOLATILE: u16 = 0x35;
    pub const RESTRICT: u16 = 0x37;
}

/// What an entry has, as bits; their values are written in this order.
pub(super) mod has {
    #![allow(missing_docs)]
    pub const SIBLING: u32 = 1 << 0;
    pub const PRODUCER: u32 = 1 << 1;
    pub const LANGUAGE: u32 = 1 << 2;
    /// In `.debug_str`.
    pub const NAME: u32 = 1 << 3;
    /// In the entry itself.
    pub const TEXT: u32 = 1 << 4;
    pub const TYPE: u32 = 1 << 5;
    /// In another unit.
    pub const FAR_TYPE: u32 = 1 << 6;
    pub const ENCODING: u32 = 1 << 7;
    pub const BYTE_SIZE: u32 = 1 << 8;
    pub const BIT_SIZE: u32 = 1 << 9;
    pub const BIT_OFFSET: u32 = 1 << 10;
    pub const OFFSET: u32 = 1 << 11;
    pub const COUNT: u32 = 1 << 12;
    pub const SIGNED_VALUE: u32 = 1 << 13;
    pub const VALUE: u32 = 1 << 14;
    pub const RANGE: u32 = 1 << 15;
    pub const LOCATION: u32 = 1 << 16;
    pub const DECLARATION: u32 = 1 << 17;
    pub const PROTOTYPED: u32 = 1 << 18;
    pub const EXTERNAL: u32 = 1 << 19;
    pub const CHILDREN: u32 = 1 << 31;
}

/// DW_AT_… and DW_FORM_… of each bit.
const ATTRIBUTES: [(u32, &[(u8, u8)]); 20] = [
    (has::SIBLING, &[(0x01, 0x13)]),
    (has::PRODUCER, &[(0x25, 0x08)]),
    (has::LANGUAGE, &[(0x13, 0x0b)]),
    (has::NAME, &[(0x03, 0x0e)]),
    (has::TEXT, &[(0x03, 0x08)]),
    (has::TYPE, &[(0x49, 0x13)]),
    (has::FAR_TYPE, &[(0x49, 0x10)]),
    (has::ENCODING, &[(0x3e, 0x0b)]),
    (has::BYTE_SIZE, &[(0x0b, 0x0f)]),
    (has::BIT_SIZE, &[(0x0d, 0x0f)]),
    (has::BIT_OFFSET, &[(0x6b, 0x0f)]),
    (has::OFFSET, &[(0x38, 0x0f)]),
    (has::COUNT, &[(0x37, 0x0f)]),
    (has::SIGNED_VALUE, &[(0x1c, 0x0d)]),
    (has::VALUE, &[(0x1c, 0x0f)]),
    (has::RANGE, &[(0x11, 0x01), (0x12, 0x06)]),
    (has::LOCATION, &[(0x02, 0x18)]),
    (has::DECLARATION, &[(0x3c, 0x19)]),
    (has::PROTOTYPED, &[(0x27, 0x19)]),
    (has::EXTERNAL, &[(0x3f, 0x19)]),
];

/// The shapes so far; a shape's code is its place, from 1.
pub(super) struct Abbreviations {
    shapes: Vec<(u16, u32)>,
}

impl Abbreviations {
    /// With what is used most at the front.
    pub(super) fn new() -> Abbreviations {
        use has::{NAME, OFFSET, SIGNED_VALUE, TYPE, VALUE};
        Abbreviations {
            shapes: vec![
                (tag::PARAMETER, NAME | TYPE),
                (tag::PARAMETER, TYPE),
                (tag::MEMBER, NAME | TYPE | OFFSET),
                (tag::ENUMERATOR, NAME | VALUE),
                (tag::ENUMERATOR, NAME | SIGNED_VALUE),
            ],
        }
    }

    /// The code of a tag with these attributes.
    pub(super) fn code(&mut self, tag: u16, attributes: u32) -> u64 {
        let known = self.shapes.iter().position(|it| *it == (tag, attributes));
        let place = known.unwrap_or_else(|| {
            self.shapes.push((tag, attributes));
            self.shapes.len() - 1
        });
        place as u64 + 1
    }

    /// `.debug_abbrev`.
    pub(super) fn section(&self) -> Out {
        let mut out = Out::default();
        for (code, (tag, attributes)) in (1..).zip(&self.shapes) {
            out.uleb(code);
            out.uleb(u64::from(*tag));
            out.u8((attributes & has::CHILDREN != 0) as u8);
            for (bit, forms) in ATTRIBUTES {
                if attributes & bit != 0 {
                    for (attribute, form) in forms {
                        out.uleb(u64::from(*attribute));
                        out.uleb(u64::from(*form));
                    }
                }
            }
            out.u16(0);
        }
        out.u8(0);
        out
    }
}
