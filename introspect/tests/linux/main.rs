//! Linux seen from outside, on Debian's stock kernels that really run: each answer is compared with what the guest says
//! of itself on its console.

mod crash;
mod guest;
mod hostile;
mod inferred;
mod modules;
mod pages;
mod processes;
mod recognise;
mod registers;
mod stack;
mod synthetic;
mod tasks;
