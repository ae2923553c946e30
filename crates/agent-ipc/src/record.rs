//! `Records`: one file for each attachment, so that what the agent and the plugin know outlives both.
//!
//! A file is whole or not there: written beside, then renamed. What must not go in here: what to do about
//! an attachment whose network namespace is gone.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::attachment::{AttachmentKey, Record};

/// Where records and rulesets lie unless told otherwise.
pub const STATE_DIR_DEFAULT: &str = "/run/portico";

/// The view of a pod that sees all services.
pub const VIEW_DEFAULT: &str = "all";

const WHOLE: &str = "json";
const BROKEN: &str = "broken";
const TEMPORARY: &str = "tmp";

/// A temporary file of this age was left behind by somebody who was killed; a younger one may be in use.
const LEFT_OVER_AGE: Duration = Duration::from_secs(60);

/// Where the agent keeps the ruleset of a view, for the plugin to use while there is no agent.
#[must_use]
pub fn ruleset_path(state_dir: &Path, view: &str) -> PathBuf {
    state_dir.join("rulesets").join(format!("{view}.ruleset"))
}

/// The folder of the records.
#[derive(Debug, Clone)]
pub struct Records(PathBuf);

/// A file that holds no record. It was moved aside.
#[derive(Debug)]
pub struct CorruptRecord {
    /// Where it lies now.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl Records {
    /// The records below a state directory; the folder is made when the first one is written.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("attachments"))
    }

    /// Writes a record, in the place of an earlier one of the same key.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        /// Tells writers within one process apart, as the process id tells processes.
        static WRITES: AtomicU32 = AtomicU32::new(0);
        DirBuilder::new().recursive(true).mode(0o755).create(&self.0)?;
        let path = self.path(&record.attachment.key);
        let number = WRITES.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{}-{number}.{TEMPORARY}", std::process::id()));
        let write = || {
            let mut file = File::create_new(&temporary)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().inspect_err(|_| drop(fs::remove_file(&temporary)))
    }

    /// Removes a record; false where there was none.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn remove(&self, key: &AttachmentKey) -> io::Result<bool> {
        match fs::remove_file(self.path(key)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The record of a key.
    ///
    /// # Errors
    /// Where there is none, or what is there is none.
    pub fn read(&self, key: &AttachmentKey) -> io::Result<Record> {
        self.read_file(&self.path(key))
    }

    /// All records, in the order of their file names, and what was none. What was left behind half-written
    /// is removed.
    ///
    /// # Errors
    /// Where the folder cannot be read; that it is not there yet is no error.
    pub fn read_all(&self) -> io::Result<(Vec<Record>, Vec<CorruptRecord>)> {
        let mut paths = match fs::read_dir(&self.0) {
            Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        paths.sort();
        let (mut records, mut broken) = (Vec::new(), Vec::new());
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(TEMPORARY) if is_left_over(&path) => drop(fs::remove_file(&path)),
                Some(WHOLE) => match self.read_file(&path) {
                    Ok(record) => records.push(record),
                    // Somebody removed it while the folder was read.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => broken.push(move_aside(path, &error)),
                },
                _ => {}
            }
        }
        Ok((records, broken))
    }

    fn read_file(&self, path: &Path) -> io::Result<Record> {
        let record: Record = serde_json::from_slice(&fs::read(path)?)?;
        if path != self.path(&record.attachment.key) {
            let why = format!("it is the record of {}", record.attachment.key);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(record)
    }

    fn path(&self, key: &AttachmentKey) -> PathBuf {
        let AttachmentKey { network, container_id, interface } = key;
        let [network, container_id, interface] = [network, container_id, interface].map(|part| escaped(part));
        self.0.join(format!("{network},{container_id},{interface}.{WHOLE}"))
    }
}

/// Bytes that CNI allows in names stay; the others, which include what separates the parts, become %XX. No
/// two names become one.
fn escaped(part: &str) -> String {
    let mut name = String::with_capacity(part.len());
    for byte in part.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => name.push(char::from(byte)),
            other => name.push_str(&format!("%{other:02X}")),
        }
    }
    name
}

fn is_left_over(path: &Path) -> bool {
    let age = fs::metadata(path).and_then(|found| found.modified()).ok().and_then(|at| at.elapsed().ok());
    age.is_some_and(|age| age >= LEFT_OVER_AGE)
}

/// Out of the way, but not lost: whoever looks into it wants to see it.
fn move_aside(path: PathBuf, error: &io::Error) -> CorruptRecord {
    let aside = path.with_added_extension(BROKEN);
    match fs::rename(&path, &aside) {
        Ok(()) => CorruptRecord { path: aside, reason: error.to_string() },
        Err(refused) => CorruptRecord { path, reason: format!("{error}; move it aside: {refused}") },
    }
}
