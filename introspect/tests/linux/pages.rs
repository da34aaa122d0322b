//! What page frames are used for, against makedumpfile's own counts.

use crate::guest::{self, Machine};
use crate::recognise::recognise;
use hv_core::GuestPhysAddr;
use hv_core::introspect::ReadMemory;
use introspect::linux::{Linux, PageKind};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// An ELF vmcore with memory and VMCOREINFO, as makedumpfile reads one.
fn write_vmcore(path: &Path, memory: &dyn ReadMemory, linux: &Linux) {
    let regions: Vec<_> = memory
        .memory_regions()
        .into_iter()
        .filter(|region| region.writable)
        .collect();
    let note = linux.vmcoreinfo().expect("it is known").note();
    let notes_at = 64 + 56 * (regions.len() as u64 + 1);
    let data_at = (notes_at + note.len() as u64).next_multiple_of(4096);
    let mut head = b"\x7fELF\x02\x01\x01".to_vec();
    head.resize(16, 0);
    head.extend(4_u16.to_le_bytes()); // ET_CORE
    head.extend(62_u16.to_le_bytes()); // x86-64
    head.extend(1_u32.to_le_bytes());
    for word in [0_u64, 64, 0] {
        head.extend(word.to_le_bytes());
    }
    head.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, regions.len() as u16 + 1, 0, 0, 0] {
        head.extend(half.to_le_bytes());
    }
    let mut program = |kind: u32, words: [u64; 5]| {
        head.extend(kind.to_le_bytes());
        head.extend(7_u32.to_le_bytes());
        for word in words {
            head.extend(word.to_le_bytes());
        }
        head.extend(0_u64.to_le_bytes());
    };
    let size = note.len() as u64;
    program(4, [notes_at, 0, 0, size, size]);
    let mut at = data_at;
    for region in &regions {
        let virt = linux.regions().direct_map.0 + region.start.0;
        program(1, [at, virt, region.start.0, region.length, region.length]);
        at += region.length;
    }
    head.extend(&note);
    head.resize(data_at as usize, 0);
    let mut file = std::fs::File::create(path).expect("a file");
    file.write_all(&head).expect("written");
    let mut bytes = vec![0; 1 << 20];
    for region in &regions {
        let mut offset = 0;
        while offset < region.length {
            let part = (region.length - offset).min(bytes.len() as u64) as usize;
            memory
                .read_physical(region.start.wrapping_add(offset), &mut bytes[..part])
                .expect("it is there");
            file.write_all(&bytes[..part]).expect("written");
            offset += part as u64;
        }
    }
}

/// makedumpfile's counts by what it calls them.
fn makedumpfile(vmcore: &Path) -> Option<HashMap<String, u64>> {
    let program = std::env::var_os("MAKEDUMPFILE").unwrap_or_else(|| "makedumpfile".into());
    let output = Command::new(&program)
        .args(["-d", "31", "-c", "-f", "--message-level", "16"])
        .args([vmcore, &vmcore.with_extension("kdump")])
        .output();
    let Ok(output) = output else {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"));
        eprintln!("SKIPPED: makedumpfile isn't installed");
        return None;
    };
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    println!("{text}");
    let count = |line: &str| {
        let (what, count) = line.split_once(':')?;
        let digits = count.trim().trim_start_matches("0x");
        Some((what.trim().to_owned(), u64::from_str_radix(digits, 16).ok()?))
    };
    Some(text.lines().filter_map(count).collect())
}

#[test]
fn kinds_are_what_makedumpfile_says() {
    let Some(mut machine) = Machine::new(&guest::STABLE) else {
        return;
    };
    // Something of every kind.
    machine.command("dd if=/dev/urandom of=/tmp/file bs=1M count=20; (sleep 1000) & true");
    machine.paused(|domain| {
        let linux = recognise(domain);
        let start = Instant::now();
        let mut reader = linux.page_kinds(domain).expect("a reader");
        let mut counts: HashMap<PageKind, u64> = HashMap::new();
        for region in domain.memory_regions().iter().filter(|region| region.writable) {
            let mut kinds = vec![PageKind::Kernel; (region.length >> 12) as usize];
            reader.kinds(region.start, &mut kinds);
            for (frame, kind) in (0..).zip(&kinds) {
                if frame % 1001 == 0 {
                    let address = GuestPhysAddr(region.start.0 + frame * 4096 + 5);
                    assert_eq!(reader.kind(address), *kind);
                }
                *counts.entry(*kind).or_default() += 1;
            }
        }
        println!("{counts:?} in {:?}", start.elapsed());
        let vmcore = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.vmcore", std::process::id()));
        write_vmcore(&vmcore, domain, &linux);
        let theirs = makedumpfile(&vmcore);
        let _ = std::fs::remove_file(&vmcore);
        let _ = std::fs::remove_file(vmcore.with_extension("kdump"));
        let Some(theirs) = theirs else { return };
        for (kind, name) in [
            (PageKind::Cache, "Non-private cache pages"),
            (PageKind::CachePrivate, "Private cache pages"),
            (PageKind::User, "User process data pages"),
            (PageKind::Free, "Free pages"),
        ] {
            let ours = counts.get(&kind).copied().unwrap_or(0);
            assert_eq!(Some(&ours), theirs.get(name), "{name}");
        }
    });
}
