//! `Records`: one file per attachment, which survives the agent and the plugin.
//!
//! Files are replaced atomically. A file that is not a record is moved aside and reported once.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use support::{percent_encode, write_atomically};

use crate::attachment::{AttachmentKey, Record};

/// The default state directory.
pub const STATE_DIR_DEFAULT: &str = "/run/portico";

/// The view of a pod to which all services are visible.
pub const VIEW_DEFAULT: &str = "all";

/// Extensions of files in the directory of records.
const RECORD: &str = "json";
const CORRUPT: &str = "broken";
const TEMPORARY: &str = "tmp";

/// A temporary file of this age was left by a process that was killed; a younger one may be in use.
const ABANDONED_AGE: Duration = Duration::from_secs(60);

/// The path of the ruleset snapshot of a view, which the plugin uses if no agent is running.
#[must_use]
pub fn ruleset_path(state_dir: &Path, view: &str) -> PathBuf {
    state_dir.join("rulesets").join(format!("{view}.ruleset"))
}

/// The directory of the records.
#[derive(Debug, Clone)]
pub struct Records(PathBuf);

/// A file that is not a record. It was moved aside.
#[derive(Debug)]
pub struct CorruptRecord {
    /// Its path now.
    pub path: PathBuf,
    /// Why it is not a record.
    pub reason: String,
}

impl Records {
    /// The records in a state directory. The first write creates their directory.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("attachments"))
    }

    /// Writes a record, or replaces the one with the same key.
    ///
    /// # Errors
    /// If the file system reports an error.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        /// Distinguishes writers in one process, as the process id distinguishes processes.
        static WRITES: AtomicU32 = AtomicU32::new(0);
        DirBuilder::new().recursive(true).mode(0o755).create(&self.0)?;
        let path = self.path(&record.attachment.key);
        let number = WRITES.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{}-{number}.{TEMPORARY}", std::process::id()));
        write_atomically(&path, &temporary, 0o666, &serde_json::to_vec(record)?)
    }

    /// Removes a record. Returns false if there was none.
    ///
    /// # Errors
    /// If the file system reports an error.
    pub fn remove(&self, key: &AttachmentKey) -> io::Result<bool> {
        match fs::remove_file(self.path(key)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads the record of a key.
    ///
    /// # Errors
    /// If there is no record, or the file is not one.
    pub fn read(&self, key: &AttachmentKey) -> io::Result<Record> {
        self.read_file(&self.path(key))
    }

    /// Reads all records, in the order of their file names, and the files that are not records. Removes abandoned
    /// temporary files.
    ///
    /// # Errors
    /// If the directory exists and cannot be read.
    pub fn read_all(&self) -> io::Result<(Vec<Record>, Vec<CorruptRecord>)> {
        let mut paths = match fs::read_dir(&self.0) {
            Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        paths.sort();
        let (mut records, mut corrupt) = (Vec::new(), Vec::new());
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(TEMPORARY) if is_abandoned(&path) => drop(fs::remove_file(&path)),
                Some(RECORD) => match self.read_file(&path) {
                    Ok(record) => records.push(record),
                    // Another process removed it meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => corrupt.push(move_aside(path, &error)),
                },
                _ => {}
            }
        }
        Ok((records, corrupt))
    }

    fn read_file(&self, path: &Path) -> io::Result<Record> {
        let record: Record = serde_json::from_slice(&fs::read(path)?)?;
        if path != self.path(&record.attachment.key) {
            let why = format!("contains the record of {}", record.attachment.key);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(record)
    }

    fn path(&self, key: &AttachmentKey) -> PathBuf {
        let AttachmentKey { network, container_id, interface } = key;
        let [network, container_id, interface] =
            [network, container_id, interface].map(|part| encode_part(part));
        self.0.join(format!("{network},{container_id},{interface}.{RECORD}"))
    }
}

/// Encodes a part of a key as a part of a file name. The bytes that CNI allows in names stay as they are; the others,
/// which include the separator of the parts, are percent-encoded, so that different keys have different names.
fn encode_part(part: &str) -> String {
    percent_encode(part, |byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

fn is_abandoned(path: &Path) -> bool {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let age = modified.and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age >= ABANDONED_AGE)
}

/// Renames a corrupt file, so that it is reported once and can be inspected.
fn move_aside(path: PathBuf, error: &io::Error) -> CorruptRecord {
    let aside = path.with_added_extension(CORRUPT);
    match fs::rename(&path, &aside) {
        Ok(()) => CorruptRecord { path: aside, reason: error.to_string() },
        Err(rename) => CorruptRecord { path, reason: format!("{error}; failed to move it aside: {rename}") },
    }
}
