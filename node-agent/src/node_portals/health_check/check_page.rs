//! The pages that load balancers and tools read, with the same bytes as kube-proxy's.
//!
//! Some tools search the text instead of parsing it, so the white space is kube-proxy's as well.

use std::time::SystemTime;

use daemon::{HeaderName, HeaderValue, Page, StatusCode};
use time::OffsetDateTime;

use super::check_table::HealthCheck;
use super::proxy_health::HealthStatus;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The weight of this node for a load balancer that distributes connections by the number of endpoints.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Returns the page of a service's health-check port.
pub(super) fn service_page(check: &HealthCheck, is_proxy_healthy: bool) -> Page {
    let HealthCheck { service, local_endpoints } = check;
    // Names are DNS labels, so they need no escapes.
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{}\",\n\t\t\"name\": \"{}\"\n\t}},\n\t\"localEndpoints\": \
         {local_endpoints},\n\t\"serviceProxyHealthy\": {is_proxy_healthy}\n}}",
        service.namespace, service.name
    );
    let page = Page::new(status_code(*local_endpoints > 0 && is_proxy_healthy), JSON, body);
    page.with_header(WEIGHT, HeaderValue::from(*local_endpoints))
}

/// Returns the page `/healthz`: whether load balancers can send connections to this node.
pub(super) fn healthz_page(status: HealthStatus, now: SystemTime) -> Page {
    let is_node_eligible = status.is_node_eligible;
    let is_healthy = status.is_healthy && is_node_eligible;
    let times = times(is_healthy, status, now);
    let body = format!("{{{times}, \"nodeEligible\": {is_node_eligible}}}");
    Page::new(status_code(is_healthy), JSON, body)
}

/// Returns the page `/livez`: whether the proxy works, whatever the state of the node.
pub(super) fn livez_page(status: HealthStatus, now: SystemTime) -> Page {
    let times = times(status.is_healthy, status, now);
    Page::new(status_code(status.is_healthy), JSON, format!("{{{times}}}"))
}

/// Returns the page `/proxyMode`, by which tools recognise the proxy's rules.
pub(super) fn proxy_mode_page() -> Page {
    Page::new(StatusCode::OK, HeaderValue::from_static("text/plain; charset=utf-8"), "nftables")
}

fn status_code(is_healthy: bool) -> StatusCode {
    if is_healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// The last update of a healthy proxy is now: clients of old kube-proxy versions, which updated the kernel periodically,
/// expect a recent time.
fn times(is_healthy: bool, status: HealthStatus, now: SystemTime) -> String {
    let updated_at = if is_healthy { Some(now) } else { status.updated_at };
    // The zero time of Go.
    let updated_at = updated_at.map_or_else(|| "0001-01-01 00:00:00 +0000 UTC".to_owned(), go_time);
    format!("\"lastUpdated\": \"{updated_at}\",\"currentTime\": \"{}\"", go_time(now))
}

/// Formats a time as Go's `Time.String` in UTC.
fn go_time(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second, nanosecond) = time.to_hms_nano();
    let fraction = match nanosecond {
        0 => String::new(),
        _ => format!(".{nanosecond:09}").trim_end_matches('0').to_owned(),
    };
    let month = u8::from(month);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}{fraction} +0000 UTC")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proxy_core::service::ServiceKey;

    use super::*;

    fn at(nanoseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds)
    }

    #[test]
    fn service_page_is_that_of_kube_proxy() {
        let check = HealthCheck { service: ServiceKey::new("shop", "web"), local_endpoints: 2 };
        let body = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\
                    \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
        let expected =
            Page::new(StatusCode::OK, JSON, body).with_header(WEIGHT, HeaderValue::from_static("2"));
        assert_eq!(service_page(&check, true), expected);
    }

    #[test]
    fn service_is_unavailable_without_local_endpoints_and_if_the_proxy_is_not_healthy() {
        for (local_endpoints, is_healthy, available) in
            [(0, true, false), (1, false, false), (0, false, false), (1, true, true)]
        {
            let check = HealthCheck { service: ServiceKey::new("shop", "web"), local_endpoints };
            assert_eq!(service_page(&check, is_healthy).status(), status_code(available), "{check:?}");
        }
    }

    #[test]
    fn healthz_depends_on_the_node_and_livez_does_not() {
        let now = at(1_795_824_000_120_000_000);
        let updated_at = Some(at(1_795_823_999_000_000_000));
        let leaving = HealthStatus { is_healthy: true, updated_at, is_node_eligible: false };
        let body = "{\"lastUpdated\": \"2026-11-27 23:59:59 +0000 UTC\",\"currentTime\": \"2026-11-28 \
                    00:00:00.12 +0000 UTC\", \"nodeEligible\": false}";
        assert_eq!(healthz_page(leaving, now), Page::new(StatusCode::SERVICE_UNAVAILABLE, JSON, body));
        let body = "{\"lastUpdated\": \"2026-11-28 00:00:00.12 +0000 UTC\",\"currentTime\": \"2026-11-28 \
                    00:00:00.12 +0000 UTC\"}";
        assert_eq!(livez_page(leaving, now), Page::new(StatusCode::OK, JSON, body));
    }

    #[test]
    fn proxy_that_never_updated_the_kernel_has_the_zero_time() {
        let late = HealthStatus { is_healthy: false, updated_at: None, is_node_eligible: true };
        let body = "{\"lastUpdated\": \"0001-01-01 00:00:00 +0000 UTC\",\"currentTime\": \"1970-01-01 \
                    00:00:00.000000001 +0000 UTC\"}";
        assert_eq!(livez_page(late, at(1)), Page::new(StatusCode::SERVICE_UNAVAILABLE, JSON, body));
    }
}
