//! How the C library keeps memory that was freed: a daemon on every node must give it back.
//!
//! Left alone, glibc keeps an arena for each thread that runs jobs, and after the first large transaction
//! it keeps every large piece for later: 70 MB instead of 46 MB with 10,000 services and 100 network
//! namespaces (docs/benchmarks.md). What must not go in here: anything else; this is the one unsafe call.

use nix::libc::{M_ARENA_MAX, M_TRIM_THRESHOLD, c_int, mallopt};

/// So many arenas for all threads: they allocate little at the same time.
const ARENAS: c_int = 2;
/// More than this, free at the end of the heap, goes back to the system. To set it also keeps the bound
/// fixed above which pieces are mapped for themselves.
const TRIM_BYTES: c_int = 128 << 10;

/// Sets the limits; where the C library is another one, they are as they were.
#[allow(unsafe_code)]
pub(crate) fn limit() {
    for (parameter, value) in [(M_ARENA_MAX, ARENAS), (M_TRIM_THRESHOLD, TRIM_BYTES)] {
        // SAFETY: mallopt takes two numbers, and this is called before there is a second thread.
        unsafe { mallopt(parameter, value) };
    }
}
