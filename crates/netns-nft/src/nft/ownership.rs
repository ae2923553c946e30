//! `OwnershipRejection`: the reasons for which the kernel rejects a table that its creator's socket owns.
//!
//! Only the socket that created such a table can change it (Linux 5.12). Kernels before know no such flag.

use std::io::{self, ErrorKind};

use nix::libc;

use crate::error::Error;

/// Why the kernel rejected a transaction with an owned table.
#[derive(Debug)]
pub(crate) enum OwnershipRejection {
    /// The kernel does not know a flag of the table.
    Unsupported(io::Error),
    /// Another socket owns the table.
    Owned,
    Other(Error),
}

impl OwnershipRejection {
    pub(crate) fn of(error: Error) -> Self {
        match error {
            Error::Rejected { op: Some(_), source } if is_unsupported(&source) => Self::Unsupported(source),
            // Without CAP_NET_ADMIN, the kernel rejects the batch before its first operation.
            Error::Rejected { op: Some(_), source } if source.kind() == ErrorKind::PermissionDenied => {
                Self::Owned
            }
            other => Self::Other(other),
        }
    }
}

/// Whether the kernel does not know a flag of the table. Before 5.12 the error was `EINVAL`.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL))
}
