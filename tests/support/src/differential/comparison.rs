//! `Comparison`: the outcomes of two proxies for all probes of a cluster.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::deviation::{Deviation, Deviations};
use super::outcome::PacketOutcome;
use super::probe::{Destinations, Probe};

/// The number of differences in a message.
const SHOWN_MAX: usize = 40_000;

/// The results of a comparison.
#[derive(Default)]
pub struct Comparison {
    pub probes: usize,
    /// The number of differences by their reason.
    pub explained: BTreeMap<Deviation, usize>,
    /// The number of equal outcomes of each kind.
    pub equal: BTreeMap<&'static str, usize>,
    unexplained: Vec<String>,
}

impl Comparison {
    /// Compares the outcomes of the probes of a destination.
    pub fn add(
        &mut self,
        snapshot: u16,
        deviations: &Deviations,
        Destinations { service, keys }: &Destinations,
        portico: impl Fn(&Probe) -> PacketOutcome,
        kube_proxy: impl Fn(&Probe) -> PacketOutcome,
    ) {
        for key in keys {
            for probe in Probe::all(*key) {
                let (own, other) = (portico(&probe), kube_proxy(&probe));
                self.probes += 1;
                if own == other {
                    *self.equal.entry(kind(&own)).or_default() += 1;
                } else if let Some(deviation) = deviations.explain(&probe, &own, &other) {
                    *self.explained.entry(deviation).or_default() += 1;
                } else {
                    self.unexplained.push(format!(
                        "snapshot {snapshot}, {service}: {probe}: Portico: {own}; kube-proxy: {other}"
                    ));
                }
            }
        }
    }

    /// Returns the unexplained differences as a message; `None` if there is no difference.
    pub fn message(&self) -> Option<String> {
        let count = self.unexplained.len();
        let mut text = format!("{count} unexplained differences of {} probes:", self.probes);
        for difference in self.unexplained.iter().take(SHOWN_MAX) {
            write!(text, "\n  {difference}").expect("write to a text");
        }
        (count > 0).then_some(text)
    }
}

fn kind(outcome: &PacketOutcome) -> &'static str {
    match outcome {
        PacketOutcome::Forward { affinity_s: Some(_), .. } => "affinity",
        PacketOutcome::Forward { .. } => "forward",
        PacketOutcome::Reject => "reject",
        PacketOutcome::Drop => "drop",
        PacketOutcome::Pass => "pass",
    }
}
