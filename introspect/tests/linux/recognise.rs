//! Finding the kernel, its symbols, types, log and VMCOREINFO.

use crate::guest::{self, Kind, Machine};
use hv_core::introspect::{Introspect, MemoryRegion, ReadMemory, ReadRegisters};
use hv_core::regs::Registers;
use hv_core::{Domain, GuestPhysAddr, VcpuId};
use introspect::linux::{Guest, Linux};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Memory and nothing else.
struct MemoryAlone<'a>(&'a Domain);

impl ReadMemory for MemoryAlone<'_> {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> hv_core::introspect::Result<()> {
        self.0.read_physical(address, buffer)
    }
    fn memory_regions(&self) -> Vec<MemoryRegion> {
        self.0.memory_regions()
    }
}

/// As [`MemoryAlone`], where nothing says VMCOREINFO.
struct WithoutNotes<'a>(&'a Domain);

impl ReadMemory for WithoutNotes<'_> {
    fn read_physical(&self, address: GuestPhysAddr, buffer: &mut [u8]) -> hv_core::introspect::Result<()> {
        self.0.read_physical(address, buffer)?;
        let starts = [&b"\x0b\0\0\0"[..], b"OSRELEASE="];
        if starts.iter().any(|start| buffer.starts_with(start)) {
            buffer.fill(0);
        }
        Ok(())
    }
    fn memory_regions(&self) -> Vec<MemoryRegion> {
        self.0.memory_regions()
    }
}

/// A guest of which one vCPU is seen.
struct OneVcpu<'a>(&'a Domain, VcpuId);

impl ReadRegisters for OneVcpu<'_> {
    fn vcpu_count(&self) -> u32 {
        1
    }
    fn registers(&self, _: VcpuId) -> hv_core::introspect::Result<Registers> {
        self.0.registers(self.1)
    }
    fn read_msr(&self, _: VcpuId, msr: u32) -> hv_core::introspect::Result<Option<u64>> {
        self.0.read_msr(self.1, msr)
    }
}

pub fn recognise(domain: &Domain) -> Linux {
    let start = Instant::now();
    let linux = Linux::recognise(Guest::from(domain as &dyn Introspect)).expect("it is Linux");
    println!("recognised in {:?}\n{}", start.elapsed(), linux.report());
    linux
}

/// What the host's md5sum says of a text.
pub fn md5(text: &[u8]) -> String {
    let mut child = Command::new("md5sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("md5sum");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(text)
        .expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout)[..32].to_owned()
}

/// /proc/kallsyms as the guest would print it without modules.
fn kallsyms_text(linux: &Linux) -> String {
    let mut text = String::new();
    for symbol in linux.kallsyms().expect("symbols").iter() {
        let _ = writeln!(text, "{:016x} {} {}", symbol.address, symbol.kind, symbol.text());
    }
    text
}

fn everything_is_as_the_guest_says(kind: &Kind) {
    let Some(mut machine) = Machine::new(kind) else {
        return;
    };
    let release = machine.command("uname -r");
    let banner = machine.command("cat /proc/version");
    let iomem = machine.command("grep 'Kernel code' /proc/iomem");
    let symbols = machine.command("md5sum </proc/kallsyms");
    let types = machine.command("md5sum </sys/kernel/btf/vmlinux");
    let note = machine.command("cat /sys/kernel/vmcoreinfo");
    let command_line = machine.command("cat /proc/cmdline");
    let uptime = machine.command("cat /proc/uptime");
    let log = machine.command("dmesg -r | md5sum; dmesg | tail -n 3");
    machine.paused(|domain| {
        let linux = recognise(domain);
        assert_eq!(linux.release(), Some(release.trim()));
        assert_eq!(linux.banner(), Some(banner.trim()));
        assert_eq!(
            linux.command_line(domain),
            Some(command_line.trim_end_matches('\n').to_owned())
        );
        let seconds = uptime.split('.').next().and_then(|it| it.parse::<u64>().ok());
        let ours = linux.uptime(domain).expect("its clock").as_secs();
        // The clock that ticks starts a moment after the one that /proc counts from.
        let apart = seconds.expect("a number").abs_diff(ours);
        assert!(apart <= 3, "{ours} {uptime}");
        let code = u64::from_str_radix(iomem.trim().split('-').next().unwrap_or_default(), 16);
        assert_eq!(Ok(linux.kernel().physical.0), code);
        if kind.append.contains("nokaslr") {
            assert_eq!(linux.kernel().slide(), 0);
        } else {
            assert_ne!(linux.kernel().slide(), 0);
        }
        assert_eq!(
            md5(kallsyms_text(&linux).as_bytes()),
            symbols[..32],
            "/proc/kallsyms"
        );
        assert_eq!(md5(linux.btf().expect("types").bytes()), types[..32], "BTF");

        let info = linux.vmcoreinfo().expect("VMCOREINFO");
        assert_eq!(info.get("OSRELEASE"), Some(release.trim()));
        assert_eq!(info.number("phys_base"), Some(linux.kernel().phys_base()));
        assert_eq!(info.kernel_offset(), Some(linux.kernel().slide()));
        assert_eq!(info.symbol("_stext"), linux.symbol("_stext").map(|it| it.0));
        // The address and size of the note that the kernel would give to a dump's reader.
        let mut words = note.split_whitespace();
        let address = u64::from_str_radix(words.next().unwrap_or_default().trim_start_matches("0x"), 16);
        let size = usize::from_str_radix(words.next().unwrap_or_default(), 16).expect("a size");
        let mut in_memory = vec![0; size];
        domain
            .read_physical(GuestPhysAddr(address.expect("an address")), &mut in_memory)
            .expect("the note");
        let ours = info.note();
        assert_eq!(ours, in_memory[..ours.len()], "the note");

        let records = linux.log(domain).expect("the log").records;
        let mut raw = String::new();
        for record in &records {
            for line in record.to_string().lines() {
                let _ = writeln!(
                    raw,
                    "<{}>{line}",
                    u32::from(record.facility) << 3 | record.level as u32
                );
            }
        }
        assert_eq!(md5(raw.as_bytes()), log[..32], "{log}\n{raw}");
        assert!(!linux.crash(domain).expect("its state").panicked());

        // The same in memory alone, once by VMCOREINFO and once without it.
        let start = Instant::now();
        let alone = Linux::recognise_in_memory(&MemoryAlone(domain)).expect("it is Linux");
        println!("in memory alone: {:?}\n{}", start.elapsed(), alone.report());
        let start = Instant::now();
        let scanned = Linux::recognise_in_memory(&WithoutNotes(domain)).expect("it is Linux");
        println!("without VMCOREINFO: {:?}\n{}", start.elapsed(), scanned.report());
        for other in [&alone, &scanned] {
            assert_eq!(other.kernel(), linux.kernel());
            assert_eq!(other.root(), linux.root());
            assert_eq!(other.banner(), linux.banner());
            assert_eq!(other.regions(), linux.regions());
            assert!(other.is_still_there(domain));
            assert_eq!(
                other.kallsyms().map(|it| it.len()),
                linux.kallsyms().map(|it| it.len())
            );
        }
    });
}

/// The kernel is found from user mode, with PTI's tables, and from the kernel, at any instruction.
#[test]
fn wherever_the_vcpus_are() {
    let Some(mut machine) = Machine::new(&guest::NEWER) else {
        return;
    };
    machine.command("(while :; do :; done) & (while :; do cat /proc/version >/dev/null; done) & true");
    let (mut user, mut kernel, mut first) = (0, 0, None);
    for _ in 0..40 {
        machine.runs_a_little();
        machine.paused(|domain| {
            for vcpu in (0..domain.vcpu_count()).map(VcpuId) {
                let registers = domain.registers(vcpu).expect("it is there");
                let in_user = registers.cpl() == 3;
                assert!(!in_user || registers.cr3 & 0x1000 != 0, "PTI's tables");
                user += u32::from(in_user);
                kernel += u32::from(!in_user);
                // As if there were no other.
                let alone = OneVcpu(domain, vcpu);
                let linux = Linux::recognise(Guest::new(domain, &alone)).expect("it is Linux");
                let found = (*linux.kernel(), linux.root());
                assert_eq!(*first.get_or_insert(found), found);
            }
        });
    }
    println!("{user} in user mode, {kernel} in the kernel");
    assert!(user > 5 && kernel > 5);
}

#[test]
fn linux_6_1_where_it_was_linked() {
    everything_is_as_the_guest_says(&guest::STABLE_FIXED);
}

#[test]
fn linux_6_1_at_random_addresses() {
    everything_is_as_the_guest_says(&guest::STABLE);
}

#[test]
fn linux_6_12_with_pti() {
    everything_is_as_the_guest_says(&guest::NEWER);
}
