//! Reads JSON manifests whose fields are replaced, copied, added and removed.
//!
//! Text that is not JSON, and occasionally JSON, is mutated as bytes.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use portico_fuzz::{derived, manifest};

fuzz_target!(|bytes: &[u8]| {
    derived::check("fuzz.json", &String::from_utf8_lossy(bytes));
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    manifest::mutate_buffer(data, size, max_size, seed).unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
});
