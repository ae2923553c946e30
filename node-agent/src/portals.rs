//! `portico portals`: every portal in force, and where it leads.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use proxy_core::portal::{BACKENDS_MAX, Portal, Portals, Reason, Shared, Verdict, portals};

use crate::args::{PortalsArgs, PortalsOutput};
use crate::input::{self, warn};
use crate::table::{Cell, Table};

/// A table shows so many backends of a portal, and the number of the others.
const BACKENDS_SHOWN: usize = 4;

/// Answers `portico portals`.
pub(crate) fn answer(args: &PortalsArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let PortalsArgs { input, standpoint, output } = args;
    let (objects, sound) = input::objects(input);
    let standpoint = input::standpoint(standpoint, &objects);
    let portals = portals(&objects.into_snapshot(), &standpoint);
    tell_losses(&portals);
    let is_in_force =
        |portal: &&Portal| winner(&portals, portal) == *portal && portals.is_within(Shared::Full, portal);
    let in_force = portals.by_service().filter(is_in_force);
    match output {
        PortalsOutput::Table => write_table(in_force, out)?,
        PortalsOutput::Json => {
            let in_force: Vec<&Portal> = in_force.collect();
            serde_json::to_writer_pretty(&mut *out, &in_force)?;
            writeln!(out)?;
        }
    }
    Ok(sound)
}

fn winner<'a>(portals: &'a Portals, portal: &'a Portal) -> &'a Portal {
    portals.get(portal.key).unwrap_or(portal)
}

/// Warns of what is not as its object says: portals that another service has, portals that are refused, backends
/// beyond the limit.
pub(crate) fn tell_losses(portals: &Portals) {
    let beyond = portals.beyond(Shared::Full).map(|(service, count)| (service, Reason::TableElements, count));
    let refused = portals.refused().flat_map(|(service, refused)| {
        refused.iter().map(|(reason, count)| (service, reason, count)).collect::<Vec<_>>()
    });
    for (service, reason, count) in refused.chain(beyond) {
        let what = if count == 1 { "1 portal is".to_owned() } else { format!("{count} portals are") };
        warn(&format!("service {service}: {what} refused: {reason}"));
    }
    for portal in portals.by_service() {
        let winner = winner(portals, portal);
        if winner != portal {
            let (key, service) = (portal.key, &portal.service);
            let (kind, by) = (portal.kind.name(), winner.kind.name());
            warn(&format!(
                "service {service} claims {} port {} ({} {kind}) in vain: service {} has it ({by})",
                key.address, key.port, key.protocol, winner.service
            ));
        } else if portal.left_out > 0 {
            let (left_out, service) = (portal.left_out, &portal.service);
            warn(&format!("service {service}: {left_out} backends beyond {BACKENDS_MAX} are left out"));
        }
    }
}

fn write_table<'a>(portals: impl Iterator<Item = &'a Portal>, out: &mut impl Write) -> anyhow::Result<()> {
    let mut table = Table::new(
        ["NAMESPACE", "SERVICE", "PORT", "KIND", "PORTAL", "VERDICT", "BACKENDS"].map(str::to_owned),
    );
    for portal in portals {
        let Portal { service, port_name, key, kind, verdict, backends, .. } = portal;
        let socket = std::net::SocketAddr::new(key.address, key.port);
        table.push([
            Cell::plain(&service.namespace),
            Cell::plain(&service.name),
            Cell::plain(if port_name.is_empty() { "-" } else { port_name }),
            Cell::plain(kind.name()),
            Cell::plain(format!("{}://{socket}", key.protocol.lower())),
            Cell { text: verdict.name().to_owned(), style: style(*verdict) },
            Cell::plain(shown(backends)),
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

fn shown(backends: &[std::net::SocketAddr]) -> String {
    if backends.is_empty() {
        return "-".to_owned();
    }
    let mut text: Vec<String> = backends.iter().take(BACKENDS_SHOWN).map(ToString::to_string).collect();
    if backends.len() > BACKENDS_SHOWN {
        text.push(format!("+{} more", backends.len() - BACKENDS_SHOWN));
    }
    text.join(" ")
}
