//! A list of attachments that is larger than a message: a file in memory, whose descriptor comes along.
//!
//! What must not go in here: what the list means.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::fd::OwnedFd;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::attachment::AttachmentKey;

/// What a list may take: some hundred thousand attachments.
const LIST_BYTES_MAX: u64 = 16 << 20;

/// Writes a list.
///
/// # Errors
/// Where the kernel refuses.
pub(crate) fn write_list(keys: &[AttachmentKey]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("portico-list", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(keys)?)?;
    file.rewind()?;
    Ok(file.into())
}

/// Reads a list that somebody sent.
///
/// # Errors
/// Where it is something else than a list, or too large.
pub(crate) fn read_list(file: OwnedFd) -> io::Result<Vec<AttachmentKey>> {
    let file = File::from(file);
    let found = file.metadata()?;
    if !found.is_file() || found.len() > LIST_BYTES_MAX {
        let why = format!("it is no file of at most {LIST_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(serde_json::from_reader(BufReader::new(file.take(LIST_BYTES_MAX)))?)
}
