//! `Manner`: how a service wants its connections served, from its annotations.
//!
//! Which annotations there are is in `proxy_core::annotation`. What they may not say is ignored with a warning: no
//! API server checks annotations, and a service should not lose its portals for one. What must not go in here: what
//! any of it means.

use proxy_core::annotation::{Annotation, DIAL, HOLD, MODE, SCHEDULER};
use proxy_core::service::{Dial, HOLD_MS_MAX, Mode, Scheduler};

use crate::field::Field;

/// How connections are served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) mode: Option<Mode>,
    pub(crate) scheduler: Option<Scheduler>,
    pub(crate) dial: Dial,
    pub(crate) hold_ms: Option<u32>,
}

/// Reads what the metadata asks for.
pub(crate) fn manner(meta: &Field<'_, '_>) -> Manner {
    let annotations = meta.map("annotations");
    let mode = chosen(&annotations, &MODE, &[("kernel", Mode::Kernel), ("relay", Mode::Relay)]);
    let schedulers = Scheduler::ALL.map(|scheduler| (scheduler.name(), scheduler));
    let scheduler = chosen(&annotations, &SCHEDULER, &schedulers);
    if let Some(scheduler) = scheduler.filter(|scheduler| scheduler.needs_relay())
        && mode == Some(Mode::Kernel)
    {
        let field = annotations.at(MODE.key);
        field.warn(format_args!("\"kernel\" is not possible with scheduler {}; ignored", scheduler.name()));
    }
    let dial = chosen(&annotations, &DIAL, &Dial::NAMES).unwrap_or_default();
    Manner { mode, scheduler, dial, hold_ms: hold(&annotations) }
}

/// The value that an annotation chooses; none: it is not there, or unknown and that has been said.
fn chosen<T: Copy>(annotations: &Field<'_, '_>, annotation: &Annotation, known: &[(&str, T)]) -> Option<T> {
    let text = text(annotations, annotation)?;
    let value = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if value.is_none() {
        let (field, known) =
            (annotations.at(annotation.key), known.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        field.warn(format_args!("{} is none of {}; ignored", field.shown(), known.join(", ")));
    }
    value
}

fn hold(annotations: &Field<'_, '_>) -> Option<u32> {
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
