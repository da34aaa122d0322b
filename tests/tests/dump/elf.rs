//! ELF vmcores of ours.

use crate::guest::{Dumped, dumped, ours};
use crate::readers::{drgn, gdb, hex, makedumpfile, printed, volatility};
use std::process::Command;
use tests::{Scratch, has_dump_readers, has_tool};

const FILES: [&str; 3] = ["elf", "elf-physical", "elf-gdb"];

#[test]
fn our_reader_finds_the_guests_memory_page_by_page_and_its_processors() {
    let Some(guest) = dumped() else { return };
    for name in FILES {
        let image = ours(&guest.path(name));
        guest.assert_same_memory(&*image, false);
        for (read, cpu) in image.processors().iter().zip(&guest.processors) {
            assert_eq!((read.gpr, read.rip, read.cr3), (cpu.gpr, cpu.rip, cpu.cr3));
            assert_eq!((read.cr0, read.cr4, read.efer), (cpu.cr0, cpu.cr4, cpu.efer));
        }
        assert_eq!(image.description().os, Some(format!("Linux {}", guest.release())));
        assert_eq!(image.description().root.map(|root| root.0), guest.info().root());
    }
}

#[test]
fn zero_pages_take_no_space_on_the_disk() {
    use std::os::unix::fs::MetadataExt;
    let Some(guest) = dumped() else { return };
    let on_disk = std::fs::metadata(guest.path("elf"))
        .expect("it is there")
        .blocks()
        * 512;
    let (_, written) = guest
        .written
        .iter()
        .find(|(name, _)| name == "elf")
        .expect("it was written");
    let stored = (written.pages - written.zero_pages) * 4096;
    assert!(on_disk < stored + stored / 8, "{on_disk} bytes for {written:?}");
}

#[test]
fn readelf_lists_a_core_with_the_notes_and_without_a_warning() {
    if !has_tool("readelf") {
        return;
    }
    let Some(guest) = dumped() else { return };
    for name in FILES {
        let mut command = Command::new("readelf");
        let output = command
            .args(["-h", "-l", "-n", "-W"])
            .arg(guest.path(name))
            .output()
            .expect("readelf runs");
        let (text, errors) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success() && errors.is_empty(), "{errors}");
        assert!(
            text.contains("CORE (Core file)") && text.contains("X86-64"),
            "{text}"
        );
        for (what, times) in [
            ("NT_PRSTATUS", guest.processors.len()),
            ("  QEMU", 2),
            ("  VMCOREINFO", 1),
        ] {
            assert_eq!(text.matches(what).count(), times, "{what}: {text}");
        }
    }
}

#[test]
fn gdb_shows_every_processor_with_its_registers() {
    if !has_tool("gdb") {
        return;
    }
    let Some(guest) = dumped() else { return };
    for name in FILES {
        let commands = [
            "info threads",
            "thread apply all -ascending p/x $rip",
            "thread apply all -ascending p/x $rsp",
            "thread apply all -ascending p/x $gs_base",
        ];
        let text = gdb(&guest.path(name), &commands);
        let values: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("$")?.split(" = ").nth(1))
            .collect();
        let get: [fn(&hv_core::regs::Registers) -> u64; 3] = [
            |cpu| cpu.rip,
            |cpu| cpu.gpr[4],
            |cpu| cpu.segments[hv_core::regs::seg::GS].base,
        ];
        let expected = get
            .iter()
            .flat_map(|get| guest.processors.iter().map(move |cpu| format!("{:#x}", get(cpu))));
        assert_eq!(values, expected.collect::<Vec<_>>(), "{text}");
        assert!(text.matches("LWP").count() >= guest.processors.len(), "{text}");
    }
}

#[test]
fn gdb_reads_the_direct_map_and_in_its_own_file_the_kernels_variables() {
    if !has_tool("gdb") {
        return;
    }
    let Some(guest) = dumped() else { return };
    let (address, physical) = guest.names();
    let direct = guest.facts.page_offset_base.expect("it was found").0 + physical;
    let release = guest.release();
    let read = |address: u64| format!("x/s {:#x}", address + 2 * 65);
    let text = gdb(&guest.path("elf"), &[&read(direct)]);
    assert!(text.contains(&release), "{text}");
    let text = gdb(&guest.path("elf-gdb"), &[&read(direct), &read(address)]);
    assert_eq!(text.matches(&release).count(), 2, "{text}");
}

fn check_with_makedumpfile(guest: &Dumped, name: &str) {
    let scratch = Scratch::default();
    let dump = guest.path(name);
    let log = scratch.path("log");
    makedumpfile(&["--dump-dmesg"], &dump, &log);
    let log = std::fs::read_to_string(log).expect("it is text");
    assert!(
        log.contains(&format!("Linux version {}", guest.release())),
        "{log}"
    );
    let mut pages = Vec::new();
    // zlib without zero pages; then zlib, lzo and ELF without what can be left out. It makes no ELF file of kdump's.
    let kinds = ["-c -d 1", "-c -d 31", "-l -d 31", "-E -d 31"];
    let count = if name.starts_with("elf") { 4 } else { 3 };
    for (n, options) in kinds.into_iter().take(count).enumerate() {
        let filtered = scratch.path(&n.to_string());
        let options: Vec<&str> = options.split(' ').collect();
        makedumpfile(&options, &dump, &filtered);
        let image = ours(&filtered);
        pages.push(guest.assert_same_memory(&*image, true));
        assert_eq!(image.processors().len(), guest.processors.len());
        assert_eq!(image.description().root.map(|root| root.0), guest.info().root());
    }
    assert!(
        pages[1] > 1000 && pages[1] == pages[2] && pages[1] < pages[0],
        "{pages:?}"
    );
}

#[test]
fn makedumpfile_prints_the_log_and_filters_and_we_read_what_it_wrote() {
    if !has_dump_readers() {
        return;
    }
    let Some(guest) = dumped() else { return };
    for name in FILES {
        check_with_makedumpfile(guest, name);
    }
    for name in ["none", "zlib"] {
        check_with_makedumpfile(guest, name);
    }
}

#[test]
fn makedumpfile_flattens_and_we_read_it() {
    if !has_dump_readers() {
        return;
    }
    let Some(guest) = dumped() else { return };
    let scratch = Scratch::default();
    for options in [["-c", "-F"], ["-E", "-F"]] {
        let flat = scratch.path("flat");
        let out = std::fs::File::create(&flat).expect("a new file");
        let mut command = Command::new("makedumpfile");
        let done = command
            .args(options)
            .args(["-d", "1"])
            .arg(guest.path("elf"))
            .stdout(out)
            .output();
        assert!(done.expect("makedumpfile runs").status.success());
        guest.assert_same_memory(&*ours(&flat), true);
    }
    let rebuilt = scratch.path("rebuilt");
    let flat = std::fs::File::open(guest.path("flattened")).expect("it was written");
    printed(Command::new("makedumpfile").arg("-R").arg(&rebuilt).stdin(flat));
    guest.assert_same_memory(&*ours(&rebuilt), false);
}

#[test]
fn drgn_knows_the_kernel_and_reads_by_physical_and_virtual_address() {
    if !has_dump_readers() {
        return;
    }
    let Some(guest) = dumped() else { return };
    let (address, physical) = guest.names();
    let expected = hex(guest.bytes(physical, 390));
    for name in FILES.into_iter().chain(["none", "zlib", "snappy", "zstd"]) {
        let seen = drgn(&guest.path(name), physical, address, 390);
        assert_eq!(seen["release"], *guest.release(), "{name}");
        assert_eq!(
            (&seen["physical"], &seen["virtual"]),
            (&(*expected).into(), &(*expected).into()),
            "{name}"
        );
        assert_eq!(seen["live"], false, "{name}");
    }
}

#[test]
fn volatility_finds_the_kernel() {
    if !has_dump_readers() {
        return;
    }
    let Some(guest) = dumped() else { return };
    for name in ["elf", "elf-physical"] {
        let dump = guest.path(name);
        let text = volatility(&dump, "linux.vmcoreinfo");
        assert!(text.contains(&guest.release()), "{text}");
        let text = volatility(&dump, "banners");
        assert!(
            text.contains(&format!("Linux version {}", guest.release())),
            "{text}"
        );
    }
}
