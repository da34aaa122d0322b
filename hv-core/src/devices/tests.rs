//! Tests of the machine as a whole, as a guest sees it through ports, pages and MSRs.

use super::*;

const BSP: VcpuId = VcpuId(0);
const AP: VcpuId = VcpuId(1);
const NOW: Ticks = Ticks(1000);
const LAPIC: u64 = lapic::DEFAULT_BASE;

fn config() -> PlatformConfig {
    PlatformConfig {
        vcpus: 2,
        tsc_hz: 1_000_000_000,
        debug_exit: Some(0xf4),
        rtc_epoch_seconds: 1_704_067_200,
        acpi: true,
    }
}

/// A two-processor machine whose local APICs are enabled, with flat logical ids 1 and 2.
fn machine() -> Platform {
    let mut platform = Platform::new(&config());
    for vcpu in [BSP, AP] {
        lapic_write(&mut platform, vcpu, 0xf0, 0x1ff);
        lapic_write(&mut platform, vcpu, 0xd0, 0x0100_0000 << vcpu.0);
    }
    // Linux masks LINT0 when it goes over to the I/O APIC.
    lapic_write(&mut platform, BSP, 0x350, 0x1_0700);
    platform
}

fn lapic_write(platform: &mut Platform, vcpu: VcpuId, register: u64, value: u32) {
    platform.mmio_write(NOW, vcpu, GuestPhysAddr(LAPIC + register), 4, value.into());
}

fn lapic_read(platform: &mut Platform, vcpu: VcpuId, register: u64) -> u32 {
    platform.mmio_read(NOW, vcpu, GuestPhysAddr(LAPIC + register), 4) as u32
}

fn redirect(platform: &mut Platform, pin: u8, entry: u64) {
    for (register, value) in [
        (0x11 + 2 * pin, (entry >> 32) as u32),
        (0x10 + 2 * pin, entry as u32),
    ] {
        platform.mmio_write(NOW, BSP, GuestPhysAddr(ioapic::BASE), 4, register.into());
        platform.mmio_write(NOW, BSP, GuestPhysAddr(ioapic::BASE + 0x10), 4, value.into());
    }
}

fn outb(platform: &mut Platform, port: u16, value: u8) {
    platform.port_write(NOW, BSP, port, 1, value.into());
}

fn inb(platform: &mut Platform, port: u16) -> u8 {
    platform.port_read(NOW, BSP, port, 1) as u8
}

#[test]
fn unclaimed_ports_read_all_ones_of_the_width() {
    let mut platform = machine();
    for port in [0x2e0, 0x3e8, 0x3d4, 0xcf8, 0xcfc, 0xffff] {
        for (size, ones) in [(1, 0xff), (2, 0xffff), (4, 0xffff_ffff)] {
            platform.port_write(NOW, BSP, port, size, 0xffff_ffff);
            assert_eq!(platform.port_read(NOW, BSP, port, size), ones, "port {port:#x}");
        }
    }
    assert!(!platform.has_signals(), "a PCI configuration write is no reset");
}

#[test]
fn a_smp_start_is_init_then_two_startups() {
    let mut platform = machine();
    lapic_write(&mut platform, BSP, 0x310, 0x0100_0000);
    for command in [0xc500, 0x8500, 0x699, 0x699] {
        lapic_write(&mut platform, BSP, 0x300, command);
    }
    assert_eq!(
        platform.take_signals(),
        [
            Signal::Init(AP),
            Signal::StartUp(AP, 0x99),
            Signal::StartUp(AP, 0x99)
        ]
    );
    assert!(!platform.has_signals());
    assert_eq!(
        lapic_read(&mut platform, AP, 0xf0),
        0xff,
        "INIT resets the local APIC"
    );
    assert_eq!(lapic_read(&mut platform, AP, 0x20), 0x0100_0000);
    assert_eq!(platform.apic_base(AP), 0xfee0_0800);
    assert_eq!(platform.apic_base(BSP), 0xfee0_0900);
}

#[test]
fn ipis_by_logical_id_and_by_shorthand() {
    let mut platform = machine();
    lapic_write(&mut platform, BSP, 0x310, 0x0200_0000);
    lapic_write(&mut platform, BSP, 0x300, 0x8fb);
    assert!(!platform.interrupt_pending(BSP));
    assert_eq!(platform.acknowledge_interrupt(AP), Some(0xfb));
    lapic_write(&mut platform, AP, 0xb0, 0);
    lapic_write(&mut platform, BSP, 0x300, 0x4_00f6);
    assert_eq!(platform.acknowledge_interrupt(BSP), Some(0xf6));
    assert_eq!(platform.acknowledge_interrupt(AP), None);
    lapic_write(&mut platform, BSP, 0xb0, 0);
    lapic_write(&mut platform, BSP, 0x300, 0x8_00fd);
    assert_eq!(platform.acknowledge_interrupt(BSP), Some(0xfd));
    assert_eq!(platform.acknowledge_interrupt(AP), Some(0xfd));
    lapic_write(&mut platform, BSP, 0x300, 0xc_0400);
    assert_eq!(platform.take_signals(), [Signal::Nmi(AP)]);
}

#[test]
fn lowest_priority_goes_to_the_idler_vcpu() {
    let mut platform = machine();
    lapic_write(&mut platform, BSP, 0x80, 0x20);
    lapic_write(&mut platform, BSP, 0x310, 0x0300_0000);
    lapic_write(&mut platform, BSP, 0x300, 0x941);
    assert!(platform.interrupt_pending(AP));
    assert!(!platform.interrupt_pending(BSP));
}

#[test]
fn x2apic_ipis_and_self_ipi() {
    let mut platform = machine();
    for vcpu in [BSP, AP] {
        let base = platform.apic_base(vcpu);
        platform.apic_msr_write(NOW, vcpu, 0x1b, base | 1 << 10).unwrap();
    }
    assert_eq!(platform.apic_msr_read(NOW, AP, 0x80d), Some(2));
    platform.apic_msr_write(NOW, BSP, 0x830, 1 << 32 | 0xf0).unwrap();
    assert_eq!(platform.acknowledge_interrupt(AP), Some(0xf0));
    platform.apic_msr_write(NOW, BSP, 0x830, 2 << 32 | 0x8f1).unwrap();
    assert_eq!(platform.acknowledge_interrupt(AP), None, "same class in service");
    platform.apic_msr_write(NOW, AP, 0x80b, 0).unwrap();
    assert_eq!(platform.acknowledge_interrupt(AP), Some(0xf1));
    platform.apic_msr_write(NOW, AP, 0x83f, 0xe3).unwrap();
    platform.apic_msr_write(NOW, AP, 0x80b, 0).unwrap();
    assert_eq!(platform.acknowledge_interrupt(AP), Some(0xe3));
    assert_eq!(platform.apic_msr_write(NOW, BSP, 0x830, 1 << 20), None);
    assert_eq!(platform.apic_msr_read(NOW, BSP, 0x8ff), None);
    assert_eq!(platform.apic_msr_read(NOW, BSP, 0x10), None);
}

#[test]
fn the_uart_interrupts_through_pin_4_with_a_new_edge_each_time() {
    let mut platform = machine();
    redirect(&mut platform, 4, 0x0100_0000_0000_0821);
    for (register, value) in [(2, 0x81), (4, 0x0b), (1, 5)] {
        outb(&mut platform, 0x3f8 + register, value);
    }
    assert_eq!(platform.console_input(0, b"ls\n"), 3);
    for byte in *b"ls\n" {
        assert_eq!(inb(&mut platform, 0x3f8), byte);
    }
    assert_eq!(platform.acknowledge_interrupt(BSP), Some(0x21));
    lapic_write(&mut platform, BSP, 0xb0, 0);
    outb(&mut platform, 0x3f9, 7);
    for byte in *b"ok" {
        assert_eq!(platform.acknowledge_interrupt(BSP), Some(0x21));
        assert_eq!(inb(&mut platform, 0x3fa), 0xc2);
        outb(&mut platform, 0x3f8, byte);
        lapic_write(&mut platform, BSP, 0xb0, 0);
    }
    assert!(platform.has_console_output());
    assert_eq!(platform.take_console_output(0), b"ok");
    assert!(!platform.has_console_output());
    assert_eq!(platform.console_input(2, b"x"), 0, "there is no COM3");
}

#[test]
fn a_level_interrupt_comes_again_after_its_eoi_while_the_line_is_up() {
    let mut platform = machine();
    redirect(&mut platform, 9, 0x0100_0000_0000_8859);
    // The power management timer's event, enabled when its top bit has toggled.
    let now = clock::first_tick_at(1 << 31, power::PM_TIMER_HZ);
    platform.port_write(now, BSP, 0x602, 2, 1);
    for _ in 0..3 {
        assert_eq!(platform.acknowledge_interrupt(BSP), Some(0x59));
        assert!(!platform.interrupt_pending(BSP));
        lapic_write(&mut platform, BSP, 0xb0, 0);
    }
    assert!(platform.interrupt_pending(BSP));
    platform.port_write(now, BSP, 0x600, 2, 1);
    assert_eq!(platform.acknowledge_interrupt(BSP), Some(0x59));
    lapic_write(&mut platform, BSP, 0xb0, 0);
    assert!(!platform.interrupt_pending(BSP));
}

/// ICW1 to ICW4 with vectors 0x30 and up, all but the timer and the cascade masked.
fn initialise_pic(platform: &mut Platform) {
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x30),
        (0x21, 4),
        (0x21, 1),
        (0xa0, 0x11),
        (0xa1, 0x38),
        (0xa1, 2),
        (0xa1, 1),
        (0xa1, 0xff),
        (0x21, 0xfa),
    ] {
        outb(platform, port, value);
    }
}

fn start_pit(platform: &mut Platform, count: u16) {
    outb(platform, 0x43, 0x34);
    outb(platform, 0x40, count as u8);
    outb(platform, 0x40, (count >> 8) as u8);
}

#[test]
fn the_pit_reaches_vcpu_0_through_the_8259_with_the_apic_off_or_in_virtual_wire_mode() {
    for apic_off in [false, true] {
        let mut platform = Platform::new(&config());
        if apic_off {
            platform.apic_msr_write(NOW, BSP, 0x1b, LAPIC).unwrap();
        }
        initialise_pic(&mut platform);
        start_pit(&mut platform, 11932);
        for tick in 1..=100 {
            let now = platform.next_deadline();
            assert!(now.0.abs_diff(NOW.0 + tick * 1_000_014) < 200, "100 Hz: {now:?}");
            platform.advance(Ticks(now.0 - 1));
            if tick > 1 {
                assert!(!platform.interrupt_pending(BSP));
            }
            platform.advance(now);
            assert!(!platform.interrupt_pending(AP));
            assert_eq!(platform.acknowledge_interrupt(BSP), Some(0x30));
            outb(&mut platform, 0x20, 0x20);
        }
    }
}

#[test]
fn the_pit_is_pin_2_of_the_io_apic() {
    let mut platform = machine();
    redirect(&mut platform, 2, 0x0100_0000_0000_0830);
    start_pit(&mut platform, 1000);
    platform.acknowledge_interrupt(BSP);
    lapic_write(&mut platform, BSP, 0xb0, 0);
    for _ in 0..10 {
        assert!(!platform.interrupt_pending(BSP));
        platform.advance(platform.next_deadline());
        assert_eq!(platform.acknowledge_interrupt(BSP), Some(0x30));
        lapic_write(&mut platform, BSP, 0xb0, 0);
    }
}

#[test]
fn the_lapic_timer_counts_at_the_tscs_rate() {
    let mut platform = machine();
    lapic_write(&mut platform, AP, 0x3e0, 0b1011);
    lapic_write(&mut platform, AP, 0x320, 0x2_00ec);
    lapic_write(&mut platform, AP, 0x380, 4_000_000);
    let period = 4_000_000 / (platform.tsc(Ticks(1)) - platform.tsc(Ticks(0)));
    for n in 1..=250 {
        let now = platform.next_deadline();
        assert_eq!(now, NOW.after(n * period));
        platform.advance(Ticks(now.0 - 1));
        assert!(!platform.interrupt_pending(AP));
        platform.advance(now);
        assert_eq!(platform.acknowledge_interrupt(AP), Some(0xec));
        platform.mmio_write(now, AP, GuestPhysAddr(LAPIC + 0xb0), 4, 0);
        let count = platform.mmio_read(now.after(1), AP, GuestPhysAddr(LAPIC + 0x390), 4);
        assert_eq!(count, 4_000_000 - 10);
    }
}

#[test]
fn cr8_is_the_task_priority() {
    let mut platform = machine();
    platform.set_cr8(AP, 0xf);
    assert_eq!(lapic_read(&mut platform, AP, 0x80), 0xf0);
    lapic_write(&mut platform, AP, 0x80, 0x35);
    assert_eq!(platform.cr8(AP), 3);
}

#[test]
fn endings_are_signals() {
    let mut platform = machine();
    platform.port_write(NOW, BSP, 0x604, 2, 0x2000 | 5 << 10);
    platform.port_write(NOW, BSP, 0xcf9, 1, 6);
    platform.port_write(NOW, BSP, 0x505, 1, 1);
    platform.port_write(NOW, BSP, 0xf4, 4, 0x1234_5678);
    assert_eq!(
        platform.take_signals(),
        [
            Signal::PowerOff,
            Signal::Reset,
            Signal::Panic,
            Signal::DebugExit(0x1234_5678)
        ]
    );
}

#[test]
fn the_nmi_button_goes_through_lint1() {
    let mut platform = machine();
    platform.press_nmi_button();
    assert!(!platform.has_signals(), "masked after reset");
    lapic_write(&mut platform, BSP, 0x360, 0x400);
    platform.press_nmi_button();
    assert_eq!(platform.take_signals(), [Signal::Nmi(BSP)]);
}

#[test]
fn a_reset_is_a_new_machine_with_the_old_date() {
    let mut platform = machine();
    start_pit(&mut platform, 1000);
    outb(&mut platform, 0x70, 0x0f);
    outb(&mut platform, 0x71, 0x77);
    platform.console_input(0, b"waiting input");
    platform.reset();
    assert_eq!(platform.next_deadline(), Ticks::NEVER);
    assert_eq!(lapic_read(&mut platform, BSP, 0xf0), 0xff);
    outb(&mut platform, 0x70, 0x0f);
    assert_eq!(inb(&mut platform, 0x71), 0x77);
    assert_eq!(
        inb(&mut platform, 0x3f8),
        b'a',
        "but for the byte that was in the receiver"
    );
}

#[test]
fn a_saved_machine_restores_to_the_same_state() {
    let mut platform = machine();
    start_pit(&mut platform, 1000);
    platform.console_input(0, b"hello");
    let saved = postcard::to_stdvec(&platform).unwrap();
    let restored: Platform = postcard::from_bytes(&saved).unwrap();
    assert_eq!(restored, platform);
}

#[test]
fn every_acpi_table_has_its_checksum_and_lies_apart() {
    for vcpus in [1, 2, 64, 255, 256, MAX_VCPUS] {
        let platform = Platform::new(&PlatformConfig { vcpus, ..config() });
        let tables = platform.acpi_tables();
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        let mut end = 0xe_0000;
        for (address, table) in &tables {
            assert!(address.0 >= end && address.0 + table.len() as u64 <= 0x10_0000);
            end = address.0 + table.len() as u64;
            match &table[..4] {
                b"RSD " => {
                    assert_eq!(*address, platform.rsdp_address());
                    assert_eq!((table.len(), sum(&table[..20]), sum(table)), (36, 0, 0));
                }
                b"FACS" => assert_eq!((table.len(), address.0 % 64), (64, 0)),
                _ => {
                    assert_eq!(sum(table), 0, "{}", String::from_utf8_lossy(&table[..4]));
                    let length = u32::from_le_bytes(table[4..8].try_into().unwrap());
                    assert_eq!(length as usize, table.len());
                }
            }
        }
        assert_eq!(tables.len(), 6);
    }
    assert!(
        Platform::new(&PlatformConfig {
            acpi: false,
            ..config()
        })
        .acpi_tables()
        .is_empty()
    );
}

#[test]
fn a_person_can_read_the_state() {
    let text = machine().describe_interrupts() + &machine().describe_devices();
    for part in ["LAPIC 1", "IOAPIC", "PIC master", "RTC: 2024-01-01", "UART COM1"] {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
}

/// A small generator, so that the run is the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Does `steps` random accesses; returns a digest of all answers and the final state.
fn hostile_guest(seed: u64, steps: u32) -> (u64, Platform) {
    const PORTS: [u16; 14] = [
        0x20, 0x40, 0x60, 0x70, 0x90, 0xa0, 0xf4, 0x2f8, 0x3f8, 0x4d0, 0x505, 0x600, 0x608, 0xcf8,
    ];
    let mut random = Random(seed);
    let mut platform = machine();
    let mut now = NOW;
    let mut digest = 0u64;
    for _ in 0..steps {
        let r = random.next();
        let value = match r >> 60 {
            0..4 => random.next() & 0xff,
            4..8 => random.next() & 0xf_ffff,
            _ => random.next(),
        };
        now = now.after(match r >> 40 & 15 {
            0 => value % (1 << 36),
            1..4 => value % 1_000_000,
            _ => 1,
        });
        let vcpu = VcpuId((r >> 8 & 1) as u32);
        let size = 1 << (r >> 10 & 3);
        let port = PORTS[(r >> 12) as usize % PORTS.len()] + (r >> 20 & 7) as u16;
        let page = if r >> 24 & 1 == 0 { LAPIC } else { ioapic::BASE };
        let address =
            GuestPhysAddr(page + ((r >> 25 & 0xff) << 4) + if r >> 33 & 7 == 0 { r >> 36 & 15 } else { 0 });
        let msr = match r >> 12 & 15 {
            0 => 0x1b,
            1 => 0x6e0,
            _ => 0x800 + (r >> 16 & 0x3f) as u32,
        };
        let answer = match r & 15 {
            0..3 => platform.port_read(now, vcpu, port, size.min(4)).into(),
            3..6 => {
                platform.port_write(now, vcpu, port, size.min(4), value as u32);
                0
            }
            6 => platform.mmio_read(now, vcpu, address, size),
            7..9 => {
                platform.mmio_write(now, vcpu, address, size, value);
                0
            }
            9 => platform.apic_msr_read(now, vcpu, msr).unwrap_or(1),
            10 => {
                // Keep the APICs on most of the time.
                let on = if r >> 52 & 7 == 0 { value & 0x800 } else { 0x800 };
                let value = if msr == 0x1b {
                    LAPIC | on | value & 0x400
                } else {
                    value
                };
                platform.apic_msr_write(now, vcpu, msr, value).is_some().into()
            }
            11 => platform.acknowledge_interrupt(vcpu).unwrap_or(0).into(),
            12 => platform.console_input((r >> 30 & 1) as usize, &value.to_le_bytes()) as u64,
            13 => {
                platform.set_cr8(vcpu, value);
                platform.cr8(vcpu)
            }
            _ => {
                platform.advance(now);
                assert!(platform.next_deadline() > now, "advance leaves nothing due");
                0
            }
        };
        digest = digest.rotate_left(5) ^ answer ^ platform.take_signals().len() as u64;
        digest ^= u64::from(platform.interrupt_pending(vcpu)) << 40 ^ platform.next_deadline().0;
        if r >> 50 & 0xff == 0 {
            digest ^= platform.describe_devices().len() as u64;
            platform.take_console_output(0);
        }
    }
    (digest, platform)
}

#[test]
fn a_hostile_guest_neither_panics_the_machine_nor_makes_it_differ() {
    for seed in 1..=8 {
        let (digest, platform) = hostile_guest(0x9e37_79b9_7f4a_7c15 ^ seed, 100_000);
        let (again, same) = hostile_guest(0x9e37_79b9_7f4a_7c15 ^ seed, 100_000);
        assert_eq!(digest, again);
        assert_eq!(
            postcard::to_stdvec(&platform).unwrap(),
            postcard::to_stdvec(&same).unwrap()
        );
    }
}

#[test]
fn time_at_its_end_does_no_harm() {
    let mut platform = machine();
    start_pit(&mut platform, 1000);
    lapic_write(&mut platform, BSP, 0x320, 0x2_00ec);
    lapic_write(&mut platform, BSP, 0x380, 1);
    for now in [Ticks(1 << 62), Ticks(u64::MAX - 1), Ticks::NEVER] {
        platform.advance(now);
        for port in [0x40, 0x61, 0x71, 0x608] {
            platform.port_read(now, BSP, port, 4);
        }
        platform.mmio_read(now, BSP, GuestPhysAddr(LAPIC + 0x390), 4);
    }
}
