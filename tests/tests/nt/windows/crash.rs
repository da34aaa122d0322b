//! What the engine makes the guest do: its own bugcheck by `.crash`, accesses to ports.

use super::{attached, nothing_wrong};
use tests::LIMIT;

#[test]
fn a_crash_is_a_bugcheck_that_the_engine_shows() {
    let Some((_guest, mut service, mut engine)) = attached() else {
        return;
    };
    let stop = engine.run(".crash");
    assert!(stop.contains("*** Fatal System Error: 0x000000e2\n"), "{stop}");
    assert!(stop.contains("nt!KeBugCheckEx"), "{stop}");
    let data = engine.run(".bugcheck");
    assert!(data.contains("Bugcheck code 000000E2\n"), "{data}");
    assert!(engine.run("k").contains("nt!KeBugCheckEx"));
    nothing_wrong(&engine);
    engine.begin("g");
    service.console().shows("*** STOP: 0x000000E2 (0x", LIMIT);
}

#[test]
fn ports_are_read_and_written() {
    let Some((_guest, mut service, mut engine)) = attached() else {
        return;
    };
    // COM1's scratch register, and its data.
    engine.run("ob 3ff 5a");
    let scratch = engine.run("ib 3ff");
    assert!(scratch.contains("000003ff: 5a"), "{scratch}");
    engine.run("ob 3f8 21");
    nothing_wrong(&engine);
    engine.detach();
    service.console().shows("!", LIMIT);
}
