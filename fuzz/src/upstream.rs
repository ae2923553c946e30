//! The DNS resolver with upstreams that do anything.
//!
//! An input is a list of operations: a client asks, a message or an error arrives for an exchange, time passes. A
//! message is arbitrary, or a right response with a few changed bytes, so that few bytes of input reach deep into the
//! resolver.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dns::{
    Action, Client, ExchangeId, Handling, Name, Origin, Query, RecordType, Resolver, ResolverOptions,
    SearchList, Transport, Zone, ZoneConfig, encode_query,
};
use proxy_core::snapshot::Snapshot;

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
/// An existing service, a walk of a search list, and names of upstreams.
const NAMES: [&str; 4] =
    ["dns.default.svc.cluster.local", "a.io.default.svc.cluster.local", "a.io", "b.example"];
/// The time within which each query has a response.
const RESPONSE_TIME: Duration = Duration::from_millis(4_500);

/// The state of a run.
struct Run {
    resolver: Resolver,
    clients: [Arc<Client>; 2],
    now: Instant,
    open: BTreeMap<ExchangeId, Vec<u8>>,
    /// The queries without a response, and their clients.
    pending: BTreeMap<u64, usize>,
    closed: BTreeSet<ExchangeId>,
    next_origin: u64,
}

/// The rest of the input.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Executes the operations of an input.
pub fn check(bytes: &[u8]) {
    let mut zone = Zone::new(ZoneConfig::default());
    zone.refresh(&Snapshot::new(), None);
    let mut resolver = Resolver::new(ResolverOptions::default(), 1);
    resolver.set_zone(zone);
    let searches = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.io"];
    let search = SearchList::new(&searches.map(str::to_owned), &["ndots:5".to_owned()]);
    let clients = [1, 2].map(|id| {
        Arc::new(Client { id, namespace: "default".into(), search: search.clone(), ..Client::default() })
    });
    let (open, pending, closed) = Default::default();
    let mut run = Run { resolver, clients, now: Instant::now(), open, pending, closed, next_origin: 0 };
    let mut input = Input(bytes);
    while run.operate(&mut input).is_some() {
        run.execute();
    }
    run.finish();
}

impl Run {
    /// Executes one operation. None: the input has ended.
    fn operate(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.byte()? % 8 {
            0 | 1 => {
                let choice = usize::from(input.byte()?);
                let name = Name::parse(NAMES[choice % NAMES.len()])?;
                let record_type = [RecordType::A, RecordType::AAAA, RecordType::TXT][choice / 4 % 3];
                let mut message = encode_query(0x1234, &name, record_type);
                if choice & 0x80 != 0 {
                    message[11] = 1;
                    message.extend_from_slice(&[0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
                }
                self.ask(choice / 64 % 2, &message);
            }
            2 => {
                let len = usize::from(input.byte()?);
                self.ask(0, input.bytes(len));
            }
            3 => {
                let exchange = self.exchange(input.byte()?)?;
                let len = usize::from(input.byte()?);
                self.resolver.receive(self.now, exchange, input.bytes(len));
            }
            4 | 5 => {
                let exchange = self.exchange(input.byte()?)?;
                let message = self.changed_response(exchange, input)?;
                self.resolver.receive(self.now, exchange, &message);
            }
            6 => {
                let exchange = self.exchange(input.byte()?)?;
                self.resolver.fail(self.now, exchange);
            }
            _ => {
                let time = input.byte()?;
                if time == 0 {
                    self.remove_client(0);
                }
                self.now += Duration::from_millis(u64::from(time) * 10);
                self.resolver.tick(self.now);
            }
        }
        Some(())
    }

    /// Returns one of the open exchanges, or one that never was.
    fn exchange(&self, choice: u8) -> Option<ExchangeId> {
        let number = usize::from(choice).checked_rem(self.open.len() + 1)?;
        Some(self.open.keys().nth(number).copied().unwrap_or(ExchangeId(u64::MAX)))
    }

    /// Returns a right response with changed bytes. Each change has two bytes: the position and the value.
    fn changed_response(&self, exchange: ExchangeId, input: &mut Input<'_>) -> Option<Vec<u8>> {
        let mut message = self.open.get(&exchange).cloned().unwrap_or_else(|| vec![0; 12]);
        message[2] |= 0x80;
        let kind = input.byte()?;
        message[3] = 0x80 | kind & 3;
        if kind & 4 != 0 && message[11] == 0 {
            message[7] = 1;
            message.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\xc0\0\x02\x01");
        }
        for _ in 0..kind >> 5 {
            let (at, value) = (usize::from(input.byte()?), input.byte()?);
            message.get_mut(at).into_iter().for_each(|byte| *byte = value);
        }
        Some(message)
    }

    fn ask(&mut self, client: usize, message: &[u8]) {
        let (origin, mut out) = (self.next_origin, Vec::new());
        self.next_origin += 1;
        let client_ref = &self.clients[client];
        let transport = if origin.is_multiple_of(5) { Transport::Tcp } else { Transport::Udp };
        self.pending.insert(origin, client);
        match self.resolver.query(self.now, client_ref, SERVER, transport, Origin(origin), message, &mut out)
        {
            Handling::Respond(_) => {
                assert_eq!(out[..2], message[..2], "the response has the id of the query");
                if let Ok(query) = Query::parse(message) {
                    let question = &query.header_and_question()[12..];
                    assert!(out[12..].starts_with(question), "the response has the question of the query");
                    assert!(out.len() <= query.response_bytes_max(transport), "the response fits");
                }
                self.pending.remove(&origin);
            }
            Handling::Drop => drop(self.pending.remove(&origin)),
            Handling::Pending => {}
        }
    }

    fn remove_client(&mut self, client: usize) {
        self.resolver.remove_client(self.clients[client].id);
        self.pending.retain(|_, of| *of != client);
    }

    fn execute(&mut self) {
        for action in self.resolver.take_actions() {
            match action {
                Action::Send { exchange, message, .. } => {
                    assert!(!self.closed.contains(&exchange), "ids of exchanges are not reused");
                    self.open.insert(exchange, message);
                }
                Action::Close { exchange } => {
                    assert!(self.open.remove(&exchange).is_some(), "an exchange is closed once");
                    self.closed.insert(exchange);
                }
                Action::Respond { origin, message, .. } => {
                    assert!(message.len() >= 12, "a response has a header");
                    assert!(self.pending.remove(&origin.0).is_some(), "a query has one response");
                }
            }
        }
    }

    /// Lets time pass, and asserts that each query has a response and nothing remains.
    fn finish(&mut self) {
        self.execute();
        let end = self.now + RESPONSE_TIME;
        while let Some(at) = self.resolver.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.resolver.tick(self.now);
            self.execute();
        }
        let usage = self.resolver.usage();
        assert_eq!((usage.pending, usage.lookups, usage.exchanges), (0, 0, 0), "nothing remains");
        assert!(self.pending.is_empty(), "each query has a response");
        assert!(self.open.is_empty(), "each exchange is closed");
    }
}
