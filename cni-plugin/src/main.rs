//! `portico-cni`: the chained CNI plugin. It makes the node's agent program the portals of a pod, and passes the result
//! of the previous plugins through.
//!
//! Standard output contains nothing but the result or the error. DEL always succeeds: after an error, the other plugins
//! in the chain would not release their resources. The plugin has neither credentials nor an API client, no event loop
//! and no log.

mod add;
mod agent;
mod attachment;
mod check;
mod cni_args;
mod conf;
mod del;
mod error;
mod gc;
mod json;
mod prev_result;
mod snapshot;
mod status;
mod version;

use std::io::{Read, Write};
use std::process::{ExitCode, exit};
use std::{env, io, panic};

use cni_args::CniArgs;
use conf::Conf;
use error::{CniError, Code};
use version::Version;

/// The maximum size of standard input. A configuration with a large result has some kilobytes.
const INPUT_BYTES_MAX: u64 = 16 << 20;

const ABOUT: &str = concat!(
    "portico-cni ",
    env!("CARGO_PKG_VERSION"),
    ": service portals for pods; a chained CNI plugin, to be started by a container runtime\n"
);

fn main() -> ExitCode {
    let command = env::var_os("CNI_COMMAND").unwrap_or_default();
    let command = command.to_string_lossy();
    if command.trim().is_empty() {
        print_to_stderr(ABOUT);
        return ExitCode::SUCCESS;
    }
    let is_del = command == "DEL";
    panic::set_hook(Box::new(move |panic| {
        if is_del {
            exit(0);
        }
        let error = CniError::new(Code::Internal, format!("internal error in portico-cni: {panic}"));
        print_to_stdout(&error.json(Version::LATEST.name()));
        exit(1);
    }));
    let mut version = Version::LATEST;
    match run(&command, &mut version) {
        Ok(result) if print_to_stdout(&result) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) if is_del => {
            print_to_stderr(&format!("portico-cni: DEL: {}\n", error.message));
            ExitCode::SUCCESS
        }
        Err(error) => {
            print_to_stdout(&error.json(version.name()));
            ExitCode::FAILURE
        }
    }
}

/// Executes a command, and returns the result for standard output. Sets `version` once the configuration is parsed:
/// errors have the version of the configuration.
fn run(command: &str, version: &mut Version) -> Result<String, CniError> {
    match command {
        // The specification defines no variables for VERSION; some runtimes set invalid ones.
        "VERSION" => Ok(Version::version_result()),
        "ADD" => {
            let args = CniArgs::from_env(true)?;
            with_conf(version, |conf, version| add::add(&args, conf, version))
        }
        "DEL" => {
            let args = CniArgs::from_env(false)?;
            let input = read_input()?;
            del::del(&args, &Conf::parse(&input)?)
        }
        "CHECK" => {
            let args = CniArgs::from_env(true)?;
            with_conf(version, |conf, version| check::check(&args, conf, version))
        }
        "GC" => with_conf(version, gc::gc),
        "STATUS" => with_conf(version, status::status),
        other => Err(CniError::new(Code::InvalidEnvironment, format!("unknown CNI_COMMAND: {other:?}"))),
    }
}

fn with_conf(
    conf_version: &mut Version,
    verb: impl FnOnce(&Conf<'_>, Version) -> Result<String, CniError>,
) -> Result<String, CniError> {
    let input = read_input()?;
    let conf = Conf::parse(&input)?;
    *conf_version = conf.version()?;
    verb(&conf, *conf_version)
}

fn read_input() -> Result<Vec<u8>, CniError> {
    let mut input = Vec::new();
    let failed = |why| CniError::new(Code::InputOutput, format!("failed to read standard input: {why}"));
    let result = io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut input);
    let bytes = result.map_err(|error| failed(error.to_string()))?;
    if bytes as u64 > INPUT_BYTES_MAX {
        return Err(failed(format!("larger than {INPUT_BYTES_MAX} bytes")));
    }
    Ok(input)
}

/// Returns false if the runtime has closed the pipe, which is not a reason to panic.
fn print_to_stdout(text: &str) -> bool {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).is_ok()
}

fn print_to_stderr(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
