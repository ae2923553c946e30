//! The portals of a pod at admission: the annotation `portico.dev/portals` of a namespace is the default of its pods.
//!
//! The CNI plugin sees only the pod, so admission writes the value of the namespace on pods that have none. A pod on the
//! host network has no portals of its own, so it does not get the annotation.

use crate::admission::Admission;
use crate::admission::pod::PodView;
use crate::admission::record::ANNOTATIONS_BYTES_MAX;
use crate::admission::warning::Warnings;
use crate::model::annotation::PORTALS;
use crate::model::portals_request::PortalsRequest;

/// The limit of a value of a namespace, in bytes: the CNI plugin sends it to the agent in a message of 64 KiB.
pub(super) const PORTALS_BYTES_MAX: usize = 32 << 10;

/// The portals of a pod.
#[derive(Debug, Default)]
pub(super) struct PodPortals {
    /// The value of the namespace, which admission writes on the pod.
    pub(super) inherited: Option<String>,
    /// Whether Portico does not serve the pod.
    pub(super) is_off: bool,
}

impl PodPortals {
    /// The bytes that the annotation adds to the pod.
    pub(super) fn added_len(&self) -> usize {
        self.inherited.as_ref().map_or(0, |value| PORTALS.key.len() + value.len())
    }
}

/// Returns the portals of a pod. A value of its namespace that cannot be used is ignored and reported; a value of the pod
/// itself is validated when the pod starts.
pub(super) fn pod_portals(
    admission: &Admission<'_>,
    pod: &PodView<'_>,
    warnings: &mut Warnings,
) -> PodPortals {
    let parse = |text: &str| PortalsRequest::parse(text, Some(admission.namespace));
    if let Some(own) = pod.annotation(PORTALS.key) {
        return PodPortals { inherited: None, is_off: parse(own) == Ok(PortalsRequest::Off) };
    }
    let Some(text) = admission.namespace_annotations.get(PORTALS.key).map(|text| text.trim()) else {
        return PodPortals::default();
    };
    // The plugin has read the annotations of a running pod already. Those of a pod on the host network are never written.
    if admission.old_pod.is_some() && !pod.is_host_network {
        return PodPortals::default();
    }
    let inherited = parse(text).and_then(|request| {
        let inherited = Some(text.to_owned()).filter(|_| !pod.is_host_network);
        let portals = PodPortals { inherited, is_off: request == PortalsRequest::Off };
        if text.len() > PORTALS_BYTES_MAX {
            return Err(format!("annotation {}: longer than {PORTALS_BYTES_MAX} bytes", PORTALS.key));
        }
        if pod.annotations_len() + portals.added_len() > ANNOTATIONS_BYTES_MAX {
            return Err(format!("annotation {}: the pod has no room for it", PORTALS.key));
        }
        Ok(portals)
    });
    inherited.unwrap_or_else(|reason| {
        let namespace = admission.namespace;
        warnings.push(format_args!("the default of namespace {namespace} is ignored: {reason}"));
        PodPortals::default()
    })
}
