//! Watches manifest files and directories, and sends their objects and then each change as events.
//!
//! A thread waits for inotify events (`watcher`), reads all manifests again, and sends the difference from the state that
//! it sent before (`manifest_state`). It reads all manifests because objects in different files depend on each other.

mod manifest_state;
mod watched_paths;
mod watcher;

use std::io::{self, PipeReader, PipeWriter};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;

use crate::event::Event;
use crate::files::manifest_state::ManifestState;
use crate::files::watcher::{WakeReason, Watcher};
use crate::manifests::manifest_reader::read_again;
use crate::manifests::options::ReadOptions;
use crate::manifests::source::Source;

/// The minimum time between two readings. The first change is read at once, and later ones together.
const READ_INTERVAL: Duration = Duration::from_millis(10);
/// The maximum number of consecutive readings that are discarded because a file was written meanwhile.
const DISCARDS_MAX: usize = 10;

/// An error while starting a watch.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The pipe that stops the thread cannot be created.
    #[error("failed to create pipe for the file watch")]
    Pipe(#[source] io::Error),
    /// The thread cannot be started.
    #[error("failed to start file watch thread")]
    Thread(#[source] io::Error),
    /// A relative path cannot be made absolute.
    #[error("failed to resolve relative path {path}")]
    Relative {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A running watch. Dropping it stops the watch.
#[derive(Debug)]
pub struct FileWatch {
    /// The thread polls the other end, and stops when this end is closed.
    _stop: PipeWriter,
}

/// Sends the objects in files and directories, and then each change, until the returned watch or the receiver is dropped.
///
/// # Errors
/// The watch thread cannot be started.
pub fn watch_files(
    paths: Vec<PathBuf>,
    options: ReadOptions,
    node_name: Option<String>,
    events: Sender<Event>,
) -> Result<FileWatch, FilesError> {
    let absolute_paths = absolute(&paths)?;
    let state = ManifestState::new(node_name);
    let sources = paths.into_iter().map(Source::Path).collect();
    let watch = ManifestWatch { sources, paths: absolute_paths, options, state, events };
    start("manifests", move |stop| watch.run(stop))
}

/// Notifies a reader of files: at once, and after each change once no file is being written, until the returned watch or
/// the receiver is dropped.
///
/// # Errors
/// The watch thread cannot be started.
pub fn watch_paths(paths: Vec<PathBuf>, wake: Sender<()>) -> Result<FileWatch, FilesError> {
    let paths = absolute(&paths)?;
    start("files", move |stop| {
        let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        let mut watcher = Watcher::new(stop);
        loop {
            // The links and directories of a path can change while they are resolved.
            while watcher.update_watches(&paths) {}
            if wake.blocking_send(()).is_err() || watcher.wait(None) == WakeReason::Stopped {
                return;
            }
        }
    })
}

/// Makes the paths absolute.
fn absolute(paths: &[PathBuf]) -> Result<Vec<PathBuf>, FilesError> {
    let absolute = |path: &PathBuf| {
        let absolute = std::path::absolute(path);
        absolute.map_err(|source| FilesError::Relative { path: path.clone(), source })
    };
    paths.iter().map(absolute).collect()
}

/// Starts a watch thread. It must return when the pipe is closed.
fn start(name: &str, run: impl FnOnce(PipeReader) + Send + 'static) -> Result<FileWatch, FilesError> {
    let (reader, writer) = io::pipe().map_err(FilesError::Pipe)?;
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(move || run(reader)).map_err(FilesError::Thread)?;
    Ok(FileWatch { _stop: writer })
}

/// The state of the thread that watches manifests.
struct ManifestWatch {
    sources: Vec<Source>,
    /// The absolute paths of the sources.
    paths: Vec<PathBuf>,
    options: ReadOptions,
    state: ManifestState,
    events: Sender<Event>,
}

impl ManifestWatch {
    fn run(mut self, stop: PipeReader) {
        let mut watcher = Watcher::new(stop);
        loop {
            let start = Instant::now();
            let Some(events) = self.read(&mut watcher) else { return };
            for event in events {
                if self.events.blocking_send(event).is_err() {
                    return;
                }
            }
            if watcher.wait(self.state.deadline()) == WakeReason::Stopped
                || watcher.sleep_until(start + READ_INTERVAL) == WakeReason::Stopped
            {
                return;
            }
        }
    }

    /// Reads all manifests while no file is being written. Returns `None` if the watch is stopped.
    fn read(&mut self, watcher: &mut Watcher) -> Option<Vec<Event>> {
        let paths: Vec<&Path> = self.paths.iter().map(PathBuf::as_path).collect();
        let mut discards = 0;
        loop {
            watcher.update_watches(&paths);
            let previous = self.state.addresses();
            let resolved = read_again(&self.sources, &self.options, &previous);
            // The reading can include half of a file, and miss changes in a directory that was not watched yet.
            let has_new_watches = watcher.update_watches(&paths);
            let is_being_written = watcher.is_being_written();
            if discards < DISCARDS_MAX && (has_new_watches || is_being_written) {
                discards += 1;
                if watcher.wait_for_writers() == WakeReason::Stopped {
                    return None;
                }
                continue;
            }
            return Some(self.state.update(resolved, is_being_written, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests;
