//! Any bytes as the body of an AdmissionReview, mutated as values or as bytes: a response, and a patch that applies.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use portico_fuzz::{injection, manifest};

fuzz_target!(|bytes: &[u8]| {
    injection::check_review(bytes);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    manifest::mutate_buffer(data, size, max_size, seed).unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
});
