//! Guests whose crash ends in another kernel (kexec), and the real pvpanic driver.

use super::watch::{detail, jump_to_nowhere};
use super::{Guest, text};
use std::path::Path;
use tests::{BOOT_LIMIT, Gdb, archive_of, cache_folder, guest, modules_archive};

/// What the crash kernel says that it was started with.
const CRASH_COMMAND_LINE: &str = "console=ttyS0 nokaslr this-is-the-crash-kernel";

/// A program that loads `/root/vmlinuz` as the crash kernel: open(2), kexec_file_load(2), and the error as its exit status.
fn loader() -> Vec<u8> {
    const BASE: u32 = 0x40_0000;
    const CODE: u32 = BASE + 0x78;
    let path = b"/root/vmlinuz\0";
    let line = format!("{CRASH_COMMAND_LINE}\0");
    let code = |path: u32, line: u32, length: u32| {
        let mut code = Vec::new();
        let mut put = |opcode: &[u8], operand: u32| {
            code.extend_from_slice(opcode);
            code.extend_from_slice(&operand.to_le_bytes());
        };
        put(&[0xb8], 2); // mov eax, SYS_open
        put(&[0xbf], path); // mov edi, path
        put(&[0x31, 0xf6, 0x0f, 0x05, 0x89, 0xc7, 0xbe], u32::MAX); // xor esi, esi; syscall; mov edi, eax; mov esi, -1
        put(&[0xba], length); // mov edx, length
        put(&[0x41, 0xba], line); // mov r10d, line
        put(&[0x41, 0xb8], 6); // mov r8d, KEXEC_FILE_ON_CRASH | KEXEC_FILE_NO_INITRAMFS
        put(&[0xb8], 320); // mov eax, SYS_kexec_file_load
        put(&[0x0f, 0x05, 0x89, 0xc7, 0xf7, 0xdf, 0xb8], 60); // syscall; mov edi, eax; neg edi; mov eax, SYS_exit
        code.extend_from_slice(&[0x0f, 0x05]); // syscall
        code
    };
    let length = code(0, 0, 0).len() as u32;
    let (path_at, line_at) = (CODE + length, CODE + length + path.len() as u32);
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]); // ET_EXEC, EM_X86_64
    for word in [u64::from(CODE), 64, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    file.extend_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0]); // PT_LOAD, readable and executable
    let whole = 0x78 + u64::from(length) + (path.len() + line.len()) as u64;
    for word in [0, u64::from(BASE), u64::from(BASE), whole, whole, 0x1000] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    assert_eq!(file.len(), 0x78);
    file.extend(code(path_at, line_at, line.len() as u32));
    file.extend_from_slice(path);
    file.extend_from_slice(line.as_bytes());
    file
}

/// The stock Linux, booted with more in its initramfs.
#[track_caller]
fn booted(more: &[u8], append: &str) -> Option<Guest> {
    let files = guest(None)?;
    let mut initrd = std::fs::read(&files.initrd).expect("the initramfs");
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    initrd.extend_from_slice(more);
    let scratch = tests::Scratch::default();
    let initrd = scratch.file("initrd", &initrd);
    let append = format!("console=ttyS0 cryptomgr.notests {append}");
    let mut guest = Guest::create(&[
        "--kernel",
        &text(&files.kernel),
        "--initrd",
        &text(&initrd),
        "--append",
        &append,
        "--memory",
        "512M",
        "--no-throttle",
    ]);
    guest.shows_within("/root # ", BOOT_LIMIT);
    Some(guest)
}

#[test]
fn a_panic_is_caught_before_the_crash_kernel_starts_which_it_then_does() {
    let kernel = cache_folder().join("linux/vmlinuz");
    let Ok(kernel) = std::fs::read(&kernel) else {
        return;
    };
    let files: [(&str, &[u8]); 2] = [("root/vmlinuz", &kernel), ("root/load", &loader())];
    let Some(mut guest) = booted(&archive_of(&files), "crashkernel=192M") else {
        return;
    };
    guest.types(
        "chmod +x /root/load; /root/load; echo status-$? loaded-$(cat /sys/kernel/kexec_crash_loaded)",
    );
    guest.shows("status-0 loaded-1");
    let folder = guest.folder("dumps");
    let mut watch = guest.watch(&[
        "--on",
        "panic",
        "--dump",
        &text(&folder),
        "--then",
        "resume",
        "--count",
        "1",
    ]);
    watch.armed();
    guest.types("echo c > /proc/sysrq-trigger");
    let incident = watch.incident();
    assert_eq!(incident["cause"], "panic");
    assert!(detail(&incident).contains("sysrq triggered crash"), "{incident}");
    let dump = incident["dump"]["path"].as_str().expect("a dump");
    assert!(Path::new(dump).is_file());
    assert_eq!(watch.ended().0, 0);
    guest.shows_within("this-is-the-crash-kernel", BOOT_LIMIT);
}

#[test]
fn the_kernels_own_driver_tells_pvpanic() {
    let Some(archive) = modules_archive("linux", &["pvpanic", "pvpanic-mmio"]) else {
        return;
    };
    let Some(mut guest) = booted(&archive, "") else {
        return;
    };
    guest.types("insmod /root/pvpanic.ko; insmod /root/pvpanic-mmio.ko; echo status-$?");
    guest.shows("status-0");
    // Of the kernel's crash entries this watch waits for none: only the device tells it.
    let mut watch = guest.watch(&["--on", "crash", "--then", "pause", "--count", "1"]);
    watch.armed();
    guest.types("echo c > /proc/sysrq-trigger");
    let incident = watch.incident();
    assert_eq!(incident["cause"], "crash", "{incident}");
    assert!(detail(&incident).contains("pvpanic"), "{incident}");
}

#[test]
fn an_oops_that_starts_a_crash_kernel_is_caught_before_it_does() {
    let Some(mut guest) = Guest::linux() else { return };
    let mut watch = guest.watch(&["--on", "oops", "--then", "pause", "--count", "1"]);
    watch.armed();
    guest.types(
        "echo 1 > /proc/sys/kernel/panic_on_oops; grep -w kexec_crash_image /proc/kallsyms; echo status-$?",
    );
    guest.shows("status-0");
    let shown = guest.output.text_from(0);
    let line = shown
        .lines()
        .find(|line| line.ends_with(" kexec_crash_image"))
        .expect("the variable");
    let image = line.split_whitespace().next().expect("its address");
    let mut gdb = Gdb::attached(&guest.service.add_gdb("vm"));
    // What stands there makes the kernel believe that it has one. It comes to no jump: the watch pauses it before.
    gdb.run_all(&[&format!("set *(long*)0x{image} = 1")]);
    jump_to_nowhere(&mut guest, &mut gdb, "hostname x");
    let incident = watch.incident();
    assert_eq!(incident["cause"], "oops");
    assert!(
        detail(&incident).contains("NULL pointer dereference"),
        "{incident}"
    );
    assert_eq!(watch.ended().0, 0);
}
