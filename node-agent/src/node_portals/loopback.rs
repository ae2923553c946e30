//! Node ports at 127.0.0.1 and ::1, which rules cannot serve without opening the loopback addresses to the network.
//!
//! A listener of the relay serves them: the table redirects connections of the node to it. Until it listens, there is no
//! such rule, so another process that has its port gets no connections of services.

use std::time::Duration;

use relay::Relay;
use support::Backoff;
use tokio::time::sleep;

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Makes the relay listen at the loopback addresses. Returns as soon as it does.
pub(crate) async fn open_loopback(relay: &Relay, port: u16) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    while let Err(error) = relay.open_node(port) {
        let delay = backoff.next_delay();
        let retry_in_ms = delay.as_millis();
        tracing::warn!(port, %error, retry_in_ms, "failed to listen for node ports on loopback; will retry");
        sleep(delay).await;
    }
}
