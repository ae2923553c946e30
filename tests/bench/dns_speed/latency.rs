//! The latency of a name of the cluster in a pod, one query at a time, with client and server on one CPU.

use bench_report::{Sheet, Spread, Verdict};
use nix::sched::CpuSet;
use test_support::pod::Pod;

use super::node::{DNS, Servers};
use super::process::{last_of, own_cpus, pin_process, pin_thread};
use super::queries::{connect, exchange_times};

/// The queries before each turn, which are not measured.
const WARM_UP: usize = 50;

/// A server and its CPUs. None: it stays where it is.
struct Subject<'a> {
    name: String,
    pid: Option<u32>,
    pod: &'a Pod,
    cluster_ip: &'static str,
    cpus: CpuSet,
}

pub(crate) fn measure(sheet: &Sheet, servers: &Servers, rounds: usize, exchanges: usize) {
    let all = own_cpus();
    let one = last_of(&all);
    let subjects = subjects(servers, all, one);
    let mut samples: Vec<Vec<f64>> = subjects.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (subject, samples) in subjects.iter().zip(&mut samples) {
            samples.extend(turn(subject, &servers.queries, one, exchanges));
        }
    }
    let took: Vec<Spread> = samples.into_iter().map(Spread::of).collect();
    let core_dns = subjects.iter().zip(&took).filter(|(subject, _)| subject.name.contains("CoreDNS"));
    let core_dns = core_dns.map(|(_, took)| took.median).min_by(f64::total_cmp);
    let table = sheet.rows("latency", "one query at a time, client and server on one CPU", "us");
    for (number, (subject, spread)) in subjects.iter().zip(&took).enumerate() {
        let of_echo = Verdict::at_most("p50, us over the echo", took[1].median - took[0].median, 5.0);
        let of_core_dns =
            core_dns.map(|theirs| Verdict::at_most("of CoreDNS", took[1].median / theirs, 0.333));
        let targets: Vec<Verdict> = if number == 1 {
            [Some(of_echo), of_core_dns].into_iter().flatten().collect()
        } else {
            Vec::new()
        };
        table.put(&subject.name, spread, &targets);
    }
}

fn subjects(servers: &Servers, all: CpuSet, one: CpuSet) -> Vec<Subject<'_>> {
    let echo = Subject {
        name: "an echo behind the same rules".to_owned(),
        pid: None,
        pod: &servers.echo_pod,
        cluster_ip: DNS,
        cpus: one,
    };
    let own = Subject {
        name: "portico".to_owned(),
        pid: Some(servers.agent.pid()),
        pod: &servers.pod,
        cluster_ip: DNS,
        cpus: one,
    };
    let mut subjects = vec![echo, own];
    for peer in &servers.peers {
        let on = |cpus, suffix| Subject {
            name: format!("peer: {} through a portal{suffix}", peer.name),
            pid: Some(peer.process.id()),
            pod: &servers.peers_pod,
            cluster_ip: peer.cluster_ip,
            cpus,
        };
        subjects.push(on(one, ""));
        if peer.cluster_ip == DNS {
            subjects.push(on(all, ", on all CPUs"));
        }
    }
    subjects
}

fn turn(subject: &Subject<'_>, queries: &[Vec<u8>], one: CpuSet, exchanges: usize) -> Vec<f64> {
    let all = own_cpus();
    if let Some(pid) = subject.pid {
        pin_process(pid, &subject.cpus);
    }
    let address = format!("{}:53", subject.cluster_ip);
    let times = subject.pod.within(|| {
        pin_thread(&one);
        let socket = connect(&address);
        exchange_times(&socket, queries, WARM_UP);
        let times = exchange_times(&socket, queries, exchanges);
        pin_thread(&all);
        times
    });
    if let Some(pid) = subject.pid {
        pin_process(pid, &all);
    }
    times
}
