//! Any texts as the annotations of a pod and of its namespace: no panic, and a patch that applies to a valid pod.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portico_fuzz::injection;

fuzz_target!(|annotations: injection::Annotations| {
    injection::check_annotations(&annotations);
});
