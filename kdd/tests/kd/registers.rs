//! CONTEXT, the control space, model-specific registers.

use crate::guest::{BASE, CELL, LOOP, TestGuest};
use crate::host::Host;
use protocol::api::Api;
use protocol::context::amd64::{Context, SpecialRegisters, flags};
use protocol::manipulate::{ContextEx, Manipulate, Memory, Msr};
use protocol::status::NtStatus;
use zerocopy::{FromBytes, IntoBytes};

fn special(host: &mut Host, processor: u16) -> SpecialRegisters {
    let mut header = Manipulate::request(Api::ReadControlSpace, processor);
    header.set(&Memory {
        address: 2.into(),
        count: 0xf0.into(),
        actual: 0.into(),
    });
    SpecialRegisters::read_from_bytes(&host.ask(&header, &[]).data).unwrap()
}

fn write_special(host: &mut Host, special: &SpecialRegisters, count: usize) -> NtStatus {
    let mut header = Manipulate::request(Api::WriteControlSpace, 0);
    header.set(&Memory {
        address: 2.into(),
        count: (count as u32).into(),
        actual: 0.into(),
    });
    host.ask(&header, &special.as_bytes()[..count]).status()
}

#[test]
fn a_context_is_read_whole_and_in_parts() {
    let guest = TestGuest::running(2);
    let mut host = Host::attach(&guest);
    let context = host.context(0);
    assert_eq!(context.context_flags.get(), flags::ALL);
    assert_eq!(context.rip.get(), guest.registers(0).rip);
    assert_eq!(context.gpr[3].get(), CELL);
    assert_eq!(
        (context.cs.get(), context.ss.get(), context.fs.get()),
        (0x10, 0x18, 0x53)
    );
    assert_eq!(host.context(1).rip.get(), guest.registers(1).rip);
    let mut part = |offset: u32, count: u32| {
        let mut header = Manipulate::request(Api::GetContextEx, 0);
        header.set(&ContextEx {
            offset: offset.into(),
            count: count.into(),
            copied: 0.into(),
        });
        let answer = host.ask(&header, &[]);
        assert_eq!(
            answer.header.get::<ContextEx>().copied.get() as usize,
            answer.data.len()
        );
        (answer.status(), answer.data)
    };
    assert_eq!(part(0, 0x4d0), (NtStatus::SUCCESS, context.as_bytes().to_vec()));
    assert_eq!(part(0xf8, 8).1, context.rip.as_bytes());
    assert_eq!(part(0x4c8, 100).1.len(), 8);
    assert_eq!(part(0x4d1, 1).0, NtStatus::UNSUCCESSFUL);
}

#[test]
fn a_context_is_written_whole_and_in_parts() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    let mut context = host.context(0);
    context.rip = LOOP.into();
    context.gpr[0] = 0x1234.into();
    context.fxsave.xmm[3] = 7.into();
    assert_eq!(host.set_context(0, &context), NtStatus::SUCCESS);
    let registers = guest.registers(0);
    assert_eq!(
        (registers.rip, registers.gpr[0], registers.xmm[3]),
        (LOOP, 0x1234, 7)
    );
    let mut header = Manipulate::request(Api::SetContextEx, 0);
    header.set(&ContextEx {
        offset: 0x80.into(),
        count: 8.into(),
        copied: 0.into(),
    });
    let answer = host.ask(&header, &0x77u64.to_le_bytes());
    assert_eq!(
        (answer.status(), answer.header.get::<ContextEx>().copied.get()),
        (NtStatus::SUCCESS, 8)
    );
    assert_eq!(guest.registers(0).gpr[1], 0x77);
    // Short ones, and selectors that name no segment, change nothing.
    let before = guest.registers(0);
    let short = host.ask(
        &Manipulate::request(Api::SetContext, 0),
        &context.as_bytes()[..100],
    );
    assert_eq!(short.status(), NtStatus::INVALID_PARAMETER);
    context.cs = 0x1000.into();
    assert_eq!(host.set_context(0, &context), NtStatus::INVALID_PARAMETER);
    assert_eq!(guest.registers(0), before);
}

#[test]
fn a_processor_that_is_not_there_is_refused_where_it_counts() {
    let guest = TestGuest::running(2);
    let mut host = Host::attach(&guest);
    let answer = host.ask(&Manipulate::request(Api::GetContext, 2), &[]);
    assert_eq!(answer.status(), NtStatus::INVALID_PARAMETER);
    let mut header = Manipulate::request(Api::ReadVirtualMemory, 0x3833);
    header.set(&Memory {
        address: BASE.into(),
        count: 2.into(),
        actual: 0.into(),
    });
    assert_eq!(host.ask(&header, &[]).data, b"MZ");
}

#[test]
fn the_control_space_has_pointers_by_number() {
    let guest = TestGuest::running(2);
    let mut host = Host::attach(&guest);
    let mut read = |processor: u16, number: u64, count: u32| {
        let mut header = Manipulate::request(Api::ReadControlSpace, processor);
        header.set(&Memory {
            address: number.into(),
            count: count.into(),
            actual: 0.into(),
        });
        let answer = host.ask(&header, &[]);
        assert_eq!(
            answer.header.get::<Memory>().actual.get() as usize,
            answer.data.len()
        );
        (answer.status() == NtStatus::SUCCESS).then_some(answer.data)
    };
    let kpcr = BASE + 0x11_0000;
    assert_eq!(read(1, 0, 8), Some(kpcr.to_le_bytes().to_vec()));
    assert_eq!(read(1, 1, 8), Some((kpcr + 0x180).to_le_bytes().to_vec()));
    assert_eq!(read(0, 3, 8), Some((BASE + 0x9400).to_le_bytes().to_vec()));
    assert_eq!(read(0, 2, 0xe0).map(|data| data.len()), Some(0xe0));
    assert_eq!(read(0, 2, 0x1000).map(|data| data.len()), Some(0xf0));
    assert_eq!(read(0, 4, 8), None);
}

#[test]
fn special_registers_are_the_vcpus_own() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    let mut registers = special(&mut host, 0);
    assert_eq!(registers.cr3.get(), guest.registers(0).cr3);
    assert_eq!(registers.cr0.get(), guest.registers(0).cr0);
    assert_eq!((registers.dr6.get(), registers.dr7.get()), (0xffff_0ff0, 0x400));
    registers.gs_swap = 0xffff_8000_0000_1000.into();
    registers.dr[2] = CELL.into();
    assert_eq!(write_special(&mut host, &registers, 0xe0), NtStatus::SUCCESS);
    let now = guest.registers(0);
    assert_eq!(now.msrs.kernel_gs_base, 0xffff_8000_0000_1000);
    assert_eq!(now.dr, [0; 4], "the guest's own debug registers are left alone");
    assert_eq!(special(&mut host, 0).dr[2].get(), CELL);
    assert_eq!(host.context(0).dr[2].get(), CELL);
    // What no processor takes is refused, and nothing is changed.
    registers.cr0 = 0x8000_0000.into();
    assert_eq!(write_special(&mut host, &registers, 0xe0), NtStatus::UNSUCCESSFUL);
    assert_eq!(guest.registers(0), now);
}

#[test]
fn msrs_are_read_and_written_as_by_their_instructions() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    let mut msr = |api: Api, number: u32, value: u64| {
        let mut header = Manipulate::request(api, 0);
        header.set(&Msr {
            msr: number.into(),
            low: (value as u32).into(),
            high: ((value >> 32) as u32).into(),
        });
        let answer = host.ask(&header, &[]);
        let msr: Msr = answer.header.get();
        let value = u64::from(msr.low.get()) | u64::from(msr.high.get()) << 32;
        (answer.status(), value)
    };
    assert_eq!(msr(Api::ReadMsr, 0xc000_0080, 9), (NtStatus::SUCCESS, 0x500));
    let lstar = 0xffff_f803_0000_2000;
    assert_eq!(msr(Api::WriteMsr, 0xc000_0082, lstar).0, NtStatus::SUCCESS);
    assert_eq!(msr(Api::ReadMsr, 0xc000_0082, 0), (NtStatus::SUCCESS, lstar));
    assert_eq!(msr(Api::ReadMsr, 0xdead_beef, 7), (NtStatus::NO_SUCH_DEVICE, 0));
    assert_eq!(msr(Api::WriteMsr, 0xdead_beef, 7).0, NtStatus::NO_SUCH_DEVICE);
}

#[test]
fn msrs_are_those_of_the_processor_that_was_switched_to() {
    let guest = TestGuest::running(2);
    let mut host = Host::attach(&guest);
    let lstar = |host: &mut Host, api: Api, value: u32| {
        let mut header = Manipulate::request(api, 0);
        header.set(&Msr {
            msr: 0xc000_0082.into(),
            low: value.into(),
            high: 0.into(),
        });
        let answer = host.ask(&header, &[]);
        assert_eq!(answer.status(), NtStatus::SUCCESS);
        answer.header.get::<Msr>().low.get()
    };
    lstar(&mut host, Api::WriteMsr, 0x1000);
    host.send(&Manipulate::request(Api::SwitchProcessor, 1), &[]);
    assert_eq!(host.stop().change.processor.get(), 1);
    lstar(&mut host, Api::WriteMsr, 0x2000);
    assert_eq!(lstar(&mut host, Api::ReadMsr, 0), 0x2000);
    assert_eq!(guest.registers(0).msrs.lstar, 0x1000);
    assert_eq!(guest.registers(1).msrs.lstar, 0x2000);
}

#[test]
fn a_trap_flag_of_the_host_steps_and_is_never_the_guests() {
    let guest = TestGuest::running(1);
    let mut host = Host::attach(&guest);
    host.go_to(LOOP);
    let mut context = host.context(0);
    context.eflags = (context.eflags.get() | 0x100).into();
    assert_eq!(host.set_context(0, &context), NtStatus::SUCCESS);
    assert_eq!(guest.registers(0).rflags & 0x100, 0);
    assert_ne!(
        host.context(0).eflags.get() & 0x100,
        0,
        "the host sees what it wrote"
    );
    host.go();
    let stop = host.stop();
    assert_eq!((stop.code(), stop.pc()), (NtStatus::SINGLE_STEP, LOOP + 3));
    assert_eq!(stop.report().eflags.get() & 0x100, 0);
    let same: Context = host.context(0);
    assert_eq!(same.eflags.get() & 0x100, 0);
}
