//! MOVS, STOS, LODS, CMPS, SCAS, INS and OUTS with their REP forms: restartable, each iteration one tick.

use super::operand::by_width;
use crate::engine::bus::Bus;
use crate::engine::exec::Flow;
use crate::engine::exec::arith::{Alu, alu};
use crate::engine::flags::Width;
use crate::engine::vcpu::{Exec, Mode, Vcpu};
use crate::regs::{gpr, rflags, seg};
use iced_x86::{Instruction, Mnemonic, OpKind};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Movs,
    Stos,
    Lods,
    Cmps,
    Scas,
    Ins,
    Outs,
}

fn classify(mnemonic: Mnemonic) -> (Kind, usize) {
    match mnemonic {
        Mnemonic::Movsb => (Kind::Movs, 1),
        Mnemonic::Movsw => (Kind::Movs, 2),
        Mnemonic::Movsd => (Kind::Movs, 4),
        Mnemonic::Movsq => (Kind::Movs, 8),
        Mnemonic::Stosb => (Kind::Stos, 1),
        Mnemonic::Stosw => (Kind::Stos, 2),
        Mnemonic::Stosd => (Kind::Stos, 4),
        Mnemonic::Stosq => (Kind::Stos, 8),
        Mnemonic::Lodsb => (Kind::Lods, 1),
        Mnemonic::Lodsw => (Kind::Lods, 2),
        Mnemonic::Lodsd => (Kind::Lods, 4),
        Mnemonic::Lodsq => (Kind::Lods, 8),
        Mnemonic::Cmpsb => (Kind::Cmps, 1),
        Mnemonic::Cmpsw => (Kind::Cmps, 2),
        Mnemonic::Cmpsd => (Kind::Cmps, 4),
        Mnemonic::Cmpsq => (Kind::Cmps, 8),
        Mnemonic::Scasb => (Kind::Scas, 1),
        Mnemonic::Scasw => (Kind::Scas, 2),
        Mnemonic::Scasd => (Kind::Scas, 4),
        Mnemonic::Scasq => (Kind::Scas, 8),
        Mnemonic::Insb => (Kind::Ins, 1),
        Mnemonic::Insw => (Kind::Ins, 2),
        Mnemonic::Insd => (Kind::Ins, 4),
        Mnemonic::Outsb => (Kind::Outs, 1),
        Mnemonic::Outsw => (Kind::Outs, 2),
        _ => (Kind::Outs, 4),
    }
}

/// The address mask of a string instruction, from how its operands are addressed.
fn address_mask(i: &Instruction) -> u64 {
    for n in 0..i.op_count() {
        match i.op_kind(n) {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => return 0xffff,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => return 0xffff_ffff,
            _ => {}
        }
    }
    u64::MAX
}

struct Iteration {
    kind: Kind,
    size: usize,
    mask: u64,
    source: usize,
    step: u64,
}

impl Vcpu {
    fn set_masked(&mut self, n: usize, mask: u64, value: u64) {
        self.gpr[n] = match mask {
            0xffff => self.gpr[n] & !0xffff | value & 0xffff,
            m => value & m,
        };
    }
}

/// Executes a string instruction that is number `index` of its block.
pub(crate) fn execute(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction, index: u16) -> Exec<Flow> {
    let (kind, size) = classify(i.mnemonic());
    let mask = address_mask(i);
    let backwards = cpu.rflags & rflags::DF != 0;
    let step = if backwards {
        (size as u64).wrapping_neg()
    } else {
        size as u64
    };
    let source = cpu.memory_segment(i);
    let it = Iteration {
        kind,
        size,
        mask,
        source,
        step,
    };
    if matches!(kind, Kind::Ins | Kind::Outs) && !cpu.precise {
        cpu.pending = crate::engine::vcpu::Pending::Precise;
        return Err(crate::engine::vcpu::Abort);
    }
    let repeated = i.has_rep_prefix() || i.has_repne_prefix();
    if !repeated {
        one(cpu, bus, &it)?;
        return Ok(if matches!(kind, Kind::Ins | Kind::Outs) {
            leave(cpu, i)
        } else {
            Flow::Next
        });
    }
    let mut count = cpu.gpr[gpr::RCX] & mask;
    if count == 0 {
        cpu.rip = i.next_ip();
        return Ok(Flow::Branch);
    }
    let budget = if cpu.precise {
        1
    } else {
        cpu.stop_at.saturating_sub(cpu.clock + index as u64).max(1)
    };
    let mut done = 0;
    let mut finished = false;
    while done < budget {
        if !backwards && matches!(kind, Kind::Movs | Kind::Stos) && !cpu.precise {
            let n = bulk(cpu, &it, count.min(budget - done));
            if n > 0 {
                done += n;
                count -= n;
                cpu.set_masked(gpr::RCX, mask, count);
                if count == 0 {
                    finished = true;
                    break;
                }
                continue;
            }
        }
        if let Err(abort) = one(cpu, bus, &it) {
            cpu.clock += done;
            return Err(abort);
        }
        done += 1;
        count -= 1;
        cpu.set_masked(gpr::RCX, mask, count);
        let compare_ends = match kind {
            Kind::Cmps | Kind::Scas => cpu.flags.zf() == i.has_repne_prefix(),
            _ => false,
        };
        if count == 0 || compare_ends {
            finished = true;
            break;
        }
    }
    cpu.clock += done - 1;
    cpu.rip = if finished { i.next_ip() } else { i.ip() };
    Ok(if matches!(kind, Kind::Ins | Kind::Outs) {
        Flow::Leave
    } else {
        Flow::Branch
    })
}

fn leave(cpu: &mut Vcpu, i: &Instruction) -> Flow {
    cpu.rip = i.next_ip();
    Flow::Leave
}

/// Does as many whole iterations as lie in the pages at hand, at most `count`; 0 where the slow way is needed.
fn bulk(cpu: &mut Vcpu, it: &Iteration, count: u64) -> u64 {
    if cpu.mode != Mode::Long || it.mask != u64::MAX {
        return 0;
    }
    let size = it.size as u64;
    let to = cpu.gpr[gpr::RDI];
    let room = |address: u64| (0x1000 - (address & 0xfff)) / size;
    let mut n = count.min(room(to));
    if it.kind == Kind::Movs {
        let base = if it.source >= seg::FS {
            cpu.r.segments[it.source].base
        } else {
            0
        };
        let from = cpu.gpr[gpr::RSI].wrapping_add(base);
        n = n.min(room(from));
        if n == 0 || !cpu.tlb.copy(cpu.view, from, to, (n * size) as usize) {
            return 0;
        }
        cpu.gpr[gpr::RSI] = cpu.gpr[gpr::RSI].wrapping_add(n * size);
    } else {
        let a = cpu.gpr[gpr::RAX];
        let filled =
            n > 0 && by_width!(it.size, T => cpu.tlb.fill::<T>(cpu.view, to, T::from_u64(a), n as usize));
        if !filled {
            return 0;
        }
    }
    cpu.gpr[gpr::RDI] = to.wrapping_add(n * size);
    n
}

/// One iteration.
fn one(cpu: &mut Vcpu, bus: &mut Bus, it: &Iteration) -> Exec {
    let size = it.size;
    let si = cpu.gpr[gpr::RSI] & it.mask;
    let di = cpu.gpr[gpr::RDI] & it.mask;
    let reads_source = matches!(it.kind, Kind::Movs | Kind::Lods | Kind::Cmps | Kind::Outs);
    let uses_destination = !matches!(it.kind, Kind::Lods | Kind::Outs);
    let value = if it.kind == Kind::Ins {
        let port = cpu.gpr[gpr::RDX] as u16;
        cpu.check_port(bus, port, size)?;
        let linear = cpu.linear(seg::ES, di, size, true)?;
        cpu.check_writable(bus, linear, size)?;
        cpu.check_guest_port_watch(port, size);
        bus.platform
            .port_read(crate::Ticks(cpu.clock), cpu.id, port, size as u8) as u64
    } else if reads_source {
        if it.kind == Kind::Outs {
            cpu.check_port(bus, cpu.gpr[gpr::RDX] as u16, size)?;
        }
        let linear = cpu.linear(it.source, si, size, false)?;
        cpu.load_sized(bus, linear, size)?
    } else {
        cpu.gpr[gpr::RAX]
    };
    match it.kind {
        Kind::Movs | Kind::Stos | Kind::Ins => {
            let linear = cpu.linear(seg::ES, di, size, true)?;
            cpu.store_sized(bus, linear, size, value)?;
        }
        Kind::Lods => by_width!(size, T => {
            let keep = if size >= 4 { 0 } else { cpu.gpr[gpr::RAX] & (u64::MAX << (8 * size)) };
            cpu.gpr[gpr::RAX] = keep | T::from_u64(value).to_u64();
        }),
        Kind::Cmps | Kind::Scas => {
            let linear = cpu.linear(seg::ES, di, size, false)?;
            let other = cpu.load_sized(bus, linear, size)?;
            by_width!(size, T => {
                alu::<T>(&mut cpu.flags, Alu::Cmp, T::from_u64(value), T::from_u64(other));
            });
        }
        Kind::Outs => {
            let port = cpu.gpr[gpr::RDX] as u16;
            cpu.check_guest_port_watch(port, size);
            bus.platform
                .port_write(crate::Ticks(cpu.clock), cpu.id, port, size as u8, value as u32);
        }
    }
    if reads_source {
        cpu.set_masked(gpr::RSI, it.mask, si.wrapping_add(it.step));
    }
    if uses_destination {
        cpu.set_masked(gpr::RDI, it.mask, di.wrapping_add(it.step));
    }
    Ok(())
}
