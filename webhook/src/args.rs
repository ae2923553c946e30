//! The command line of `portico-webhook`. The doc comment of a flag is also its help.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use daemon::LogFormat;
use ipnet::IpNet;
use proxy_core::admission::InjectMode;
use proxy_core::portal::{ExternalKinds, ExternalPolicy, PortalLimits};

/// The default maximum number of managed ConfigMaps per namespace.
const CONFIG_MAPS_OF_NAMESPACE_MAX: usize = 100;
/// The default maximum size of the managed ConfigMaps of a namespace.
const CONFIG_MAP_BYTES_OF_NAMESPACE_MAX: usize = 16 << 20;

/// Mutating admission webhook that injects service environment variables into pods.
#[derive(Debug, Parser)]
#[command(name = "portico-webhook", version, args_conflicts_with_subcommands = true)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

/// Commands other than the server.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Process one AdmissionReview from standard input and show what would be injected.
    Review(ReviewArgs),
    /// Print shell completions.
    Completions {
        /// Shell to print completions for.
        shell: Shell,
    },
    /// Write manual pages, one per command.
    Man {
        /// Directory for the pages.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// `portico-webhook review`.
#[derive(Debug, Args)]
pub(crate) struct ReviewArgs {
    /// Manifest file or directory with services and namespaces. Repeatable.
    #[arg(short, long = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// CIDR from which to assign cluster IPs to manifest services that lack one (one per IP family).
    #[arg(long = "portal-net", value_name = "CIDR", default_value = "10.11.0.0/16")]
    pub(crate) portal_nets: Vec<IpNet>,
    /// Default injection mode for pods without a portico.dev/inject annotation.
    #[arg(long, value_enum, default_value_t = ModeArg::Auto)]
    pub(crate) mode: ModeArg,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = ReviewOutput::Text)]
    pub(crate) output: ReviewOutput,
}

/// The output format of a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReviewOutput {
    /// Human-readable text.
    Text,
    /// The AdmissionReview response, as JSON.
    Json,
}

/// `portico-webhook`: the server.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// HTTPS listen address for /mutate.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    pub(crate) listen: SocketAddr,
    /// HTTP listen address for /metrics, /healthz and /readyz.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9478")]
    pub(crate) admin: SocketAddr,
    /// Default injection mode for pods without a portico.dev/inject annotation.
    #[arg(long, value_enum, default_value_t = ModeArg::Auto)]
    pub(crate) mode: ModeArg,
    /// Seconds to keep accepting requests after SIGTERM, with /readyz failing.
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds)]
    pub(crate) drain: Duration,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Log format.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Log level: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) log_level: tracing::Level,
}

/// The source of services.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// Watch these manifest files or directories instead of an API server. Repeatable.
    #[arg(long, value_name = "DIR", num_args = 1.., conflicts_with = "kubeconfig")]
    pub(crate) manifests: Vec<PathBuf>,
    /// Path to a kubeconfig (default: in-cluster service account).
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// CIDR from which to assign cluster IPs to manifest services that lack one (one per IP family).
    #[arg(long = "portal-net", value_name = "CIDR", default_value = "10.11.0.0/16")]
    pub(crate) portal_nets: Vec<IpNet>,
}

/// The serving certificate.
#[derive(Debug, Args)]
pub(crate) struct TlsArgs {
    /// Serving certificate chain (PEM), reloaded on change (default: self-managed CA).
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// CA bundle (PEM) to put into the webhook configuration (default: leave it unchanged).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Write the self-managed CA certificate to this file.
    #[arg(long, value_name = "FILE", conflicts_with = "tls_cert")]
    pub(crate) ca_out: Option<PathBuf>,
    /// Require client certificates signed by one of these CAs (PEM) (default: no client authentication).
    #[arg(long, value_name = "FILE")]
    pub(crate) client_ca: Option<PathBuf>,
    /// Lifetime of serving certificates of the self-managed CA, in seconds; renewed after two thirds.
    #[arg(long, value_name = "S", default_value = "7776000", value_parser = seconds)]
    pub(crate) leaf_life: Duration,
    /// Lifetime of the self-managed CA, in seconds; renewed after two thirds.
    #[arg(long, value_name = "S", default_value = "31536000", value_parser = seconds)]
    pub(crate) ca_life: Duration,
}

/// The webhook's place in a cluster, and its controller.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Which part of the MutatingWebhookConfiguration to manage.
    #[arg(long, value_enum, default_value_t = RegisterArg::All)]
    pub(crate) register: RegisterArg,
    /// Name of the MutatingWebhookConfiguration, and prefix of the Secret's name.
    #[arg(long, value_name = "NAME", default_value = "portico-webhook")]
    pub(crate) name: String,
    /// Namespace of the webhook's Service and Secret; its pods are never mutated.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "portico-system")]
    pub(crate) namespace: String,
    /// Service name in the webhook configuration.
    #[arg(long, value_name = "NAME", default_value = "portico-webhook")]
    pub(crate) service: String,
    /// URL in the webhook configuration, instead of a service, such as https://127.0.0.1:8443/mutate.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Comma-separated namespaces whose pods are never mutated, in addition to --namespace.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "kube-system")]
    pub(crate) except_namespaces: Vec<String>,
    /// Maximum number of managed ConfigMaps per namespace; more are created once others are deleted.
    #[arg(long, value_name = "N", default_value_t = CONFIG_MAPS_OF_NAMESPACE_MAX)]
    pub(crate) config_maps_max: usize,
    /// Maximum size of the variables in the managed ConfigMaps of a namespace, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = CONFIG_MAP_BYTES_OF_NAMESPACE_MAX)]
    pub(crate) config_map_bytes_max: usize,
    /// Seconds to keep a managed ConfigMap after the last pod that references it.
    #[arg(long, value_name = "S", default_value = "600", value_parser = seconds)]
    pub(crate) config_map_grace: Duration,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

/// The limits that the agents apply to services: the webhook writes an Event on a service that exceeds them.
#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// --external-addresses of the agents; a service that asks for others gets an Event.
    #[arg(long, value_enum, default_value_t = ExternalArg::LoadBalancer)]
    pub(crate) external_addresses: ExternalArg,
    /// --external-cidrs of the agents (default: any).
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) external_cidrs: Vec<IpNet>,
    /// --service-portals-max of the agents.
    #[arg(long, value_name = "NUMBER", default_value_t = PortalLimits::STANDARD.service_portals)]
    pub(crate) service_portals_max: usize,
    /// --namespace-elements-max of the agents.
    #[arg(long, value_name = "NUMBER", default_value_t = PortalLimits::STANDARD.namespace_elements)]
    pub(crate) namespace_elements_max: usize,
}

/// The external addresses that become portals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExternalArg {
    /// No external addresses.
    None,
    /// Addresses in the status of services.
    LoadBalancer,
    /// Addresses in the status and in the spec of services.
    All,
}

/// The part of the MutatingWebhookConfiguration that the webhook manages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RegisterArg {
    /// The whole object: it is created, and restored after changes.
    All,
    /// Only caBundle; the chart manages everything else.
    CaBundle,
    /// Nothing: the object and caBundle are managed externally.
    None,
}

/// How variables are injected into pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// Prepend to `env`.
    Inline,
    /// Prepend a managed ConfigMap to `envFrom`.
    #[value(name = "configmap")]
    ConfigMap,
    /// Inline if the result is exact or the pod has no controller, otherwise a ConfigMap.
    Auto,
}

impl ClusterArgs {
    /// The namespaces whose pods are never mutated.
    pub(crate) fn excepted(&self) -> BTreeSet<String> {
        self.except_namespaces
            .iter()
            .chain([&self.namespace])
            .filter(|name| !name.is_empty())
            .cloned()
            .collect()
    }
}

impl LimitArgs {
    /// The rule that selects external addresses.
    pub(crate) fn external(&self) -> ExternalPolicy {
        let kinds = match self.external_addresses {
            ExternalArg::None => ExternalKinds::None,
            ExternalArg::LoadBalancer => ExternalKinds::LoadBalancer,
            ExternalArg::All => ExternalKinds::All,
        };
        ExternalPolicy { kinds, cidrs: self.external_cidrs.as_slice().into() }
    }

    /// The limits of portals and table elements.
    pub(crate) fn limits(&self) -> PortalLimits {
        let (service_portals, namespace_elements) = (self.service_portals_max, self.namespace_elements_max);
        PortalLimits { service_portals, namespace_elements, ..PortalLimits::STANDARD }
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

fn seconds(text: &str) -> Result<Duration, String> {
    let number: u32 = text.parse().map_err(|_| format!("\"{text}\" is not a whole number of seconds"))?;
    Ok(Duration::from_secs(number.into()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_valid() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn reference_of_the_webhook_matches_its_command_line() {
        let about = "Every command of `portico-webhook` and every flag. All take `--help`.";
        let body = xtask::reference::commands(CommandLine::command());
        expect_test::expect_file!["../../docs/reference/portico-webhook.md"]
            .assert_eq(&xtask::reference::page("portico-webhook", about, &body));
    }
}
