//! Runs the command `portico` from the root of the repository, as a reader of the README would.

// Each test program uses some of these.
#![allow(dead_code)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What the command answered.
pub(crate) struct Answer {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: i32,
}

impl Answer {
    /// The answer to sound input: exit code 0 and nothing to complain about.
    pub(crate) fn sound(self) -> String {
        assert_eq!((self.code, &*self.stderr), (0, ""), "{}", self.stdout);
        self.stdout
    }
}

/// Runs `portico` with these arguments.
pub(crate) fn portico(args: &[&str]) -> Answer {
    portico_with(args, "")
}

/// Runs `portico` with these arguments and this standard input.
pub(crate) fn portico_with(args: &[&str], input: &str) -> Answer {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the repository");
    let mut child = Command::new(env!("CARGO_BIN_EXE_portico"))
        .args(args)
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start portico");
    let mut stdin = child.stdin.take().expect("piped above");
    let input = input.to_owned();
    // Beside the reading: the command may answer before it has read everything, or without reading.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().expect("wait for portico");
    writer.join().expect("the writer does not panic");
    Answer {
        stdout: String::from_utf8(output.stdout).expect("the answer is text"),
        stderr: String::from_utf8(output.stderr).expect("complaints are text"),
        code: output.status.code().expect("portico ends by itself"),
    }
}

/// The table of the portals of an example.
pub(crate) fn table(example: &str, more: &[&str]) -> String {
    let file = format!("examples/{example}");
    portico(&[&["portals", "-f", &file], more].concat()).sound()
}

/// The explanation of a connection, with the services of an example.
pub(crate) fn explain(example: &str, more: &[&str]) -> String {
    let file = format!("examples/{example}");
    portico(&[&["explain", "-f", &file], more].concat()).sound()
}
