//! Runs the command `portico` in the root of the repository, like a reader of the README.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::program::{program, repository};

/// The output and the exit code of a command.
pub struct CommandOutput {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

impl CommandOutput {
    /// Asserts that the command succeeded without warnings. Returns its standard output.
    pub fn expect_success(self) -> String {
        assert_eq!((self.code, &*self.stderr), (0, ""), "{}", self.stdout);
        self.stdout
    }
}

/// Runs `portico` with these arguments.
pub fn portico(args: &[&str]) -> CommandOutput {
    portico_with(args, "")
}

/// Runs `portico` with these arguments and this standard input.
pub fn portico_with(args: &[&str], input: &str) -> CommandOutput {
    let mut child = Command::new(program("portico"))
        .args(args)
        .current_dir(repository())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start portico");
    let mut stdin = child.stdin.take().expect("piped above");
    let input = input.to_owned();
    // In a thread, because the command may write before it has read all input, or without reading any.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().expect("wait for portico");
    writer.join().expect("the writer does not panic");
    CommandOutput {
        stdout: String::from_utf8(output.stdout).expect("standard output is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("standard error is UTF-8"),
        code: output.status.code().expect("portico exits without a signal"),
    }
}

/// The table of portals of an example.
pub fn portals_table(example: &str, more: &[&str]) -> String {
    let file = format!("examples/{example}");
    portico(&[&["portals", "-f", &file], more].concat()).expect_success()
}

/// The explanation of a connection to the services of an example.
pub fn explain(example: &str, more: &[&str]) -> String {
    let file = format!("examples/{example}");
    portico(&[&["explain", "-f", &file], more].concat()).expect_success()
}
