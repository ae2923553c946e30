//! `bench-report RECORDS PAGE FOLDER MACHINE`: fills the page with what a run of benchmarks recorded, and draws its charts.
//!
//! The filled page goes into FOLDER under its own name, the charts into FOLDER/charts. `scripts/bench` calls it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use bench_report::{Filled, Record, fill};

fn main() -> ExitCode {
    match write() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::from(1)
        }
    }
}

#[allow(clippy::print_stderr)] // The one place where this program speaks.
fn complain(message: &str) {
    eprintln!("bench-report: {message}");
}

fn write() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [records, page, folder, machine] = arguments.as_slice() else {
        bail!("usage: bench-report RECORDS PAGE FOLDER MACHINE");
    };
    let (page, folder) = (Path::new(page), PathBuf::from(folder));
    let text = fs::read_to_string(records).with_context(|| format!("read {records}"))?;
    let parse = |(index, line)| {
        serde_json::from_str(line).with_context(|| format!("{records}:{}: understand a record", index + 1))
    };
    let records: Vec<Record> = text.lines().enumerate().map(parse).collect::<anyhow::Result<_>>()?;
    let text = fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
    let Filled { page: text, charts } =
        fill(&text, machine, &records).with_context(|| format!("fill {}", page.display()))?;
    let drawn = folder.join("charts");
    fs::create_dir_all(&drawn).with_context(|| format!("make the folder {}", drawn.display()))?;
    for (name, svg) in charts {
        let file = drawn.join(name);
        fs::write(&file, svg).with_context(|| format!("write {}", file.display()))?;
    }
    let to = folder.join(page.file_name().context("the page has no name")?);
    fs::write(&to, text).with_context(|| format!("write {}", to.display()))
}
