//! `bench-report RECORDS PAGE DIRECTORY MACHINE`: renders the results of a run of benchmarks.
//!
//! It fills the tables of PAGE and draws its charts. The page is written to DIRECTORY under its own name, the charts to
//! DIRECTORY/charts. `scripts/bench` calls it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use bench_report::{Record, RenderedPage, fill};

fn main() -> ExitCode {
    match render() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&format!("{error:#}"));
            ExitCode::from(1)
        }
    }
}

#[allow(clippy::print_stderr)] // The only output of this program.
fn print_error(message: &str) {
    eprintln!("bench-report: {message}");
}

fn render() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [records, page, directory, machine] = arguments.as_slice() else {
        bail!("usage: bench-report RECORDS PAGE DIRECTORY MACHINE");
    };
    let (page, directory) = (Path::new(page), PathBuf::from(directory));
    let text = fs::read_to_string(records).with_context(|| format!("failed to read {records}"))?;
    let parse = |(index, line)| {
        serde_json::from_str(line).with_context(|| format!("{records}:{}: invalid record", index + 1))
    };
    let records: Vec<Record> = text.lines().enumerate().map(parse).collect::<anyhow::Result<_>>()?;
    let text = fs::read_to_string(page).with_context(|| format!("failed to read {}", page.display()))?;
    let RenderedPage { page: text, charts } =
        fill(&text, machine, &records).with_context(|| format!("failed to fill {}", page.display()))?;
    let chart_directory = directory.join("charts");
    fs::create_dir_all(&chart_directory)
        .with_context(|| format!("failed to create {}", chart_directory.display()))?;
    for (name, svg) in charts {
        let file = chart_directory.join(name);
        fs::write(&file, svg).with_context(|| format!("failed to write {}", file.display()))?;
    }
    let to = directory.join(page.file_name().context("the page has no name")?);
    fs::write(&to, text).with_context(|| format!("failed to write {}", to.display()))
}
