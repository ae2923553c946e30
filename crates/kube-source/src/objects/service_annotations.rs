//! `ServiceOptions`: mode, scheduler, dial, hold and DNS endpoints of a service, from its annotations.
//!
//! `proxy_core::annotation` defines the annotations. An invalid value is ignored with a warning: API servers do not
//! validate annotations, and a service must not lose its portals because of one. The meaning of the options does not
//! belong here.

use proxy_core::annotation::{Annotation, DIAL, DNS_ENDPOINTS, HOLD, MODE, SCHEDULER};
use proxy_core::dns::DnsEndpoints;
use proxy_core::service::{Dial, HOLD_MS_MAX, Mode, Scheduler};

use crate::objects::field::Field;

/// The options of a service, as its annotations specify them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServiceOptions {
    pub(crate) mode: Option<Mode>,
    pub(crate) scheduler: Option<Scheduler>,
    pub(crate) dial: Dial,
    pub(crate) hold_ms: Option<u32>,
    pub(crate) dns_endpoints: DnsEndpoints,
}

/// Parses the annotations of a service.
pub(crate) fn service_options(meta: &Field<'_, '_>) -> ServiceOptions {
    let annotations = meta.map("annotations");
    let mode = choice(&annotations, &MODE, &[("kernel", Mode::Kernel), ("relay", Mode::Relay)]);
    let schedulers = Scheduler::ALL.map(|scheduler| (scheduler.name(), scheduler));
    let scheduler = choice(&annotations, &SCHEDULER, &schedulers);
    if let Some(scheduler) = scheduler.filter(|scheduler| scheduler.needs_relay())
        && mode == Some(Mode::Kernel)
    {
        let field = annotations.at(MODE.key);
        field.warn(format_args!("\"kernel\" is not supported with scheduler {}; ignored", scheduler.name()));
    }
    let dial = choice(&annotations, &DIAL, &Dial::NAMES).unwrap_or_default();
    let dns_endpoints = choice(&annotations, &DNS_ENDPOINTS, &DnsEndpoints::NAMES).unwrap_or_default();
    ServiceOptions { mode, scheduler, dial, hold_ms: hold_ms(&annotations), dns_endpoints }
}

/// Returns the value that an annotation selects. Warns and returns `None` if the value is unknown.
fn choice<T: Copy>(annotations: &Field<'_, '_>, annotation: &Annotation, known: &[(&str, T)]) -> Option<T> {
    let text = text(annotations, annotation)?;
    let value = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if value.is_none() {
        let field = annotations.at(annotation.key);
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        field.warn(format_args!("{} is not one of {}; ignored", field.shown(), names.join(", ")));
    }
    value
}

fn hold_ms(annotations: &Field<'_, '_>) -> Option<u32> {
    let hold_ms = milliseconds(text(annotations, &HOLD)?);
    if hold_ms.is_none() {
        let field = annotations.at(HOLD.key);
        field.warn(format_args!("{} is not {}; ignored", field.shown(), HOLD.values));
    }
    hold_ms.filter(|hold_ms| *hold_ms > 0)
}

fn text<'v>(annotations: &Field<'_, 'v>, annotation: &Annotation) -> Option<&'v str> {
    annotations.texts().into_iter().find(|(found, _)| *found == annotation.key).map(|(_, text)| text)
}

fn milliseconds(text: &str) -> Option<u32> {
    let unit = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return None,
    };
    number.parse::<u32>().ok()?.checked_mul(factor).filter(|hold_ms| *hold_ms <= HOLD_MS_MAX)
}
