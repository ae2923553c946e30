//! The state of the reconciler, for `portico status`, for metrics and for other parts of the agent.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agent_ipc::AttachmentKey;
use netns_nft::NetnsId;
use proxy_core::portal::{Portals, RefusalReason, ServiceFilter, TableKind};
use relay::RelayReport;

use super::Reconciler;
use crate::netns_state::{AttachedPod, NetnsState};
use crate::pod_dns::DnsState;
use crate::report::{
    AttachmentReport, AuditReport, Counts, MemoryReport, ProgrammedPortals, Report, ViewReport,
};
use crate::view_name::view_name;

impl Reconciler {
    /// The keys of the known attachments.
    pub(crate) fn attachment_keys(&self) -> impl Iterator<Item = &AttachmentKey> {
        self.fleet.attachments().map(|(key, _)| key).chain(self.unserved.keys())
    }

    /// The network namespaces and their visible portals.
    pub(crate) fn portals_by_netns(&self) -> impl Iterator<Item = (NetnsId, &Portals)> {
        let namespaces = self.fleet.iter();
        namespaces.filter_map(|(netns, namespace)| Some((netns, &self.view_of(namespace)?.portals)))
    }

    /// Returns the report, without the state of the relay.
    pub(crate) fn report(&self, now: Instant) -> Report {
        let attachments = self.fleet.attachments().filter_map(|(key, netns)| {
            let namespace = self.fleet.get(netns)?;
            let pod = namespace.pods.get(key)?;
            Some(self.attachment_report(netns, namespace, pod, now))
        });
        let views = self.views.iter().map(|(filter, view)| {
            (view_name(filter), ViewReport { revision: view.revision, portals: view.portal_count() })
        });
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.catalog.node().name.to_string(),
            synced: self.catalog.is_synced(),
            outage: self.outage.clone(),
            objects_rejected: self.objects_rejected,
            services: self.catalog.snapshot().service_count(),
            views: views.collect(),
            attachments: attachments.collect(),
            unserved: self.unserved.report(),
            records_unwritten: self.records.len(),
            refused: self.refused_portals(),
            memory: self.memory_report(),
            counts: Counts { dial_ignored: self.catalog.dial_ignored() as u64, ..self.counts.clone() },
            relay: RelayReport::default(),
            node_portals: None,
            dns: self.dns.as_ref().map(DnsState::status),
            audit: AuditReport {
                interval_ms: milliseconds(self.options.audit_interval),
                last_ms: self.timers.audited_at().map(|at| milliseconds(now.duration_since(at))),
            },
            counters: self.options.settings.counters,
            traffic: None,
        }
    }

    fn attachment_report(
        &self,
        netns: NetnsId,
        namespace: &NetnsState,
        pod: &AttachedPod,
        now: Instant,
    ) -> AttachmentReport {
        let outdated = self.view_of(namespace).filter(|view| !namespace.is_up_to_date(view));
        let lag = outdated.map(|view| now.duration_since(view.since));
        let is_on_demand = namespace.on_demand.is_some();
        AttachmentReport {
            key: pod.attachment.key.clone(),
            pod: pod.attachment.pod.clone(),
            netns: pod.attachment.netns.clone(),
            netns_inode: netns.inode,
            view: view_name(&namespace.filter),
            revision: namespace.revision(),
            lag_ms: lag.map_or(0, |lag| milliseconds(lag).max(1)),
            error: namespace.error().map(str::to_owned),
            repairs: namespace.repairs(),
            audit_backoff_ms: namespace.audit_backoff(now).map_or(0, milliseconds),
            portals: if is_on_demand { ProgrammedPortals::OnDemand } else { ProgrammedPortals::All },
            programmed: namespace.portal_count(),
            programmed_by: pod.programmed_by,
        }
    }

    fn memory_report(&self) -> MemoryReport {
        MemoryReport {
            limit: self.options.budget.limit,
            tables_max: self.options.budget.tables().and_then(|bytes| u64::try_from(bytes).ok()),
            tables: u64::try_from(self.tables_bytes()).unwrap_or(u64::MAX),
        }
    }

    /// The number of refused portals by reason, for a pod that sees all services.
    fn refused_portals(&self) -> BTreeMap<String, usize> {
        let Some(view) = self.views.get(&ServiceFilter::All) else { return BTreeMap::new() };
        let has_full_tables = self.fleet.iter().any(|(_, namespace)| namespace.on_demand.is_none());
        let table = if has_full_tables { TableKind::Full } else { TableKind::OnDemand };
        let refused = view.portals.refusals_by_reason(table);
        RefusalReason::ALL
            .into_iter()
            .map(|reason| (reason.name().to_owned(), refused.count(reason)))
            .collect()
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
