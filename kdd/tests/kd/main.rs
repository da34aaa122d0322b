//! Sessions of the KD stub with a small real machine, request by request.

mod attach;
mod breakpoints;
mod guest;
mod host;
mod memory;
mod registers;
mod run;
