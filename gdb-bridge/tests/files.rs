//! Requests for files of a guest that has none.

mod common;

use common::{Client, domain, monitor};

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_guest_without_linux_has_no_name_and_no_files() {
    let (_toy, target) = domain(1);
    let mut client = Client::attach(&target);
    assert_eq!(client.ask("qXfer:exec-file:read::0,1000"), "E22");
    assert_eq!(client.ask("vFile:setfs:0"), "F0");
    for name in [
        "just probing",
        "/etc/passwd",
        "/kdd/toy/0/vmlinux-6.1",
        "/kdd/../etc/passwd",
        "",
    ] {
        assert_eq!(
            client.ask(&format!("vFile:open:{},0,0", hex(name))),
            "F-1,2",
            "{name}"
        );
        assert_eq!(
            client.ask(&format!("vFile:stat:{}", hex(name))),
            "F-1,2",
            "{name}"
        );
    }
    assert_eq!(
        client.ask(&format!("vFile:open:{},602,1a4", hex("/tmp/new"))),
        "F-1,1e"
    );
    assert!(monitor(&mut client, "symbols").starts_with("symbols: "));
}

#[test]
fn descriptors_that_nobody_opened_are_refused() {
    let (_toy, target) = domain(1);
    let mut client = Client::attach(&target);
    for number in ["0", "3", "ffffffffffffffff"] {
        assert_eq!(client.ask(&format!("vFile:pread:{number},20000,0")), "F-1,9");
        assert_eq!(client.ask(&format!("vFile:fstat:{number}")), "F-1,9");
        assert_eq!(client.ask(&format!("vFile:close:{number}")), "F-1,9");
    }
}

#[test]
fn what_is_malformed_is_invalid_and_what_is_unknown_empty() {
    let (_toy, target) = domain(1);
    let mut client = Client::attach(&target);
    for request in [
        "open:",
        "open:2f,",
        "open:2,0,0",
        "open:zz,0,0",
        "pread:",
        "pread:3,",
        "pread:3,1",
        "pread:-1,1,1",
        "fstat:",
        "close:x",
        "stat:2",
    ] {
        assert_eq!(client.ask(&format!("vFile:{request}")), "F-1,16", "{request}");
    }
    for request in ["unlink:2f78", "pwrite:3,0,x", "readlink:2f78", "", "size:2f"] {
        assert_eq!(client.ask(&format!("vFile:{request}")), "", "{request}");
    }
    let long = "61".repeat(20_000);
    assert_eq!(client.ask(&format!("vFile:open:{long},0,0")), "F-1,2");
    assert_eq!(client.ask("qXfer:exec-file:read::"), "E22");
    assert_eq!(client.ask("qXfer:exec-file:read:"), "E22");
    assert_eq!(client.ask("qXfer:exec-file:write::0:xx"), "");
}

#[test]
fn nothing_is_known_of_a_guest_that_runs() {
    let (_toy, target) = domain(1);
    let mut client = Client::connect(&target);
    client.raw(b"+");
    assert!(
        client
            .ask("qSupported:xmlRegisters=i386")
            .contains("qXfer:exec-file:read+")
    );
    assert_eq!(client.ask("qXfer:exec-file:read::0,1000"), "E22");
}
