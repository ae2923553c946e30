//! `own_process!`: a test that measures or changes its process (memory, descriptors, threads, limits) runs in a child.
//!
//! The child is the same test program, which runs only this test. So it shares its process with no other test.

use std::io::Write;
use std::process::{Command, Stdio};

/// Set in the child to the name of its test.
const CHILD: &str = "PORTICO_TEST_IN_OWN_PROCESS";

/// Runs a closure in a process of its own. It must be the only statement of the test function.
#[macro_export]
macro_rules! own_process {
    ($body:expr) => {{
        fn here() {}
        $crate::own_process::run(std::any::type_name_of_val(&here), $body);
    }};
}

/// Runs `body` in the child, or starts the child and waits for it. `here` is the path of an item in the test function.
pub fn run(here: &str, body: impl FnOnce()) {
    let path = here.rsplit_once("::").expect("an item in a function").0;
    let test = path.split_once("::").expect("a function in a crate").1;
    if std::env::var_os(CHILD).is_some_and(|name| name == test) {
        return body();
    }
    let program = std::env::current_exe().expect("the path of this test program");
    let mut command = Command::new(program);
    command.args([test, "--exact", "--include-ignored", "--nocapture"]).env(CHILD, test).stdin(Stdio::null());
    let output = command.output().expect("start this test program again");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    // If the name were wrong, the child would succeed without a test.
    if output.status.success() && text.contains("\ntest result: ok. 1 passed;") {
        // The parent reports the test; its output is that of the child.
        let _ = std::io::stdout().write_all(text.as_bytes());
        return;
    }
    panic!("{test}, in a process of its own: {}\n{text}", output.status);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::process::parent_id;

    #[test]
    fn body_runs_in_a_child_of_the_test_program() {
        own_process!(|| {
            let program = |path: String| fs::read_link(path).expect("a process");
            assert_eq!(program(format!("/proc/{}/exe", parent_id())), program("/proc/self/exe".to_owned()));
        });
    }

    #[test]
    #[should_panic(expected = "in a process of its own")]
    fn failure_in_the_child_fails_the_test() {
        own_process!(|| panic!("a failure"));
    }
}
