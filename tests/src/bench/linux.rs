//! What a debugger waits for with a Linux guest: its symbols, the list of its tasks, their stacks.

use super::report::{Bar, Figure, Unit};
use super::rsp::Rsp;
use super::{Options, least};
use crate::{BOOT_LIMIT, Gdb, Scratch, Service, guest};
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

/// Tasks of the two guests, and the names of what is asked of the stub.
const FEW: usize = 200;
const MANY: usize = 1000;
const THREADS: &str = "threads:read:";
const TRIES: u32 = 20;

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let files = guest(None).context("setup/guest-linux.sh builds the guest")?;
    let cache = Scratch::default();
    let arguments: [&std::ffi::OsStr; 8] = [
        "--memory".as_ref(),
        "512M".as_ref(),
        "--kernel".as_ref(),
        files.kernel.as_ref(),
        "--initrd".as_ref(),
        files.initrd.as_ref(),
        "--append".as_ref(),
        "console=ttyS0 cryptomgr.notests".as_ref(),
    ];
    let mut service = Service::run_caching(cache.folder(), &arguments);
    service.console().shows_prompt(BOOT_LIMIT);

    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..options.repeat {
        empty(&cache.path("kdd/symbols"))?;
        cold.push(symbols(&service)?);
        warm.push(symbols(&service)?);
    }
    let mut figures = vec![
        attach("cold", &cold, 1.0, 0.3)?,
        attach("cached on disk", &warm, 0.1, 0.03)?,
    ];

    sleepers(&mut service, FEW)?;
    figures.push(stacks(options, &service.gdb_address())?);
    sleepers(&mut service, MANY)?;
    figures.push(list(options, &service.gdb_address())?);
    Ok(figures)
}

/// Seconds from the connection on, to the name, to the open file, to its last byte; and the file.
struct Attach {
    named: f64,
    opened: f64,
    fetched: f64,
    file: Vec<u8>,
}

/// A fork of the guest, in which nothing was recognised yet, and a client that fetches its symbols.
fn symbols(service: &Service) -> Result<Attach> {
    let fork = service.kdd(&["fork", "vm", "--paused", "--json"]).done().json();
    let name = fork["name"].as_str().context("a fork without a name")?;
    let address = service.add_gdb(name);
    let start = Instant::now();
    let mut client = Rsp::connect(&address)?;
    let program = client.document("exec-file:read:1")?;
    let named = start.elapsed().as_secs_f64();
    let hex: String = program.iter().map(|byte| format!("{byte:02x}")).collect();
    let opened = client.ask(&format!("vFile:open:{hex},0,0"))?;
    let opened = String::from_utf8_lossy(&opened).into_owned();
    let number = opened.strip_prefix('F').filter(|rest| !rest.starts_with('-'));
    let number = number.with_context(|| format!("no symbol file: {opened}"))?;
    let opened = start.elapsed().as_secs_f64();
    let mut file: Vec<u8> = Vec::new();
    loop {
        let part = client.ask(&format!("vFile:pread:{number},20000,{:x}", file.len()))?;
        let data = part.iter().position(|&b| b == b';').context("no data")?;
        if data + 1 == part.len() {
            break;
        }
        file.extend_from_slice(&part[data + 1..]);
    }
    let fetched = start.elapsed().as_secs_f64();
    ensure!(
        file.starts_with(b"\x7fELF") && file.len() > 1 << 20,
        "{} bytes are no symbol file",
        file.len()
    );
    Ok(Attach {
        named,
        opened,
        fetched,
        file,
    })
}

fn attach(how: &str, attaches: &[Attach], must: f64, aim: f64) -> Result<Figure> {
    let best = attaches.iter().min_by(|a, b| a.fetched.total_cmp(&b.fetched));
    let best = best.context("nothing was measured")?;
    let plain: Vec<f64> = (0..3).map(|_| loopback(&best.file)).collect::<Result<_>>()?;
    Ok(Figure {
        work: format!("from attach to the symbols of Linux in 512 MiB, {how}"),
        unit: Unit::Seconds,
        ours: best.fetched,
        reference: None,
        bar: Bar::AtMost { must, aim },
        note: format!(
            "recognised after {:.0} ms, file there after {:.0} ms; the same {:.1} MB by a plain socket: {:.0} ms",
            best.named * 1e3,
            best.opened * 1e3,
            best.file.len() as f64 / 1e6,
            least(&plain) * 1e3
        ),
    })
}

/// What the same bytes take from one thread to another.
fn loopback(bytes: &[u8]) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| listener.accept()?.0.write_all(bytes));
        let start = Instant::now();
        let mut got = Vec::new();
        TcpStream::connect(address)?.read_to_end(&mut got)?;
        let time = start.elapsed().as_secs_f64();
        writer.join().ok().context("the writer died")??;
        ensure!(got.len() == bytes.len(), "{} bytes arrived", got.len());
        Ok(time)
    })
}

fn empty(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        std::fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// Starts programs that sleep until the guest has `tasks` tasks.
fn sleepers(service: &mut Service, tasks: usize) -> Result<()> {
    let there = Rsp::connect(&service.gdb_address())?.document(THREADS)?;
    let more = tasks.saturating_sub(count(&there));
    let mut console = service.console();
    let begun = console.begin(&format!(
        "i=0; while [ $i -lt {more} ]; do sleep 99999 & i=$((i+1)); done; sleep 1"
    ));
    let (text, status) = console.result(begun, BOOT_LIMIT);
    ensure!(status == 0, "the guest starts no programs: {text}");
    Ok(())
}

/// Threads in the stub's list: vCPUs and tasks.
fn count(document: &[u8]) -> usize {
    String::from_utf8_lossy(document).matches("<thread ").count()
}

fn list(options: &Options, address: &str) -> Result<Figure> {
    let mut client = Rsp::connect(address)?;
    let (mut times, mut trips, mut threads) = (Vec::new(), Vec::new(), 0);
    for _ in 0..options.repeat * TRIES {
        let start = Instant::now();
        threads = count(&client.document(THREADS)?);
        times.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        client.ask("qC")?;
        trips.push(start.elapsed().as_secs_f64());
    }
    ensure!(threads + 50 > MANY, "only {threads} threads");
    Ok(Figure {
        work: "list of the tasks of Linux, by the stub".into(),
        unit: Unit::Seconds,
        ours: least(&times),
        reference: None,
        bar: Bar::AtMost {
            must: 20e-3,
            aim: 5e-3,
        },
        note: format!(
            "{threads} threads; a round trip without work: {:.0} µs",
            least(&trips) * 1e6
        ),
    })
}

fn stacks(options: &Options, address: &str) -> Result<Figure> {
    let (mut times, mut own, mut note) = (Vec::new(), Vec::new(), String::new());
    for _ in 0..options.repeat {
        // Each time another gdb: it keeps what it read.
        let mut gdb = Gdb::attached(address);
        gdb.run("python import time; cpu = time.process_time()");
        let start = Instant::now();
        let text = gdb.run("thread apply all bt");
        times.push(start.elapsed().as_secs_f64());
        let cpu = gdb.run("python print(time.process_time() - cpu)");
        own.push(cpu.trim().parse().unwrap_or(f64::NAN));
        let threads = text.lines().filter(|line| line.starts_with("Thread ")).count();
        let frames = text.lines().filter(|line| line.starts_with('#')).count();
        ensure!(threads + 20 > FEW, "only {threads} threads: {text}");
        ensure!(frames > 3 * threads, "only {frames} frames of {threads} threads");
        gdb.detach();
        note = format!(
            "{threads} threads, {frames} frames; of it gdb itself computes {:.2} s",
            least(&own)
        );
    }
    Ok(Figure {
        work: "bt of every task of Linux, by gdb".into(),
        unit: Unit::Seconds,
        ours: least(&times),
        reference: None,
        bar: Bar::AtMost { must: 2.0, aim: 1.0 },
        note,
    })
}
