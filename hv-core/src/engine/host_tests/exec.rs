//! The handlers on a real vCPU: every instruction is known, and faults and memory are as the manual has them.

use crate::addr::VcpuId;
use crate::devices::{Platform, PlatformConfig};
use crate::engine::bus::Bus;
use crate::engine::exec;
use crate::engine::vcpu::{Pending, Vcpu, vector};
use crate::memory::GuestMemory;
use crate::regs::{Registers, cr0, cr4, efer, gpr, seg};
use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, EncodingKind, Instruction, OpKind, Register};
use std::sync::Arc;

const DATA: u64 = 0x10_0000;

/// Where the mapping ends.
const END: u64 = 0x20_0000;

/// A vCPU in ring 0 of 64-bit mode, the first two megabytes mapped to themselves, RBX and RDI at [`DATA`].
fn machine() -> (Vcpu, Bus) {
    let mut memory = GuestMemory::new(4 << 20);
    for (at, entry) in [(0x1000, 0x2003u64), (0x2000, 0x3003), (0x3000, 0x83)] {
        memory.write(crate::GuestPhysAddr(at), &entry.to_le_bytes(), false);
    }
    let (vcpus, tsc_hz) = (1, 1_000_000_000);
    let config = PlatformConfig {
        vcpus,
        tsc_hz,
        debug_exit: None,
        rtc_epoch_seconds: 0,
        acpi: false,
    };
    let bus = Bus::new(memory, Platform::new(&config), vcpus, tsc_hz);
    let model = crate::engine::cpuid::MODELS[0].clone();
    let mut cpu = Vcpu::new(VcpuId(0), Arc::new(model), 1);
    let mut r = Registers::at_reset(true);
    r.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE | cr0::MP;
    r.cr3 = 0x1000;
    r.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    r.efer = efer::LME | efer::LMA;
    r.segments[seg::CS].attributes = 0xa09b;
    for s in &mut r.segments {
        s.base = 0;
    }
    r.gpr[gpr::RBX] = DATA;
    r.gpr[gpr::RDI] = DATA;
    r.x87 = crate::regs::X87::default();
    cpu.load_registers(&r);
    (cpu, bus)
}

/// Runs one instruction: `Ok`, or the exception's vector.
fn step(cpu: &mut Vcpu, bus: &mut Bus, i: &Instruction) -> Result<(), u8> {
    match exec::execute(cpu, bus, i, 0) {
        Ok(_) => Ok(()),
        Err(_) => match cpu.pending {
            Pending::Exception { vector, .. } => Err(vector),
            Pending::NonCanonical => Err(vector::GP),
            _ => Err(255),
        },
    }
}

fn decode(bytes: &[u8]) -> Instruction {
    Decoder::with_ip(64, bytes, 0x5000, DecoderOptions::NONE).decode()
}

fn run(cpu: &mut Vcpu, bus: &mut Bus, bytes: &[u8]) -> Result<(), u8> {
    step(cpu, bus, &decode(bytes))
}

/// The ways to fill an operand that a code's name calls `token`.
fn operands(token: &str) -> Vec<(OpKind, Register)> {
    let memory = (OpKind::Memory, Register::None);
    let register = |r| (OpKind::Register, r);
    match token {
        "mm" => vec![register(Register::MM1)],
        "xmm" => vec![register(Register::XMM1)],
        "r32" => vec![register(Register::ECX)],
        "r64" => vec![register(Register::RCX)],
        "AX" => vec![register(Register::AX)],
        "st0" => vec![register(Register::ST0)],
        "sti" => vec![register(Register::ST2)],
        "imm8" => vec![(OpKind::Immediate8, Register::None)],
        "rDI" => vec![(OpKind::MemorySegRDI, Register::None)],
        _ if token.starts_with("xmmm") => vec![register(Register::XMM2), memory],
        _ if token.starts_with("mmm") => vec![register(Register::MM2), memory],
        "rm8" => vec![register(Register::DL), memory],
        "rm16" => vec![register(Register::DX), memory],
        "rm32" | "r32m8" | "r32m16" => vec![register(Register::EDX), memory],
        "rm64" | "r64m8" | "r64m16" => vec![register(Register::RDX), memory],
        _ => vec![memory],
    }
}

/// Every instruction of a code, by what its name says of operands.
fn instances(code: Code) -> Vec<Instruction> {
    let name = format!("{code:?}");
    let mut blank = Instruction::default();
    blank.set_code(code);
    blank.set_memory_base(Register::RBX);
    blank.set_memory_displ_size(0);
    let mut all = vec![blank];
    for (n, token) in name
        .split('_')
        .skip(1)
        .take(blank.op_count() as usize)
        .enumerate()
    {
        all = all
            .iter()
            .flat_map(|i| {
                operands(token).into_iter().map(|(kind, register)| {
                    let mut i = *i;
                    i.set_op_kind(n as u32, kind);
                    match kind {
                        OpKind::Register => i.set_op_register(n as u32, register),
                        OpKind::Immediate8 => i.set_immediate8(3),
                        _ => {}
                    }
                    i
                })
            })
            .collect();
    }
    all
}

fn is_covered(code: Code) -> bool {
    use CpuidFeature as C;
    let ours = [
        C::FPU,
        C::FPU287,
        C::FPU387,
        C::MMX,
        C::SSE,
        C::SSE2,
        C::SSE3,
        C::SSSE3,
        C::SSE4_1,
        C::SSE4_2,
        C::AES,
        C::PCLMULQDQ,
        C::FXSR,
    ];
    let features = code.cpuid_features();
    code.encoding() == EncodingKind::Legacy
        && features.iter().all(|f| ours.contains(f) || *f == C::CMOV)
        && features.iter().any(|f| ours.contains(f))
}

#[test]
fn every_instruction_of_the_extensions_is_known() {
    let mut count = 0;
    for code in Code::values().filter(|code| is_covered(*code)) {
        for i in instances(code) {
            let (mut cpu, mut bus) = machine();
            let got = step(&mut cpu, &mut bus, &i);
            assert_eq!(got, Ok(()), "{code:?} {:?} {:?}", i.op0_kind(), i.op1_kind());
            count += 1;
        }
    }
    assert!(count > 600, "only {count}");
}

#[test]
fn sixteen_bytes_in_memory_must_be_aligned_but_for_a_few() {
    let (mut cpu, mut bus) = machine();
    cpu.gpr[gpr::RBX] += 1;
    let gp = Err(vector::GP);
    assert_eq!(
        run(&mut cpu, &mut bus, &[0x0f, 0x28, 0x03]),
        gp,
        "movaps xmm0, [rbx]"
    );
    assert_eq!(
        run(&mut cpu, &mut bus, &[0x0f, 0x29, 0x03]),
        gp,
        "movaps [rbx], xmm0"
    );
    assert_eq!(
        run(&mut cpu, &mut bus, &[0x66, 0x0f, 0xfe, 0x03]),
        gp,
        "paddd xmm0, [rbx]"
    );
    assert_eq!(
        run(&mut cpu, &mut bus, &[0x66, 0x0f, 0xe7, 0x03]),
        gp,
        "movntdq [rbx], xmm0"
    );
    assert_eq!(
        run(&mut cpu, &mut bus, &[0x66, 0x0f, 0x38, 0x2a, 0x03]),
        gp,
        "movntdqa xmm0, [rbx]"
    );
    assert_eq!(
        run(&mut cpu, &mut bus, &[0x0f, 0x10, 0x03]),
        Ok(()),
        "movups xmm0, [rbx]"
    );
    assert_eq!(
        run(&mut cpu, &mut bus, &[0xf2, 0x0f, 0xf0, 0x03]),
        Ok(()),
        "lddqu xmm0, [rbx]"
    );
    assert_eq!(
        run(&mut cpu, &mut bus, &[0x66, 0x0f, 0x3a, 0x63, 0x03, 0x00]),
        Ok(()),
        "pcmpistri xmm0, [rbx], 0"
    );
    assert_eq!(
        run(&mut cpu, &mut bus, &[0xf2, 0x0f, 0x58, 0x03]),
        Ok(()),
        "addsd xmm0, [rbx]"
    );
    assert_eq!(run(&mut cpu, &mut bus, &[0x0f, 0xae, 0x03]), gp, "fxsave [rbx]");
}

#[test]
fn control_registers_switch_the_extensions_off() {
    const XORPS: &[u8] = &[0x0f, 0x57, 0xc0];
    const PXOR_MM: &[u8] = &[0x0f, 0xef, 0xc0];
    const FLD1: &[u8] = &[0xd9, 0xe8];
    const FWAIT: &[u8] = &[0x9b];
    let with = |change: fn(&mut Vcpu), bytes: &[u8]| {
        let (mut cpu, mut bus) = machine();
        change(&mut cpu);
        run(&mut cpu, &mut bus, bytes)
    };
    assert_eq!(with(|c| c.r.cr0 |= cr0::TS, XORPS), Err(vector::NM));
    assert_eq!(with(|c| c.r.cr0 |= cr0::EM, XORPS), Err(vector::UD));
    assert_eq!(with(|c| c.r.cr4 &= !cr4::OSFXSR, XORPS), Err(vector::UD));
    assert_eq!(with(|c| c.r.cr0 |= cr0::TS, PXOR_MM), Err(vector::NM));
    assert_eq!(with(|c| c.r.cr0 |= cr0::EM, PXOR_MM), Err(vector::UD));
    assert_eq!(with(|c| c.r.cr4 &= !cr4::OSFXSR, PXOR_MM), Ok(()));
    assert_eq!(with(|c| c.r.cr0 |= cr0::TS, FLD1), Err(vector::NM));
    assert_eq!(with(|c| c.r.cr0 |= cr0::EM, FLD1), Err(vector::NM));
    assert_eq!(with(|c| c.r.cr0 |= cr0::EM, FWAIT), Ok(()));
    assert_eq!(with(|c| c.r.cr0 |= cr0::TS, FWAIT), Err(vector::NM));
    // CRC32 is a general instruction.
    assert_eq!(
        with(|c| c.r.cr4 &= !cr4::OSFXSR, &[0xf2, 0x0f, 0x38, 0xf1, 0xc1]),
        Ok(())
    );
}

#[test]
fn an_unmasked_sse_exception_leaves_the_destination() {
    const DIVSD: &[u8] = &[0xf2, 0x0f, 0x5e, 0xc1];
    let (mut cpu, mut bus) = machine();
    cpu.r.xmm[0] = 1.0f64.to_bits() as u128;
    cpu.r.mxcsr = 0x1f80 & !(1 << 9);
    assert_eq!(run(&mut cpu, &mut bus, DIVSD), Err(vector::XM));
    assert_eq!((cpu.r.xmm[0], cpu.r.mxcsr & 0x3f), (1.0f64.to_bits() as u128, 4));
    cpu.r.cr4 &= !cr4::OSXMMEXCPT;
    assert_eq!(run(&mut cpu, &mut bus, DIVSD), Err(vector::UD));
}

#[test]
fn mxcsr_refuses_reserved_bits() {
    let (mut cpu, mut bus) = machine();
    assert_eq!(cpu.store::<u32>(&mut bus, DATA, 0x1_1f80), Ok(()));
    assert_eq!(run(&mut cpu, &mut bus, &[0x0f, 0xae, 0x13]), Err(vector::GP));
    assert_eq!(cpu.store::<u32>(&mut bus, DATA, 0xffc0), Ok(()));
    assert_eq!(run(&mut cpu, &mut bus, &[0x0f, 0xae, 0x13]), Ok(()));
    assert_eq!(cpu.r.mxcsr, 0xffc0);
}

#[test]
fn a_masked_store_touches_only_its_bytes() {
    let (mut cpu, mut bus) = machine();
    cpu.r.xmm[1] = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
    cpu.r.xmm[2] = 0x80 << 8 | 0xff << 24;
    // The chosen bytes are the last two of what is mapped.
    cpu.gpr[gpr::RDI] = END - 4;
    assert_eq!(
        run(&mut cpu, &mut bus, &[0x66, 0x0f, 0xf7, 0xca]),
        Ok(()),
        "maskmovdqu xmm1, xmm2"
    );
    cpu.gpr[gpr::RDI] = DATA;
    assert_eq!(run(&mut cpu, &mut bus, &[0x66, 0x0f, 0xf7, 0xca]), Ok(()));
    assert_eq!(cpu.load::<u32>(&mut bus, DATA), Ok(0x0300_0100));
}

#[test]
fn an_x87_exception_waits_for_the_next_waiting_instruction() {
    let (mut cpu, mut bus) = machine();
    cpu.r.x87.set_fcw(0x37b);
    for bytes in [[0xd9, 0xee], [0xd9, 0xe8], [0xd8, 0xf1]] {
        // fldz; fld1; fdiv st, st(1)
        assert_eq!(run(&mut cpu, &mut bus, &bytes), Ok(()));
    }
    assert_eq!(run(&mut cpu, &mut bus, &[0xdf, 0xe0]), Ok(()), "fnstsw ax");
    assert_eq!(cpu.gpr[gpr::RAX] & 0x84, 0x84);
    assert_eq!(run(&mut cpu, &mut bus, &[0x9b]), Err(vector::MF), "fwait");
    assert_eq!(
        run(&mut cpu, &mut bus, &[0x0f, 0xef, 0xc0]),
        Err(vector::MF),
        "pxor mm0, mm0"
    );
    assert_eq!(run(&mut cpu, &mut bus, &[0xdb, 0xe2]), Ok(()), "fnclex");
    assert_eq!(run(&mut cpu, &mut bus, &[0x9b]), Ok(()), "fwait");
}

#[test]
fn a_store_that_faults_pops_nothing() {
    let (mut cpu, mut bus) = machine();
    assert_eq!(run(&mut cpu, &mut bus, &[0xd9, 0xe8]), Ok(()), "fld1");
    let before = cpu.r.x87.clone();
    cpu.gpr[gpr::RBX] = END;
    assert_eq!(
        run(&mut cpu, &mut bus, &[0xdd, 0x1b]),
        Err(vector::PF),
        "fstp qword [rbx]"
    );
    assert_eq!(cpu.r.x87, before);
    cpu.gpr[gpr::RBX] = DATA;
    assert_eq!(run(&mut cpu, &mut bus, &[0xdd, 0x1b]), Ok(()));
    assert_eq!(cpu.load::<u64>(&mut bus, DATA), Ok(1.0f64.to_bits()));
}

#[test]
fn fxsave_and_fxrstor_are_each_others_inverse() {
    let (mut cpu, mut bus) = machine();
    for bytes in [&[0xd9, 0xeb][..], &[0xd9, 0xe8], &[0x66, 0x0f, 0x76, 0xff]] {
        // fldpi; fld1; pcmpeqd xmm7, xmm7
        assert_eq!(run(&mut cpu, &mut bus, bytes), Ok(()));
    }
    let before = cpu.r.clone();
    assert_eq!(
        run(&mut cpu, &mut bus, &[0x48, 0x0f, 0xae, 0x03]),
        Ok(()),
        "fxsave64 [rbx]"
    );
    assert_eq!(run(&mut cpu, &mut bus, &[0xdb, 0xe3]), Ok(()), "fninit");
    cpu.r.xmm[7] = 0;
    cpu.r.x87.r = [0; 8];
    assert_eq!(
        run(&mut cpu, &mut bus, &[0x48, 0x0f, 0xae, 0x0b]),
        Ok(()),
        "fxrstor64 [rbx]"
    );
    assert_eq!(cpu.r.xmm, before.xmm);
    assert_eq!(
        cpu.r.x87,
        crate::regs::X87 {
            fcs: 0,
            fds: 0,
            ..before.x87
        }
    );
}

#[test]
fn fast_forms_agree_with_the_reference() {
    use crate::engine::exec::Flow;
    let mut random = super::Random(30);
    let mut count = 0;
    for i in Code::values()
        .filter(|code| is_covered(*code))
        .flat_map(instances)
    {
        let Some(op) = crate::engine::fast::lower(&i) else {
            continue;
        };
        count += 1;
        for shift in [0, 0, 0, 4] {
            let (mut a, mut bus_a) = machine();
            let (mut b, mut bus_b) = machine();
            for n in 0..3 {
                let value = random.vector();
                (a.r.xmm[n], b.r.xmm[n]) = (value, value);
            }
            let (c, d, memory) = (random.next(), random.next(), random.vector());
            for (cpu, bus) in [(&mut a, &mut bus_a), (&mut b, &mut bus_b)] {
                cpu.gpr[gpr::RCX] = c;
                cpu.gpr[gpr::RDX] = d;
                cpu.gpr[gpr::RBX] += shift;
                assert_eq!(cpu.store_u128(bus, DATA + shift, memory), Ok(()));
            }
            let reference = step(&mut a, &mut bus_a, &i);
            let fast = match (op.handler)(&mut b, &mut bus_b, &op, &[]) {
                Flow::Next => Ok(()),
                _ => match b.pending {
                    Pending::Exception { vector, .. } => Err(vector),
                    _ => Err(255),
                },
            };
            assert_eq!(fast, reference, "{:?}", i.code());
            assert_eq!(b.registers(), a.registers(), "{:?}", i.code());
            let after = a.load_u128(&mut bus_a, DATA + shift);
            assert_eq!(b.load_u128(&mut bus_b, DATA + shift), after, "{:?}", i.code());
        }
    }
    assert!(count > 60, "only {count}");
}
