//! Any messages of upstreams and clients, in any order: each DNS query has at most one response, and nothing remains.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portico_fuzz::upstream;

fuzz_target!(|bytes: &[u8]| {
    upstream::check(bytes);
});
