//! `RulesetSnapshot`: an encoded ruleset in a file, which the CNI plugin applies if no agent is running.
//!
//! The agent replaces the file as the ruleset changes, so the plugin neither plans nor encodes. The content of a file
//! is not trusted: decoding returns a snapshot exactly as it was written, or an error with the offset, and allocates at
//! most the size of the file.
//!
//! ```text
//! magic "portico\0" | layout u32 | revision u64 | number of ranges u32
//! each range: 4 or 6 | prefix length u8 | 4 or 16 bytes
//! length of the transaction u64 | transaction | checksum u64 of all bytes before it
//! ```
//! The checksum detects accidents, not attacks: an attacker could write the checksum as well. Numbers are
//! little-endian; the transaction has the byte order of the host, as the kernel expects it.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use proxy_core::digest::digest_bytes;
use support::write_atomically;
use thiserror::Error;

use crate::netlink::batch::Batch;
use crate::nft::element::octets;
use crate::nft::schema::LAYOUT;

const MAGIC: [u8; 8] = *b"portico\0";
/// The bytes of a snapshot without ranges and transaction.
const FIXED_BYTES: usize = 40;
/// The bytes of a range, at most.
const RANGE_BYTES_MAX: usize = 18;

/// A ruleset as one transaction, with what else the plugin needs to program a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesetSnapshot {
    /// The revision of the services from which the ruleset was computed.
    pub revision: u64,
    /// The service ranges, to which the pod needs routes.
    pub ranges: Vec<IpNet>,
    /// The transaction.
    pub batch: Batch,
}

/// Why a snapshot cannot be used. Errors about the content do not contain the path.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The file cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The error of the file system.
        #[source]
        source: io::Error,
    },
    /// The file ends too early.
    #[error("offset {at}: truncated {what}")]
    Truncated {
        /// The part that is truncated.
        what: &'static str,
        /// The offset of this part.
        at: usize,
    },
    /// The file is not a snapshot.
    #[error("not a ruleset snapshot (bad magic)")]
    BadMagic,
    /// Another version wrote the file.
    #[error("unsupported layout {found} (expected {LAYOUT})")]
    UnsupportedLayout {
        /// The layout of the file.
        found: u32,
    },
    /// A service range is not a CIDR.
    #[error("offset {at}: invalid service range")]
    InvalidRange {
        /// The offset of the range.
        at: usize,
    },
    /// The file continues after the checksum.
    #[error("offset {at}: trailing data")]
    TrailingData {
        /// The offset after the checksum.
        at: usize,
    },
    /// The content was changed.
    #[error("offset {at}: checksum mismatch")]
    ChecksumMismatch {
        /// The offset of the checksum.
        at: usize,
    },
}

impl RulesetSnapshot {
    /// Encodes the content of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let transaction = self.batch.as_bytes();
        let range_count =
            u32::try_from(self.ranges.len()).expect("a cluster has fewer than 2^32 service ranges");
        let capacity = FIXED_BYTES + RANGE_BYTES_MAX * self.ranges.len() + transaction.len();
        let mut bytes = Vec::with_capacity(capacity);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&LAYOUT.to_le_bytes());
        bytes.extend_from_slice(&self.revision.to_le_bytes());
        bytes.extend_from_slice(&range_count.to_le_bytes());
        for range in &self.ranges {
            bytes.extend_from_slice(&[if range.addr().is_ipv4() { 4 } else { 6 }, range.prefix_len()]);
            bytes.extend_from_slice(&octets(range.addr()));
        }
        bytes.extend_from_slice(&(transaction.len() as u64).to_le_bytes());
        bytes.extend_from_slice(transaction);
        bytes.extend_from_slice(&digest_bytes(&bytes).to_le_bytes());
        bytes
    }

    /// Decodes the content of a file.
    ///
    /// # Errors
    /// If it is not what `encode` of this layout returned.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut decoder = Decoder { bytes, at: 0 };
        if decoder.array("magic")? != MAGIC {
            return Err(SnapshotError::BadMagic);
        }
        match u32::from_le_bytes(decoder.array("layout")?) {
            LAYOUT => {}
            found => return Err(SnapshotError::UnsupportedLayout { found }),
        }
        let revision = u64::from_le_bytes(decoder.array("revision")?);
        let count = u32::from_le_bytes(decoder.array("number of service ranges")?);
        let ranges = (0..count).map(|_| decoder.range()).collect::<Result<Vec<IpNet>, _>>()?;
        let length = u64::from_le_bytes(decoder.array("length of the transaction")?);
        let transaction = decoder.slice(usize::try_from(length).unwrap_or(usize::MAX), "transaction")?;
        let at = decoder.at;
        let found = u64::from_le_bytes(decoder.array("checksum")?);
        if decoder.at != bytes.len() {
            return Err(SnapshotError::TrailingData { at: decoder.at });
        }
        if found != digest_bytes(&bytes[..at]) {
            return Err(SnapshotError::ChecksumMismatch { at });
        }
        Ok(Self { revision, ranges, batch: Batch::from_bytes(transaction.to_vec()) })
    }

    /// Writes the file atomically, with mode 0600.
    ///
    /// # Errors
    /// If the file system rejects it; the old file stays.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(".new");
        let temporary = path.with_file_name(name);
        remove_if_exists(&temporary)?;
        write_atomically(path, &temporary, 0o600, &self.encode())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If there is no file, or it is not what `write` of this layout wrote.
    pub fn read(path: &Path) -> Result<Self, SnapshotError> {
        let bytes = fs::read(path).map_err(|source| SnapshotError::Read { path: path.to_owned(), source })?;
        Self::decode(&bytes)
    }
}

/// Removes a temporary file that an interrupted process left.
fn remove_if_exists(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Decodes one part after the other, and tracks the offset for errors.
struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    fn slice(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], SnapshotError> {
        let end = self.at.checked_add(length);
        let slice = end.and_then(|end| self.bytes.get(self.at..end));
        let slice = slice.ok_or(SnapshotError::Truncated { what, at: self.at })?;
        self.at += length;
        Ok(slice)
    }

    fn array<const LENGTH: usize>(&mut self, what: &'static str) -> Result<[u8; LENGTH], SnapshotError> {
        let at = self.at;
        self.slice(LENGTH, what)?.try_into().map_err(|_| SnapshotError::Truncated { what, at })
    }

    fn range(&mut self) -> Result<IpNet, SnapshotError> {
        const WHAT: &str = "service range";
        let at = self.at;
        let [family, prefix_len] = self.array(WHAT)?;
        let address = match family {
            4 => IpAddr::from(self.array::<4>(WHAT)?),
            6 => IpAddr::from(self.array::<16>(WHAT)?),
            _ => return Err(SnapshotError::InvalidRange { at }),
        };
        IpNet::new(address, prefix_len).map_err(|_| SnapshotError::InvalidRange { at })
    }
}

#[cfg(test)]
mod tests;
