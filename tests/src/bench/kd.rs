//! The KD stub and a debugger of our own over loopback: reads, steps, a search. The guest is the NT-shaped one.

use super::report::{Bar, Figure, Unit};
use super::{Options, most};
use crate::kd::{KdClient, SINGLE_STEP};
use crate::{BOOT_LIMIT, LIMIT, Service};
use anyhow::{Context, Result, ensure};
use std::time::Instant;

const PROFILE: &str = "win10-19041-x64";
const READS: u32 = 20_000;
/// The most that a packet holds.
const READ: u32 = 3944;
const STEPS: u32 = 10_000;
const SEARCHED: u64 = 64 << 20;

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let mut service = Service::run(&["--nt", PROFILE, "--memory", "512M", "--kd", "127.0.0.1:0"]);
    service.console().shows("nt> ", BOOT_LIMIT);
    let processes = service.kdd(&["ps", "vm", "--json"]).done().json();
    let process = processes["processes"][0]["address"].as_str();
    let process = process.context("no process is listed")?.trim_start_matches("0x");
    // The guest's pool lies in a map of all its memory, which begins with a slot of the top-level table.
    let all_memory = u64::from_str_radix(process, 16)? & !((1 << 39) - 1);

    let (mut client, stop) = KdClient::attach(&service.kd_address());
    let (mut reads, mut steps, mut searches) = (vec![], vec![], vec![]);
    for _ in 0..options.repeat {
        let start = Instant::now();
        for _ in 0..READS {
            let bytes = client.read_virtual(stop.pc, READ);
            ensure!(
                bytes.is_ok_and(|bytes| bytes.len() == READ as usize),
                "a short read"
            );
        }
        reads.push(f64::from(READS) / start.elapsed().as_secs_f64());

        // Nothing of the megabytes is like it; the guest never wrote most of them, so they are written first.
        let from = all_memory + (256 << 20);
        ensure!(
            client.fill(from, SEARCHED as u32, false, &[0x5a]) == Ok(SEARCHED as u32),
            "not filled"
        );
        let start = Instant::now();
        let found = client.search(from, SEARCHED, b"\x5a\x5a\x5anot there");
        ensure!(found.is_err(), "it is there");
        searches.push(SEARCHED as f64 / start.elapsed().as_secs_f64());
    }
    // jmp $: an idle guest has nothing to step.
    ensure!(
        client.write_virtual(stop.pc, &[0xeb, 0xfe]) == Ok(2),
        "code can't be written"
    );
    for _ in 0..options.repeat {
        let start = Instant::now();
        for _ in 0..STEPS {
            ensure!(client.step().code == SINGLE_STEP, "no step");
        }
        steps.push(f64::from(STEPS) / start.elapsed().as_secs_f64());
    }
    service.terminate();
    service.ended(LIMIT);

    let figure = |work: &str, unit, values: &[f64], must, aim, note: &str| Figure {
        work: work.into(),
        unit,
        ours: most(values),
        reference: None,
        bar: Bar::AtLeast { must, aim },
        note: note.into(),
    };
    let gib = f64::from(1 << 30);
    Ok(vec![
        figure(
            "KD: virtual reads of 3944 bytes",
            Unit::PerSecond,
            &reads,
            10_000.0,
            20_000.0,
            "one at a time, as the protocol is",
        ),
        figure(
            "KD: single steps",
            Unit::PerSecond,
            &steps,
            5_000.0,
            10_000.0,
            "Continue2 to state change",
        ),
        figure(
            "KD: SearchMemory of 64 MiB",
            Unit::BytesPerSecond,
            &searches,
            gib,
            4.0 * gib,
            "memory that was written",
        ),
    ])
}
