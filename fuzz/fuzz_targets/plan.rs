//! Any sequence of changes of a small cluster: incremental updates equal a computation from the start.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portico_fuzz::{incremental, scenario::Scenario};

fuzz_target!(|scenario: Scenario| {
    incremental::check(&scenario);
});
