//! FXSAVE, FXRSTOR and the XSAVE family with x87 and SSE state (SDM vol. 1, 10.5 and chapter 13).

use crate::engine::bus::Bus;
use crate::engine::cpuid::XSAVE_SIZE;
use crate::engine::vcpu::{Exec, Mode, Vcpu, vector};
use crate::regs::{X87, cr0, cr4, gpr};
use iced_x86::{Code, Instruction, Mnemonic};

const X87_STATE: u64 = 1;
const SSE_STATE: u64 = 2;
/// MXCSR bits that may be set, DAZ included.
pub(crate) const MXCSR_MASK: u32 = 0xffff;

impl Vcpu {
    fn legacy_image(&self, wide: bool, x87: bool, sse: bool, image: &mut [u8; 512]) {
        if x87 {
            let f = &self.r.x87;
            image[0..2].copy_from_slice(&f.fcw.to_le_bytes());
            image[2..4].copy_from_slice(&f.fsw.to_le_bytes());
            image[4] = abridged_tags(f);
            image[5] = 0;
            image[6..8].copy_from_slice(&f.fop.to_le_bytes());
            if wide {
                image[8..16].copy_from_slice(&f.fip.to_le_bytes());
                image[16..24].copy_from_slice(&f.fdp.to_le_bytes());
            } else {
                image[8..12].copy_from_slice(&(f.fip as u32).to_le_bytes());
                image[12..16].copy_from_slice(&(f.fcs as u32).to_le_bytes());
                image[16..20].copy_from_slice(&(f.fdp as u32).to_le_bytes());
                image[20..24].copy_from_slice(&(f.fds as u32).to_le_bytes());
            }
            for n in 0..8 {
                let value = f.r[(f.top() + n) & 7];
                image[32 + 16 * n..48 + 16 * n].copy_from_slice(&value.to_le_bytes());
                image[42 + 16 * n..48 + 16 * n].fill(0);
            }
        }
        if sse {
            for n in 0..if self.mode == Mode::Long { 16 } else { 8 } {
                image[160 + 16 * n..176 + 16 * n].copy_from_slice(&self.r.xmm[n].to_le_bytes());
            }
        }
    }

    fn put_mxcsr(&self, image: &mut [u8; 512]) {
        image[24..28].copy_from_slice(&self.r.mxcsr.to_le_bytes());
        image[28..32].copy_from_slice(&MXCSR_MASK.to_le_bytes());
    }

    fn restore_x87(&mut self, wide: bool, image: &[u8]) {
        let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        let long = |at: usize| {
            let mut b = [0; 8];
            b.copy_from_slice(&image[at..at + 8]);
            u64::from_le_bytes(b)
        };
        let f = &mut self.r.x87;
        f.fcw = word(0) & 0x1f7f | 0x40;
        f.fsw = word(2);
        f.fop = word(6) & 0x7ff;
        if wide {
            f.fip = long(8);
            f.fdp = long(16);
            f.fcs = 0;
            f.fds = 0;
        } else {
            f.fip = long(8) & 0xffff_ffff;
            f.fcs = word(12);
            f.fdp = long(16) & 0xffff_ffff;
            f.fds = word(20);
        }
        let top = f.top();
        for n in 0..8 {
            let mut bytes = [0; 16];
            bytes[..10].copy_from_slice(&image[32 + 16 * n..42 + 16 * n]);
            f.r[(top + n) & 7] = u128::from_le_bytes(bytes);
        }
        f.ftw = full_tags(f, image[4]);
    }

    fn restore_xmm(&mut self, image: &[u8]) {
        for n in 0..if self.mode == Mode::Long { 16 } else { 8 } {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&image[160 + 16 * n..176 + 16 * n]);
            self.r.xmm[n] = u128::from_le_bytes(bytes);
        }
    }
}

/// One bit a physical register: not empty.
fn abridged_tags(f: &X87) -> u8 {
    (0..8).filter(|n| f.ftw >> (2 * n) & 3 != 3).fold(0, |tags, n| tags | 1 << n)
}

/// The two-bit tags from the abridged ones and the values (SDM vol. 1, 8.1.7).
fn full_tags(f: &X87, abridged: u8) -> u16 {
    (0..8).fold(0, |tags, n| {
        let tag = if abridged >> n & 1 == 0 {
            3
        } else {
            let value = f.r[n];
            let (exponent, mantissa) = ((value >> 64) as u16 & 0x7fff, value as u64);
            if exponent == 0 && mantissa == 0 {
                1
            } else if exponent == 0 || exponent == 0x7fff || mantissa >> 63 == 0 {
                2
            } else {
                0
            }
        };
        tags | tag << (2 * n)
    })
}

/// #NM or #UD before FXSAVE and FXRSTOR.
fn check_fx(cpu: &mut Vcpu) -> Exec {
    if cpu.r.cr0 & cr0::EM != 0 {
        return Err(cpu.undefined());
    }
    if cpu.r.cr0 & cr0::TS != 0 {
        return Err(cpu.raise(vector::NM));
    }
    Ok(())
}

pub(crate) fn fxsave(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    check_fx(cpu)?;
    let wide = matches!(i.code(), Code::Fxsave64_m512byte | Code::Fxrstor64_m512byte);
    let linear = cpu.memory_operand(i, 512, true)?;
    if linear & 15 != 0 {
        return Err(cpu.general_protection());
    }
    let sse = cpu.r.cr4 & cr4::OSFXSR != 0;
    let mut image = [0; 512];
    if matches!(i.mnemonic(), Mnemonic::Fxsave | Mnemonic::Fxsave64) {
        // The last 96 bytes and, without OSFXSR, the XMM area are left as they are.
        cpu.load_bytes(bus, linear, &mut image)?;
        cpu.legacy_image(wide, true, sse, &mut image);
        cpu.put_mxcsr(&mut image);
        return cpu.store_bytes(bus, linear, &image);
    }
    cpu.load_bytes(bus, linear, &mut image)?;
    let mxcsr = u32::from_le_bytes([image[24], image[25], image[26], image[27]]);
    if sse && mxcsr & !MXCSR_MASK != 0 {
        return Err(cpu.general_protection());
    }
    cpu.restore_x87(wide, &image);
    if sse {
        cpu.r.mxcsr = mxcsr;
        cpu.restore_xmm(&image);
    }
    Ok(())
}

/// XINUSE: which components aren't in their initial state. MXCSR counts as SSE state, so that a save that leaves out
/// what is in its initial state keeps it (SDM vol. 1, 13.6 and 13.10).
fn in_use(cpu: &Vcpu) -> u64 {
    let mut bits = 0;
    if cpu.r.x87 != X87::default() {
        bits |= X87_STATE;
    }
    if cpu.r.xmm.iter().any(|x| *x != 0) || cpu.r.mxcsr != 0x1f80 {
        bits |= SSE_STATE;
    }
    bits
}

/// XSAVE, XSAVEOPT, XSAVEC, XSAVES, XRSTOR, XRSTORS and their 64-bit forms.
pub(crate) fn xsave(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Exec {
    use Mnemonic as M;
    if cpu.r.cr4 & cr4::OSXSAVE == 0 {
        return Err(cpu.undefined());
    }
    if cpu.r.cr0 & cr0::TS != 0 {
        return Err(cpu.raise(vector::NM));
    }
    let m = i.mnemonic();
    let supervisor = matches!(m, M::Xsaves | M::Xsaves64 | M::Xrstors | M::Xrstors64);
    if supervisor {
        cpu.require_cpl0()?;
    }
    let wide = matches!(m, M::Xsave64 | M::Xsaveopt64 | M::Xsavec64 | M::Xsaves64 | M::Xrstor64 | M::Xrstors64);
    let requested = (cpu.gpr[gpr::RDX] << 32 | cpu.gpr[gpr::RAX] & 0xffff_ffff) & cpu.r.xcr0;
    let restore = matches!(m, M::Xrstor | M::Xrstor64 | M::Xrstors | M::Xrstors64);
    let linear = cpu.memory_operand(i, XSAVE_SIZE as usize, !restore)?;
    if linear & 63 != 0 {
        return Err(cpu.general_protection());
    }
    if restore {
        return xrstor(cpu, bus, linear, requested, wide, supervisor);
    }
    let compact = matches!(m, M::Xsavec | M::Xsavec64 | M::Xsaves | M::Xsaves64);
    let optimised = matches!(m, M::Xsaveopt | M::Xsaveopt64);
    let inuse = in_use(cpu);
    let saved = if compact || optimised { requested & inuse } else { requested };
    let mut legacy = [0; 512];
    cpu.load_bytes(bus, linear, &mut legacy)?;
    let mut header = [0; 64];
    cpu.load_bytes(bus, linear.wrapping_add(512), &mut header)?;
    cpu.legacy_image(wide, saved & X87_STATE != 0, saved & SSE_STATE != 0, &mut legacy);
    if requested & SSE_STATE != 0 && (!compact || saved & SSE_STATE != 0) {
        cpu.put_mxcsr(&mut legacy);
    }
    let mut old = [0; 8];
    old.copy_from_slice(&header[..8]);
    let old_bv = u64::from_le_bytes(old);
    let bv = if compact {
        // XSTATE_BV is replaced; XCOMP_BV tells the format.
        header[8..16].copy_from_slice(&(requested | 1 << 63).to_le_bytes());
        saved
    } else {
        old_bv & !requested | requested & inuse
    };
    header[..8].copy_from_slice(&bv.to_le_bytes());
    let written = if compact { 16 } else { 8 };
    cpu.check_writable(bus, linear, 512)?;
    cpu.store_bytes(bus, linear.wrapping_add(512), &header[..written])?;
    cpu.store_bytes(bus, linear, &legacy)
}

fn xrstor(cpu: &mut Vcpu, bus: &mut Bus, linear: u64, requested: u64, wide: bool, supervisor: bool) -> Exec {
    let mut image = [0; XSAVE_SIZE as usize];
    cpu.load_bytes(bus, linear, &mut image)?;
    let word = |at: usize| {
        let mut b = [0; 8];
        b.copy_from_slice(&image[at..at + 8]);
        u64::from_le_bytes(b)
    };
    let (bv, compaction) = (word(512), word(520));
    let compact = compaction >> 63 != 0;
    let bad = if compact {
        bv & !compaction != 0 || compaction & !(1 << 63) & !cpu.r.xcr0 != 0
    } else {
        compaction != 0 || supervisor || bv & !cpu.r.xcr0 != 0
    };
    if bad || image[528..576].iter().any(|b| *b != 0) {
        return Err(cpu.general_protection());
    }
    let mxcsr = u32::from_le_bytes([image[24], image[25], image[26], image[27]]);
    let loads_mxcsr = requested & SSE_STATE != 0 && (!compact || bv & SSE_STATE != 0);
    if loads_mxcsr && mxcsr & !MXCSR_MASK != 0 {
        return Err(cpu.general_protection());
    }
    if requested & X87_STATE != 0 {
        if bv & X87_STATE != 0 {
            cpu.restore_x87(wide, &image);
        } else {
            cpu.r.x87 = X87::default();
        }
    }
    if requested & SSE_STATE != 0 {
        cpu.r.mxcsr = if loads_mxcsr { mxcsr } else { 0x1f80 };
        if bv & SSE_STATE != 0 {
            cpu.restore_xmm(&image);
        } else {
            cpu.r.xmm = [0; 16];
        }
    }
    Ok(())
}

/// XGETBV, XSETBV.
pub(crate) fn xcr(cpu: &mut Vcpu, i: &Instruction) -> Exec {
    if cpu.r.cr4 & cr4::OSXSAVE == 0 {
        return Err(cpu.undefined());
    }
    let index = cpu.gpr[gpr::RCX] as u32;
    if i.mnemonic() == Mnemonic::Xgetbv {
        let value = match index {
            0 => cpu.r.xcr0,
            1 if cpu.model.leaf13_1_eax & crate::engine::cpuid::feature::XGETBV1 != 0 => {
                cpu.r.xcr0 & in_use(cpu)
            }
            _ => return Err(cpu.general_protection()),
        };
        cpu.gpr[gpr::RAX] = value & 0xffff_ffff;
        cpu.gpr[gpr::RDX] = value >> 32;
        return Ok(());
    }
    cpu.require_cpl0()?;
    let value = cpu.gpr[gpr::RDX] << 32 | cpu.gpr[gpr::RAX] & 0xffff_ffff;
    if index != 0 || value & 1 == 0 || value & !(X87_STATE | SSE_STATE) != 0 {
        return Err(cpu.general_protection());
    }
    cpu.r.xcr0 = value;
    Ok(())
}
