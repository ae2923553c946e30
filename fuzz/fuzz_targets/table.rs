//! What a kernel says of a table that a pod may have written: an answer, and never more than was asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portico_fuzz::answers;

fuzz_target!(|bytes: &[u8]| {
    answers::check(bytes);
});
