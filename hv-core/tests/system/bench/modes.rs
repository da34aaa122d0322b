//! The bench in each mode: its tables, its handlers, and the registers that enter the mode.

use super::layout::{CODE, GDT, IDT, NULL, STACK, TABLES, TSS, descriptor, gate, selector};
use super::{Bench, EXIT_PORT, config, handler};
use hv_core::machine::MachineConfig;
use hv_core::regs::{DescriptorTable, Registers, Segment, cr0, cr4, efer, gpr, seg};

fn flat(selector: u16, attributes: u32) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: 0xffff_ffff,
        attributes,
    }
}

impl Bench {
    /// 64-bit ring 0 with paging.
    pub fn long() -> Bench {
        Bench::long_smp(1)
    }

    /// The same with more vCPUs; all but the first wait.
    pub fn long_smp(vcpus: u32) -> Bench {
        Bench::long_of(&config(vcpus))
    }

    /// The same of another machine.
    pub fn long_of(config: &MachineConfig) -> Bench {
        let mut b = Bench::bare(config);
        b.long = true;
        b.descriptors();
        b.handlers(64);
        b.write_u16(TSS + 102, 104);
        for n in 0..3 {
            b.write_u64(TSS + 4 + 8 * n, STACK + 0x1000 * (n + 1));
        }
        for n in 1..8 {
            b.write_u64(TSS + 28 + 8 * n, STACK + 0x1000 * (n + 8));
        }
        b.write_u64(TABLES, (TABLES + 0x1000) | 7);
        b.write_u64(TABLES + 0x1000, (TABLES + 0x2000) | 7);
        for n in 0..4 {
            let table = TABLES + 0x3000 + 0x1000 * n;
            b.write_u64(TABLES + 0x2000 + 8 * n, table | 7);
            for k in 0..512 {
                b.write_u64(table + 8 * k, (n * 512 + k) << 12 | 7);
            }
        }
        let registers = b.long_registers();
        b.set(|r| *r = registers);
        b
    }

    /// The registers of 64-bit ring 0.
    pub fn long_registers(&self) -> Registers {
        let mut r = self.protected_registers();
        r.cr0 |= cr0::PG | cr0::WP;
        r.cr3 = TABLES;
        r.cr4 = cr4::PAE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::DE;
        r.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        r.segments[seg::CS] = flat(selector::CODE64, 0xa09b);
        r.idtr = DescriptorTable {
            base: IDT,
            limit: 0xfff,
        };
        r
    }

    /// 32-bit ring 0 without paging.
    pub fn protected() -> Bench {
        let mut b = Bench::bare(&config(1));
        b.descriptors();
        b.handlers(32);
        b.write_u16(TSS + 102, 104);
        for n in 0..3 {
            b.write_u32(TSS + 4 + 8 * n, (STACK + 0x1000 * (n + 1)) as u32);
            b.write_u32(TSS + 8 + 8 * n, selector::DATA as u32 | n as u32);
        }
        let registers = b.protected_registers();
        b.set(|r| *r = registers);
        b
    }

    fn protected_registers(&self) -> Registers {
        let mut r = Registers::at_reset(true);
        r.cr0 = cr0::PE | cr0::ET | cr0::NE;
        r.dr6 = 0xffff_0ff0;
        for s in [seg::ES, seg::SS, seg::DS, seg::FS, seg::GS] {
            r.segments[s] = flat(selector::DATA, 0xc093);
        }
        r.segments[seg::CS] = flat(selector::CODE32, 0xc09b);
        r.tr = Segment {
            selector: selector::TSS,
            base: TSS,
            limit: 0x67,
            attributes: 0x8b,
        };
        r.ldtr = NULL;
        r.gdtr = DescriptorTable {
            base: GDT,
            limit: 0xff,
        };
        r.idtr = DescriptorTable {
            base: IDT,
            limit: 0x7ff,
        };
        r.gpr = [0; 16];
        r.gpr[gpr::RSP] = STACK;
        r.rip = CODE;
        r
    }

    /// Real mode at 1000:0000 with the stack at 2000:fffe and the IVT at 0; handlers are at 0000:4000 on.
    pub fn real() -> Bench {
        let mut b = Bench::bare(&config(1));
        for v in 0..=255u64 {
            b.write_u16(4 * v, 0x4000 + 16 * v as u16);
            b.write_u16(4 * v + 2, 0);
            b.write(0x4000 + 16 * v, &[0xe6, EXIT_PORT as u8, 0xcf]);
        }
        b.next_code = 0x1_0000;
        b.set(|r| {
            *r = Registers::at_reset(true);
            r.idtr = DescriptorTable {
                base: 0,
                limit: 0x3ff,
            };
            for (s, selector) in [(seg::CS, 0x1000), (seg::SS, 0x2000)] {
                r.segments[s].selector = selector;
                r.segments[s].base = (selector as u64) << 4;
            }
            r.rip = 0;
            r.gpr = [0; 16];
            r.gpr[gpr::RSP] = 0xfffe;
        });
        b
    }

    fn descriptors(&mut self) {
        let all = u32::MAX;
        for (selector, value) in [
            (selector::CODE64, descriptor(0, all, 0x9b, 0xa)),
            (selector::DATA, descriptor(0, all, 0x93, 0xc)),
            (selector::USER_CODE32, descriptor(0, all, 0xfb, 0xc)),
            (selector::USER_DATA, descriptor(0, all, 0xf3, 0xc)),
            (selector::USER_CODE64, descriptor(0, all, 0xfb, 0xa)),
            (selector::TSS, descriptor(TSS as u32, 0x67, 0x8b, 0)),
            (selector::CODE32, descriptor(0, all, 0x9b, 0xc)),
            (selector::CODE16, descriptor(0, 0xffff, 0x9b, 0)),
            (selector::DATA16, descriptor(0, 0xffff, 0x93, 0)),
        ] {
            self.define(selector, value);
        }
    }

    /// Puts a descriptor into the GDT.
    pub fn define(&mut self, selector: u16, value: u64) {
        self.write_u64(GDT + (selector & !7) as u64, value);
    }

    /// Handlers and interrupt gates to them; INT3 and INTO may come from ring 3.
    fn handlers(&mut self, bits: u32) {
        for v in 0..=255u8 {
            // out EXIT_PORT, al; iret (the error code, if any, is still on the stack)
            let iret: &[u8] = if bits == 64 { &[0x48, 0xcf] } else { &[0xcf] };
            self.write(handler(v), &[0xe6, EXIT_PORT as u8]);
            self.write(handler(v) + 2, iret);
            let access = if v == 3 || v == 4 { 0xee } else { 0x8e };
            self.interrupt_gate(v, access, 0, handler(v));
        }
    }

    /// Sets an IDT entry: `access` is P, DPL and type; `ist` counts in 64-bit mode.
    pub fn interrupt_gate(&mut self, vector: u8, access: u8, ist: u8, target: u64) {
        if self.long {
            let low = gate(selector::CODE64, target as u32, access, ist);
            self.write_u64(IDT + 16 * vector as u64, low);
            self.write_u64(IDT + 16 * vector as u64 + 8, target >> 32);
        } else {
            self.write_u64(
                IDT + 8 * vector as u64,
                gate(selector::CODE32, target as u32, access, 0),
            );
        }
    }

    /// Goes on in ring 3 of the same mode, with the stack at `STACK - 0x800`.
    pub fn user(&mut self) {
        let long = self.long;
        self.set(|r| {
            r.segments[seg::CS] = if long {
                flat(selector::USER_CODE64, 0xa0fb)
            } else {
                flat(selector::USER_CODE32, 0xc0fb)
            };
            for s in [seg::ES, seg::SS, seg::DS] {
                r.segments[s] = flat(selector::USER_DATA, 0xc0f3);
            }
            r.segments[seg::FS] = NULL;
            r.segments[seg::GS] = NULL;
            r.gpr[gpr::RSP] = STACK - 0x800;
        });
    }
}
