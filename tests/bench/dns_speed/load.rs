//! The CPU time of a server for a name of the cluster, and the rate, while one client has a window of queries.

use std::time::{Duration, Instant};

use bench_report::{Sheet, Spread, Verdict};
use test_support::pod::Pod;

use super::node::{DNS, Servers};
use super::process::CpuTime;
use super::queries::{answered, connect};

const ROUND: Duration = Duration::from_secs(1);
/// The time in which a server fills its cache.
const WARM_UP: Duration = Duration::from_millis(300);

struct Subject<'a> {
    name: &'static str,
    pid: u32,
    pod: &'a Pod,
    address: String,
}

/// The figures of a server in each round: CPU time of a query in us, and thousands of queries a second. The kernel samples
/// the part in user space, so that is a figure of all rounds.
#[derive(Default)]
struct Figures {
    total: Vec<f64>,
    rate: Vec<f64>,
    user: f64,
    queries: f64,
}

pub(crate) fn measure(sheet: &Sheet, servers: &Servers, rounds: usize) {
    let address = |cluster_ip: &str| format!("{cluster_ip}:53");
    let own = Subject { name: "portico", pid: servers.agent.pid(), pod: &servers.pod, address: address(DNS) };
    let peers = servers.peers.iter().map(|peer| Subject {
        name: peer.name,
        pid: peer.process.id(),
        pod: &servers.peers_pod,
        address: address(peer.cluster_ip),
    });
    let subjects: Vec<Subject<'_>> = [own].into_iter().chain(peers).collect();
    let mut figures: Vec<Figures> = subjects.iter().map(|_| Figures::default()).collect();
    for subject in &subjects {
        let count = subject.pod.within(|| answered(&connect(&subject.address), &servers.queries, WARM_UP));
        assert!(count > 0, "{} answers", subject.name);
    }
    for _ in 0..rounds {
        for (subject, figures) in subjects.iter().zip(&mut figures) {
            round(subject, &servers.queries, figures);
        }
    }
    let spreads = |figures: Figures| {
        let user = Spread::one(figures.user / figures.queries);
        [Spread::of(figures.total), user, Spread::of(figures.rate)]
    };
    let spreads: Vec<[Spread; 3]> = figures.into_iter().map(spreads).collect();
    put(sheet, servers, &subjects, &spreads);
}

fn round(subject: &Subject<'_>, queries: &[Vec<u8>], figures: &mut Figures) {
    let (before, start) = (CpuTime::of(subject.pid), Instant::now());
    let count = subject.pod.within(|| answered(&connect(&subject.address), queries, ROUND)) as f64;
    let (used, took) = (CpuTime::of(subject.pid).since(before), start.elapsed());
    assert!(count > 0.0, "{} answers", subject.name);
    figures.total.push(used.total / count);
    figures.user += used.user;
    figures.queries += count;
    figures.rate.push(count / took.as_secs_f64() / 1e3);
}

fn put(sheet: &Sheet, servers: &Servers, subjects: &[Subject<'_>], spreads: &[[Spread; 3]]) {
    let [own, ..] = &spreads[0];
    let core_dns = servers.core_dns().map(|number| spreads[number + 1][0].median);
    let title = format!("CPU time of the server for a name, {} services", servers.services);
    let table = sheet.rows("cpu", &title, "us");
    for (number, (subject, [total, user, _])) in subjects.iter().zip(spreads).enumerate() {
        let of_core_dns = core_dns.map(|core_dns| Verdict::at_most("of CoreDNS", own.median / core_dns, 0.2));
        let user_target = Verdict::at_most("us", user.median, 1.0);
        let is_own = number == 0;
        table.put(row(subject, "").as_str(), total, of_core_dns.filter(|_| is_own).as_slice());
        table.put(row(subject, ", in user space").as_str(), user, is_own.then_some(user_target).as_slice());
    }
    let table = sheet.rows("rate", "queries of one client, 64 at a time", "thousands a second");
    for (subject, [.., rate]) in subjects.iter().zip(spreads) {
        table.put(row(subject, "").as_str(), rate, &[]);
    }
}

fn row(subject: &Subject<'_>, part: &str) -> String {
    let peer = if subject.name == "portico" { "" } else { "peer: " };
    format!("{peer}{}{part}", subject.name)
}
