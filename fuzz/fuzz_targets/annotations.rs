//! Any texts as the annotations of a pod and of its namespace: no panic, and a patch that applies to a valid pod.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portico_fuzz::injected;

fuzz_target!(|annotations: injected::Annotations| {
    injected::check_annotations(&annotations);
});
