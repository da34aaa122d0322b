//! What is asked wrongly is refused, and leaves nothing.

use super::{NOTHING, with_guest};
use std::path::Path;
use tests::{Service, guest};

#[test]
fn a_name_in_use_and_a_busy_port_are_refused_and_nothing_is_left() {
    let Some((snapshot, service)) = with_guest() else {
        return;
    };
    let line = service
        .kdd(&["create", "--restore", snapshot.state(), "--name", "vm"])
        .fails(1);
    assert!(line.contains("the name 'vm' is in use"), "{line}");
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = busy.local_addr().expect("its number").to_string();
    service.kdd(&["gdb", "vm", "--listen", &port]).fails(1);
    let guest = guest(None).expect("the guest's files");
    let kernel = guest.kernel.display().to_string();
    let line = service
        .kdd(&["create", "--kernel", &kernel, "--name", "other", "--gdb", &port])
        .fails(1);
    assert!(line.contains("in use"), "{line}");
    assert_eq!(service.kdd(&["list", "--json"]).done().json_lines().len(), 1);
}

#[test]
fn guests_that_are_none_are_refused() {
    let Some(guest) = guest(None) else { return };
    let service = Service::serve(NOTHING);
    let scratch = service.scratch();
    let kernel = std::fs::read(&guest.kernel).expect("the kernel");
    let text = scratch.file(
        "text",
        b"I am no kernel, but a text of some length.\n"
            .repeat(100)
            .as_slice(),
    );
    let empty = scratch.file("empty", b"");
    let short = scratch.file("short", &kernel[..kernel.len() / 2]);
    let stub = scratch.file("stub", &kernel[..600]);
    let mut broken = kernel.clone();
    broken[0x202..0x206].fill(0xff);
    let magic = scratch.file("magic", &broken);
    let large = scratch.path("large");
    let file = std::fs::File::create(&large).expect("a file");
    file.set_len(300 << 20).expect("a hole");
    let of = |kernel: &Path, more: &[&str]| {
        let kernel = kernel.display().to_string();
        let mut arguments = vec!["create", "--kernel", &kernel];
        arguments.extend(more);
        service.kdd(&arguments).fails(1)
    };
    for (file, words) in [
        (text.as_path(), "kernel"),
        (&empty, "empty"),
        (&short, "kernel"),
        (&stub, "kernel"),
        (&magic, "kernel"),
        (scratch.folder(), "kernel"),
        (&scratch.path("missing"), "no such file"),
        (Path::new("/dev/null"), "empty"),
    ] {
        let line = of(file, &["--append", "nokaslr"]);
        assert!(line.contains(words), "{}: {line}", file.display());
        let line = of(file, &[]);
        assert!(line.contains(words), "{}: {line}", file.display());
    }
    let initrd = large.display().to_string();
    assert!(of(&guest.kernel, &["--initrd", &initrd]).contains("initrd"));
    assert!(of(&guest.kernel, &["--initrd", "/nowhere"]).contains("no such file"));
    for memory in ["1M", "8M", "16M"] {
        let line = of(&guest.kernel, &["--memory", memory]);
        assert!(
            line.contains("memory") || line.contains("fit"),
            "{memory}: {line}"
        );
    }
    let line = of(&guest.kernel, &["--cpu", "z80"]);
    assert!(line.contains("z80") && line.contains("kdd64"), "{line}");
    let long = "x".repeat(5000);
    assert!(of(&guest.kernel, &["--append", &long]).contains("command line"));
    assert!(service.kdd(&["list", "--json"]).done().json_lines().is_empty());
}
