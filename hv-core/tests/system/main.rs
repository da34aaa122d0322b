//! System instructions, modes, exceptions, paging, debugging and determinism of a whole machine, against expectations
//! written by hand from the Intel SDM. Each test builds a few instructions and tables in memory, runs them through the
//! public machine, and looks at the state they leave.

mod bench;

mod breakpoints;
mod breakpoints_before_faults;
mod code_segments;
mod control_registers;
mod delivery;
mod determinism;
mod endings;
mod exceptions;
mod guest_debug;
mod interrupts;
mod modes;
mod page_faults;
mod paging;
mod ports;
mod saving;
mod self_modifying;
mod stepping;
mod syscalls;
mod tasks;
mod time;
mod transfers;
mod unflushed;
mod virtual_8086;
mod watchpoints;
mod xsave;
