//! Sessions of the KD stub with a small real machine, request by request.

mod attach;
mod breakpoints;
mod crash;
mod guest;
mod host;
mod hostile;
mod memory;
mod registers;
mod run;
mod server;
mod services;
mod x86;
