//! Services and their endpoints as manifests for an agent.

/// The annotation of a service in relay mode.
pub const RELAYED: &str = r#""portico.dev/mode":"relay""#;

/// A service of this name and address, port 80, TCP and UDP, with these annotations and backends at port 8080.
pub fn service(name: &str, address: &str, annotations: &str, backends: &[&str]) -> String {
    let endpoints: Vec<String> = backends.iter().map(|ip| format!(r#"{{"addresses":["{ip}"]}}"#)).collect();
    format!(
        r#"{{"apiVersion":"v1","kind":"List","items":[
        {{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{name}","annotations":{{{annotations}}}}},
          "spec":{{"clusterIP":"{address}","ports":[{{"name":"t","port":80}},{{"name":"u","port":80,"protocol":"UDP"}}]}}}},
        {{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
          "metadata":{{"name":"{name}-1","labels":{{"kubernetes.io/service-name":"{name}"}}}},
          "ports":[{{"name":"t","port":8080}},{{"name":"u","port":8080,"protocol":"UDP"}}],"endpoints":[{}]}}]}}"#,
        endpoints.join(",")
    )
}

/// A service `web` at 10.96.0.1, port 80, with these backends at port 8080.
pub fn web_manifest(backends: &[&str]) -> String {
    let endpoints: Vec<String> = backends.iter().map(|ip| format!(r#"{{"addresses":["{ip}"]}}"#)).collect();
    format!(
        r#"{{"apiVersion":"v1","kind":"List","items":[
        {{"apiVersion":"v1","kind":"Service","metadata":{{"name":"web"}},
          "spec":{{"clusterIP":"10.96.0.1","ports":[{{"port":80}}]}}}},
        {{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
          "metadata":{{"name":"web-1","labels":{{"kubernetes.io/service-name":"web"}}}},
          "ports":[{{"name":"","port":8080}}],"endpoints":[{}]}}]}}"#,
        endpoints.join(",")
    )
}
