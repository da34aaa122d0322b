//! QEMU behind its gdb stub, with its monitor behind that: `g` packets for the registers that gdb knows, the monitor's
//! `info registers` for the hidden parts of segments and the tables, its `pmemsave` for physical memory.

use crate::state::{self, State};
use hv_core::GuestPhysAddr;
use hv_core::regs::Segment;
use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::Scratch;

/// Longer than QEMU takes to start or to step.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Qemu {
    child: Child,
    stream: BufReader<UnixStream>,
    scratch: Scratch,
}

impl Qemu {
    /// A stopped machine that will start this multiboot kernel.
    pub fn start(kernel: &Path, megabytes: u64) -> Qemu {
        let scratch = Scratch::default();
        let socket = scratch.path("gdb");
        let child = Command::new("qemu-system-x86_64")
            .args(["-M", "pc", "-accel", "tcg", "-cpu", "max", "-S", "-m"])
            .arg(megabytes.to_string())
            .args(["-display", "none", "-nodefaults", "-no-reboot"])
            .args(["-gdb", "chardev:gdb", "-chardev"])
            .arg(format!(
                "socket,id=gdb,server=on,wait=off,path={}",
                socket.display()
            ))
            .arg("-kernel")
            .arg(kernel)
            .stdin(Stdio::null())
            .spawn()
            .expect("qemu-system-x86_64 starts");
        let start = Instant::now();
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(start.elapsed() < PATIENCE, "QEMU's gdb stub: {error}"),
            }
            std::thread::yield_now();
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Qemu {
            child,
            stream: BufReader::new(stream),
            scratch,
        }
    }

    fn send(&mut self, text: &str) {
        self.stream
            .get_mut()
            .write_all(text.as_bytes())
            .expect("QEMU listens");
    }

    fn ask(&mut self, body: &str) -> String {
        let sum = body.bytes().fold(0u8, u8::wrapping_add);
        self.send(&format!("${body}#{sum:02x}"));
        self.answer()
    }

    /// The next packet's body.
    fn answer(&mut self) -> String {
        let mut text = Vec::new();
        let mut byte = [0];
        loop {
            self.stream.read_exact(&mut byte).expect("QEMU answers");
            match (byte[0], text.is_empty()) {
                (b'$', _) => text = vec![b'$'],
                (b'#', false) => break,
                (_, false) => text.push(byte[0]),
                (_, true) => {}
            }
        }
        self.stream.read_exact(&mut [0; 2]).expect("a checksum");
        self.send("+");
        String::from_utf8_lossy(&text[1..]).into_owned()
    }

    /// What a command of the monitor prints.
    fn monitor(&mut self, command: &str) -> String {
        let digits: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut answer = self.ask(&format!("qRcmd,{digits}"));
        let mut bytes = Vec::new();
        while answer != "OK" {
            let text = answer.strip_prefix('O');
            bytes.extend(unhex(text.unwrap_or_else(|| panic!("{command}: {answer}"))));
            answer = self.answer();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn stops(&mut self, request: &str) {
        let answer = self.ask(request);
        assert!(answer.starts_with("T05"), "{answer}");
    }

    /// One instruction, or one event.
    pub fn step(&mut self) {
        self.stops("s");
    }

    /// Runs until it is at one of these linear addresses.
    pub fn run_to(&mut self, addresses: &[u64]) {
        for address in addresses {
            assert_eq!(self.ask(&format!("Z1,{address:x},1")), "OK");
        }
        self.stops("c");
        for address in addresses {
            assert_eq!(self.ask(&format!("z1,{address:x},1")), "OK");
        }
    }

    /// Its registers. Nothing that it says tells whether the code is of 64 bits.
    pub fn state(&mut self, wide: bool) -> State {
        let answer = self.ask("g");
        let mut bytes = unhex(&answer).into_iter();
        let mut state = State::new();
        for (name, size) in state::LAYOUT {
            let value = bytes.by_ref().take(*size).enumerate();
            let value = value.fold(0, |sum, (n, byte)| sum | u128::from(byte) << (8 * n));
            state.insert((*name).to_owned(), value);
        }
        self.more(&mut state);
        state::cut(&mut state, wide);
        state
    }

    /// What only the monitor shows.
    fn more(&mut self, state: &mut State) {
        let text = self.monitor("info registers");
        let numbers = |key: &str| -> Vec<u64> {
            let (_, rest) = text
                .split_once(key)
                .unwrap_or_else(|| panic!("no {key} in {text}"));
            rest.split_whitespace()
                .map_while(|word| u64::from_str_radix(word, 16).ok())
                .take(4)
                .collect()
        };
        for name in state::SEGMENTS {
            let short = name.trim_end_matches('r').to_uppercase();
            let shown = if name == "tr" { "TR" } else { &short };
            let values = numbers(&format!("\n{shown:3}="));
            let [selector, base, limit, flags] = values[..] else {
                panic!("{name}: {values:x?}")
            };
            let attributes = (flags >> 8 & 0xf0ff) as u32;
            state.insert(name.to_owned(), selector.into());
            let (limit, selector) = (limit as u32, selector as u16);
            let segment = Segment {
                selector,
                base,
                limit,
                attributes,
            };
            state::hidden(state, name, segment);
        }
        for (name, key) in [("gdtr", "\nGDT="), ("idtr", "\nIDT=")] {
            let values = numbers(key);
            state.insert(format!("{name}.base"), values[0].into());
            state.insert(format!("{name}.limit"), values[1].into());
        }
        for n in 0..8 {
            let key = format!("FPR{n}=");
            let values = numbers(&key);
            let value = u128::from(values[1]) << 64 | u128::from(values[0]);
            state.insert(format!("x87.r{n}"), value);
        }
        for name in ["dr0", "dr1", "dr2", "dr3", "dr6", "dr7", "ftw"] {
            let values = numbers(&format!("{}=", name.to_uppercase()));
            state.insert(name.to_owned(), values[0].into());
        }
    }

    /// Physical memory.
    pub fn memory(&mut self, start: GuestPhysAddr, length: u64) -> Vec<u8> {
        let path = self.scratch.path("memory");
        let said = self.monitor(&format!(
            "pmemsave {:#x} {length:#x} \"{}\"",
            start.0,
            path.display()
        ));
        let bytes =
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; {said}", path.display()));
        assert_eq!(bytes.len() as u64, length, "{said}");
        bytes
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap_or(0))
        .collect()
}
