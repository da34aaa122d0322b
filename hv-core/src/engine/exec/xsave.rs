//! FXSAVE, FXRSTOR and the XSAVE family with x87 and SSE state (SDM vol. 1, 10.5 and chapter 13).

use crate::engine::bus::Bus;
use crate::engine::cpuid::XSAVE_SIZE;
use crate::engine::vcpu::{Exec, Mode, Vcpu, vector};
use crate::engine::x87::environment::FXSAVE_X87;
use crate::regs::{X87, cr0, cr4, gpr};
use iced_x86::{Code, Instruction, Mnemonic};

const X87_STATE: u64 = 1;
const SSE_STATE: u64 = 2;
/// MXCSR bits that may be set, DAZ included.
pub(crate) const MXCSR_MASK: u32 = 0xffff;

impl Vcpu {
    fn legacy_image(&self, wide: bool, x87: bool, sse: bool, image: &mut [u8; 512]) {
        if x87 {
            let legacy = self.r.x87.fxsave(wide);
            // MXCSR and its mask at 24 to 31 have a say of their own.
            image[..24].copy_from_slice(&legacy[..24]);
            image[32..FXSAVE_X87].copy_from_slice(&legacy[32..]);
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

    fn restore_xmm(&mut self, image: &[u8]) {
        for n in 0..if self.mode == Mode::Long { 16 } else { 8 } {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&image[160 + 16 * n..176 + 16 * n]);
            self.r.xmm[n] = u128::from_le_bytes(bytes);
        }
    }
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
    cpu.r.x87.fxrstor(wide, &image);
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
    let wide = matches!(
        m,
        M::Xsave64 | M::Xsaveopt64 | M::Xsavec64 | M::Xsaves64 | M::Xrstor64 | M::Xrstors64
    );
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
    let saved = if compact || optimised {
        requested & inuse
    } else {
        requested
    };
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
            cpu.r.x87.fxrstor(wide, &image);
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
