//! IN and OUT, and the permission check by IOPL and the TSS's bitmap.

use super::Flow;
use crate::addr::Ticks;
use crate::engine::bus::Bus;
use crate::engine::vcpu::{Exec, Mode, Vcpu};
use crate::regs::gpr;
use iced_x86::{Instruction, Mnemonic, OpKind};

impl Vcpu {
    /// SDM vol. 1, 19.5: #GP(0) unless CPL <= IOPL or the I/O permission bitmap allows every byte.
    pub(crate) fn check_port(&mut self, bus: &mut Bus, port: u16, size: usize) -> Exec {
        if !self.protected() {
            return Ok(());
        }
        let iopl = (self.rflags >> 12 & 3) as u8;
        if self.mode != Mode::Virtual8086 && self.cpl <= iopl {
            return Ok(());
        }
        let wide = self.r.tr.kind() & 8 != 0;
        if !wide || self.r.tr.limit < 103 {
            return Err(self.general_protection());
        }
        let base = self.r.tr.base;
        let mut offset = [0; 2];
        self.load_system(bus, base.wrapping_add(102), &mut offset)?;
        let at = u16::from_le_bytes(offset) as u64 + port as u64 / 8;
        if at + 1 > self.r.tr.limit as u64 {
            return Err(self.general_protection());
        }
        let mut bits = [0; 2];
        self.load_system(bus, base.wrapping_add(at), &mut bits)?;
        let mask = ((1u32 << size) - 1) << (port & 7);
        if u16::from_le_bytes(bits) as u32 & mask != 0 {
            return Err(self.general_protection());
        }
        Ok(())
    }
}

pub(crate) fn execute(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction, now: Ticks) -> Exec<Flow> {
    let input = i.mnemonic() == Mnemonic::In;
    let (port_operand, data_operand) = if input { (1, 0) } else { (0, 1) };
    let port = match i.op_kind(port_operand) {
        OpKind::Register => cpu.gpr[gpr::RDX] as u16,
        _ => i.immediate8() as u16,
    };
    let register = i.op_register(data_operand);
    let size = register.size();
    cpu.check_port(bus, port, size)?;
    cpu.check_guest_port_watch(port, size);
    if input {
        let value = bus.platform.port_read(now, cpu.id, port, size as u8);
        cpu.set_register(register, value as u64);
    } else {
        let value = cpu.get_register(register) as u32;
        bus.platform.port_write(now, cpu.id, port, size as u8, value);
    }
    cpu.rip = i.next_ip();
    Ok(Flow::Leave)
}
