//! Microsoft's debugger engine, driven line by line, as a user of WinDbg types.
//!
//! ```text
//!  Engine ──lines──► driver.exe under Wine ──► dbgeng.dll ──TCP──► the target
//!     ▲                (tests/dbgeng/driver.cpp)   │
//!     └── output.rs ◄── what it prints, cut into answers ◄┘
//! ```
//! All engines share one Wine prefix, in the cache folder: Wine's server keeps their processes apart.

mod output;

use crate::process::Process;
use crate::tools::{cache_folder, skip};
use crate::{LIMIT, Transcript};
use output::plain;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How an engine is started.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Folders with PDB files.
    pub symbols: Vec<PathBuf>,
    /// Folders with images.
    pub images: Vec<PathBuf>,
    /// Asks for a stop at once.
    pub initial_break: bool,
    /// How long it waits for one event before it breaks in.
    pub wait: Duration,
    /// How long all of it may take.
    pub deadline: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            symbols: Vec::new(),
            images: Vec::new(),
            initial_break: true,
            wait: LIMIT,
            deadline: 5 * LIMIT,
        }
    }
}

/// Whether the engine is there; it is said if it isn't.
#[track_caller]
pub fn has_engine() -> bool {
    let driver = folder().join("driver.exe");
    if !driver.is_file() {
        skip(&format!("{} is not there: run setup/dbgeng.sh", driver.display()));
        return false;
    }
    true
}

fn folder() -> PathBuf {
    cache_folder().join("dbgeng")
}

/// A running engine. It ends with this value, without a word to the target.
pub struct Engine {
    process: Process,
    at: usize,
    commands: u32,
}

impl Engine {
    /// One that connects to `HOST:PORT`; it needn't be attached by now.
    #[track_caller]
    pub fn start(address: &str, options: &EngineOptions) -> Engine {
        let Some((host, port)) = address.rsplit_once(':') else {
            panic!("no port: {address}")
        };
        Engine::on(&format!("com:ipport={port},port={host}"), options)
    }

    /// One that opens a crash dump.
    #[track_caller]
    pub fn dump(file: &Path, options: &EngineOptions) -> Engine {
        let mut engine = Engine::on(&format!("dump:{}", windows_path(file)), options);
        engine.ready();
        engine
    }

    /// One that is attached to a target, which has stopped.
    #[track_caller]
    pub fn attached(address: &str, options: &EngineOptions) -> Engine {
        let mut engine = Engine::start(address, options);
        engine.ready();
        engine
    }

    #[track_caller]
    fn on(target: &str, options: &EngineOptions) -> Engine {
        let folder = folder();
        let mut command = Command::new("wine");
        command
            .arg("driver.exe")
            .args(["-w", &options.wait.as_secs().to_string()])
            .args(["-d", &options.deadline.as_secs().to_string()]);
        for (option, folders) in [("-y", &options.symbols), ("-i", &options.images)] {
            if !folders.is_empty() {
                command.args([option, &search_path(folders)]);
            }
        }
        if !options.initial_break {
            command.arg("--no-break");
        }
        command
            .arg(target)
            .current_dir(&folder)
            .env("WINEPREFIX", folder.join("prefix"))
            .env("WINEDEBUG", "-all")
            // Wine has libraries of these names, which do nothing.
            .env("WINEDLLOVERRIDES", "dbgeng,dbghelp,dbgmodel,symsrv,srcsrv=n")
            .env("LC_ALL", "C")
            .env_remove("DISPLAY")
            .env_remove("_NT_SYMBOL_PATH")
            .env_remove("_NT_ALT_SYMBOL_PATH")
            .env_remove("_NT_EXECUTABLE_IMAGE_PATH");
        Engine {
            process: Process::start(&mut command),
            at: 0,
            commands: 0,
        }
    }

    /// Waits until it is attached and the target has stopped.
    #[track_caller]
    pub fn ready(&mut self) {
        match self.process.output.find(0, "\x1eready\n", 2 * LIMIT) {
            Ok(end) => self.at = end,
            Err(why) => panic!("the engine isn't ready: {why}"),
        }
    }

    /// Runs a command to its end, or to the next stop if it lets the target run: what was printed.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> String {
        self.begin(command);
        self.end()
    }

    /// Runs commands one after another: what was printed.
    #[track_caller]
    pub fn run_all(&mut self, commands: &[&str]) -> String {
        commands.iter().map(|command| self.run(command)).collect()
    }

    /// Begins a command; [`Engine::end`] waits for its end.
    #[track_caller]
    pub fn begin(&mut self, command: &str) {
        self.at = self.process.output.len();
        self.commands += 1;
        self.process.write(format!("{command}\n").as_bytes());
    }

    /// Waits for the end of the command that was begun: what was printed.
    #[track_caller]
    pub fn end(&mut self) -> String {
        match self.end_within(2 * LIMIT) {
            Ok(answer) => answer,
            Err(why) => panic!("{why}"),
        }
    }

    /// The same with another limit.
    ///
    /// # Errors
    /// A sentence, if the command doesn't end within it.
    pub fn end_within(&mut self, limit: Duration) -> Result<String, String> {
        let mark = format!("\x1eend {} ", self.commands);
        let end = self.process.output.find(self.at, &mark, limit)?;
        let text = self.process.output.text_from(self.at);
        let answer = text.split(&mark).next().unwrap_or_default();
        self.at = end;
        Ok(plain(answer))
    }

    /// Breaks in, also while a command runs or the target does.
    #[track_caller]
    pub fn interrupt(&mut self) {
        self.process.write(b"%interrupt\n");
    }

    /// Detaches and ends.
    #[track_caller]
    pub fn detach(mut self) -> String {
        self.process.write(b"%detach\n");
        assert_eq!(self.ended(), 0, "{}", self.log());
        self.log()
    }

    /// Waits for its end: the driver's exit status.
    #[track_caller]
    pub fn ended(&mut self) -> i32 {
        self.process.wait(5 * LIMIT).code().unwrap_or(-1)
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// All that was printed, and nothing of the driver's.
    pub fn log(&self) -> String {
        plain(&self.process.output.text_from(0))
    }

    /// What was printed as an error or a warning.
    pub fn complaints(&self) -> Vec<String> {
        output::complaints(&self.process.output.text_from(0))
    }

    /// All that was printed, with the driver's marks.
    pub fn transcript(&self) -> &Transcript {
        &self.process.output
    }
}

/// Folders, as the engine wants them.
fn search_path(folders: &[PathBuf]) -> String {
    let paths: Vec<String> = folders.iter().map(|folder| windows_path(folder)).collect();
    paths.join(";")
}

/// A path of this system, as Wine's programs see it.
fn windows_path(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    format!("Z:{}", path.to_string_lossy().replace('/', "\\"))
}
