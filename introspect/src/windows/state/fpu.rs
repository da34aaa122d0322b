//! x87 and SSE state between the engine's form and FXSAVE's (SDM vol. 1, 10.5.1).

use hv_core::regs::{Registers, X87};
use protocol::context::fxsave::Fxsave;
use zerocopy::FromZeros;

/// MXCSR bits that exist.
const MXCSR_MASK: u32 = 0xffff;

/// How FXSAVE lays out the last instruction's and operand's addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pointers {
    /// 64 bits.
    Long,
    /// 32 bits and a selector.
    WithSelector,
}

pub(super) fn fxsave(registers: &Registers, pointers: Pointers, xmm: usize) -> Fxsave {
    let x87 = &registers.x87;
    let mut image = Fxsave::new_zeroed();
    image.control_word = x87.fcw.into();
    image.status_word = x87.fsw.into();
    image.tag_word = (0..8).fold(0, |tags, n| tags | u8::from(x87.ftw >> (2 * n) & 3 != 3) << n);
    image.opcode = x87.fop.into();
    let pointer = |address: u64, selector: u16| match pointers {
        Pointers::Long => address,
        Pointers::WithSelector => address & 0xffff_ffff | u64::from(selector) << 32,
    };
    image.instruction_pointer = pointer(x87.fip, x87.fcs).into();
    image.data_pointer = pointer(x87.fdp, x87.fds).into();
    image.mxcsr = registers.mxcsr.into();
    image.mxcsr_mask = MXCSR_MASK.into();
    for (n, slot) in image.st.iter_mut().enumerate() {
        *slot = x87.r[(x87.top() + n) % 8].into();
    }
    for (slot, value) in image.xmm.iter_mut().zip(registers.xmm).take(xmm) {
        *slot = value.into();
    }
    image
}

pub(super) fn apply(image: &Fxsave, pointers: Pointers, xmm: usize, registers: &mut Registers) {
    let pointer = |value: u64| match pointers {
        Pointers::Long => (value, 0),
        Pointers::WithSelector => (value & 0xffff_ffff, (value >> 32) as u16),
    };
    let old = &registers.x87;
    let (fip, fcs) = pointer(image.instruction_pointer.get());
    let (fdp, fds) = pointer(image.data_pointer.get());
    let long = pointers == Pointers::Long;
    let mut x87 = X87 {
        fcw: image.control_word.get(),
        fsw: image.status_word.get(),
        fop: image.opcode.get() & 0x7ff,
        fip,
        fcs: if long { old.fcs } else { fcs },
        fdp,
        fds: if long { old.fds } else { fds },
        ..X87::default()
    };
    let top = x87.top();
    for (n, value) in image.st.iter().enumerate() {
        x87.r[(top + n) % 8] = value.get() & ((1 << 80) - 1);
    }
    x87.ftw = (0..8).fold(0, |tags, n| {
        let tag = if image.tag_word >> n & 1 == 0 {
            3
        } else {
            tag(x87.r[n])
        };
        tags | tag << (2 * n)
    });
    registers.x87 = x87;
    registers.mxcsr = image.mxcsr.get() & MXCSR_MASK;
    for (slot, value) in registers.xmm.iter_mut().zip(&image.xmm).take(xmm) {
        *slot = value.get();
    }
}

/// The full tag of a register that isn't empty: 0 valid, 1 zero, 2 special.
fn tag(value: u128) -> u16 {
    let (exponent, significand) = ((value >> 64) as u16 & 0x7fff, value as u64);
    match (exponent, significand) {
        (0, 0) => 1,
        (0 | 0x7fff, _) => 2,
        _ if significand >> 63 == 0 => 2,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_what_is_loaded() {
        let mut registers = Registers::at_reset(true);
        registers.x87 = X87 {
            fsw: 5 << 11,
            ftw: 0x03ff,
            fop: 0x123,
            fip: 0x1234_5678,
            fdp: 0x8765_4321,
            ..X87::default()
        };
        registers.x87.r[5] = 0x3fff_8000_0000_0000_0000;
        registers.x87.r[6] = 0;
        registers.x87.r[7] = 0x7fff_8000_0000_0000_0000;
        registers.x87.ftw = 0b10_01_00_11_11_11_11_11;
        registers.xmm[15] = 7;
        let image = fxsave(&registers, Pointers::Long, 16);
        assert_eq!(image.tag_word, 0b1110_0000);
        assert_eq!(image.st[0].get(), 0x3fff_8000_0000_0000_0000);
        let mut back = registers.clone();
        back.xmm[15] = 0;
        back.x87.ftw = 0;
        apply(&image, Pointers::Long, 16, &mut back);
        assert_eq!(back, registers);
    }

    #[test]
    fn thirty_two_bit_code_has_selectors_and_eight_registers() {
        let mut registers = Registers::at_reset(true);
        registers.x87.fip = 0x1_2345_6789;
        registers.x87.fcs = 0x23;
        registers.xmm[8] = 9;
        let image = fxsave(&registers, Pointers::WithSelector, 8);
        assert_eq!(image.instruction_pointer.get(), 0x23_2345_6789);
        assert_eq!(image.xmm[8].get(), 0);
    }
}
