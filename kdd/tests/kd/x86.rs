//! A 32-bit guest: addresses are sign-extended on the wire, and blocks have their other shapes.

use crate::guest::TestGuest;
use crate::host::{Host, Stop};
use hv_core::introspect::{WriteMemory, WriteRegisters};
use hv_core::regs::{Activity, Registers, Segment, cr0, gpr, seg};
use hv_core::{GuestPhysAddr, GuestVirtAddr, VcpuId};
use introspect::windows::{Arch, DebuggerData, Encoding, Module, Processor, VersionBlock};
use introspect::{AddressSpace, Target};
use kdd::kd::kernel::Kernel;
use protocol::api::Api;
use protocol::context::x86::{Context, SpecialRegisters, flags};
use protocol::manipulate::{Continue2X86, Manipulate, Memory, WriteBreakPoint};
use protocol::state_change::X86Report;
use protocol::status::NtStatus;
use protocol::version::Version;
use std::sync::Arc;
use zerocopy::{FromBytes, IntoBytes};

const BASE: u32 = 0x8200_0000;
/// inc eax; mov [ebx], eax; nop; jmp back
const LOOP: u32 = BASE + 0x1000;
const NOP: u32 = LOOP + 3;
const CELL: u32 = BASE + 0x2000;
const HEAD: u32 = BASE + 0x3f00;
const DATA: u32 = BASE + 0x2800;
const PHYS: u64 = 0x10_0000;
const DIRECTORY: u64 = 0x8000;

fn wide(address: u32) -> u64 {
    0xffff_ffff_0000_0000 | u64::from(address)
}

struct MadeUp;

impl Kernel for MadeUp {
    fn arch(&self) -> Arch {
        Arch::X86
    }
    fn description(&self) -> String {
        "a made-up 32-bit kernel".into()
    }
    fn image(&self) -> (GuestVirtAddr, u32) {
        (GuestVirtAddr(BASE.into()), 0x6000)
    }
    fn is_still_there(&self, _: &Target) -> bool {
        true
    }
    fn space(&self, _: &Target, vcpu: VcpuId) -> Option<AddressSpace> {
        Some(AddressSpace::Vcpu(vcpu))
    }
    fn processor(&self, _: &Target, vcpu: VcpuId) -> Option<Processor> {
        Some(Processor {
            vcpu,
            kpcr: GuestVirtAddr(0x8300_0000),
            kprcb: GuestVirtAddr(0x8300_0120),
            number: vcpu.0,
            current_thread: Some(GuestVirtAddr(0x8400_1000)),
            next_thread: None,
            idle_thread: None,
        })
    }
    fn version_block(&self, _: &Target) -> Option<VersionBlock> {
        None
    }
    fn build(&self) -> Option<u32> {
        Some(7601)
    }
    fn loaded_module_list(&self) -> Option<GuestVirtAddr> {
        Some(GuestVirtAddr(u64::from(BASE) + 0x3000))
    }
    fn debugger_data(&self, _: &Target) -> Option<DebuggerData> {
        Some(DebuggerData {
            list_head: Some(GuestVirtAddr(HEAD.into())),
            list_head_readable: false,
            address: GuestVirtAddr(DATA.into()),
            encoding: Encoding::Plain,
            bytes: vec![0; 0x340],
        })
    }
    fn modules(&self, _: &Target) -> Option<Vec<Module>> {
        None
    }
    fn symbol(&self, _: &str) -> Option<GuestVirtAddr> {
        None
    }
}

fn registers() -> Registers {
    let mut registers = Registers::at_reset(true);
    registers.activity = Activity::Running;
    registers.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE;
    registers.cr3 = DIRECTORY;
    registers.rip = LOOP.into();
    registers.gpr[gpr::RBX] = CELL.into();
    registers.gpr[gpr::RSP] = u64::from(BASE) + 0x5f00;
    let data = Segment {
        selector: 0x23,
        base: 0,
        limit: 0xffff_ffff,
        attributes: 0xc0f3,
    };
    registers.segments = [data; 6];
    registers.segments[seg::CS] = Segment {
        selector: 8,
        attributes: 0xc09b,
        ..data
    };
    registers.segments[seg::SS] = Segment {
        selector: 0x10,
        attributes: 0xc093,
        ..data
    };
    registers.segments[seg::FS].selector = 0x30;
    registers
}

fn attach() -> (TestGuest, Host, Stop) {
    let guest = TestGuest::new(1);
    let write = |at: u64, bytes: &[u8]| guest.domain.write_physical(GuestPhysAddr(at), bytes).unwrap();
    write(PHYS + 0x1000, &[0x40, 0x89, 0x03, 0x90, 0xeb, 0xfa]);
    write(DIRECTORY + u64::from(BASE >> 22) * 4, &0x9003u32.to_le_bytes());
    for page in 0..6u32 {
        write(
            0x9000 + 4 * u64::from(page),
            &(PHYS as u32 + 0x1000 * page | 3).to_le_bytes(),
        );
    }
    guest.domain.set_registers(VcpuId(0), &registers()).unwrap();
    hv_core::introspect::ControlRun::unpause(&*guest.domain).unwrap();
    let mut host = Host::connect_to(&guest, Arc::new(|_| Ok(Box::new(MadeUp))));
    host.raw(b"b");
    let stop = host.stop();
    (guest, host, stop)
}

fn go(host: &mut Host, trace: bool, dr7: u32) -> Stop {
    let mut header = Manipulate::request(Api::Continue2, 0);
    header.set(&Continue2X86 {
        status: NtStatus::DBG_CONTINUE.0.into(),
        trace_flag: u32::from(trace).into(),
        dr7: dr7.into(),
        symbol_start: 1.into(),
        symbol_end: 0.into(),
    });
    host.send(&header, &[]);
    host.stop()
}

fn context(host: &mut Host) -> Context {
    let answer = host.ask(&Manipulate::request(Api::GetContext, 0), &[]);
    Context::read_from_bytes(&answer.data).unwrap()
}

fn set_context(host: &mut Host, context: &Context) {
    let header = Manipulate::request(Api::SetContext, 0);
    assert_eq!(host.ask(&header, context.as_bytes()).status(), NtStatus::SUCCESS);
}

fn space(host: &mut Host, api: Api, offset: u64, count: u32, data: &[u8]) -> (NtStatus, Vec<u8>) {
    let mut header = Manipulate::request(api, 0);
    header.set(&Memory {
        address: offset.into(),
        count: count.into(),
        actual: 0.into(),
    });
    let answer = host.ask(&header, data);
    (answer.status(), answer.data)
}

#[test]
fn the_report_is_sign_extended_and_in_its_own_shape() {
    let (_guest, mut host, stop) = attach();
    assert_eq!(stop.pc() >> 32, 0xffff_ffff);
    assert_eq!(stop.exception().address.get(), stop.pc());
    assert_eq!(stop.change.thread.get(), wide(0x8400_1000));
    let report = X86Report::read_from_prefix(&stop.change.report).unwrap().0;
    assert_eq!(
        (report.flags.get(), report.cs.get(), report.fs.get()),
        (3, 8, 0x30)
    );
    assert_eq!(report.instruction_count.get(), 16);
    let version: Version = host
        .ask(&Manipulate::request(Api::GetVersion, 0), &[])
        .header
        .get();
    assert_eq!(
        (version.machine.get(), version.secondary, version.minor.get()),
        (0x14c, 0, 7601)
    );
    // One vCPU, and pointers of 32 bits.
    assert_eq!(version.flags.get(), 2);
    assert_eq!(version.kernel_base.get(), wide(BASE));
    assert_eq!(version.debugger_data_list.get(), wide(HEAD));
}

#[test]
fn addresses_of_requests_have_thirty_two_bits() {
    let (_guest, mut host, _) = attach();
    let code = [0x40, 0x89, 0x03, 0x90];
    assert_eq!(host.read(wide(LOOP), 4), code);
    assert_eq!(host.read(u64::from(LOOP), 4), code);
    // Physical ones have all their bits.
    let beyond = host.memory(Api::ReadPhysicalMemory, 1 << 32 | PHYS, 4, &[]);
    assert_eq!(beyond.status(), NtStatus::UNSUCCESSFUL);
    // A list head that isn't there points to the block all the same, with native pointers.
    let pointer = DATA.to_le_bytes();
    assert_eq!(host.read(wide(HEAD), 8), [pointer, pointer].concat());
}

#[test]
fn a_context_has_its_own_shape() {
    let (guest, mut host, _) = attach();
    let mut registers = context(&mut host);
    assert_eq!(registers.context_flags.get(), flags::ALL);
    assert_eq!(
        (registers.ebx.get(), registers.cs.get(), registers.ss.get()),
        (CELL, 8, 0x10)
    );
    registers.eip = LOOP.into();
    registers.eax = 0xffff_fffe.into();
    set_context(&mut host, &registers);
    assert_eq!(guest.registers(0).rip, u64::from(LOOP));
    assert_eq!(guest.registers(0).gpr[0], 0xffff_fffe);
    let stop = go(&mut host, true, 0x400);
    assert_eq!((stop.code(), stop.pc()), (NtStatus::SINGLE_STEP, wide(LOOP + 1)));
    assert_eq!(context(&mut host).eax.get(), 0xffff_ffff);
}

#[test]
fn the_control_space_is_bytes() {
    let (guest, mut host, _) = attach();
    let (status, data) = space(&mut host, Api::ReadControlSpace, 0x2cc, 84, &[]);
    assert_eq!(status, NtStatus::SUCCESS);
    let mut special = SpecialRegisters::read_from_bytes(&data).unwrap();
    assert_eq!(u64::from(special.cr3.get()), DIRECTORY);
    let whole = space(&mut host, Api::ReadControlSpace, 0, 0x1000, &[]).1;
    assert_eq!(whole.len(), 0x320);
    assert_eq!(whole[0x2cc..], data);
    special.cr2 = 0x1234.into();
    let written = space(&mut host, Api::WriteControlSpace, 0x2cc, 84, special.as_bytes());
    assert_eq!(written.0, NtStatus::SUCCESS);
    assert_eq!(guest.registers(0).cr2, 0x1234);
    // A part in the middle: EAX.
    let written = space(&mut host, Api::WriteControlSpace, 0xb0, 4, &7u32.to_le_bytes());
    assert_eq!((written.0, guest.registers(0).gpr[0]), (NtStatus::SUCCESS, 7));
    let past = space(&mut host, Api::WriteControlSpace, 0x31e, 4, &[0; 4]);
    assert_eq!(past.0, NtStatus::UNSUCCESSFUL);
    assert_eq!(
        space(&mut host, Api::ReadControlSpace, 0x320, 4, &[]).0,
        NtStatus::UNSUCCESSFUL
    );
}

#[test]
fn breakpoints_of_both_kinds_are_hit() {
    let (_guest, mut host, _) = attach();
    let mut registers = context(&mut host);
    registers.eip = LOOP.into();
    set_context(&mut host, &registers);
    let mut header = Manipulate::request(Api::WriteBreakPoint, 0);
    header.set(&WriteBreakPoint {
        address: wide(NOP).into(),
        handle: 0.into(),
    });
    assert_eq!(host.ask(&header, &[]).status(), NtStatus::SUCCESS);
    assert_eq!(go(&mut host, false, 0x400).pc(), wide(NOP));
    let data = space(&mut host, Api::ReadControlSpace, 0x2cc, 84, &[]).1;
    let mut special = SpecialRegisters::read_from_bytes(&data).unwrap();
    special.dr[1] = CELL.into();
    space(&mut host, Api::WriteControlSpace, 0x2cc, 84, special.as_bytes());
    // DR1: writes of 4 bytes.
    let stop = go(&mut host, false, 0x400 | 4 | 0xd << 20);
    assert_eq!((stop.code(), stop.pc()), (NtStatus::SINGLE_STEP, wide(NOP)));
    let report = X86Report::read_from_prefix(&stop.change.report).unwrap().0;
    assert_eq!(report.dr6.get() & 0xf, 2);
}
