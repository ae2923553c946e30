//! Explanations: the object and the rule of an answer.

use dns::{Client, Name, RecordType, Zone, ZoneConfig};
use proxy_core::portal::ServiceFilter;
use proxy_core::sample::{slice, svc};
use proxy_core::service::Service;

use crate::oracle::zone;

fn cluster() -> Zone {
    zone([
        svc("web").ip("10.96.0.1").tcp("http", 80).into(),
        svc("db").tcp("sql", 5432).into(),
        slice("db").tcp("sql", 5432).at("10.1.0.1").hostname("db-0").into(),
        svc("silent").into(),
        Service { external_name: Some("example.com".into()), ..svc("out") }.into(),
    ])
}

fn explain(zone: &Zone, client: &Client, name: &str, record_type: &str) -> String {
    let record_type = RecordType::parse(record_type).expect("a type");
    zone.explain(client, &Name::parse(name).expect("a name"), record_type).to_string()
}

#[test]
fn explanation_names_object_rule_and_records() {
    let explain = |name: &str, record_type: &str| explain(&cluster(), &Client::default(), name, record_type);
    assert_eq!(
        explain("web.default.svc.cluster.local", "A"),
        "NOERROR\nobject: service default/web\nrule: specification 2.3.1: the cluster addresses of a service\n\
         web.default.svc.cluster.local. 5 IN A 10.96.0.1\n"
    );
    assert_eq!(
        explain("db-0.db.default.svc.cluster.local", "A"),
        "NOERROR\nobject: service default/db, endpoint 10.1.0.1\n\
         rule: specification 2.4.1: the hostname of a ready endpoint\n\
         db-0.db.default.svc.cluster.local. 5 IN A 10.1.0.1\n"
    );
    assert_eq!(
        explain("_sql._tcp.db.default.svc.cluster.local", "SRV"),
        "NOERROR\nobject: service default/db\nrule: specification 2.4.2: a named port of ready endpoints\n\
         _sql._tcp.db.default.svc.cluster.local. 5 IN SRV 0 100 5432 db-0.db.default.svc.cluster.local.\n\
         db-0.db.default.svc.cluster.local. 5 IN A 10.1.0.1\n"
    );
}

#[test]
fn explanation_states_why_there_is_no_answer() {
    let zone = cluster();
    let rule = |client: &Client, name: &str| {
        let text = explain(&zone, client, name, "A");
        text.lines().find_map(|line| line.strip_prefix("rule: ")).unwrap().to_owned()
    };
    let all = Client::default();
    let none = Client { view: ServiceFilter::Only([].into_iter().collect()), ..Client::default() };
    assert_eq!(rule(&all, "no.default.svc.cluster.local"), "the service does not exist");
    assert_eq!(rule(&all, "web.no.svc.cluster.local"), "the namespace does not exist");
    let silent = "specification 2.4.1: the headless service has no ready endpoint";
    assert_eq!(rule(&all, "silent.default.svc.cluster.local"), silent);
    let hidden = "the annotation portico.dev/portals of the pod hides the service";
    assert_eq!(rule(&none, "web.default.svc.cluster.local"), hidden);
    assert_eq!(rule(&all, "example.com"), "the name is not in the zone");
}

#[test]
fn explanation_of_an_unanswered_question_names_what_is_forwarded() {
    let zone = cluster();
    let outcome = |zone: &Zone, name: &str| {
        let text = explain(zone, &Client::default(), name, "A");
        text.lines().next().unwrap().to_owned()
    };
    assert_eq!(outcome(&zone, "example.com"), "forwarded to an upstream");
    let alias = "alias; example.com. is forwarded to an upstream";
    assert_eq!(outcome(&zone, "out.default.svc.cluster.local"), alias);
    let unsynced = Zone::new(ZoneConfig::default());
    assert_eq!(outcome(&unsynced, "a.svc.cluster.local"), "SERVFAIL: the initial sync is not complete");
}
