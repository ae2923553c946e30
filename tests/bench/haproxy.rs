//! `HaProxy`: Debian's HAProxy in TCP mode, a peer of the relay.
//!
//! It has one thread per CPU, and limits beyond the load (the limit of file descriptors may be 20,000).

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use test_support::child_guard::ChildGuard;
use test_support::eventually::eventually;

/// Whether HAProxy copies data through pipes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Splice {
    Off,
    Auto,
}

/// A running HAProxy.
pub(crate) struct HaProxy {
    _process: ChildGuard,
    config: PathBuf,
}

impl HaProxy {
    /// Listens on the loopback address. Each server has an offset that is added to the port `first`, a host and a port.
    pub(crate) fn start(first: u16, servers: &[(u16, &str, u16)], splice: Splice) -> Self {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let mut text = format!(
            "global\n maxconn 4000\n nbthread {threads}\ndefaults\n mode tcp\n timeout connect 5s\n \
             timeout client 1h\n timeout server 1h\n"
        );
        if splice == Splice::Auto {
            text += " option splice-auto\n";
        }
        for (more, host, port) in servers {
            text += &format!("listen l{more}\n bind 127.0.0.1:{}\n server s {host}:{port}\n", first + more);
        }
        let config = std::env::temp_dir().join(format!("portico-haproxy-{}-{first}.cfg", std::process::id()));
        fs::write(&config, text).expect("write HAProxy's configuration");
        let mut command = Command::new("haproxy");
        command.args(["-q", "-db", "-f"]).arg(&config).stdin(Stdio::null()).stdout(Stdio::null());
        let process = ChildGuard::spawn(&mut command);
        for (more, ..) in servers {
            let address = SocketAddr::from(([127, 0, 0, 1], first + more));
            eventually("HAProxy listens", || TcpStream::connect(address));
        }
        Self { _process: process, config }
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.config);
    }
}
