//! Benchmark of reading manifests: 10,000 services with three endpoints each, as one YAML file of 20,000 documents and as
//! one JSON list.
//!
//! The objects have the form that `kubectl get -o yaml` prints, without managed fields.

use std::fmt::Write as _;
use std::path::Path;

use bench_report::{Rows, Sheet, Spread, Verdict, is_quick};
use kube_source::{Objects, ReadOptions, Report, Source, read};

fn main() {
    let title = format!("{0} Services and {0} EndpointSlices, from a file to checked objects", services());
    let sheet = Sheet::open("read");
    let table = sheet.rows("objects", &title, "s");
    yaml_documents(&table);
    json_list(&table);
}

const ENDPOINTS: u32 = 3;

fn services() -> u32 {
    if is_quick() { 500 } else { 10_000 }
}

fn yaml_documents(table: &Rows<'_>) {
    bench(table, "one YAML file of as many documents", 5, 3.0, |index| {
        format!("---\n{}---\n{}", service_yaml(index), slice_yaml(index))
    });
}

fn json_list(table: &Rows<'_>) {
    bench(table, "one JSON list", 10, 0.5, |index| {
        let head = if index == 0 { r#"{"apiVersion":"v1","kind":"List","items":["# } else { "," };
        let tail = if index + 1 == services() { "]}" } else { "" };
        format!("{head}{},\n{}{tail}\n", service_json(index), slice_json(index))
    });
}

fn bench(table: &Rows<'_>, name: &str, runs: usize, max_s: f64, objects: impl Fn(u32) -> String) {
    let file = std::env::temp_dir().join(format!("portico-bench-{}", std::process::id()));
    let text: String = (0..services()).map(objects).collect();
    std::fs::write(&file, &text).expect("write the file to read");
    let elapsed = Spread::timed(runs, 1.0, || (), |()| read_valid(&file));
    std::fs::remove_file(&file).expect("remove the file");
    let name = format!("{name}, {:.0} MB", text.len() as f64 / 1e6);
    table.put(&name, &elapsed, &[Verdict::at_most("s", elapsed.median, max_s)]);
}

fn read_valid(file: &Path) -> Objects {
    let (objects, report): (Objects, Report) =
        read(&[Source::Path(file.to_path_buf())], &ReadOptions::default());
    assert!(report.problems.is_empty(), "{}", report.problems[0]);
    assert_eq!(objects.services.len(), services() as usize);
    objects
}

fn address(first_octet: u8, index: u32) -> String {
    let [_, b, c, d] = index.to_be_bytes();
    format!("{first_octet}.{b}.{c}.{d}")
}

fn service_yaml(index: u32) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  creationTimestamp: \"2026-01-01T00:00:00Z\"\n  labels:\n    app: \
         svc-{index}\n  name: svc-{index}\n  namespace: ns-{ns}\n  resourceVersion: \"{index}\"\n  uid: \
         00000000-0000-0000-0000-{index:012}\nspec:\n  clusterIP: {ip}\n  clusterIPs:\n  - {ip}\n  \
         internalTrafficPolicy: Cluster\n  ipFamilies:\n  - IPv4\n  ipFamilyPolicy: SingleStack\n  ports:\n  - \
         name: http\n    port: 80\n    protocol: TCP\n    targetPort: 8080\n  selector:\n    app: svc-{index}\n  \
         sessionAffinity: None\n  type: ClusterIP\nstatus:\n  loadBalancer: {{}}\n",
        ns = index % 100,
        ip = address(172, index + 1),
    )
}

fn slice_yaml(index: u32) -> String {
    let mut text = String::from("addressType: IPv4\napiVersion: discovery.k8s.io/v1\nendpoints:\n");
    for number in 0..ENDPOINTS {
        let _ = write!(
            text,
            "- addresses:\n  - {}\n  conditions:\n    ready: true\n    serving: true\n    terminating: false\n  \
             nodeName: node-{}\n  targetRef:\n    kind: Pod\n    name: svc-{index}-{number}\n    namespace: ns-{}\n  \
             zone: zone-a\n",
            address(10, index * ENDPOINTS + number + 1),
            (index + number) % 100,
            index % 100,
        );
    }
    let _ = write!(
        text,
        "kind: EndpointSlice\nmetadata:\n  generateName: svc-{index}-\n  labels:\n    \
         kubernetes.io/service-name: svc-{index}\n  name: svc-{index}-abcde\n  namespace: ns-{}\nports:\n- name: \
         http\n  port: 8080\n  protocol: TCP\n",
        index % 100
    );
    text
}

fn service_json(index: u32) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"creationTimestamp":"2026-01-01T00:00:00Z","labels":{{"app":"svc-{index}"}},"name":"svc-{index}","namespace":"ns-{ns}","resourceVersion":"{index}","uid":"00000000-0000-0000-0000-{index:012}"}},"spec":{{"clusterIP":"{ip}","clusterIPs":["{ip}"],"internalTrafficPolicy":"Cluster","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","ports":[{{"name":"http","port":80,"protocol":"TCP","targetPort":8080}}],"selector":{{"app":"svc-{index}"}},"sessionAffinity":"None","type":"ClusterIP"}},"status":{{"loadBalancer":{{}}}}}}"#,
        ns = index % 100,
        ip = address(172, index + 1),
    )
}

fn slice_json(index: u32) -> String {
    let endpoints: Vec<String> = (0..ENDPOINTS)
        .map(|number| {
            format!(
                r#"{{"addresses":["{}"],"conditions":{{"ready":true,"serving":true,"terminating":false}},"nodeName":"node-{}","targetRef":{{"kind":"Pod","name":"svc-{index}-{number}","namespace":"ns-{}"}},"zone":"zone-a"}}"#,
                address(10, index * ENDPOINTS + number + 1),
                (index + number) % 100,
                index % 100,
            )
        })
        .collect();
    format!(
        r#"{{"addressType":"IPv4","apiVersion":"discovery.k8s.io/v1","endpoints":[{}],"kind":"EndpointSlice","metadata":{{"generateName":"svc-{index}-","labels":{{"kubernetes.io/service-name":"svc-{index}"}},"name":"svc-{index}-abcde","namespace":"ns-{}"}},"ports":[{{"name":"http","port":8080,"protocol":"TCP"}}]}}"#,
        endpoints.join(","),
        index % 100
    )
}
