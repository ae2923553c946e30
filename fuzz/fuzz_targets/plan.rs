//! Any sequence of changes of a small cluster: following them comes to the same as starting anew.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portico_fuzz::{follow, universe::Story};

fuzz_target!(|story: Story| {
    follow::check(&story);
});
