//! A list of attachments that exceeds the size of a message.
//!
//! The list is JSON in a memfd, whose file descriptor is sent with the message.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::fd::OwnedFd;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::attachment::AttachmentKey;

/// The maximum size of a list, which suffices for more than 100,000 attachments.
const LIST_BYTES_MAX: u64 = 16 << 20;

/// Writes a list to a new memfd.
///
/// # Errors
/// If the kernel does not create the memfd.
pub(crate) fn write_list(keys: &[AttachmentKey]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("portico-list", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(keys)?)?;
    file.rewind()?;
    Ok(file.into())
}

/// Reads a list from a peer.
///
/// # Errors
/// If the file is not a list, or is too large.
pub(crate) fn read_list(file: OwnedFd) -> io::Result<Vec<AttachmentKey>> {
    let file = File::from(file);
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > LIST_BYTES_MAX {
        let why = format!("not a regular file of at most {LIST_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(serde_json::from_reader(BufReader::new(file.take(LIST_BYTES_MAX)))?)
}
