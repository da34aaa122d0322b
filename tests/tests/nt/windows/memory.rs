//! Memory and registers, read and changed.

use super::{attached, lives, nothing_wrong, tick};

#[test]
fn memory_is_that_of_the_images_file() {
    let Some((guest, _service, mut engine)) = attached() else {
        return;
    };
    let file = std::fs::read(guest.folder.join("ntoskrnl.exe")).expect("the kernel's image");
    // The headers are mapped as they are in the file.
    let text = engine.run("db nt L60");
    let mut read = Vec::new();
    for line in text.lines() {
        let bytes = line.get(19..66).unwrap_or_default().replace('-', " ");
        read.extend(
            bytes
                .split_whitespace()
                .map(|pair| u8::from_str_radix(pair, 16).expect("hex")),
        );
    }
    assert_eq!(read, file[..0x60], "{text}");
    let code = engine.run("u nt!KeBugCheckEx L1");
    assert!(code.starts_with("nt!KeBugCheckEx:\n"), "{code}");
    assert!(code.contains(&tick(guest.symbol("KeBugCheckEx"))), "{code}");
    assert!(
        engine.run("db 0000000012345678 L1").contains("??"),
        "nothing is mapped there"
    );
}

#[test]
fn what_is_changed_is_changed() {
    let Some((guest, mut service, mut engine)) = attached() else {
        return;
    };
    // The kernel never looks at its alignment after the banner.
    let place = guest.symbol("KdPrintCircularBuffer");
    engine.run(&format!("ed {place:#x} deadbeef; eb {place:#x}+4 12 34"));
    let text = engine.run(&format!("db {place:#x} L6"));
    assert!(text.contains("  ef be ad de 12 34 "), "{text}");
    let before = engine.run("r rax");
    engine.run("r rax=1122334455667788");
    assert_eq!(engine.run("r rax"), "rax=1122334455667788\n");
    engine.run(&format!("r {}", before.trim()));
    nothing_wrong(&engine);
    engine.detach();
    lives(&mut service);
}
