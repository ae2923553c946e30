//! `portico env`: the variables that a container gets, as the kubelet would define them or the webhook puts them
//! into a pod.

mod pod;

use std::io::Write;

use anyhow::Context;
use proxy_core::env::{Environment, Variable, environment};
use serde::Serializer;
use serde::ser::SerializeMap;

use crate::args::{EnvArgs, EnvOutput};
use crate::input::{self, warn};

/// Answers `portico env`.
pub(crate) fn answer(args: &EnvArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let EnvArgs { input, namespace, no_links, pod, inject, output } = args;
    let (objects, sound) = input::objects(input);
    if let Some(file) = pod {
        let allowed = pod::answer(file, (*inject).into(), namespace, objects, *output, out)?;
        return Ok(sound && allowed);
    }
    let Environment { variables, clashes, unaddressable } =
        environment(&objects.into_snapshot(), namespace, !no_links);
    for clash in clashes {
        warn(&format!("{} is defined by {} and by {}: the first stands", clash.name, clash.kept, clash.lost));
    }
    for service in unaddressable {
        warn(&format!("the variables of {service} begin with a digit: a shell cannot name them"));
    }
    match output {
        EnvOutput::Env => {
            for Variable { name, value } in variables {
                writeln!(out, "{name}={value}")?;
            }
        }
        EnvOutput::Json => write_json(&variables, out).context("write variables as JSON")?,
    }
    Ok(sound)
}

/// One object; the names keep their order.
fn write_json(variables: &[Variable], out: &mut impl Write) -> anyhow::Result<()> {
    let mut serializer = serde_json::Serializer::pretty(&mut *out);
    let mut map = serializer.serialize_map(Some(variables.len()))?;
    for Variable { name, value } in variables {
        map.serialize_entry(name, value)?;
    }
    map.end()?;
    writeln!(out)?;
    Ok(())
}
