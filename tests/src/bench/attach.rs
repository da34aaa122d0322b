//! The attach of Microsoft's engine: the requests that it sent in a recorded session, up to the first that lets the
//! guest run, sent again to a live stub one by one.

use super::report::{Bar, Figure, Unit};
use super::{Options, least};
use crate::kd::packet::{Decoder, Incoming, kind};
use crate::kd::{Capture, KdClient, Manipulate, api};
use crate::{BOOT_LIMIT, LIMIT, Service};
use anyhow::{Result, anyhow, ensure};
use std::path::Path;
use std::time::Instant;

/// The guest of the recording, which is the same one at every start.
const PROFILE: &str = "win10-19041-x64";
const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nt/golden/win10-19041-x64.kd");
/// Each attach is short.
const ATTACHES: u32 = 10;

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let requests = requests();
    ensure!(requests.len() > 50, "the recording has no attach");
    let arguments = [
        "--nt",
        PROFILE,
        "--cpus",
        "2",
        "--memory",
        "128M",
        "--kd",
        "127.0.0.1:0",
    ];
    let mut service = Service::run(&arguments);
    service.console().shows("nt> ", BOOT_LIMIT);
    let mut times = Vec::new();
    for _ in 0..options.repeat * ATTACHES {
        times.push(attach(&service.kd_address(), &requests)?);
    }
    service.terminate();
    service.ended(LIMIT);
    Ok(vec![Figure {
        work: "KD: attach of WinDbg's engine to its prompt, our share".into(),
        unit: Unit::Seconds,
        ours: least(&times),
        reference: None,
        bar: Bar::AtMost {
            must: 20e-3,
            aim: 5e-3,
        },
        note: format!(
            "the stop and {} requests, each from its sending to its answer",
            requests.len()
        ),
    }])
}

/// What the engine asked before it let the guest run or looked at another processor: the attach, and `r`, `k`, `lm`.
fn requests() -> Vec<Manipulate> {
    let mut decoder = Decoder::default();
    decoder.push(&Capture::read(Path::new(RECORDING)).direction(true));
    let packets = std::iter::from_fn(|| decoder.take());
    let requests = packets.filter_map(|packet| match packet {
        Incoming::Data {
            kind: kind::MANIPULATE,
            payload,
            ..
        } => Manipulate::parse(&payload),
        _ => None,
    });
    let goes = [api::CONTINUE, api::CONTINUE2, api::SWITCH_PROCESSOR];
    requests
        .take_while(|request| goes.iter().all(|goes| goes.number != request.api))
        .collect()
}

/// How long the stub takes: what the client does between is not counted, the way over the socket is.
fn attach(address: &str, requests: &[Manipulate]) -> Result<f64> {
    let mut client = KdClient::connect(address);
    let start = Instant::now();
    client
        .reset()
        .map_err(|trouble| anyhow!("no stop: {trouble:?}"))?;
    let mut time = start.elapsed();
    let mut answered = 0;
    for request in requests {
        let replies = api::ALL
            .iter()
            .any(|api| api.number == request.api && api.replies);
        let start = Instant::now();
        let outcome = if replies {
            client
                .ask(request)
                .map(|answer| answered += u32::from(answer.status == 0))
        } else {
            client.tell(request)
        };
        time += start.elapsed();
        outcome.map_err(|trouble| anyhow!("{:#x} isn't answered: {trouble:?}", request.api))?;
    }
    // The engine asks for breakpoints that aren't there, and for some memory that isn't.
    ensure!(
        answered as usize * 2 > requests.len(),
        "only {answered} of {} requests succeed",
        requests.len()
    );
    client.go();
    Ok(time.as_secs_f64())
}
