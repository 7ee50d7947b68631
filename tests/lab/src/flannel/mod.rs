//! The stand-in for flanneld (kube subnet manager, VXLAN backend, IPv4 or dual stack), and for the init containers of its DaemonSet.
//!
//! How the real one behaves, and therefore this one:
//! - It heals while it runs: iptables rules every `--iptables-resync` seconds (the whole set deleted and appended again if one is missing);
//!   from v0.27.4 a deleted device is created again with its address and MAC, but without routes, ARP and FDB entries.
//! - It cleans up nothing on exit: device, routes, ARP, FDB, subnet.env, annotations and the Node condition stay. Only v0.25.0 to v0.26.7 remove
//!   their iptables rules on SIGTERM, one second later, and leave the chains empty.
//! - A peer whose annotations are removed is not withdrawn; only the deletion of its Node object is, and only with the annotations still on it.
//! - It reuses a device that fits (whatever its MAC, which it then publishes) and recreates one that does not. A foreign device with the same VNI and port makes it fail.
//! - NetworkUnavailable=False with reason FlannelIsUp is written once, after subnet.env exists, and never taken back.
//! - In dual stack a second device, flannel-v6.<VNI>, tunnels IPv6 in IPv6, with the same VNI and port; nobody watches over its deletion. Of a Node
//!   whose annotations change in one family alone nothing is seen.
//! - Peers are programmed ARP first, FDB second, route last. Entries of peers that went while it was down are never pruned.

pub mod device;
pub mod install;
pub mod lease;
pub mod options;
pub mod peers;
pub mod plugin;
pub mod rules;
pub mod subnet;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde_json::Value;

use crate::agent::api::{self, Api};
use crate::agent::family::Family;
use crate::agent::watch::LinkEvent;
use crate::agent::{self, condition, health, stop, watch};

use device::Device;
use lease::{Change, Lease};
use options::{NetConf, Options};
use rules::Rules;

/// What wakes the main loop.
enum Event {
    /// SIGTERM or SIGINT.
    Stop,
    /// A link came or went.
    Link(LinkEvent),
    /// The Nodes, freshly listed.
    Nodes(Vec<Value>),
}

/// Writes a line of the stand-in's log.
pub(crate) fn log(text: &str) {
    agent::log("flanneld", text);
}

/// `nodectl-lab flanneld`.
pub fn main(args: &[String]) -> Result<ExitCode> {
    let options = Options::parse(args)?;
    let api = agent::connect("flannel")?;
    Flanneld::start(options, api.as_ref())?.run(api)
}

/// A running flanneld.
struct Flanneld {
    options: Options,
    /// One for each family in use, IPv4's first.
    devices: Vec<Device>,
    own: Lease,
    rules: Rules,
    nodes: BTreeMap<String, Value>,
    /// When to try again to create the device, and how long was waited.
    recreate: Option<(Instant, Duration)>,
}

impl Flanneld {
    /// What happens up to the point where peers are programmed, in the real one's order.
    fn start(options: Options, api: &dyn Api) -> Result<Flanneld> {
        let net_conf = NetConf::read(&options.net_conf)?;
        let node = options.node_name(api)?;
        let path = format!("/api/v1/nodes/{node}");
        let object = api.get(&path).with_context(|| format!("the Node {node} could not be read"))?;
        let families: Vec<Family> = net_conf.families().collect();
        let subnets: Vec<IpNet> =
            families.iter().map(|family| lease::pod_cidr(&object, &net_conf, *family)).collect::<Result<_>>()?;
        let mut devices = Vec::new();
        let mut mtu = 0;
        for (family, subnet) in families.iter().zip(&subnets) {
            let external = device::external_interface(&options.iface, &object, *family)?;
            let kept = match family {
                Family::V4 => options.version.keeps_mac(),
                Family::V6 => options.version.keeps_mac_v6(),
            };
            let stored_mac = lease::stored_mac(&object, *family).filter(|_| kept);
            devices.push(Device::ensure(&net_conf, &external, *subnet, stored_mac)?);
            mtu = net_conf.backend.overlay_mtu(external.mtu);
        }
        let own = Lease::own(&node, &devices);
        own.publish(api, &object)?;
        devices.iter().try_for_each(|device| device.configure(&net_conf))?;
        let rules = Rules::set_up(&options, &net_conf, &subnets)?;
        subnet::write(&options.subnet_file, &net_conf, &subnets, mtu, options.ip_masq)?;
        log(&format!("Wrote subnet file to {}", options.subnet_file.display()));
        if options.set_network_unavailable {
            condition::set_network_unavailable(api, &node, false, "FlannelIsUp", "Flannel is running on this node")?;
        }
        Ok(Flanneld { options, devices, own, rules, nodes: BTreeMap::new(), recreate: None })
    }

    /// Follows the Nodes until SIGTERM.
    fn run(mut self, api: Arc<dyn Api>) -> Result<ExitCode> {
        let (sender, events) = mpsc::channel();
        stop::on_stop(sender.clone(), Event::Stop)?;
        watch::link_events(sender.clone(), Event::Link)?;
        list_nodes(api, sender, self.options.poll());
        self.serve_health()?;
        log("Running backend.");
        let mut next_rules = Instant::now() + self.options.resync();
        loop {
            if Instant::now() >= next_rules {
                self.rules.ensure();
                next_rules = Instant::now() + self.options.resync();
            }
            if self.recreate.is_some_and(|(when, _)| Instant::now() >= when) {
                self.recreate_device();
            }
            let next = self.recreate.map_or(next_rules, |(when, _)| when.min(next_rules));
            let until = next.saturating_duration_since(Instant::now());
            match stop::wait(&events, until.max(Duration::from_millis(1))) {
                Some(Event::Stop) => break,
                Some(Event::Link(LinkEvent::Deleted(name))) if self.misses(&name) => self.recreate_device(),
                Some(Event::Nodes(list)) => self.follow_nodes(list),
                Some(Event::Link(_)) | None => {}
            }
        }
        self.stop();
        Ok(ExitCode::SUCCESS)
    }

    /// True if the deletion of this link is what the watcher waits for: by name, and only in those releases that have one.
    fn misses(&self, deleted: &str) -> bool {
        let watched = self.devices.first().filter(|_| self.options.version.watches_device());
        watched.is_some_and(|device| device.name() == deleted)
    }

    /// What is left undone on exit is the point: nothing is removed, but for the rules by those versions that did.
    fn stop(&mut self) {
        log("shutdownHandler sent cancel signal...");
        if self.options.version.removes_rules_on_exit() {
            std::thread::sleep(Duration::from_secs(1));
            self.rules.remove();
        }
        log("Exiting cleanly...");
    }

    /// Programs what changed since the last look.
    fn follow_nodes(&mut self, list: Vec<Value>) {
        let now: BTreeMap<String, Value> = list.into_iter().map(|node| (api::name(&node).to_owned(), node)).collect();
        let families: Vec<Family> = self.devices.iter().map(Device::family).collect();
        for change in lease::changes(&families, &self.nodes, &now) {
            match change {
                Change::Added(lease) if !lease.same_subnet(&self.own) => peers::add(&self.devices, &lease),
                Change::Removed(lease) if !lease.same_subnet(&self.own) => peers::remove(&self.devices, &lease),
                Change::Added(_) | Change::Removed(_) => {}
            }
        }
        self.nodes = now;
    }

    /// From v0.27.4: device and address come back, routes, ARP and FDB do not, so that the overlay stays dead.
    fn recreate_device(&mut self) {
        let Some(device) = self.devices.first_mut() else { return };
        match device.recreate() {
            Ok(()) => {
                log(&format!("VXLAN device {} recreated successfully", device.name()));
                self.recreate = None;
            }
            Err(error) => {
                log(&format!("failed to create vxlan device: {error:#}"));
                let pause =
                    self.recreate.map_or(Duration::from_secs(1), |(_, pause)| pause * 2).min(Duration::from_secs(30));
                self.recreate = Some((Instant::now() + pause, pause));
            }
        }
    }

    fn serve_health(&self) -> Result<()> {
        let Some(port) = self.options.healthz_port.filter(|port| *port != 0) else { return Ok(()) };
        let up = health::Flag::new(true.into());
        health::serve(&format!("0.0.0.0:{port}"), BTreeMap::from([("/healthz", up.clone()), ("/readyz", up)]))
    }
}

/// Lists the Nodes again and again, in a thread of its own: an API server that does not answer must not keep the rules from being looked at.
fn list_nodes(api: Arc<dyn Api>, sender: Sender<Event>, pause: Duration) {
    std::thread::spawn(move || {
        loop {
            match api.list("/api/v1/nodes") {
                Ok(list) => {
                    if sender.send(Event::Nodes(list)).is_err() {
                        return;
                    }
                }
                Err(error) => log(&format!("the Nodes could not be listed: {error}")),
            }
            std::thread::sleep(pause);
        }
    });
}
