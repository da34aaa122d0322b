//! Whatever the guest holds: no panic, and bounded work.

use super::super::*;
use super::nt::{Nt, Persona};
use hv_core::VcpuId;
use proptest::prelude::*;
use symbols::SymbolPath;

/// Memory reads that one round of everything may take.
const MAX_READS: usize = 2_000_000;

/// Asks for everything there is.
fn ask_everything(nt: &Nt) {
    nt.memory.reads.set(0);
    let guest = nt.memory.guest();
    if let Ok(windows) = Windows::recognise(guest, &SymbolPath::default()) {
        let _ = windows.description();
        let _ = windows.debugger_data(guest);
        let _ = windows.version_block(guest);
        let _ = windows.modules(guest);
        let _ = windows.unloaded_modules(guest);
        let _ = windows.bugcheck(guest);
        let _ = windows.shared_data(guest);
        let _ = windows.physical_runs(guest);
        for vcpu in 0..2 {
            let _ = windows.kernel_space(guest, VcpuId(vcpu));
            let _ = windows.processor(guest, VcpuId(vcpu));
            let _ = windows.current_process(guest, VcpuId(vcpu));
        }
        if let Ok(processes) = windows.processes(guest) {
            for process in processes.items {
                let _ = windows.threads(guest, process.address);
            }
        }
    }
    let reads = nt.memory.reads.get();
    assert!(reads < MAX_READS, "{reads} reads");
}

fn persona() -> impl Strategy<Value = Persona> {
    let layouts = [
        "10.0.19041.329",
        "6.1.7601.24540",
        "win7_sp1_x86",
        "win10_x86_19041",
    ];
    (
        prop::sample::select(layouts.to_vec()),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(layout, known_guid, code)| Persona {
            known_guid,
            code,
            shadow: layout != "win7_sp1_x86",
            ..Persona::of(layout)
        })
}

/// A change of memory: which page of those there are, where in it, and what.
type Change = (prop::sample::Index, u16, u8, bool);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes_may_be_flipped(
        persona in persona(),
        changes in prop::collection::vec(any::<Change>(), 1..60),
        user in any::<bool>(),
    ) {
        let mut nt = Nt::new(&persona);
        if user {
            nt.enter_user_mode(0);
        }
        let frames: Vec<u64> = nt.memory.pages.keys().copied().collect();
        for (page, at, value, small) in changes {
            let frame = *page.get(&frames);
            // Bytes that are there are better changed than zeros.
            let bytes = &mut nt.memory.pages.get_mut(&frame).unwrap()[..];
            let used: Vec<usize> = (0..4096).filter(|&at| bytes[at] != 0).collect();
            let at = match used.len() {
                0 => usize::from(at) % 4096,
                used_count => used[usize::from(at) % used_count],
            };
            bytes[at] = if small { bytes[at] ^ (1 << (value % 8)) } else { value };
        }
        ask_everything(&nt);
    }

    #[test]
    fn pages_may_be_missing_or_be_one_another(
        persona in persona(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<bool>()), 1..20),
    ) {
        let mut nt = Nt::new(&persona);
        let frames: Vec<u64> = nt.memory.pages.keys().copied().collect();
        for (a, b, remove) in changes {
            let (a, b) = (*a.get(&frames), *b.get(&frames));
            if remove {
                nt.memory.pages.remove(&a);
            } else if let Some(page) = nt.memory.pages.get(&b).cloned() {
                nt.memory.pages.insert(a, page);
            }
        }
        ask_everything(&nt);
    }
}
