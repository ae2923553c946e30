//! One line of a benchmark's report.

/// Prints the spread of these times.
#[allow(clippy::print_stdout)] // A benchmark's report is its output.
pub(crate) fn report(name: &str, times: &mut [f64]) {
    times.sort_by(f64::total_cmp);
    let (median, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    let (lowest, highest) = (times[0], times[times.len() - 1]);
    println!("{name:<55} median {median:>9.3}  lowest {lowest:>9.3}  p99 {p99:>9.3}  highest {highest:>9.3}");
}
