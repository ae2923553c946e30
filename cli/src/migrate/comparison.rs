//! Compares the connections from a node before and after a step.

use node_agent::{ConnectionReport, VerificationReport};

/// The service of the API server, which must always be reachable.
const KUBERNETES: &str = "default/kubernetes";

/// Why the node is not as before: connections that succeeded before and fail now, and on a node that is served by
/// Portico, connections that its table does not translate. Without `before`, only the API server must be reachable.
pub(super) fn regressions(before: Option<&VerificationReport>, after: &VerificationReport) -> Vec<String> {
    let mut problems: Vec<String> = after.problem.iter().cloned().collect();
    for connection in &after.connections {
        let ConnectionReport { service, portal, backend, error } = connection;
        if after.serving && backend.is_none() {
            problems.push(format!("{service} at {portal}: the node's table does not translate connections"));
        }
        let Some(error) = error else { continue };
        let same = before.into_iter().flat_map(|before| &before.connections).find(|c| c.portal == *portal);
        let was_reachable = match before {
            Some(_) => same.is_some_and(|connection| connection.error.is_none()),
            None => service == KUBERNETES,
        };
        if was_reachable {
            problems.push(format!("{service} at {portal} is not reachable any more: {error}"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(service: &str, backend: Option<&str>, error: Option<&str>) -> ConnectionReport {
        ConnectionReport {
            service: service.to_owned(),
            portal: format!("{service}:80"),
            backend: backend.map(str::to_owned),
            error: error.map(str::to_owned),
        }
    }

    fn verification(serving: bool, connections: &[ConnectionReport]) -> VerificationReport {
        VerificationReport { serving, connections: connections.to_vec(), ..VerificationReport::default() }
    }

    #[test]
    fn only_services_that_were_reachable_before_count() {
        let before = verification(
            false,
            &[connection("a", Some("b"), None), connection("down", Some("b"), Some("refused"))],
        );
        let failed =
            [connection("a", Some("b"), Some("timed out")), connection("down", Some("b"), Some("refused"))];
        let found = regressions(Some(&before), &verification(true, &failed));
        assert_eq!(found, ["a at a:80 is not reachable any more: timed out"]);
        let new = [connection("new", Some("b"), Some("refused"))];
        assert_eq!(regressions(Some(&before), &verification(true, &new)), [""; 0]);
    }

    #[test]
    fn untranslated_connection_is_a_regression_only_on_a_served_node() {
        let connections = [connection("a", None, None)];
        assert_eq!(regressions(None, &verification(false, &connections)), [""; 0]);
        assert_eq!(regressions(None, &verification(true, &connections)).len(), 1);
    }

    #[test]
    fn api_server_must_be_reachable_also_without_an_earlier_verification() {
        let failed =
            [connection(KUBERNETES, Some("b"), Some("refused")), connection("a", Some("b"), Some("refused"))];
        assert_eq!(regressions(None, &verification(true, &failed)).len(), 1);
    }
}
