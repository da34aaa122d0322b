//! `qRcmd`: `monitor` in gdb, `process plugin packet monitor` in lldb.

use crate::guest::Guest;
use crate::monitor;
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd};

/// Bytes of text in one packet.
const CHUNK: usize = 4096;

impl MonitorCmd for Guest {
    fn handle_monitor_cmd(&mut self, command: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), String> {
        let text = monitor::run(self, &String::from_utf8_lossy(command));
        for chunk in text.as_bytes().chunks(CHUNK) {
            out.write_raw(chunk);
            out.flush();
        }
        Ok(())
    }
}
