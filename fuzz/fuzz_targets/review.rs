//! Any bytes as the body of an AdmissionReview, mutated as values or as bytes: a response, and a patch that applies.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use portico_fuzz::{injected, manifest};

fuzz_target!(|bytes: &[u8]| {
    injected::check_review(bytes);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let text = String::from_utf8_lossy(&data[..size]);
    match manifest::mutated(&text, seed).filter(|mutated| mutated.len() <= max_size) {
        Some(mutated) => {
            data[..mutated.len()].copy_from_slice(mutated.as_bytes());
            mutated.len()
        }
        None => fuzzer_mutate(data, size, max_size),
    }
});
