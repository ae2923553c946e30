//! Network namespaces for tests, and their contents.
//!
//! The body of a test runs on a thread that first enters a new network namespace, so everything that it opens or starts
//! is in that namespace. The namespace is deleted when the thread ends.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

/// The timeout until the kernel has a route for a new address, which takes about a millisecond.
const ROUTED: Duration = Duration::from_secs(10);

/// Runs `body` in a new network namespace with the loopback device up and default routes.
pub fn in_routed_netns<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        add_address("10.200.0.1");
        add_address("2001:db8:200::1");
        run("ip", &["route", "add", "default", "dev", "lo", "src", "10.200.0.1"], "");
        run("ip", &["-6", "route", "add", "default", "dev", "lo", "src", "2001:db8:200::1"], "");
        body()
    })
}

/// Runs `body` in a new network namespace as the kernel creates it.
pub fn in_new_netns<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("a new network namespace: start with scripts/netns-test");
            body()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Adds an address to the loopback device of this namespace.
pub fn add_address(address: &str) {
    let length = if address.contains(':') { 128 } else { 32 };
    add_address_to("lo", &format!("{address}/{length}"));
}

/// Adds an address to a device of this namespace.
pub fn add_address_to(device: &str, address: &str) {
    let add = ["address", "add", address, "dev", device];
    if !address.contains(':') {
        run("ip", &add, "");
        return;
    }
    // `nodad` makes the address usable at once, without duplicate address detection. But the kernel adds its route a
    // little later, and packets that are sent until then are lost.
    run("ip", &[&add[..], &["nodad"]].concat(), "");
    let (own, _) = address.split_once('/').expect("a length");
    let start = Instant::now();
    while run("ip", &["-6", "route", "show", "table", "local", own], "").is_empty() {
        assert!(start.elapsed() < ROUTED, "{address} gets no route");
    }
}

/// Loads a text with nft.
pub fn load(text: &str) {
    run("nft", &["-f", "-"], text);
}

/// Returns the ruleset as nft lists it, with one entry per element, rule and declaration. The entries are sorted, since
/// the kernel keeps no order.
pub fn listing() -> BTreeSet<String> {
    let text = run("nft", &["list", "ruleset"], "");
    let (mut entries, mut block, mut elements) = (BTreeSet::new(), String::new(), String::new());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if elements.is_empty() && !line.starts_with("elements = {") {
            match line.strip_suffix(" {") {
                Some(name) => name.clone_into(&mut block),
                None => drop(entries.insert(format!("{block}: {line}"))),
            }
            continue;
        }
        elements.push_str(line);
        if let Some(inner) = elements.strip_prefix("elements = {").and_then(|rest| rest.strip_suffix('}')) {
            entries.extend(inner.split(',').map(|element| format!("{block}: {}", element.trim())));
            elements.clear();
        }
    }
    entries
}

/// Runs a command with this input, and returns its standard output. Panics with the standard error if it fails.
pub fn run(program: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|why| panic!("start {program}: {why}; scripts/setup installs it"));
    let mut stdin = child.stdin.take().expect("piped above");
    let input = input.to_owned();
    // In a thread, because the command may write before it has read all input.
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let Output { status, stdout, stderr } = child.wait_with_output().expect("wait for the command");
    let written = writer.join().expect("the writer does not panic");
    assert!(status.success(), "{program} {args:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    written.expect("write the input");
    String::from_utf8_lossy(&stdout).into_owned()
}
