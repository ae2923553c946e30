//! `portico portals`: lists the portals in effect, and their backends.
//!
//! Portals that do not take effect, for example because of a conflict, are reported as warnings.

use std::io::Write;
use std::net::SocketAddr;

use anstyle::{AnsiColor, Style};
use proxy_core::portal::{BACKENDS_MAX, Portal, Portals, RefusalReason, TableKind, Verdict, portals};

use crate::args::{PortalsArgs, PortalsOutput};
use crate::manifests::{self, print_warning};
use crate::table::{Cell, Table};

/// The number of backends per portal that a table shows; it summarises the rest.
const BACKENDS_SHOWN_MAX: usize = 4;

/// Runs `portico portals`. Returns whether all of the input was valid.
pub(crate) fn run(args: &PortalsArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let PortalsArgs { input, context, output } = args;
    let (objects, is_valid) = manifests::read_objects(input);
    let context = manifests::node_context(context, &objects);
    let portals = portals(&objects.into_snapshot(), &context);
    warn_conflicts(&portals);
    let is_in_effect =
        |portal: &&Portal| winner(&portals, portal) == *portal && portals.fits_share(TableKind::Full, portal);
    let in_effect = portals.by_service().filter(is_in_effect);
    match output {
        PortalsOutput::Table => write_table(in_effect, out)?,
        PortalsOutput::Json => {
            let in_effect: Vec<&Portal> = in_effect.collect();
            serde_json::to_writer_pretty(&mut *out, &in_effect)?;
            writeln!(out)?;
        }
    }
    Ok(is_valid)
}

fn winner<'a>(portals: &'a Portals, portal: &'a Portal) -> &'a Portal {
    portals.get(portal.key).unwrap_or(portal)
}

/// Warns about portals without effect, because another service takes precedence or a limit is exceeded, and about
/// backends beyond the limit.
pub(crate) fn warn_conflicts(portals: &Portals) {
    let beyond = portals
        .beyond_share(TableKind::Full)
        .map(|(service, count)| (service, RefusalReason::TableElements, count));
    let refused = portals.refusals().flat_map(|(service, refused)| {
        refused.iter().map(|(reason, count)| (service, reason, count)).collect::<Vec<_>>()
    });
    for (service, reason, count) in refused.chain(beyond) {
        let portals = if count == 1 { "portal" } else { "portals" };
        print_warning(&format!("service {service}: {count} {portals} refused: {reason}"));
    }
    for portal in portals.by_service() {
        let winner = winner(portals, portal);
        if winner != portal {
            let (key, service) = (portal.key, &portal.service);
            let socket = SocketAddr::new(key.address, key.port);
            print_warning(&format!(
                "service {service}: {socket}/{} ({}) conflicts with service {} ({}), which takes precedence",
                key.protocol,
                portal.kind.name(),
                winner.service,
                winner.kind.name()
            ));
        } else if portal.omitted_backends > 0 {
            let (left_out, service) = (portal.omitted_backends, &portal.service);
            print_warning(&format!(
                "service {service}: omitted {left_out} backends beyond the limit of {BACKENDS_MAX}"
            ));
        }
    }
}

fn write_table<'a>(portals: impl Iterator<Item = &'a Portal>, out: &mut impl Write) -> anyhow::Result<()> {
    let mut table = Table::new(
        ["NAMESPACE", "SERVICE", "PORT", "KIND", "PORTAL", "VERDICT", "BACKENDS"].map(str::to_owned),
    );
    for portal in portals {
        let Portal { service, port_name, key, kind, verdict, backends, .. } = portal;
        let socket = SocketAddr::new(key.address, key.port);
        table.push([
            Cell::plain(&service.namespace),
            Cell::plain(&service.name),
            Cell::plain(if port_name.is_empty() { "-" } else { port_name }),
            Cell::plain(kind.name()),
            Cell::plain(format!("{}://{socket}", key.protocol.lower())),
            Cell { text: verdict.name().to_owned(), style: style(*verdict) },
            Cell::plain(backends_text(backends)),
        ]);
    }
    write!(out, "{table}")?;
    Ok(())
}

const fn style(verdict: Verdict) -> Style {
    match verdict {
        Verdict::Forward => AnsiColor::Green.on_default(),
        Verdict::Reject => AnsiColor::Red.on_default(),
        Verdict::Drop => AnsiColor::Yellow.on_default(),
    }
}

fn backends_text(backends: &[SocketAddr]) -> String {
    if backends.is_empty() {
        return "-".to_owned();
    }
    let mut text: Vec<String> = backends.iter().take(BACKENDS_SHOWN_MAX).map(ToString::to_string).collect();
    if backends.len() > BACKENDS_SHOWN_MAX {
        text.push(format!("+{} more", backends.len() - BACKENDS_SHOWN_MAX));
    }
    text.join(" ")
}
