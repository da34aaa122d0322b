//! From guest bytes to decoded blocks.

use super::block::{Block, Link, Op, handler};
use super::bus::Bus;
use super::cpuid::{CpuModel, feature as f};
use super::exec::{self, Flow};
use super::fast;
use super::vcpu::{Abort, Exec, Mode, Pending, Vcpu, ZERO};
use crate::addr::GuestPhysAddr;
use crate::memory::Backing;
use crate::regs::seg;
use iced_x86::{CpuidFeature, Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic};
use std::cell::Cell;

const MAX_OPS: usize = 64;

/// Executes an instruction by the reference implementation.
pub(crate) fn generic(cpu: &mut Vcpu, bus: &mut Bus, op: &Op) -> Flow {
    let Some(i) = op.instruction.as_deref() else {
        let _: Abort = cpu.undefined();
        return Flow::Abort;
    };
    let generation = cpu.map_generation;
    match exec::execute(cpu, bus, i, op.number) {
        // A descriptor's accessed bit, say, that lay in a page table or in code: what follows must be fetched anew.
        Ok(Flow::Next) if cpu.map_generation != generation || !bus.stale_code.is_empty() => {
            cpu.rip = i.next_ip();
            Flow::Leave
        }
        Ok(flow) => flow,
        Err(Abort) => Flow::Abort,
    }
}

/// STI with another instruction behind it in its block.
fn sti_inside(cpu: &mut Vcpu, _: &mut Bus, op: &Op) -> Flow {
    let Some(i) = op.instruction.as_deref() else {
        return Flow::Abort;
    };
    match exec::system::enable_interrupts_inside(cpu, i, op.number) {
        Ok(flow) => flow,
        Err(Abort) => Flow::Abort,
    }
}

fn undefined(cpu: &mut Vcpu, _: &mut Bus, _: &Op) -> Flow {
    let _: Abort = cpu.undefined();
    Flow::Abort
}

/// SDM vol. 3A, 6.15: an instruction of more than 15 bytes is #GP(0).
fn too_long(cpu: &mut Vcpu, _: &mut Bus, _: &Op) -> Flow {
    let _: Abort = cpu.general_protection();
    Flow::Abort
}

fn breakpoint(_: &mut Vcpu, _: &mut Bus, _: &Op) -> Flow {
    Flow::Break
}

impl Op {
    pub(crate) fn new(handler: super::block::Handler) -> Op {
        Op {
            handler,
            imm: 0,
            disp: 0,
            instruction: None,
            dst: ZERO as u8,
            src: ZERO as u8,
            base: ZERO as u8,
            index: ZERO as u8,
            scale: 0,
            segment: ZERO as u8,
            number: 0,
            offset: 0,
            stack: false,
        }
    }

    fn generic(i: &Instruction) -> Op {
        Op {
            instruction: Some(Box::new(*i)),
            ..Op::new(handler!(generic))
        }
    }
}

/// Whether the model has every feature that an instruction belongs to.
pub(crate) fn supported(model: &CpuModel, i: &Instruction) -> bool {
    i.cpuid_features().iter().all(|feature| match feature {
        CpuidFeature::INTEL8086
        | CpuidFeature::INTEL8086_ONLY
        | CpuidFeature::INTEL186
        | CpuidFeature::INTEL286
        | CpuidFeature::INTEL386
        | CpuidFeature::INTEL486
        | CpuidFeature::X64
        | CpuidFeature::FPU
        | CpuidFeature::FPU287
        | CpuidFeature::FPU387
        | CpuidFeature::CPUID
        | CpuidFeature::CX8
        | CpuidFeature::CMOV
        | CpuidFeature::TSC
        | CpuidFeature::MSR
        | CpuidFeature::MMX
        | CpuidFeature::FXSR
        | CpuidFeature::SSE
        | CpuidFeature::SSE2
        | CpuidFeature::SYSCALL
        | CpuidFeature::PAUSE
        | CpuidFeature::MULTIBYTENOP
        | CpuidFeature::CLFSH
        | CpuidFeature::CET_IBT
        | CpuidFeature::CET_SS
        | CpuidFeature::PREFETCHW
        | CpuidFeature::PREFETCHWT1
        | CpuidFeature::HLE_or_RTM => true,
        CpuidFeature::SEP => model.leaf1_edx & f::SEP != 0,
        CpuidFeature::SSE3 => model.leaf1_ecx & f::SSE3 != 0,
        CpuidFeature::SSSE3 => model.leaf1_ecx & f::SSSE3 != 0,
        CpuidFeature::SSE4_1 => model.leaf1_ecx & f::SSE41 != 0,
        CpuidFeature::SSE4_2 => model.leaf1_ecx & f::SSE42 != 0,
        CpuidFeature::POPCNT => model.leaf1_ecx & f::POPCNT != 0,
        CpuidFeature::AES => model.leaf1_ecx & f::AES != 0,
        CpuidFeature::PCLMULQDQ => model.leaf1_ecx & f::PCLMULQDQ != 0,
        CpuidFeature::MOVBE => model.leaf1_ecx & f::MOVBE != 0,
        CpuidFeature::CMPXCHG16B => model.leaf1_ecx & f::CX16 != 0,
        CpuidFeature::RDRAND => model.leaf1_ecx & f::RDRAND != 0,
        CpuidFeature::XSAVE => model.has_xsave(),
        CpuidFeature::XSAVEOPT => model.leaf13_1_eax & f::XSAVEOPT != 0,
        CpuidFeature::XSAVEC => model.leaf13_1_eax & f::XSAVEC != 0,
        CpuidFeature::XSAVES => model.leaf13_1_eax & f::XSAVES != 0,
        // F3 0F BC and F3 0F BD are BSF and BSR on a CPU without these.
        CpuidFeature::BMI1 => model.leaf7_ebx & f::BMI1 != 0 || i.mnemonic() == Mnemonic::Tzcnt,
        CpuidFeature::LZCNT => true,
        CpuidFeature::BMI2 => model.leaf7_ebx & f::BMI2 != 0,
        CpuidFeature::ADX => model.leaf7_ebx & f::ADX != 0,
        CpuidFeature::FSGSBASE => model.leaf7_ebx & f::FSGSBASE != 0,
        CpuidFeature::INVPCID => model.leaf7_ebx & f::INVPCID != 0,
        CpuidFeature::RDSEED => model.leaf7_ebx & f::RDSEED != 0,
        CpuidFeature::SMAP => model.leaf7_ebx & f::SMAP != 0,
        CpuidFeature::CLFLUSHOPT => model.leaf7_ebx & f::CLFLUSHOPT != 0,
        CpuidFeature::RDPID => model.leaf7_ecx & f::RDPID != 0,
        CpuidFeature::RDTSCP => model.extended_edx & f::RDTSCP != 0,
        _ => false,
    })
}

/// The longest instruction.
const MAX_LENGTH: usize = 15;

/// Whether bytes that mean nothing would be an instruction of more than 15 bytes, with its prefixes: that is a #GP
/// (SDM vol. 3A, 6.15).
fn is_too_long(bytes: &[u8], bitness: u32) -> bool {
    let prefix = |byte: &&u8| {
        matches!(
            **byte,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3
        ) || (bitness == 64 && **byte & 0xf0 == 0x40)
    };
    let prefixes = bytes.iter().take_while(prefix).count();
    prefixes >= MAX_LENGTH
        || (1..=prefixes).any(|without| {
            let i = Decoder::new(bitness, &bytes[without..], DecoderOptions::NONE).decode();
            !i.is_invalid() && without + i.len() > MAX_LENGTH
        })
}

/// F3 90 is PAUSE, but with REX.B it exchanges RAX and R8.
fn exchange_with_r8(i: &mut Instruction, bytes: &[u8]) {
    let [.., rex @ 0x40..=0x4f, 0x90] = bytes else {
        return;
    };
    if rex & 1 == 0 {
        return;
    }
    let plain: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0xf3).collect();
    let mut exchange = Decoder::with_ip(64, &plain, i.ip(), DecoderOptions::NONE).decode();
    exchange.set_len(i.len());
    exchange.set_next_ip(i.next_ip());
    *i = exchange;
}

/// Whether no other instruction may follow in a block.
fn ends_block(i: &Instruction) -> bool {
    i.flow_control() != FlowControl::Next
        || i.has_rep_prefix()
        || i.has_repne_prefix()
        || matches!(
            i.mnemonic(),
            Mnemonic::In
                | Mnemonic::Out
                | Mnemonic::Insb
                | Mnemonic::Insw
                | Mnemonic::Insd
                | Mnemonic::Outsb
                | Mnemonic::Outsw
                | Mnemonic::Outsd
                | Mnemonic::Hlt
                | Mnemonic::Wrmsr
                | Mnemonic::Invlpg
                | Mnemonic::Invpcid
                | Mnemonic::Popf
                | Mnemonic::Popfd
                | Mnemonic::Popfq
                | Mnemonic::Stac
                | Mnemonic::Clac
                | Mnemonic::Cpuid
                | Mnemonic::Lmsw
                | Mnemonic::Xsetbv
                | Mnemonic::Wrfsbase
                | Mnemonic::Wrgsbase
        )
        || (i.mnemonic() == Mnemonic::Mov && (i.op0_register().is_cr() || i.op0_register().is_dr()))
        || (matches!(i.mnemonic(), Mnemonic::Mov | Mnemonic::Pop | Mnemonic::Lss)
            && i.op0_register() == iced_x86::Register::SS)
        || i.mnemonic() == Mnemonic::Lss
}

/// Bytes at a linear address, up to the end of its page.
struct Fetched {
    physical: u64,
    bytes: [u8; 4096],
    length: usize,
}

impl Vcpu {
    /// The linear address of the instruction at RIP.
    pub(crate) fn fetch_address(&self) -> u64 {
        if self.mode == Mode::Long {
            self.rip
        } else {
            self.r.segments[seg::CS].base.wrapping_add(self.rip) & 0xffff_ffff
        }
    }

    /// #GP(0) where RIP lies beyond the code segment: no page is looked at then.
    pub(crate) fn check_code_limit(&mut self) -> Exec {
        let (_, limit) = self.code_window();
        if self.mode != Mode::Long && self.rip > limit as u64 {
            Err(self.general_protection())
        } else {
            Ok(())
        }
    }

    fn fetch_page(&mut self, bus: &mut Bus, linear: u64, limit: usize) -> Exec<Fetched> {
        let physical = self.translate_fetch(bus, linear)?;
        let length = (0x1000 - (linear as usize & 0xfff)).min(limit);
        let mut fetched = Fetched {
            physical,
            bytes: [0xff; 4096],
            length,
        };
        bus.memory
            .read(GuestPhysAddr(physical), &mut fetched.bytes[..length]);
        Ok(fetched)
    }

    /// Decodes the block at RIP; with `single`, one instruction that ignores breakpoints and isn't noted as code.
    pub(crate) fn decode_block(&mut self, bus: &mut Bus, single: bool) -> Exec<Block> {
        let linear = self.fetch_address();
        self.check_code_limit()?;
        let (_, limit) = self.code_window();
        let fetched = self.fetch_page(bus, linear, if single { 2 * MAX_LENGTH } else { 4096 })?;
        let mut block = Block {
            rip: self.rip,
            end: self.rip,
            ops: Vec::new(),
            physical: fetched.physical,
            second_frame: None,
            mode: self.mode as u8,
            limit,
            serial: 0,
            links: [Cell::new(Link::NONE), Cell::new(Link::NONE)],
        };
        let breaks = !single && !bus.watches.is_empty() && bus.watches.executes_in(linear, fetched.physical);
        let mut decoder = Decoder::with_ip(
            self.mode.bitness(),
            &fetched.bytes[..fetched.length],
            self.rip,
            DecoderOptions::NONE,
        );
        let mut used = 0;
        let mut instruction = Instruction::default();
        let mut previous = Instruction::default();
        while block.ops.len() < if single { 1 } else { MAX_OPS } {
            let offset = decoder.position();
            if offset >= fetched.length {
                break;
            }
            if breaks
                && bus.watches.is_break_address(
                    linear.wrapping_add(offset as u64),
                    fetched.physical.wrapping_add(offset as u64),
                )
            {
                if block.ops.is_empty() {
                    let mut op = Op::new(handler!(breakpoint));
                    op.offset = 0;
                    block.ops.push(op);
                    used = 1;
                    block.end = self.rip.wrapping_add(1);
                }
                break;
            }
            decoder.decode_out(&mut instruction);
            if instruction.mnemonic() == Mnemonic::Pause {
                exchange_with_r8(&mut instruction, &fetched.bytes[offset..decoder.position()]);
            }
            let at_page_end = linear as usize & 0xfff;
            if instruction.is_invalid()
                && decoder.last_error() == DecoderError::NoMoreBytes
                && at_page_end + fetched.length == 4096
            {
                if !block.ops.is_empty() {
                    break;
                }
                return self.decode_straddling(bus, linear, &fetched, block);
            }
            let last = self.rip.wrapping_add(decoder.position() as u64 - 1);
            if self.mode != Mode::Long && last > limit as u64 {
                if block.ops.is_empty() {
                    return Err(self.general_protection());
                }
                break;
            }
            used = decoder.position();
            block.end = instruction.next_ip();
            let before = (!block.ops.is_empty()).then_some(&previous);
            let bytes = &fetched.bytes[offset..fetched.length];
            let done = self.push_op(&mut block, &instruction, before, offset, bytes);
            if done {
                break;
            }
            previous = instruction;
        }
        if !single {
            self.note_code(bus, fetched.physical, used);
        }
        Ok(block)
    }

    /// A block of one instruction that reaches into the next page.
    fn decode_straddling(
        &mut self,
        bus: &mut Bus,
        linear: u64,
        first: &Fetched,
        mut block: Block,
    ) -> Exec<Block> {
        if self.mode != Mode::Long && self.rip + first.length as u64 > block.limit as u64 {
            return Err(self.general_protection());
        }
        let next = self.wrap_linear(linear.wrapping_add(first.length as u64));
        let second = self.fetch_page(bus, next, 15)?;
        let mut bytes = [0; 30];
        let head = first.length.min(15);
        bytes[..head].copy_from_slice(&first.bytes[..head]);
        bytes[head..head + second.length].copy_from_slice(&second.bytes[..second.length]);
        let mut decoder = Decoder::with_ip(
            self.mode.bitness(),
            &bytes[..(head + second.length).min(15)],
            self.rip,
            DecoderOptions::NONE,
        );
        let instruction = decoder.decode();
        block.end = instruction.next_ip();
        block.second_frame = Some(second.physical >> 12);
        self.push_op(&mut block, &instruction, None, 0, &bytes[..head + second.length]);
        self.note_code(bus, first.physical, head);
        let reach = decoder.position().saturating_sub(head).max(1);
        self.note_code(bus, second.physical, reach);
        Ok(block)
    }

    /// Notes decoded code, all in one page: no store to it goes by a TLB.
    fn note_code(&mut self, bus: &mut Bus, physical: u64, length: usize) {
        let frame = physical >> 12;
        if bus.note_code(frame, physical as usize & 0xfff, length)
            && let Backing::Ram(frame) = bus.memory.backing(frame)
        {
            self.revoke_writes(bus, frame);
        }
    }

    /// Appends an instruction that is the first of `bytes`; true if the block ends with it.
    fn push_op(
        &mut self,
        block: &mut Block,
        i: &Instruction,
        previous: Option<&Instruction>,
        offset: usize,
        bytes: &[u8],
    ) -> bool {
        if let Some(before) = block.ops.last_mut()
            && before
                .instruction
                .as_deref()
                .is_some_and(|i| i.mnemonic() == Mnemonic::Sti)
        {
            before.handler = handler!(sti_inside);
        }
        let invalid = i.is_invalid() || !supported(&self.model, i);
        let mut op = if invalid && is_too_long(bytes, self.mode.bitness()) {
            Op::new(handler!(too_long))
        } else if invalid {
            Op::new(handler!(undefined))
        } else if self.mode == Mode::Long {
            fast::lower(i).unwrap_or_else(|| Op::generic(i))
        } else {
            Op::generic(i)
        };
        op.number = block.ops.len() as u16;
        op.offset = offset as u16;
        if let (Some(first), Some(previous)) = (block.ops.last_mut(), previous)
            && let Some(fused) = fast::fuse(previous, i, &op)
        {
            first.handler = fused;
        }
        block.ops.push(op);
        invalid || ends_block(i)
    }

    /// The exception for a non-canonical address met by `op`.
    pub(crate) fn settle_non_canonical(&mut self, op: &Op) {
        if self.pending == Pending::NonCanonical {
            let vector = if op.stack {
                super::vcpu::vector::SS
            } else {
                super::vcpu::vector::GP
            };
            self.pending = Pending::Exception {
                vector,
                error: Some(0),
            };
        }
    }
}
