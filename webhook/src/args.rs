//! The options of `portico-webhook`. What a flag means stands in its doc comment, which is also its help.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipnet::IpNet;
use proxy_core::admission::InjectMode;

/// How many managed ConfigMaps a namespace may have by default.
const CONFIG_MAPS_OF_NAMESPACE_MAX: usize = 100;
/// How many bytes these may hold by default.
const CONFIG_MAP_BYTES_OF_NAMESPACE_MAX: usize = 16 << 20;

/// Puts service variables into pods as they are created.
#[derive(Debug, Parser)]
#[command(name = "portico-webhook", version, args_conflicts_with_subcommands = true)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

/// What there is besides serving.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answers one AdmissionReview from standard input: what would be injected, and why.
    Review(ReviewArgs),
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the manual pages, one for each command.
    Man {
        /// The folder to write them to.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// `portico-webhook review`.
#[derive(Debug, Args)]
pub(crate) struct ReviewArgs {
    /// Files and folders of Kubernetes objects; services and namespaces are read. May repeat.
    #[arg(short, long = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The net from which a service in a manifest without an address gets one; once for each family.
    #[arg(long = "portal-net", value_name = "CIDR", default_value = "10.11.0.0/16")]
    pub(crate) portal_nets: Vec<IpNet>,
    /// How variables get into pods that do not say it with the annotation portico.dev/inject.
    #[arg(long, value_enum, default_value_t = ModeArg::Auto)]
    pub(crate) mode: ModeArg,
    /// The form of the answer.
    #[arg(short, long, value_enum, default_value_t = ReviewOutput::Text)]
    pub(crate) output: ReviewOutput,
}

/// The form of the answer to a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReviewOutput {
    /// For people.
    Text,
    /// The AdmissionReview that an API server would get.
    Json,
}

/// The server.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where the API server finds the path /mutate, over HTTPS.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    pub(crate) listen: SocketAddr,
    /// Where /metrics, /healthz and /readyz are served, over HTTP.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9478")]
    pub(crate) admin: SocketAddr,
    /// How variables get into pods that do not say it with the annotation portico.dev/inject.
    #[arg(long, value_enum, default_value_t = ModeArg::Auto)]
    pub(crate) mode: ModeArg,
    /// How long requests are still taken after SIGTERM, in seconds, while /readyz says no.
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds)]
    pub(crate) drain: Duration,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// The form of the log on standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// What the log holds: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) log_level: tracing::Level,
}

/// Where services come from.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// Files and folders of Kubernetes objects to watch; no API server is needed then. May repeat.
    #[arg(long, value_name = "DIR", num_args = 1.., conflicts_with = "kubeconfig")]
    pub(crate) manifests: Vec<PathBuf>,
    /// How to reach the API server; without it and without --manifests, the pod's own service account.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The net from which a service in a manifest without an address gets one; once for each family.
    #[arg(long = "portal-net", value_name = "CIDR", default_value = "10.11.0.0/16")]
    pub(crate) portal_nets: Vec<IpNet>,
}

/// The certificate.
#[derive(Debug, Args)]
pub(crate) struct TlsArgs {
    /// The certificate and what vouches for it, PEM; read again when it changes. Without it, an own authority.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Who vouches for that certificate, PEM: what is registered. Without it, what is registered stays.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Where to write the certificate of the own authority, for whoever registers by hand.
    #[arg(long, value_name = "FILE", conflicts_with = "tls_cert")]
    pub(crate) ca_out: Option<PathBuf>,
    /// Clients must have a certificate that one of these vouches for, PEM. Without it, anybody may ask.
    #[arg(long, value_name = "FILE")]
    pub(crate) client_ca: Option<PathBuf>,
    /// How long a certificate of the own authority lasts, in seconds; renewed at two thirds.
    #[arg(long, value_name = "S", default_value = "7776000", value_parser = seconds)]
    pub(crate) leaf_life: Duration,
    /// How long the own authority lasts, in seconds; renewed at two thirds.
    #[arg(long, value_name = "S", default_value = "31536000", value_parser = seconds)]
    pub(crate) ca_life: Duration,
}

/// What this program is and does in a cluster.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// How much of the MutatingWebhookConfiguration to keep right.
    #[arg(long, value_enum, default_value_t = RegisterArg::All)]
    pub(crate) register: RegisterArg,
    /// The name of the MutatingWebhookConfiguration, and the beginning of other names.
    #[arg(long, value_name = "NAME", default_value = "portico-webhook")]
    pub(crate) name: String,
    /// The namespace of the own service and Secret, whose pods are left alone.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "portico-system")]
    pub(crate) namespace: String,
    /// The service by which the API server reaches us.
    #[arg(long, value_name = "NAME", default_value = "portico-webhook")]
    pub(crate) service: String,
    /// A URL by which the API server reaches us instead, like https://127.0.0.1:8443/mutate.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Namespaces whose pods are left alone, with commas; the own one is always left alone, too.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "kube-system")]
    pub(crate) except_namespaces: Vec<String>,
    /// How many managed ConfigMaps a namespace may have. Those beyond are not made until there is room again.
    #[arg(long, value_name = "N", default_value_t = CONFIG_MAPS_OF_NAMESPACE_MAX)]
    pub(crate) config_maps_max: usize,
    /// How many bytes of variables the managed ConfigMaps of a namespace may hold together.
    #[arg(long, value_name = "BYTES", default_value_t = CONFIG_MAP_BYTES_OF_NAMESPACE_MAX)]
    pub(crate) config_map_bytes_max: usize,
    /// How long a managed ConfigMap is kept after the last pod that refers to it, in seconds.
    #[arg(long, value_name = "S", default_value = "600", value_parser = seconds)]
    pub(crate) config_map_grace: Duration,
}

/// How much of the MutatingWebhookConfiguration is the webhook's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RegisterArg {
    /// All of it: it is created, and repaired when it changes.
    All,
    /// Its caBundle; everything else is the installer's, as with the chart.
    CaBundle,
    /// Nothing: the installer knows who vouches for the certificate.
    None,
}

/// How variables get into pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// As entries before those of the container.
    Inline,
    /// As a managed ConfigMap before the sources of the container.
    #[value(name = "configmap")]
    ConfigMap,
    /// Inline where that is exact, by a ConfigMap where it is not and the pod has a controller.
    Auto,
}

impl ClusterArgs {
    /// The namespaces whose pods are left alone, in order.
    pub(crate) fn excepted(&self) -> BTreeSet<String> {
        self.except_namespaces
            .iter()
            .chain([&self.namespace])
            .filter(|name| !name.is_empty())
            .cloned()
            .collect()
    }
}

impl From<ModeArg> for InjectMode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Inline => Self::Inline,
            ModeArg::ConfigMap => Self::ConfigMap,
            ModeArg::Auto => Self::Auto,
        }
    }
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: u32 = text.parse().map_err(|_| format!("\"{text}\" is no whole number of seconds"))?;
    Ok(Duration::from_secs(number.into()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn the_reference_of_the_webhook_is_its_command_line() {
        let about = "Every command of `portico-webhook` and every flag. All take `--help`.";
        let body = xtask::reference::commands(CommandLine::command());
        expect_test::expect_file!["../../docs/reference/portico-webhook.md"]
            .assert_eq(&xtask::reference::page("portico-webhook", about, &body));
    }
}
