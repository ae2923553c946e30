//! Reading a table that a pod can change never panics, and never returns more than the limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portico_fuzz::replies;

fuzz_target!(|bytes: &[u8]| {
    replies::check(bytes);
});
