//! The ACPI tables, for a loader to place in guest memory. AML and table layouts come from the `acpi_tables` crate.
//!
//! Full ACPI and not hardware-reduced, since the machine has a PIT and an 8259 that such a machine may not have:
//! ```text
//! RSDP ─► XSDT ─┬─► FADT ─┬─► DSDT: processors, COM1, COM2, RTC, pvpanic, \_S5
//!               └─► MADT  └─► FACS
//! ```

use super::{ioapic, lapic, power};
use crate::addr::GuestPhysAddr;
use acpi_tables::aml::{Device, EISAName, IO, Interrupt, Name, Package, ResourceTemplate, Scope};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::{Aml, facs::FACS, rsdp::Rsdp, sdt::Sdt, xsdt::XSDT};

/// Where a guest without a pointer from its loader scans for the RSDP.
pub(super) const RSDP_ADDRESS: GuestPhysAddr = GuestPhysAddr(0xe_0000);
const XSDT_ADDRESS: u64 = 0xe_0040;
const FACS_ADDRESS: u64 = 0xe_0080;
const FADT_ADDRESS: u64 = 0xe_0100;
const DSDT_ADDRESS: u64 = 0xe_0400;
/// The MADT grows with the vCPUs, and so does the DSDT before it.
const TABLES_END: u64 = 0x10_0000;

const OEM_ID: [u8; 6] = *b"KDD   ";
const OEM_TABLE_ID: [u8; 8] = *b"HVCORE  ";
const OEM_REVISION: u32 = 1;

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut out = Vec::new();
    table.to_aml_bytes(&mut out);
    out
}

/// Every table with its address, for a machine of `vcpus` processors.
pub(super) fn tables(vcpus: u32) -> Vec<(GuestPhysAddr, Vec<u8>)> {
    let dsdt = dsdt(vcpus);
    let madt_address = (DSDT_ADDRESS + dsdt.len() as u64).next_multiple_of(64);
    let madt = madt(vcpus);
    debug_assert!(madt_address + madt.len() as u64 <= TABLES_END);
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(FADT_ADDRESS);
    xsdt.add_entry(madt_address);
    vec![
        (RSDP_ADDRESS, bytes(&Rsdp::new(OEM_ID, XSDT_ADDRESS))),
        (GuestPhysAddr(XSDT_ADDRESS), bytes(&xsdt)),
        (GuestPhysAddr(FACS_ADDRESS), bytes(&FACS::new())),
        (GuestPhysAddr(FADT_ADDRESS), fadt()),
        (GuestPhysAddr(DSDT_ADDRESS), dsdt),
        (GuestPhysAddr(madt_address), madt),
    ]
}

fn io_register(bits: u8, access: AccessSize, port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, port.into())
}

fn fadt() -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // No fixed power button, no fixed sleep button, no RTC wake event.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    fadt.firmware_ctrl = (FACS_ADDRESS as u32).into();
    fadt.dsdt = (DSDT_ADDRESS as u32).into();
    fadt.x_dsdt = DSDT_ADDRESS.into();
    fadt.sci_int = u16::from(power::SCI_IRQ).into();
    fadt.pm1a_evt_blk = u32::from(power::PM1_EVENT).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = io_register(32, AccessSize::WordAccess, power::PM1_EVENT);
    fadt.pm1a_cnt_blk = u32::from(power::PM1_CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = io_register(16, AccessSize::WordAccess, power::PM1_CONTROL);
    fadt.pm_tmr_blk = u32::from(power::PM_TIMER).into();
    fadt.pm_tmr_len = 4;
    fadt.x_pm_tmr_blk = io_register(32, AccessSize::DwordAccess, power::PM_TIMER);
    // More than 100 and 1000 microseconds: there is no C2 and no C3.
    fadt.p_lvl2_lat = 0xfff.into();
    fadt.p_lvl3_lat = 0xfff.into();
    fadt.century = super::rtc::CENTURY;
    // Legacy devices are there; no 8042 (bit 1 clear); no VGA (bit 2).
    fadt.iapc_boot_arch = 0b101.into();
    fadt.reset_reg = io_register(8, AccessSize::ByteAccess, power::RESET_CONTROL);
    fadt.reset_value = power::RESET_VALUE;
    bytes(&fadt.finalize())
}

/// MADT: which local APICs there are, the I/O APIC, and how ISA interrupts reach it.
fn madt(vcpus: u32) -> Vec<u8> {
    let mut madt = MADT::new(
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
        LocalInterruptController::Address(lapic::DEFAULT_BASE as u32),
    );
    for id in 0..vcpus.min(255) as u8 {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, ioapic::BASE as u32, 0));
    let mut table = bytes(&madt);
    // Types the crate doesn't have. ACPI 6.5, 5.2.12.5: the PIT is on pin 2; the SCI is level-triggered, active high.
    table.extend([2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    table.extend([2, 10, 0, power::SCI_IRQ, power::SCI_IRQ, 0, 0, 0, 0b1101, 0]);
    // 5.2.12.16: ids of 255 and up are for x2APIC mode.
    for id in 255..vcpus {
        table.extend([9, 16, 0, 0]);
        table.extend([id, 1, id].into_iter().flat_map(u32::to_le_bytes));
    }
    // 5.2.12.7: NMI on LINT1 of all processors.
    table.extend([4, 6, 0xff, 0, 0, 1]);
    // PCAT_COMPAT: there is an 8259 pair.
    table[40..44].copy_from_slice(&1u32.to_le_bytes());
    let length = table.len() as u32;
    table[4..8].copy_from_slice(&length.to_le_bytes());
    table[9] = 0;
    table[9] = table.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    table
}

/// A device of the system bus with `_HID`, `_UID`, `_STA` and `_CRS`.
fn device(name: &str, id: &dyn Aml, uid: u8, resources: Vec<&dyn Aml>) -> Vec<u8> {
    bytes(&Device::new(
        name.into(),
        vec![
            &Name::new("_HID".into(), id),
            &Name::new("_UID".into(), &uid),
            &Name::new("_STA".into(), &0x0fu8),
            &Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
        ],
    ))
}

fn isa_interrupt(irq: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, irq)
}

/// AML that is encoded already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn dsdt(vcpus: u32) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let processors: Vec<Raw> = (0..vcpus)
        .map(|id| {
            Raw(bytes(&Device::new(
                format!("C{id:03X}").as_str().into(),
                vec![
                    &Name::new("_HID".into(), &"ACPI0007"),
                    &Name::new("_UID".into(), &id),
                ],
            )))
        })
        .collect();
    let serial = EISAName::new("PNP0501");
    let devices = [
        device(
            "COM1",
            &serial,
            1,
            vec![&IO::new(0x3f8, 0x3f8, 1, 8), &isa_interrupt(4)],
        ),
        device(
            "COM2",
            &serial,
            2,
            vec![&IO::new(0x2f8, 0x2f8, 1, 8), &isa_interrupt(3)],
        ),
        device(
            "RTC_",
            &EISAName::new("PNP0B00"),
            0,
            vec![&IO::new(0x70, 0x70, 1, 2), &isa_interrupt(8)],
        ),
        device(
            "PEVT",
            &"QEMU0001",
            0,
            vec![&IO::new(power::PVPANIC, power::PVPANIC, 1, 1)],
        ),
    ]
    .map(Raw);
    let children = processors
        .iter()
        .chain(&devices)
        .map(|raw| raw as &dyn Aml)
        .collect();
    table.append_slice(&bytes(&Scope::new("_SB_".into(), children)));
    let sleep = power::S5_SLEEP_TYPE;
    table.append_slice(&bytes(&Name::new(
        "_S5_".into(),
        &Package::new(vec![&sleep, &sleep, &0u8, &0u8]),
    )));
    table.update_checksum();
    table.as_slice().to_vec()
}
