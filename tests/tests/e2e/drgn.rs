//! Stock drgn at a running guest, by docs/live_drgn.py.

use std::path::Path;
use std::process::Command;
use tests::{dump_readers_folder, four_vcpus, has_dump_readers};

const SCRIPT: &str = "
import time
from drgn.helpers.linux.pid import find_task, for_each_task
print('release', prog['init_uts_ns'].name.release.string_().decode())
for task in for_each_task(prog):
    print('task', task.pid.value_(), task.comm.string_().decode())
print('stack', *(frame.name for frame in prog.stack_trace(find_task(prog, 1))))
first = prog['jiffies_64'].value_()
end = time.monotonic() + 60
while prog['jiffies_64'].value_() == first and time.monotonic() < end:
    time.sleep(0.01)
print('runs', prog['jiffies_64'].value_() > first)
try:
    prog.read(1 << 51, 8, True)
except Exception as error:
    print('absent', type(error).__name__)
";

#[test]
fn drgn_knows_a_running_guest_without_a_debug_package() {
    let Some(snapshot) = four_vcpus().filter(|_| has_dump_readers()) else {
        return;
    };
    let mut service = snapshot.service();
    let release = service.console().command("uname -r");
    let script = service.scratch().file("look.py", SCRIPT.as_bytes());
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/live_drgn.py");
    let output = Command::new("python3")
        .arg(program)
        .arg(service.gdb_address())
        .arg(script)
        .env("PYTHONPATH", dump_readers_folder())
        .output()
        .expect("python3");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let of = |what: &str| -> Vec<&str> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(what));
        lines.map(str::trim).collect()
    };
    assert_eq!(of("release "), [release.trim()]);
    assert!(of("task ").contains(&"1 init"), "{text}");
    let kthreads = of("task ")
        .iter()
        .filter(|task| task.contains("ksoftirqd/"))
        .count();
    assert_eq!(kthreads, 4, "{text}");
    let stack = of("stack ").concat();
    assert!(stack.starts_with("__schedule schedule do_wait"), "{stack}");
    assert_eq!(of("runs "), ["True"]);
    assert_eq!(of("absent "), ["FaultError"]);
    assert_eq!(service.state("vm").0, "running");
    service.console().answers();
}
