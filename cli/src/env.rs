//! `portico env`: the service environment variables of a container, as the kubelet would define them; with `--pod`, as
//! the webhook would inject them.

mod pod;

use std::io::Write;

use anyhow::Context;
use proxy_core::env::{Environment, Variable, environment};
use serde::Serializer;
use serde::ser::SerializeMap;

use crate::args::{EnvArgs, EnvOutput};
use crate::manifests::{self, print_warning};

/// Runs `portico env`. Returns whether all of the input was valid, and the pod would be admitted.
pub(crate) fn run(args: &EnvArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let EnvArgs { input, namespace, no_links, pod, inject, output } = args;
    let (objects, is_valid) = manifests::read_objects(input);
    if let Some(file) = pod {
        let is_admitted = pod::run(file, (*inject).into(), namespace, objects, *output, out)?;
        return Ok(is_valid && is_admitted);
    }
    let Environment { variables, conflicts, unaddressable } =
        environment(&objects.into_snapshot(), namespace, !no_links);
    for conflict in conflicts {
        print_warning(&format!(
            "{} is defined by {} and by {}; the first takes precedence",
            conflict.name, conflict.kept, conflict.lost
        ));
    }
    for service in unaddressable {
        print_warning(&format!("the variables of {service} start with a digit: shells cannot expand them"));
    }
    match output {
        EnvOutput::Env => {
            for Variable { name, value } in variables {
                writeln!(out, "{name}={value}")?;
            }
        }
        EnvOutput::Json => write_json(&variables, out).context("failed to write variables as JSON")?,
    }
    Ok(is_valid)
}

/// Writes one JSON object whose keys keep the order of the variables.
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
