//! `portico conntrack`: raises the limits and timeouts of connection tracking, as kube-proxy does.
//!
//! A value is never lowered, because an operator may have set a larger one. The chart runs the command in an init
//! container, because the agent's container cannot write to /proc/sys. The kernel allows the limits to be set only in
//! the first network namespace of the machine.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use clap::Args;

use crate::temporary_netns::program_and_verify;

pub(crate) const SYSCTL_DIR: &str = "/proc/sys/net/netfilter";
const MAX: &str = "nf_conntrack_max";
/// The number of hash buckets is a quarter of the maximum of connections, as for kube-proxy.
const CONNECTIONS_PER_BUCKET: u32 = 4;
// The defaults of kube-proxy.
const MAX_PER_CORE: u32 = 32_768;
const MIN: u32 = 131_072;
const TIMEOUT_ESTABLISHED_S: u32 = 86_400;
const TIMEOUT_CLOSE_WAIT_S: u32 = 3_600;

/// Arguments of `portico conntrack`. The defaults are those of kube-proxy.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConntrackArgs {
    /// Maximum of tracked connections for each processor; 0: do not change it.
    #[arg(long, value_name = "NUMBER", default_value_t = MAX_PER_CORE)]
    conntrack_max_per_core: u32,
    /// Minimum of that maximum, whatever the number of processors is.
    #[arg(long, value_name = "NUMBER", default_value_t = MIN)]
    conntrack_min: u32,
    /// Seconds after which an idle TCP connection is no longer tracked; 0: do not change it.
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT_ESTABLISHED_S)]
    conntrack_tcp_timeout_established: u32,
    /// Seconds for which a TCP connection is tracked that one end has closed; 0: do not change it.
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT_CLOSE_WAIT_S)]
    conntrack_tcp_timeout_close_wait: u32,
}

impl Default for ConntrackArgs {
    fn default() -> Self {
        Self {
            conntrack_max_per_core: MAX_PER_CORE,
            conntrack_min: MIN,
            conntrack_tcp_timeout_established: TIMEOUT_ESTABLISHED_S,
            conntrack_tcp_timeout_close_wait: TIMEOUT_CLOSE_WAIT_S,
        }
    }
}

/// A setting of connection tracking, and the value that it must have at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MinimumSetting {
    /// The file name in `SYSCTL_DIR`.
    pub(crate) name: &'static str,
    pub(crate) minimum: u32,
}

impl MinimumSetting {
    /// Reads the value in this directory.
    pub(crate) fn value(self, dir: &Path) -> anyhow::Result<u32> {
        let path = dir.join(self.name);
        let text = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
        text.trim().parse().with_context(|| format!("unexpected content of {}", path.display()))
    }
}

impl ConntrackArgs {
    /// The settings for this number of processors.
    pub(crate) fn settings(&self, processors: u32) -> impl Iterator<Item = MinimumSetting> {
        let max = match self.conntrack_max_per_core {
            0 => 0,
            per_core => per_core.saturating_mul(processors).max(self.conntrack_min),
        };
        let settings = [
            (MAX, max),
            ("nf_conntrack_buckets", max / CONNECTIONS_PER_BUCKET),
            ("nf_conntrack_tcp_timeout_established", self.conntrack_tcp_timeout_established),
            ("nf_conntrack_tcp_timeout_close_wait", self.conntrack_tcp_timeout_close_wait),
        ];
        let settings = settings.map(|(name, minimum)| MinimumSetting { name, minimum });
        settings.into_iter().filter(|setting| setting.minimum > 0)
    }
}

/// The number of processors of the machine, whatever the limits of this process are.
pub(crate) fn processors() -> u32 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let is_processor = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
    u32::try_from(stat.lines().filter(is_processor).count().max(1)).unwrap_or(u32::MAX)
}

/// Runs `portico conntrack`.
pub(crate) fn run(args: &ConntrackArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let dir = Path::new(SYSCTL_DIR);
    if !dir.join(MAX).exists() {
        program_and_verify().context("failed to have the kernel load connection tracking")?;
    }
    args.settings(processors()).try_for_each(|setting| raise(setting, dir, out))
}

fn raise(setting: MinimumSetting, dir: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let MinimumSetting { name, minimum } = setting;
    let value = setting.value(dir)?;
    if value >= minimum {
        writeln!(out, "{name}: {value}, unchanged")?;
        return Ok(());
    }
    let path = dir.join(name);
    fs::write(&path, minimum.to_string()).with_context(|| format!("failed to write {}", path.display()))?;
    writeln!(out, "{name}: raised from {value} to {minimum}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimums(args: &ConntrackArgs, processors: u32) -> Vec<u32> {
        args.settings(processors).map(|setting| setting.minimum).collect()
    }

    #[test]
    fn maximum_grows_with_the_processors_from_a_minimum() {
        let args = ConntrackArgs::default();
        assert_eq!(minimums(&args, 2), [131_072, 32_768, 86_400, 3_600]);
        assert_eq!(minimums(&args, 64), [2_097_152, 524_288, 86_400, 3_600]);
    }

    #[test]
    fn zero_leaves_a_setting_unchanged() {
        let none = ConntrackArgs {
            conntrack_max_per_core: 0,
            conntrack_tcp_timeout_established: 0,
            conntrack_tcp_timeout_close_wait: 0,
            ..ConntrackArgs::default()
        };
        assert_eq!(minimums(&none, 64), [0; 0]);
    }

    #[test]
    fn values_are_raised_and_never_lowered() {
        let dir = std::env::temp_dir().join(format!("portico-conntrack-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("create a directory");
        let (max, timeout) =
            (MinimumSetting { name: MAX, minimum: 131_072 }, "nf_conntrack_tcp_timeout_close_wait");
        let timeout = MinimumSetting { name: timeout, minimum: 3_600 };
        fs::write(dir.join(max.name), "262144\n").expect("write a setting");
        fs::write(dir.join(timeout.name), "60\n").expect("write a setting");
        let mut out = Vec::new();
        for setting in [max, timeout] {
            raise(setting, &dir, &mut out).expect("the settings are readable and writable");
        }
        assert_eq!(max.value(&dir).ok(), Some(262_144));
        assert_eq!(timeout.value(&dir).ok(), Some(3_600));
        assert!(String::from_utf8_lossy(&out).contains("raised from 60 to 3600"));
        fs::remove_dir_all(&dir).expect("remove the directory");
        let error = raise(max, &dir, &mut out).expect_err("the setting is missing");
        assert!(format!("{error:#}").contains("failed to read"), "{error:#}");
    }

    #[test]
    fn machine_has_a_processor() {
        assert!(processors() > 0);
    }
}
