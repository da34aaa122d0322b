//! What lldb asks for beyond what gdb does.

mod common;

use common::toy::SECOND;
use common::{Client, domain, expedited, monitor};

fn attach(target: &std::sync::Arc<introspect::Target>) -> Client {
    let mut client = Client::connect(target);
    client.raw(b"+");
    assert_eq!(client.ask("QStartNoAckMode"), "OK");
    assert_eq!(client.ask("QThreadSuffixSupported"), "");
    let stop = client.ask("?");
    assert!(
        stop.starts_with("T05thread:1;") && stop.ends_with("name:vCPU 0;"),
        "{stop}"
    );
    client
}

#[test]
fn threads_have_names_and_reasons() {
    let (_toy, target) = domain(2);
    let mut client = attach(&target);
    let first = client.ask("qThreadStopInfo1");
    assert!(
        first.starts_with("T05thread:1;") && first.ends_with("name:vCPU 0;"),
        "{first}"
    );
    let second = client.ask("qThreadStopInfo2");
    assert!(
        second.starts_with("T00thread:2;") && second.ends_with("name:vCPU 1;"),
        "{second}"
    );
    assert!((SECOND..SECOND + 8).contains(&expedited(&second, "10")));
    assert_eq!(client.ask("qThreadStopInfo3"), "E03");
    assert!(client.ask("vCont;s:2").ends_with("name:vCPU 1;"));
}

#[test]
fn memory_is_that_of_the_vcpu_that_stopped_whatever_registers_were_read() {
    let (_toy, target) = domain(2);
    let mut client = attach(&target);
    assert_eq!(client.ask("Hg2"), "OK");
    assert!(monitor(&mut client, "vcpu").contains("vCPU 0"));
    assert!(client.ask("vCont;s:2").starts_with("T05thread:02;"));
    assert!(monitor(&mut client, "vcpu").contains("vCPU 1"));
    // gdb says what it means.
    let mut gdb = Client::attach(&target);
    assert_eq!(gdb.ask("Hg2"), "OK");
    assert!(monitor(&mut gdb, "vcpu").contains("vCPU 1"));
}

#[test]
fn memory_regions_are_those_of_the_page_tables() {
    let (_toy, target) = domain(1);
    let mut client = attach(&target);
    // Without paging everything is mapped; an answer covers a bounded part.
    assert_eq!(
        client.ask("qMemoryRegionInfo:1234"),
        "start:1000;size:800000;permissions:rwx;"
    );
    assert_eq!(
        client.ask("qMemoryRegionInfo:fffffffffffffff0"),
        "start:fffffffffffff000;size:1000;permissions:rwx;"
    );
    assert_eq!(client.ask("qMemoryRegionInfo:x"), "E22");
}

#[test]
fn all_threads_are_told_at_once() {
    let (_toy, target) = domain(2);
    let mut client = attach(&target);
    assert!(
        !client.ask("?").contains("threads:"),
        "not before it is asked for"
    );
    assert_eq!(client.ask("QListThreadsInStopReply"), "OK");
    let stop = client.ask("?");
    let first = expedited(&stop, "10");
    let second = expedited(&client.ask("qThreadStopInfo2"), "10");
    assert!(
        stop.ends_with(&format!("threads:1,2;thread-pcs:{first:x},{second:x};")),
        "{stop}"
    );
    let stop = client.ask("vCont;s:2");
    assert!(stop.contains("name:vCPU 1;threads:1,2;thread-pcs:"), "{stop}");
    // The session of the tests leaves escapes as they are: `}` is `}]`.
    let all = client.ask("jThreadsInfo").replace("}]", "}");
    assert!(
        all.starts_with("[{\"tid\":1,\"name\":\"vCPU 0\",\"signal\":0,\"registers\":{\"0\":\""),
        "{all}"
    );
    assert!(
        all.contains(",{\"tid\":2,\"name\":\"vCPU 1\",\"signal\":5,\"registers\":{"),
        "{all}"
    );
}

#[test]
fn a_refusal_has_its_reason_for_whom_asks() {
    let (_toy, target) = domain(1);
    let mut client = attach(&target);
    assert_eq!(client.ask("Hg1"), "OK");
    // RIP has eight bytes.
    assert_eq!(client.ask("P10=00"), "E22");
    assert_eq!(client.ask("QEnableErrorStrings"), "OK");
    let refusal = client.ask("P10=00");
    assert!(refusal.starts_with("E22;") && refusal.len() > 10, "{refusal}");
}
