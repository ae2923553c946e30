//! `portico-cni`: the chained CNI plugin. It has the portals of one pod programmed by the node's agent, and
//! hands the result of the plugins before it through.
//!
//! Nothing but the answer goes to standard output, and DEL always succeeds: a plugin that fails it makes the
//! others in the chain leak what they hold. What must not go in here, or into this crate: the API server,
//! credentials, an event loop, a log.

mod agent;
mod attach;
mod check;
mod collect;
mod conf;
mod container;
mod detach;
mod failure;
mod previous;
mod snapshot;
mod status;
mod version;

use std::io::{Read, Write};
use std::process::{ExitCode, exit};
use std::{env, io, panic};

use conf::Conf;
use container::Container;
use failure::{Code, Failure};
use version::Version;

/// A configuration with a large result in it is some kilobytes.
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
        say(ABOUT);
        return ExitCode::SUCCESS;
    }
    let is_del = command == "DEL";
    panic::set_hook(Box::new(move |panic| {
        if is_del {
            exit(0);
        }
        let failure = Failure::new(Code::Internal, format!("this is a fault of portico-cni: {panic}"));
        write(&failure.json(Version::LATEST));
        exit(1);
    }));
    let mut version = Version::LATEST;
    match answer(&command, &mut version) {
        Ok(text) if write(&text) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(failure) if is_del => {
            say(&format!("portico-cni: DEL: {}\n", failure.message));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            write(&failure.json(version));
            ExitCode::FAILURE
        }
    }
}

/// What goes to standard output. Failures are told in `version`, once it is known.
fn answer(command: &str, version: &mut Version) -> Result<String, Failure> {
    match command {
        // The runtime sets nothing for it, and some set nonsense.
        "VERSION" => Ok(Version::answer()),
        "ADD" => {
            let container = Container::from_env(true)?;
            with_conf(version, |conf, version| attach::add(&container, conf, version))
        }
        "DEL" => {
            let container = Container::from_env(false)?;
            let input = input()?;
            detach::del(&container, &Conf::parse(&input)?)
        }
        "CHECK" => {
            let container = Container::from_env(true)?;
            with_conf(version, |conf, version| check::check(&container, conf, version))
        }
        "GC" => with_conf(version, collect::gc),
        "STATUS" => with_conf(version, status::status),
        other => Err(Failure::new(Code::InvalidEnvironment, format!("unknown CNI_COMMAND: {other:?}"))),
    }
}

fn with_conf(
    known: &mut Version,
    verb: impl FnOnce(&Conf<'_>, Version) -> Result<String, Failure>,
) -> Result<String, Failure> {
    let input = input()?;
    let conf = Conf::parse(&input)?;
    *known = conf.version()?;
    verb(&conf, *known)
}

fn input() -> Result<Vec<u8>, Failure> {
    let mut input = Vec::new();
    let refused = |why| Failure::new(Code::InputOutput, format!("read standard input: {why}"));
    let read = io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut input);
    let bytes = read.map_err(|why| refused(why.to_string()))?;
    if bytes as u64 > INPUT_BYTES_MAX {
        return Err(refused(format!("it is larger than {INPUT_BYTES_MAX} bytes")));
    }
    Ok(input)
}

/// Whether it reached the runtime; one that is gone is no reason to panic.
fn write(text: &str) -> bool {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).is_ok()
}

fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
