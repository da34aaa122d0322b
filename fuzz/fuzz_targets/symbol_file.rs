//! libFuzzer's entry to [`kdd_fuzz::targets::symbol_file`].
#![no_main]
#![allow(unsafe_code)] // the macro's

libfuzzer_sys::fuzz_target!(|data: &[u8]| kdd_fuzz::targets::symbol_file::run(data));
