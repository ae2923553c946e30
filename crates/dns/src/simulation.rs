//! A resolver with scripted upstreams and a simulated clock, for tests.
//!
//! Each query has its origin from a counter. The simulation executes the actions of the resolver: an upstream's script
//! decides which messages arrive for an exchange, and when. Invariants are asserted at each action: an exchange is
//! closed once, each query has at most one response, and hickory-proto can parse each response.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use proxy_core::sample::{slice, svc};
use proxy_core::service::Service;
use proxy_core::snapshot::{Change, Snapshot};

use crate::{
    Action, Client, ExchangeId, Handling, Origin, Resolver, ResolverOptions, SearchList, Source, Transport,
    Zone, ZoneConfig,
};

/// The DNS address that clients ask.
pub(crate) const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 10));

/// A query that an upstream receives.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) from: Source,
    pub(crate) upstream: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) message: Vec<u8>,
}

/// What arrives for an exchange: a message, or an error of the socket.
pub(crate) type Arrival = (Duration, Option<Vec<u8>>);

type Arriving = (ExchangeId, Option<Vec<u8>>);

/// Decides what arrives for a query.
pub(crate) type Script = Box<dyn FnMut(&Asked) -> Vec<Arrival>>;

/// The response to a query.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) after: Duration,
    pub(crate) message: Vec<u8>,
}

impl Answer {
    pub(crate) fn parsed(&self) -> Message {
        parse(&self.message)
    }

    pub(crate) fn rcode(&self) -> u8 {
        self.message[3] & 0x0f
    }

    /// Returns the type and the data of the answers, and the TTL of the first.
    pub(crate) fn records(&self) -> (Vec<String>, Option<u32>) {
        let answers = self.parsed().answers;
        let ttl = answers.first().map(|record| record.ttl);
        (answers.iter().map(|record| format!("{} {}", record.record_type(), record.data)).collect(), ttl)
    }
}

pub(crate) struct Simulation {
    pub(crate) resolver: Resolver,
    pub(crate) now: Instant,
    start: Instant,
    script: Script,
    arrivals: BTreeMap<(Instant, u64), Arriving>,
    open: HashMap<ExchangeId, Asked>,
    sent_at: HashMap<Origin, Instant>,
    pub(crate) answers: HashMap<Origin, Answer>,
    pub(crate) asked: Vec<Asked>,
    counter: u64,
    /// Whether upstreams send malformed data, which are relayed if only their type defines them.
    pub(crate) is_garbled: bool,
}

impl Simulation {
    pub(crate) fn new(options: ResolverOptions, script: Script) -> Self {
        let (mut resolver, now) = (Resolver::new(options, 7), Instant::now());
        resolver.set_zone(zone());
        let (arrivals, open, sent_at, answers) = Default::default();
        Self {
            resolver,
            now,
            start: now,
            script,
            arrivals,
            open,
            sent_at,
            answers,
            asked: Vec::new(),
            counter: 0,
            is_garbled: false,
        }
    }

    /// Replaces the upstreams.
    pub(crate) fn set_script(&mut self, script: Script) {
        self.script = script;
    }

    /// Sends a query.
    pub(crate) fn ask(&mut self, client: &Arc<Client>, transport: Transport, message: &[u8]) -> Origin {
        self.counter += 1;
        let origin = Origin(self.counter);
        let mut out = b"leftover".to_vec();
        self.sent_at.insert(origin, self.now);
        match self.resolver.query(self.now, client, SERVER, transport, origin, message, &mut out) {
            Handling::Respond(_) => self.respond(origin, out),
            Handling::Pending => {}
            Handling::Drop => drop(self.sent_at.remove(&origin)),
        }
        self.execute();
        origin
    }

    /// Sends a query, and waits for its response.
    pub(crate) fn resolve(&mut self, client: &Arc<Client>, name: &str, record_type: u16) -> Answer {
        let origin = self.ask(client, Transport::Udp, &query(name, record_type, None));
        self.wait(origin)
    }

    pub(crate) fn wait(&mut self, origin: Origin) -> Answer {
        while !self.answers.contains_key(&origin) {
            assert!(self.step(self.now + Duration::from_secs(60)), "{origin:?} has no response");
        }
        self.answers[&origin].clone()
    }

    /// Advances the clock.
    pub(crate) fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Advances the clock to the next event, at most until `end`. Returns whether there was one.
    pub(crate) fn step(&mut self, end: Instant) -> bool {
        let arrival = self.arrivals.keys().next().copied();
        let timer = self.resolver.deadline();
        let at = [arrival.map(|(at, _)| at), timer].into_iter().flatten().min();
        let Some(at) = at.filter(|at| *at <= end) else { return false };
        self.now = self.now.max(at);
        if let Some(key) = arrival.filter(|(arrival, _)| *arrival == at)
            && let Some((exchange, message)) = self.arrivals.remove(&key)
        {
            match message {
                Some(message) => self.resolver.receive(self.now, exchange, &message),
                None if self.open.contains_key(&exchange) => self.resolver.fail(self.now, exchange),
                None => {}
            }
        } else {
            self.resolver.tick(self.now);
        }
        self.execute();
        true
    }

    fn execute(&mut self) {
        loop {
            let actions: Vec<Action> = self.resolver.take_actions().collect();
            if actions.is_empty() {
                return;
            }
            actions.into_iter().for_each(|action| self.perform(action));
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Respond { origin, message, .. } => self.respond(origin, message),
            Action::Close { exchange } => {
                assert!(self.open.remove(&exchange).is_some(), "{exchange:?} is closed twice");
            }
            Action::Send { exchange, from, upstream, transport, message } => {
                let asked = Asked { from, upstream, transport, message };
                for (delay, message) in (self.script)(&asked) {
                    self.counter += 1;
                    self.arrivals.insert((self.now + delay, self.counter), (exchange, message));
                }
                self.asked.push(asked.clone());
                assert!(self.open.insert(exchange, asked).is_none(), "{exchange:?} is used twice");
            }
        }
    }

    fn respond(&mut self, origin: Origin, message: Vec<u8>) {
        let sent_at = self.sent_at.remove(&origin);
        let sent_at = sent_at.unwrap_or_else(|| panic!("{origin:?} has two responses, or none was due"));
        if !self.is_garbled {
            parse(&message);
        }
        let after = self.now - sent_at;
        assert!(after <= Duration::from_millis(4_500), "{origin:?} was answered after {after:?}");
        self.answers.insert(origin, Answer { after, message });
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Asserts that nothing remains of the queries after the time that they may take.
    pub(crate) fn assert_idle(&mut self) {
        self.advance(Duration::from_millis(4_500));
        assert!(self.sent_at.is_empty(), "{} queries have no response", self.sent_at.len());
        assert!(self.open.is_empty(), "{} exchanges are open", self.open.len());
        let usage = self.resolver.usage();
        assert_eq!((usage.pending, usage.lookups, usage.exchanges), (0, 0, 0));
        assert_eq!(self.resolver.deadline(), None);
    }
}

pub(crate) fn parse(message: &[u8]) -> Message {
    let mut decoder = BinDecoder::new(message);
    let parsed = Message::read(&mut decoder);
    let parsed = parsed.unwrap_or_else(|error| panic!("{error}: {message:02x?}"));
    assert_eq!(decoder.len(), 0, "bytes follow the message");
    parsed
}

fn external(name: &str, target: &str) -> Change {
    Change::Service(Service { external_name: Some(target.into()), ..svc(name) })
}

/// Returns a zone with a few services, and the cluster's DNS with two servers.
pub(crate) fn zone() -> Zone {
    let dns = svc("kube-dns").namespace("kube-system").ip("10.96.0.10").udp("dns", 53);
    let mut servers = slice("kube-dns").udp("dns", 53);
    servers.service.namespace = "kube-system".into();
    let snapshot: Snapshot = [
        Change::Service(svc("web").ip("10.96.0.1").tcp("http", 80)),
        Change::Service(svc("api").namespace("other").ip("10.96.0.2").tcp("http", 80)),
        Change::Service(dns),
        Change::Slice(servers.at("10.1.0.2").at("10.1.0.3")),
        external("ext", "target.example"),
        external("missing", "missing.example"),
        external("inside", "web.default.svc.cluster.local"),
    ]
    .into_iter()
    .collect();
    let mut zone = Zone::new(ZoneConfig::default());
    zone.refresh(&snapshot, None);
    zone
}

/// Returns a pod of the namespace `default` with the search list that the kubelet writes on a node with one domain.
pub(crate) fn pod(id: u64) -> Arc<Client> {
    let searches = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"];
    let search = SearchList::new(&searches.map(str::to_owned), &["ndots:5".to_owned()]);
    Arc::new(Client { id, namespace: "default".into(), search, ..Client::default() })
}

pub(crate) fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    labels
        .flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat())
        .chain([0])
        .collect()
}

/// Returns a query with the id 0x1234.
pub(crate) fn query(text: &str, record_type: u16, edns_bytes: Option<u16>) -> Vec<u8> {
    let mut message = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    message.extend_from_slice(&name(text));
    message.extend_from_slice(&record_type.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    if let Some(bytes) = edns_bytes {
        message[11] = 1;
        message.extend_from_slice(&[0, 0, 41]);
        message.extend_from_slice(&bytes.to_be_bytes());
        message.extend_from_slice(&[0; 6]);
    }
    message
}

/// Returns the response to a query, with answers for the name of the question, and an SOA record with this minimum.
pub(crate) fn reply(query: &[u8], rcode: u8, answers: &[(u16, u32, &[u8])], soa: Option<u32>) -> Vec<u8> {
    let question_end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let mut message = query[..question_end].to_vec();
    (message[2], message[3]) = (0x80 | query[2] & 1, 0x80 | rcode);
    let counts = [u16::try_from(answers.len()).unwrap(), u16::from(soa.is_some()), 0];
    message[6..12].copy_from_slice(&counts.map(u16::to_be_bytes).concat());
    for (record_type, ttl, data) in answers {
        message.extend_from_slice(
            &[&[0xc0, 0x0c], &record_type.to_be_bytes()[..], &[0, 1], &ttl.to_be_bytes()].concat(),
        );
        message.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
        message.extend_from_slice(data);
    }
    if let Some(minimum) = soa {
        message.extend_from_slice(b"\0\0\x06\0\x01\0\0\x0e\x10\0\x16\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0");
        message.extend_from_slice(&minimum.to_be_bytes());
    }
    if query[11] == 1 {
        message[11] = 1;
        message.extend_from_slice(&query[question_end..]);
    }
    message
}

/// Changes, inserts or removes a few bytes.
pub(crate) fn mutate(rng: &mut fastrand::Rng, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(0..=message.len());
        match rng.u32(0..5) {
            0 => message.truncate(at),
            1 => message.insert(at, rng.u8(..)),
            2 => message.get_mut(at).into_iter().for_each(|byte| *byte = 0xc0),
            3 => message.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << rng.u32(0..8)),
            _ => message.get_mut(at).into_iter().for_each(|byte| *byte = rng.u8(..)),
        }
    }
    message
}
