//! Manifest files and folders, watched: what they say now, and then every difference.
//!
//! A thread of its own waits for the kernel to tell of a change (`watcher`), reads everything again, and tells what
//! differs from what it told before (`told`). Everything is read again because objects in different files have to do
//! with one another. What must not go in here: what a manifest means.

mod place;
mod told;
mod watcher;

use std::io::{self, PipeReader, PipeWriter};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;

use crate::event::Event;
use crate::files::told::Told;
use crate::files::watcher::{Watcher, Woken};
use crate::options::ReadOptions;
use crate::source::Source;
use crate::stream::read_again;

/// The least time between two readings: the first change is read at once, what follows it together.
const READ_INTERVAL: Duration = Duration::from_millis(10);
/// How often in a row a reading is thrown away because a file was being written meanwhile.
const DISCARDS_MAX: usize = 10;

/// Why files cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// There is no way to stop the thread.
    #[error("make a pipe for watching files")]
    Pipe(#[source] io::Error),
    /// There is no thread.
    #[error("start the thread that watches files")]
    Thread(#[source] io::Error),
    /// A relative path, and no folder that it is relative to.
    #[error("find the folder that {path} is relative to")]
    Relative {
        /// The path.
        path: PathBuf,
        /// Why there is none.
        #[source]
        source: io::Error,
    },
}

/// Files that are watched; whoever drops it ends that.
#[derive(Debug)]
pub struct FileWatch {
    /// The thread waits for the other end: it sees this one close.
    _stop: PipeWriter,
}

/// Tells what is in these files and folders, and every change of it, until the answer or the receiver is dropped.
///
/// # Errors
/// The thread that watches cannot be started.
pub fn watch_files(
    paths: Vec<PathBuf>,
    options: ReadOptions,
    node_name: Option<String>,
    tell: Sender<Event>,
) -> Result<FileWatch, FilesError> {
    let places = absolute(&paths)?;
    let told = Told::new(node_name);
    let sources = paths.into_iter().map(Source::Path).collect();
    let work = Work { sources, places, options, told, tell };
    start("manifests", move |stopped| work.run(stopped))
}

/// Wakes whoever reads these files: at once, and then each time after something may have changed and nobody writes, until
/// the answer or the receiver is dropped.
///
/// # Errors
/// The thread that watches cannot be started.
pub fn watch_paths(paths: Vec<PathBuf>, wake: Sender<()>) -> Result<FileWatch, FilesError> {
    let places = absolute(&paths)?;
    start("files", move |stopped| {
        let paths: Vec<&Path> = places.iter().map(PathBuf::as_path).collect();
        let mut watcher = Watcher::new(stopped);
        loop {
            // What leads to a file may change while it is followed.
            while watcher.cover(&paths) {}
            if wake.blocking_send(()).is_err() || watcher.wait(None) == Woken::Stopped {
                return;
            }
        }
    })
}

/// The same paths, from the root.
fn absolute(paths: &[PathBuf]) -> Result<Vec<PathBuf>, FilesError> {
    let absolute = |path: &PathBuf| {
        let absolute = std::path::absolute(path);
        absolute.map_err(|source| FilesError::Relative { path: path.clone(), source })
    };
    paths.iter().map(absolute).collect()
}

/// Starts the thread that watches; it is told to end by the pipe.
fn start(name: &str, work: impl FnOnce(PipeReader) + Send + 'static) -> Result<FileWatch, FilesError> {
    let (stopped, stop) = io::pipe().map_err(FilesError::Pipe)?;
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(move || work(stopped)).map_err(FilesError::Thread)?;
    Ok(FileWatch { _stop: stop })
}

/// What the thread does.
struct Work {
    sources: Vec<Source>,
    /// The same paths, from the root.
    places: Vec<PathBuf>,
    options: ReadOptions,
    told: Told,
    tell: Sender<Event>,
}

impl Work {
    fn run(mut self, stopped: PipeReader) {
        let mut watcher = Watcher::new(stopped);
        loop {
            let began = Instant::now();
            let Some(events) = self.read(&mut watcher) else { return };
            for event in events {
                if self.tell.blocking_send(event).is_err() {
                    return;
                }
            }
            // Large folders are not read all the time.
            let rest = began.elapsed().max(READ_INTERVAL);
            if watcher.wait(self.told.due()) == Woken::Stopped || watcher.rest(began + rest) == Woken::Stopped
            {
                return;
            }
        }
    }

    /// Reads everything, while nobody writes; none: the end has come.
    fn read(&mut self, watcher: &mut Watcher) -> Option<Vec<Event>> {
        let paths: Vec<&Path> = self.places.iter().map(PathBuf::as_path).collect();
        let mut discards = 0;
        loop {
            watcher.cover(&paths);
            let earlier = self.told.addresses();
            let read = read_again(&self.sources, &self.options, &earlier);
            // What came while it was read may be half of something, or in a folder that was not yet watched.
            let has_new_places = watcher.cover(&paths);
            let is_being_written = watcher.is_being_written();
            if discards < DISCARDS_MAX && (has_new_places || is_being_written) {
                discards += 1;
                if watcher.written() == Woken::Stopped {
                    return None;
                }
                continue;
            }
            return Some(self.told.step(read, is_being_written, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests;
