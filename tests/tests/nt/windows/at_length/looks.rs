//! What a user looks at while the guest stands still. One table for all profiles; what an answer must have follows from
//! the profile, the images' files and the guest's console.

use super::User;

/// An entry of the table: a command, and what its answer has.
type Row = (String, Vec<String>);

pub(super) fn all(user: &mut User) {
    user.says(".reload", &["Loading Kernel Symbols"]);
    let tables = [
        target(user),
        modules(user),
        symbols(user),
        image(user),
        processes(user),
        registers(user),
    ];
    for (command, words) in tables.into_iter().flatten() {
        user.says(&command, &words);
    }
    each_process_has_its_own_memory(user);
    each_processor_is_itself(user);
}

fn row(command: impl Into<String>, words: &[&str]) -> Row {
    let words = words.iter().map(|word| (*word).to_owned());
    (command.into(), words.collect())
}

fn target(user: &User) -> Vec<Row> {
    let profile = &user.guest.profile;
    let (machine, effective) = if user.is_x86() {
        ("x86 compatible", "x86 compatible (x86)")
    } else {
        ("x64", "x64 (AMD64)")
    };
    let mut version = vec![
        format!(" Kernel Version {} ", profile.build()),
        format!(" MP ({} procs) Free {machine}\n", user.cpus),
        format!("Built by: {}\n", profile.build_lab()),
        format!("Kernel base = 0x{} ", user.shown(user.guest.base())),
        "System Uptime: 0 days 0:00:0".into(),
        // The guest's clock, not the host's.
        "Debug session time: Mon Jan  1 00:00:0".into(),
    ];
    if let Some(list) = user.symbol("PsLoadedModuleList") {
        version.push(format!("PsLoadedModuleList = 0x{}\n", user.shown(list)));
    }
    vec![
        ("vertarget".into(), version),
        row(".effmach", &[effective]),
        row(".lastevent", &["Break instruction exception - code 80000003"]),
        row(".exr -1", &["ExceptionCode: 80000003 ", "NumberParameters: 1\n"]),
        row(".bugcheck", &["Bugcheck code 00000000\n"]),
    ]
}

fn modules(user: &User) -> Vec<Row> {
    let modules = user.guest.modules();
    assert!(modules.len() >= 3, "{}", user.guest.console);
    let ranges = modules
        .iter()
        .map(|module| format!("{} {} ", user.shown(module.base), user.shown(module.end)));
    let name = user.guest.profile.pdb().replace(".pdb", ".exe");
    let kernel = vec![
        format!("Image name: {name}\n"),
        format!("({:08X})\n", user.guest.profile.time_date_stamp()),
        format!("ImageSize:        {:08X}\n", modules[0].end - modules[0].base),
        "(private pdb symbols)".into(),
    ];
    vec![
        ("lm".into(), ranges.collect()),
        row("lm", &[" nt ", " hal ", " bootdrv "]),
        ("lm v m nt".into(), kernel),
        (
            "? nt".into(),
            vec![format!(" = {}\n", user.shown(user.guest.base()))],
        ),
    ]
}

fn symbols(user: &User) -> Vec<Row> {
    let names = [
        "KeBugCheckEx",
        "PsActiveProcessHead",
        "PsLoadedModuleList",
        "KiProcessorBlock",
        "KdDebuggerDataBlock",
        "PsInitialSystemProcess",
    ];
    let known = names
        .into_iter()
        .filter_map(|name| Some((name, user.symbol(name)?)));
    let mut rows: Vec<Row> = known
        .flat_map(|(name, address)| {
            let shown = user.shown(address);
            [
                (format!("x nt!{name}"), vec![format!("{shown} ")]),
                (format!("ln {address:#x}"), vec![format!("({shown})   nt!{name}")]),
            ]
        })
        .collect();
    rows.push(row("x nt!Ke*", &["nt!KeClockInterruptNotify", "nt!KeBugCheckEx"]));
    rows.push(row(
        "u nt!KeBugCheckEx L1",
        &[
            "nt!KeBugCheckEx:\n",
            if user.is_x86() {
                "push    ebp"
            } else {
                "[rsp+8],rcx"
            },
        ],
    ));
    rows.push(row("uf nt!KeSetEvent", &["nt!KeSetEvent:\n", "ret\n"]));
    rows
}

/// The kernel's headers are mapped as they are in its file.
fn image(user: &User) -> Vec<Row> {
    let file = std::fs::read(user.guest.folder.join("ntoskrnl.exe")).expect("the kernel's image");
    let base = user.guest.base();
    let at = |offset: usize| user.shown(base + offset as u64);
    let word = |offset: usize| u32::from_le_bytes(std::array::from_fn(|n| file[offset + n]));
    let pairs: Vec<String> = file[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let header = word(0x3c) as usize;
    let dos = file.windows(3).position(|bytes| bytes == b"DOS").expect("a stub");
    vec![
        (
            "db nt L10".into(),
            vec![format!(
                "{}  {}-{}",
                at(0),
                pairs[..8].join(" "),
                pairs[8..].join(" ")
            )],
        ),
        (
            "dd nt L2".into(),
            vec![format!("{}  {:08x} {:08x}\n", at(0), word(0), word(4))],
        ),
        (
            "dq nt L1".into(),
            vec![format!("{}  {:08x}`{:08x}\n", at(0), word(4), word(0))],
        ),
        row("da nt+4e", &["\"This program cannot be run in DO\""]),
        (
            "s -a nt L1000 \"DOS\"".into(),
            vec![format!("{}  44 4f 53", at(dos))],
        ),
        (
            "s -d nt L400 4550".into(),
            vec![format!("{}  00004550", at(header))],
        ),
        row("c nt L20 nt; .echo same", &["same\n"]),
        row("db 12345678 L1", &["??"]),
    ]
}

fn processes(user: &User) -> Vec<Row> {
    let guest = user.guest;
    let fields = [
        "UniqueProcessId",
        "ActiveProcessLinks",
        "ImageFileName",
        "ThreadListHead",
        "Peb",
    ];
    let fields = fields.map(|field| format!("   +0x{:03x} {field} ", guest.field("_EPROCESS", field)));
    let size = guest.field("_EPROCESS", "_size");
    let processes = guest.processes();
    assert!(processes.len() >= 5, "{}", guest.console);
    let links = guest.field("_EPROCESS", "ActiveProcessLinks");
    let entries = processes
        .iter()
        .map(|process| format!("{}  ", user.shown(process.address + links)));
    let mut rows = vec![
        ("dt nt!_EPROCESS".into(), fields.to_vec()),
        ("?? sizeof(nt!_EPROCESS)".into(), vec![format!(" {size:#x}\n")]),
        (
            "? poi(nt!PsInitialSystemProcess)".into(),
            vec![format!(" = {}\n", user.shown(processes[0].address))],
        ),
        ("dl nt!PsActiveProcessHead 40".into(), entries.collect()),
    ];
    rows.extend(processes.iter().map(|process| {
        let command = format!(
            "dt nt!_EPROCESS {:#x} UniqueProcessId ImageFileName",
            process.address
        );
        let id = format!(" : 0x{} Void", user.shown(process.id));
        (command, vec![id, format!("\"{}\"", process.name)])
    }));
    rows
}

fn registers(user: &User) -> Vec<Row> {
    let mut rows = if user.is_x86() {
        vec![
            row("r cs", &["cs=00000008\n"]),
            row(
                "dg cs",
                &["0008 00000000 ffffffff Code RE Ac 0 Bg Pg P  Nl 00000c9b"],
            ),
            row("r fs", &["fs=00000030\n"]),
            row("rdmsr 174", &["msr[174] = 00000000`00000008\n"]),
            // NtMajorVersion and NtMinorVersion.
            row("dd ffdf0000+26c L2", &[]),
        ]
    } else {
        vec![
            row("r cs", &["cs=0010\n"]),
            row("dg cs", &["Code RE Ac 0 Nb By P  Lo 0000029b"]),
            row("r ss", &["ss=0018\n"]),
            row("rdmsr c0000080", &["msr[c0000080] = 00000000`00000d01\n"]),
            row("dd 0xfffff78000000000+26c L2", &[]),
        ]
    };
    let (major, minor) = (user.guest.profile.major(), user.guest.profile.minor());
    if let Some((_, words)) = rows.last_mut() {
        words.push(format!("  {major:08x} {minor:08x}\n"));
    }
    rows.push(row("rdmsr 1b", &["msr[1b] = 00000000`fee00d00\n"]));
    let shadow = user.symbol("KiSystemCall64Shadow");
    if let Some(entry) = shadow.or_else(|| user.symbol("KiSystemCall64")) {
        rows.push(row("rdmsr c0000082", &[&super::tick(entry)]));
    }
    rows
}

/// The program's image, which every process has at its own place, and the page tables that lead there.
fn each_process_has_its_own_memory(user: &mut User) {
    // ImageBaseAddress of the PEB: 10 on x64, 8 on x86.
    let offset = 2 * user.pointer();
    for process in user.guest.processes().iter().skip(1).step_by(4) {
        let now = format!("Implicit process is now {}\n", user.shown(process.address));
        user.says(&format!(".process /p {:#x}", process.address), &[now]);
        let root = format!("page directory base is {:x}\n", process.root);
        user.says(".context", &[root]);
        user.says(
            &format!("da poi(@$peb+{offset:x})+4e"),
            &["\"This program cannot be run in DO\""],
        );
    }
    user.says(".process", &["Implicit process is now "]);
    // Back to what the processor itself runs.
    user.engine.run(".process /p 0; .context 0");
}

/// Its control block, its current thread and its descriptor tables, as the kernel's own structures tell.
fn each_processor_is_itself(user: &mut User) {
    let pointer = user.pointer();
    let guest = user.guest;
    let (gdt, idt) = if user.is_x86() { (0x3c, 0x38) } else { (0, 0x38) };
    for cpu in (0..u64::from(user.cpus)).rev() {
        let switched = user.engine.run(&format!("~{cpu}s"));
        assert!(!switched.contains("rror"), "{switched}");
        let prcb = user.value("@$prcb");
        assert_eq!(
            prcb,
            user.value(&format!("poi(nt!KiProcessorBlock+{:x})", pointer * cpu)),
            "{}: CPU {cpu}",
            guest.profile.name
        );
        let number = guest.field("_KPRCB", "Number");
        assert_eq!(user.value(&format!("by({prcb:#x}+{number:#x})")), cpu);
        let thread = guest.field("_KPRCB", "CurrentThread");
        let thread = user.value(&format!("poi({prcb:#x}+{thread:#x})"));
        assert_eq!(user.value("@$thread"), thread);
        let process = guest.field("_KTHREAD", "Process");
        let process = user.value(&format!("poi({thread:#x}+{process:#x})"));
        assert_eq!(user.value("@$proc"), process);
        let pcr = prcb - guest.field("_KPCR", if user.is_x86() { "PrcbData" } else { "Prcb" });
        assert_eq!(user.value("@$pcr"), pcr);
        for (register, offset) in [("gdtr", gdt), ("idtr", idt)] {
            let table = user.value(&format!("poi({pcr:#x}+{offset:#x})"));
            assert_eq!(
                user.value(&format!("@{register}")),
                table,
                "CPU {cpu}: {register}"
            );
        }
        // An idle processor, or one that runs a thread: its stack leads to where threads begin.
        user.says("k", &["nt!"]);
        if !user.is_x86() {
            user.says("rdmsr c0000101", &[super::tick(pcr)]);
        }
    }
}
