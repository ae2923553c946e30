//! Reads any bytes as a YAML file: no panic, and all that follows from the objects is consistent, down to the rules.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portico_fuzz::derived;

fuzz_target!(|bytes: &[u8]| {
    derived::check("fuzz.yaml", &String::from_utf8_lossy(bytes));
});
