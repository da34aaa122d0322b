//! `monitor` commands: a table, and a file for each group.

mod control;
mod info;
mod lx;
mod memory;
mod registers;
mod symbols;
mod tasks;
mod value;

use crate::guest::Guest;

/// A command. What goes wrong is a sentence, printed after the command's name.
struct Command {
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    run: fn(&mut Guest, &[&str]) -> Result<String, String>,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "help",
        arguments: "[COMMAND]",
        help: "this list",
        run: help,
    },
    Command {
        name: "registers",
        arguments: "[VCPU]",
        help: "every register of a vCPU, control and model-specific ones too",
        run: registers::registers,
    },
    Command {
        name: "msr",
        arguments: "N [VALUE]",
        help: "reads or writes a model-specific register by its number",
        run: registers::msr,
    },
    Command {
        name: "vcpu",
        arguments: "[N]",
        help: "the vCPU that memory and monitor commands mean until the next stop; in gdb rather use: thread N+1",
        run: registers::vcpu,
    },
    Command {
        name: "translate",
        arguments: "ADDR",
        help: "the walk of a virtual address through the page tables, level by level; ADDR as in rsp+0x18",
        run: memory::translate,
    },
    Command {
        name: "info",
        arguments: "domain|devices|interrupts|sessions|version",
        help: "what the domain is and does, its devices and interrupts, who debugs it",
        run: info::info,
    },
    Command {
        name: "lx",
        arguments: "ps|dmesg|lsmod|cmdline|version|current|vmcoreinfo",
        help: "of a Linux guest: tasks, log, modules, command line, version, the task that a vCPU runs, VMCOREINFO",
        run: lx::lx,
    },
    Command {
        name: "physical",
        arguments: "[on|off]",
        help: "whether addresses of memory commands are guest-physical",
        run: memory::physical,
    },
    Command {
        name: "place",
        arguments: "[virtual|physical|address-space [ROOT]] [at ADDR]",
        help: "what the address of a new breakpoint or watchpoint means (address-space: only under this CR3)",
        run: memory::place,
    },
    Command {
        name: "tasks",
        arguments: "[on|off|auto]",
        help: "whether the tasks of a Linux guest are threads, beside the vCPUs (auto: unless there are thousands)",
        run: tasks::tasks,
    },
    Command {
        name: "pause-policy",
        arguments: "[note|stop]",
        help: "when another debugger stops the guest: a note, or this debugger stops too",
        run: control::pause_policy,
    },
    Command {
        name: "symbols",
        arguments: "[FILE]",
        help: "writes the symbols of a Linux kernel into a file of the service's host, and says what lldb and gdb do with it",
        run: symbols::symbols,
    },
    Command {
        name: "save",
        arguments: "FILE",
        help: "the whole state of the domain into a new file of the service's host",
        run: control::save,
    },
    Command {
        name: "fork",
        arguments: "NAME",
        help: "a copy-on-write child of the domain, paused",
        run: control::fork,
    },
    Command {
        name: "reset",
        arguments: "",
        help: "resets the domain and keeps it stopped; then type: maintenance flush register-cache",
        run: control::reset,
    },
];

/// Runs a line and gives its output.
pub fn run(guest: &mut Guest, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some((name, arguments)) = words.split_first() else {
        return list();
    };
    let result = match find(name) {
        Ok(command) => (command.run)(guest, arguments).map_err(|why| format!("{}: {why}", command.name)),
        Err(why) => Err(why),
    };
    match result {
        Ok(text) => text,
        Err(why) => format!("{why}\n"),
    }
}

/// A command by its name or the beginning of it.
fn find(name: &str) -> Result<&'static Command, String> {
    if let Some(command) = COMMANDS.iter().find(|c| c.name == name) {
        return Ok(command);
    }
    let mut fitting = COMMANDS.iter().filter(|c| c.name.starts_with(name));
    match (fitting.next(), fitting.next()) {
        (Some(command), None) => Ok(command),
        (Some(first), Some(second)) => Err(format!(
            "{name}: could be {} or {}; try: monitor help",
            first.name, second.name
        )),
        _ => Err(format!("{name}: no such command; try: monitor help")),
    }
}

fn help(_: &mut Guest, arguments: &[&str]) -> Result<String, String> {
    match arguments {
        [] => Ok(list()),
        [name, ..] => find(name).map(|c| format!("{}: {}\n", usage(c), c.help)),
    }
}

fn usage(command: &Command) -> String {
    format!("{} {}", command.name, command.arguments)
        .trim_end()
        .to_owned()
}

fn list() -> String {
    let mut text: String = COMMANDS
        .iter()
        .map(|c| format!("{} -- {}\n", usage(c), c.help))
        .collect();
    text.push_str("kill and detach let the guest run on; `kdd destroy` ends it\n");
    text
}
