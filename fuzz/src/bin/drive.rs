//! Drives the fuzz targets without coverage and without a special compiler.
//!
//! ```text
//! drive all --seconds 60              every target for a minute, with a seed that is printed
//! drive engine --seed 7 --seconds 600 one target
//! drive engine --seed 7 --case 1234   that case once more, here
//! drive engine --file crash.bin       the same from a file
//! drive engine --export corpus        writes the corpus for libFuzzer
//! ```
//! A case fails if it panics, aborts, takes too long or too much memory. Its bytes are kept in `--keep`, and the
//! command line that repeats it is printed. The exit status is 1 if any case failed.

use clap::Parser;
use kdd_fuzz::targets::{ALL, Target};
use kdd_fuzz::worker;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Fuzzes kdd.
#[derive(Parser)]
struct Arguments {
    /// A target, or `all`.
    target: String,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Decides every case; the time of day without it.
    #[arg(long)]
    seed: Option<u64>,
    /// Run only this case, in this process.
    #[arg(long)]
    case: Option<u64>,
    /// Run only the case in this file, in this process.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Seconds that one case may take.
    #[arg(long, default_value_t = 10)]
    patience: u64,
    /// Failures of one target after which it is left alone.
    #[arg(long, default_value_t = 10)]
    failures: u64,
    /// Where failed cases go.
    #[arg(long, default_value = "fuzz-failures")]
    keep: PathBuf,
    /// Write the corpus into this folder, and do nothing else.
    #[arg(long)]
    export: Option<PathBuf>,
    /// The first case of a worker.
    #[arg(long, hide = true)]
    from: Option<u64>,
    /// A worker's progress file.
    #[arg(long, hide = true)]
    progress: Option<PathBuf>,
}

/// Address space of a worker: a case that wants more fails.
const MEMORY: u64 = 4 << 30;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("drive: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Outcome<u64> {
    let targets: Vec<&Target> = match (&*arguments.target, worker::find(&arguments.target)) {
        ("all", _) => ALL.iter().collect(),
        (_, Some(target)) => vec![target],
        (name, None) => {
            let known: Vec<_> = ALL.iter().map(|target| target.name).collect();
            return Err(format!("no target '{name}'; there are: all, {}", known.join(", ")).into());
        }
    };
    let clock = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |time| time.as_secs())
    };
    let seed = arguments.seed.unwrap_or_else(clock);
    if let (Some(path), Some(first)) = (&arguments.progress, arguments.from) {
        let progress = File::options().write(true).open(path)?;
        worker::work(
            targets[0],
            seed,
            first,
            Duration::from_secs(arguments.seconds),
            &progress,
        )?;
        return Ok(0);
    }
    let mut failures = 0;
    for target in targets {
        if let Some(folder) = &arguments.export {
            export(target, &folder.join(target.name))?;
        } else if let Some(path) = &arguments.file {
            (target.run)(&std::fs::read(path)?);
        } else if let Some(index) = arguments.case {
            (target.run)(&worker::case(target, &(target.seeds)(), seed, index));
        } else {
            failures += drive(target, seed, arguments)?;
        }
    }
    Ok(failures)
}

fn export(target: &Target, folder: &Path) -> Outcome<()> {
    std::fs::create_dir_all(folder)?;
    for (n, seed) in (target.seeds)().iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{n:03}")), seed)?;
    }
    Ok(())
}

/// Runs workers until the time is up; returns how many cases failed.
fn drive(target: &Target, seed: u64, arguments: &Arguments) -> Outcome<u64> {
    let name = target.name;
    // A guest that has to boot for them does so here, and its workers find it.
    drop((target.seeds)());
    let progress_path = std::env::temp_dir().join(format!("kdd-drive-{}-{name}", std::process::id()));
    let progress = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&progress_path)?;
    progress.write_all_at(&[0; 8], 0)?;
    let (mut first, mut failures) = (0, 0);
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    println!("{name}: seed {seed}, {} seconds", arguments.seconds);
    while Instant::now() < end && failures < arguments.failures {
        let left = (end - Instant::now()).as_secs().max(1);
        let mut child = Command::new(std::env::current_exe()?)
            .args([name, "--seed", &seed.to_string(), "--from", &first.to_string()])
            .args(["--seconds", &left.to_string(), "--progress"])
            .arg(&progress_path)
            .stdin(Stdio::null())
            .spawn()?;
        rustix::process::prlimit(
            rustix::process::Pid::from_raw(child.id() as i32),
            rustix::process::Resource::As,
            rustix::process::Rlimit {
                current: Some(MEMORY),
                maximum: Some(MEMORY),
            },
        )?;
        let failed = watch(&mut child, &progress, Duration::from_secs(arguments.patience))?;
        let index = number(&progress)?;
        first = index;
        if let Some(why) = failed {
            failures += 1;
            first += 1;
            std::fs::create_dir_all(&arguments.keep)?;
            let path = arguments.keep.join(format!("{name}-{seed}-{index}"));
            std::fs::write(&path, worker::case(target, &(target.seeds)(), seed, index))?;
            println!(
                "{name}: FAILED: {why}; again with: drive {name} --seed {seed} --case {index}, or --file {}",
                path.display()
            );
        }
    }
    std::fs::remove_file(&progress_path)?;
    println!("{name}: {first} cases, {failures} failed");
    Ok(failures)
}

/// Waits for a worker to end, or to stand still; what went wrong, if anything did. A busy host is no failure: what
/// counts is the worker's own time, and only where it uses none, much more of the wall's.
fn watch(child: &mut Child, progress: &File, patience: Duration) -> Outcome<Option<String>> {
    let (mut last, mut since, mut used) = (u64::MAX, Instant::now(), Duration::ZERO);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((!status.success()).then(|| format!("the worker ended with {status}")));
        }
        let now = number(progress)?;
        if now != last {
            (last, since, used) = (now, Instant::now(), cpu_time(child.id()));
        } else if since.elapsed() > 12 * patience || cpu_time(child.id()).saturating_sub(used) > patience {
            child.kill()?;
            child.wait()?;
            return Ok(Some(format!("it ran longer than {} seconds", patience.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processor time of a process so far, in the kernel's ticks of 10 ms (proc(5), /proc/pid/stat, fields 14 and 15).
fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

fn number(progress: &File) -> Outcome<u64> {
    let mut bytes = [0; 8];
    progress.read_exact_at(&mut bytes, 0)?;
    Ok(u64::from_le_bytes(bytes))
}
