//! `RulesetSnapshot`: a ruleset in a file, for a plugin that finds no agent.
//!
//! The agent replaces the file at its pace; when it is down, the plugin sends the transaction in it as it
//! stands, so the plugin neither plans nor encodes. Nothing of a file is believed: whatever is in it, reading
//! ends with a ruleset that somebody wrote just so, or with an error that says what is wrong and where, and
//! takes no more memory than the file is long. What must not go in here: when a file is too old.
//!
//! ```text
//! mark "portico\0" | layout u32 | revision u64 | count of ranges u32
//! each range: 4 or 6 | prefix length u8 | 4 or 16 bytes
//! length of the transaction u64 | transaction | checksum of all before it u64
//! ```
//! Numbers are little-endian; the transaction is in the byte order of the machine, as the kernel wants it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use thiserror::Error;

use crate::encode::{Batch, octets};
use crate::layout::LAYOUT;

const MARK: [u8; 8] = *b"portico\0";

/// A ruleset as one transaction, and what the plugin needs besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesetSnapshot {
    /// The revision of the snapshot that it was made of.
    pub revision: u64,
    /// The service ranges, which need routes.
    pub ranges: Vec<IpNet>,
    /// What is sent.
    pub batch: Batch,
}

/// Why there is no stored ruleset to use.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ends too early.
    #[error("stored ruleset, byte {at}: {what} is cut short")]
    CutShort {
        /// What should stand there.
        what: &'static str,
        /// Where it begins.
        at: usize,
    },
    /// It is something else.
    #[error("stored ruleset, byte 0: it begins as no stored ruleset does")]
    Unmarked,
    /// It was written by another version.
    #[error("stored ruleset: it has layout {found}, and this version layout {LAYOUT}")]
    Layout {
        /// The layout that it has.
        found: u32,
    },
    /// What should be a service range is none.
    #[error("stored ruleset, byte {at}: what stands there is no service range")]
    NoRange {
        /// Where.
        at: usize,
    },
    /// It goes on where it should end.
    #[error("stored ruleset, byte {at}: there is more behind its end")]
    TooLong {
        /// Where it should end.
        at: usize,
    },
    /// It is not what was written.
    #[error("stored ruleset, byte {at}: the checksum is not that of what stands before it")]
    Altered {
        /// Where the checksum stands.
        at: usize,
    },
}

impl RulesetSnapshot {
    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let transaction = self.batch.as_bytes();
        let mut bytes = Vec::with_capacity(64 + 18 * self.ranges.len() + transaction.len());
        bytes.extend_from_slice(&MARK);
        bytes.extend_from_slice(&LAYOUT.to_le_bytes());
        bytes.extend_from_slice(&self.revision.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(self.ranges.len()).unwrap_or(u32::MAX).to_le_bytes());
        for range in &self.ranges {
            bytes.extend_from_slice(&[if range.addr().is_ipv4() { 4 } else { 6 }, range.prefix_len()]);
            bytes.extend_from_slice(&octets(range.addr()));
        }
        bytes.extend_from_slice(&(transaction.len() as u64).to_le_bytes());
        bytes.extend_from_slice(transaction);
        bytes.extend_from_slice(&checksum(&bytes).to_le_bytes());
        bytes
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// Where they are not what `encode` of this layout wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.array("the mark")? != MARK {
            return Err(SnapshotError::Unmarked);
        }
        match u32::from_le_bytes(reader.array("the layout")?) {
            LAYOUT => {}
            found => return Err(SnapshotError::Layout { found }),
        }
        let revision = u64::from_le_bytes(reader.array("the revision")?);
        let count = u32::from_le_bytes(reader.array("the count of service ranges")?);
        let ranges = (0..count).map(|_| reader.range()).collect::<Result<Vec<IpNet>, _>>()?;
        let length = u64::from_le_bytes(reader.array("the length of the transaction")?);
        let transaction = reader.slice(usize::try_from(length).unwrap_or(usize::MAX), "the transaction")?;
        let at = reader.at;
        let found = u64::from_le_bytes(reader.array("the checksum")?);
        if reader.at != bytes.len() {
            return Err(SnapshotError::TooLong { at: reader.at });
        }
        if found != checksum(&bytes[..at]) {
            return Err(SnapshotError::Altered { at });
        }
        Ok(Self { revision, ranges, batch: Batch::from_bytes(transaction.to_vec()) })
    }

    /// Replaces the file: whoever reads it meanwhile, and whatever breaks down, it is the old or the new one.
    ///
    /// # Errors
    /// Where the folder does not take it; what was there stays.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(".new");
        let new = path.with_file_name(name);
        // What a crash has left.
        remove(&new)?;
        let written = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(&self.encode())?;
            file.sync_all()?;
            fs::rename(&new, path)
        };
        written().inspect_err(|_| drop(remove(&new)))
    }

    /// Reads the file.
    ///
    /// # Errors
    /// Where there is none, or it is not what `write` of this layout wrote.
    pub fn read(path: &Path) -> Result<Self, SnapshotError> {
        let bytes = fs::read(path).map_err(|source| SnapshotError::Read { path: path.to_owned(), source })?;
        Self::decode(&bytes)
    }
}

/// Removes a file; that there is none is success.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        _ => Ok(()),
    }
}

/// Takes one thing after the other and knows where it is.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn slice(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], SnapshotError> {
        let end = self.at.checked_add(length);
        let slice = end.and_then(|end| self.bytes.get(self.at..end));
        let slice = slice.ok_or(SnapshotError::CutShort { what, at: self.at })?;
        self.at += length;
        Ok(slice)
    }

    fn array<const LENGTH: usize>(&mut self, what: &'static str) -> Result<[u8; LENGTH], SnapshotError> {
        let at = self.at;
        self.slice(LENGTH, what)?.try_into().map_err(|_| SnapshotError::CutShort { what, at })
    }

    fn range(&mut self) -> Result<IpNet, SnapshotError> {
        const WHAT: &str = "a service range";
        let at = self.at;
        let [family, prefix_len] = self.array(WHAT)?;
        let address = match family {
            4 => IpAddr::from(self.array::<4>(WHAT)?),
            6 => IpAddr::from(self.array::<16>(WHAT)?),
            _ => return Err(SnapshotError::NoRange { at }),
        };
        IpNet::new(address, prefix_len).map_err(|_| SnapshotError::NoRange { at })
    }
}

/// FNV-1a: for accidents, not against enemies, who could write a checksum, too. Each step is one-to-one, so
/// one altered byte never goes unnoticed.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests;
