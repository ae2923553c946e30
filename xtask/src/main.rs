//! `xtask`: what scripts/release asks about what it has built.
//!
//! It writes to standard output. What must not go in here: what any of it says.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{Write, stderr, stdout};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use xtask::bills::{Build, bill, crates_of, libraries, licence_texts, notices};

const USAGE: &str = "usage: xtask bill PACKAGE PROGRAM SHA256 TARGET REVISION TIME   its bill of materials
       xtask notices TARGET PACKAGE...                         what their licences ask to be told
in the root of the repository\n";

/// Debian's copy, which every Debian machine has.
const LGPL: &str = "/usr/share/common-licenses/LGPL-2.1";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let told = match args[..] {
        ["bill", package, program, sha256, target, revision, time] => {
            let text = str::to_owned;
            let [program, sha256, target, revision, time] =
                [program, sha256, target, revision, time].map(text);
            told_bill(package, &Build { program, sha256, target, revision, time })
        }
        ["notices", target, ref packages @ ..] if !packages.is_empty() => told_notices(target, packages),
        _ => {
            // Nothing is to be done where standard error is gone.
            let _ = stderr().write_all(USAGE.as_bytes());
            return ExitCode::from(2);
        }
    };
    match told.and_then(|text| stdout().write_all(text.as_bytes()).context("write the answer")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(stderr(), "xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn told_bill(package: &str, build: &Build) -> anyhow::Result<String> {
    let crates = crates_of(Path::new("."), package, &build.target)?;
    Ok(format!("{:#}\n", bill(build, &crates, &libraries()?)))
}

fn told_notices(target: &str, packages: &[&str]) -> anyhow::Result<String> {
    let mut crates = BTreeMap::new();
    for package in packages {
        crates.extend(crates_of(Path::new("."), package, target)?.all);
    }
    let lgpl = fs::read_to_string(LGPL).with_context(|| format!("read {LGPL}"))?;
    Ok(notices(&crates, &licence_texts(&crates)?, &libraries()?, &lgpl))
}
