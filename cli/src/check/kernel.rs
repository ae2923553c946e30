//! Checks of the process's capabilities, and whether the kernel accepts a ruleset.

use crate::check::Finding::{self, Fail, Pass};
use crate::temporary_netns::program_and_verify;

/// The capabilities that the agent needs: number (linux/capability.h), name, purpose.
const REQUIRED: [(u32, &str, &str); 2] =
    [(12, "CAP_NET_ADMIN", "programs rules"), (21, "CAP_SYS_ADMIN", "enters network namespaces")];

/// Checks that this process has the capabilities that the agent needs.
pub(super) fn capabilities() -> Finding {
    let remedy = "run as root, with these capabilities in the container's securityContext";
    let fail = |problem: String| Fail(problem, remedy.to_owned());
    let path = "/proc/self/status";
    let status = match std::fs::read_to_string(path) {
        Ok(status) => status,
        Err(error) => return fail(format!("failed to read {path}: {error}")),
    };
    let Some(effective) = effective_capabilities(&status) else {
        return fail(format!("no effective capabilities (CapEff) in {path}"));
    };
    let missing: Vec<String> = REQUIRED
        .iter()
        .filter(|(bit, ..)| effective & 1 << bit == 0)
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        Pass(REQUIRED.map(|(_, name, _)| name).join(", "))
    } else {
        fail(format!("missing: {}", missing.join(", ")))
    }
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Checks that the kernel accepts a ruleset, in a temporary network namespace.
pub(super) fn ruleset() -> Finding {
    let remedy = "Linux 5.14 or newer with nf_tables, nft_ct, nft_fib_inet, nft_nat, nft_numgen, nft_redir, nft_reject_inet and nf_conntrack";
    match program_and_verify() {
        Ok(None) => Pass("programmed and read back in a temporary network namespace".to_owned()),
        Ok(Some(difference)) => Fail(
            format!("the table that was read back differs from the programmed one: {difference}"),
            remedy.to_owned(),
        ),
        Err(error) => Fail(format!("{error:#}"), remedy.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_capabilities_are_parsed_from_proc_status() {
        assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t0000000000201000\n"), Some(0x20_1000));
        assert_eq!(effective_capabilities("CapEff:\tx\n"), None);
    }
}
