//! Dumps that QEMU wrote of a guest of its own, opened by our readers.

use crate::guest::{assert_same_memory, ours};
use serde_json::json;
use tests::{QemuMachine, Scratch, has_tool};

const SIZE: u64 = 256 << 20;

#[test]
fn dumps_of_qemu_are_read_with_all_their_memory_and_processors() {
    if !has_tool("qemu-system-x86_64") {
        return;
    }
    let scratch = Scratch::default();
    let Some(mut qemu) = QemuMachine::boot(&scratch, SIZE) else {
        return;
    };
    let [elf, kdump, raw] = ["elf", "kdump", "raw"].map(|name| scratch.path(name));
    qemu.dump(&elf, None);
    qemu.dump(&kdump, Some("kdump-zlib"));
    let arguments = json!({ "val": 0, "size": SIZE, "filename": raw.to_string_lossy() });
    qemu.command("pmemsave", &arguments);
    let memory = std::fs::read(&raw).expect("it was written");
    // What the display and the firmware have there is not RAM.
    let ram = [
        (0, memory[..0xa_0000].to_vec()),
        (0x10_0000, memory[0x10_0000..].to_vec()),
    ];

    let (elf, kdump) = (ours(&elf), ours(&kdump));
    for image in [&elf, &kdump] {
        assert_same_memory(&ram, &**image, false);
        assert_eq!(image.processors().len(), 2);
        for cpu in image.processors() {
            assert!(
                cpu.cr0 >> 31 == 1 && cpu.cr3 != 0 && cpu.efer & 0x400 != 0,
                "{cpu:?}"
            );
            assert!(cpu.rip != 0 && cpu.gpr[4] != 0);
        }
    }
    assert_eq!(elf.processors(), kdump.processors());
    let refuse = |image: &dyn dump::Image, reader: &str| {
        image
            .description()
            .problems
            .iter()
            .any(|problem| problem.readers.contains(&reader))
    };
    // QEMU 7.2 to date: its program headers are not where makedumpfile looks, it fills no names in.
    assert!(refuse(&*elf, "makedumpfile") && refuse(&*kdump, "drgn"));

    let bytes = dump::FileBytes::open(&raw).expect("it is there");
    let raw = dump::raw::open(bytes, None).unwrap_or_else(|error| panic!("{error}"));
    assert_same_memory(&ram, &raw, false);
}
