//! The settings of the C library's allocator.
//!
//! By default, glibc keeps an arena for each thread that runs jobs, and after the first large transaction it keeps
//! every large block for later use: 70 MB instead of 46 MB with 10,000 services and 100 network namespaces
//! (docs/benchmarks.md). This file contains the only unsafe call of the agent.

use nix::libc::{M_ARENA_MAX, M_TRIM_THRESHOLD, c_int, mallopt};

/// The number of arenas of all threads, which rarely allocate at the same time.
const ARENAS: c_int = 2;
/// Free memory at the end of the heap beyond this size is returned to the system. Setting it also disables the dynamic
/// mmap threshold.
const TRIM_BYTES: c_int = 128 << 10;

/// Sets the limits. Other C libraries than glibc ignore them.
#[allow(unsafe_code)]
pub(crate) fn limit() {
    for (parameter, value) in [(M_ARENA_MAX, ARENAS), (M_TRIM_THRESHOLD, TRIM_BYTES)] {
        // SAFETY: mallopt takes two numbers, and this is called before there is a second thread.
        unsafe { mallopt(parameter, value) };
    }
}
