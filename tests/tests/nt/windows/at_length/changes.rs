//! Memory and registers that are written. The place is in the control block of a processor, where no kernel looks.

use super::User;

pub(super) fn all(user: &mut User) {
    // Between the last field of ProcessorState and the next one that the kernel uses, in all profiles.
    let place = user.value("@$prcb+800");
    let shown = user.shown(place);
    let at = |offset: u64| format!("{:#x}", place + offset);
    let before = user.engine.run(&format!("db {} L40", at(0)));
    let table = [
        (format!("ed {} deadbeef", at(0)), "ef be ad de"),
        (format!("eb {} 12 34 56", at(0)), "12 34 56 de"),
        (format!("ew {} abcd", at(0)), "cd ab 56 de"),
        (
            format!("eq {} 1122334455667788", at(0)),
            "88 77 66 55 44 33 22 11",
        ),
        (format!("ea {} \"hello\"", at(0)), "68 65 6c 6c 6f 33 22 11"),
        (format!("eu {} \"wide\"", at(0)), "77 00 69 00 64 00 65 00"),
        (format!("f {} L10 a1 b2", at(0)), "a1 b2 a1 b2 a1 b2 a1 b2"),
    ];
    for (command, bytes) in table {
        user.engine.run(&command);
        user.says(&format!("db {} L8", at(0)), &[format!("{shown}  {bytes}")]);
    }
    user.engine.run(&format!("m {} L8 {}", at(0), at(0x20)));
    let moved = user.shown(place + 0x20);
    user.says(
        &format!("db {} L8", at(0x20)),
        &[format!("{moved}  a1 b2 a1 b2 a1 b2 a1 b2")],
    );
    assert_eq!(
        user.engine.run(&format!("c {} L8 {}", at(0), at(0x20))),
        "",
        "both are the same"
    );
    user.says(&format!("s -b {} L40 b2 a1 b2", at(0)), &[user.shown(place + 1)]);
    user.engine.run(&format!("f {} L40 0", at(0)));
    assert_eq!(user.engine.run(&format!("db {} L40", at(0))), before);

    // Registers, which are given back.
    let (register, value) = if user.is_x86() {
        ("esi", "1122aabb")
    } else {
        ("r11", "112233445566aabb")
    };
    let before = user.engine.run(&format!("r {register}"));
    user.engine.run(&format!("r {register}={value}"));
    assert_eq!(
        user.engine.run(&format!("r {register}")),
        format!("{register}={value}\n")
    );
    user.engine.run(&format!("r {}", before.trim()));
    assert_eq!(user.engine.run(&format!("r {register}")), before);
    // A model-specific register that only this kernel's programs would use.
    if !user.is_x86() {
        user.engine.run("wrmsr c0000103 77");
        user.says("rdmsr c0000103", &["msr[c0000103] = 00000000`00000077\n"]);
        user.engine.run("wrmsr c0000103 0");
    }
}
