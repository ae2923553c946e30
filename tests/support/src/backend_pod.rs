//! A pod that contains backends, so that a test of the agent needs no other network namespace.

use crate::backend_server::serve;
use crate::namespace::run;
use crate::pod::Pod;

/// A pod with backends a and b at port 8080, and a default route.
pub fn pod_with_backends() -> Pod {
    let pod = Pod::new();
    pod.within(|| {
        serve("a", "10.1.0.1:8080");
        serve("b", "10.1.0.2:8080");
        run("ip", &["route", "add", "default", "dev", "lo"], "");
    });
    pod
}
