//! `ModeArg`: the default mode of services, as a flag of the agent and of the offline commands.

use clap::ValueEnum;
use proxy_core::service::Mode;

/// The mode of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// Destination NAT in the kernel.
    Kernel,
    /// Connections are proxied by a user-space relay.
    Relay,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Kernel => Self::Kernel,
            ModeArg::Relay => Self::Relay,
        }
    }
}
