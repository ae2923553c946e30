//! Any message to in-pod DNS gets a bounded response, or none, and causes no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portico_fuzz::queries;

fuzz_target!(|bytes: &[u8]| {
    queries::check(bytes);
});
