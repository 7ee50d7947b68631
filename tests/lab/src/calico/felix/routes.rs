//! The main routing table: what is felix's, what it wants, and the difference.

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;

use crate::agent::family::Family;
use crate::agent::links;
use crate::command;

use super::desired::{Desired, Route, Target, device_name};
use super::interfaces::{self, Interfaces};
use super::log;

/// The protocol number of routes that belong to no device of felix's.
const PROTOCOL: &str = "80";

/// A route in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Destination.
    pub destination: IpNet,
    /// Metric.
    pub metric: u64,
    /// Device, or "" for a blackhole.
    pub device: String,
    /// "unicast", "blackhole", ...
    pub kind: String,
    /// "boot", "kernel", "80", ...
    pub protocol: String,
    /// Gateway, or "".
    pub gateway: String,
    /// Next hop is taken to be on the link.
    pub onlink: bool,
    /// The MTU attribute.
    pub mtu: Option<u64>,
    /// "link", "global", ...
    pub scope: String,
}

impl Found {
    fn read(route: &Value, family: Family) -> Option<Found> {
        let text = |key: &str| route[key].as_str().unwrap_or_default().to_owned();
        let destination = match route["dst"].as_str()? {
            "default" if family == Family::V4 => Ipv4Net::default().into(),
            "default" => Ipv6Net::default().into(),
            text => {
                text.parse().or_else(|_| text.parse().map(|address: std::net::IpAddr| IpNet::from(address))).ok()?
            }
        };
        let flags = route["flags"].as_array().map(Vec::as_slice).unwrap_or_default();
        Some(Found {
            destination,
            metric: route["metric"].as_u64().unwrap_or_default(),
            device: text("dev"),
            kind: text("type"),
            protocol: text("protocol"),
            gateway: text("gateway"),
            onlink: flags.iter().any(|flag| flag == "onlink"),
            mtu: route["metrics"].as_array().into_iter().flatten().find_map(|metric| metric["mtu"].as_u64()),
            scope: text("scope"),
        })
    }

    /// Device routes of the tunnel and of pods are felix's whatever their protocol, but for those by which IPv6 begins; elsewhere only
    /// protocol 80 is.
    fn is_felix(&self, wanted: &Desired) -> bool {
        if self.destination.to_string() == "fe80::/64" {
            return false;
        }
        let on_pod = self.device.starts_with(interfaces::PREFIX) && wanted.config.remove_external_routes;
        self.protocol == PROTOCOL || self.device == device_name(wanted.family) || on_pod
    }

    fn same_key(&self, route: &Route) -> bool {
        self.destination == route.destination && self.metric == route.metric
    }

    fn satisfies(&self, route: &Route, mtu: Option<u64>, family: Family) -> bool {
        let tunnel = device_name(family);
        let right = match &route.target {
            Target::Blackhole => self.kind == "blackhole" && self.protocol == PROTOCOL,
            Target::Pod(device) => {
                self.kind == "unicast"
                    && self.device == *device
                    && self.gateway.is_empty()
                    && (self.scope == "link" || family == Family::V6)
                    && self.protocol == "boot"
            }
            Target::Tunnel(via) => self.device == tunnel && self.gateway == *via && self.onlink && self.mtu == mtu,
        };
        self.same_key(route) && right
    }
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub struct Work {
    /// Routes of felix's that it does not want.
    pub delete: Vec<Found>,
    /// Routes that are missing or different.
    pub replace: Vec<Route>,
}

/// Compares; `grace` answers whether unwanted routes on an interface are still left alone, `up` whether an interface can take routes.
pub fn work(found: &[Found], wanted: &Desired, grace: impl Fn(&str) -> bool, up: impl Fn(&str) -> bool) -> Work {
    let mtu = wanted.mtu();
    let possible = |route: &&Route| match &route.target {
        Target::Blackhole => true,
        Target::Pod(device) => up(device),
        Target::Tunnel(_) => up(device_name(wanted.family)),
    };
    let missing = |route: &&Route| !found.iter().any(|known| known.satisfies(route, mtu, wanted.family));
    let unwanted = |known: &&Found| {
        known.is_felix(wanted)
            && !wanted.routes.iter().any(|route| known.same_key(route))
            && !(known.device.starts_with(interfaces::PREFIX) && known.protocol != PROTOCOL && grace(&known.device))
    };
    Work {
        delete: found.iter().filter(unwanted).cloned().collect(),
        replace: wanted.routes.iter().filter(possible).filter(missing).cloned().collect(),
    }
}

/// Makes the main table agree.
pub fn apply(wanted: &Desired, links: &[Value], interfaces: &Interfaces) -> Result<()> {
    let family = wanted.family;
    let dump = links::json(&["ip", "-json", "-details", family.option(), "route", "show", "table", "main"])?;
    let found: Vec<Found> = dump.iter().filter_map(|route| Found::read(route, family)).collect();
    let up = |name: &str| links::by_name(links, name).is_some_and(interfaces::running);
    let work = work(&found, wanted, |name| interfaces.in_grace(name, wanted), up);
    for route in &work.delete {
        log(&format!("Deleting route {} dev {:?} protocol {}", route.destination, route.device, route.protocol));
        delete(route, family)?;
    }
    for route in &work.replace {
        log(&format!("Programming route {} metric {}: {:?}", route.destination, route.metric, route.target));
        replace(route, wanted.mtu(), family)?;
    }
    Ok(())
}

/// Keyed by prefix and metric alone, so that a foreign route of the same key goes too.
fn delete(route: &Found, family: Family) -> Result<()> {
    let (destination, metric) = (route.destination.to_string(), route.metric.to_string());
    let deleted = command::run(&["ip", family.option(), "route", "delete", &destination, "metric", &metric]);
    match deleted {
        // Gone by itself, with its interface.
        Err(error) if !format!("{error:#}").contains("No such process") => Err(error),
        _ => Ok(()),
    }
}

/// RTM_NEWROUTE with NLM_F_REPLACE: a foreign route with the same prefix, TOS and metric is overwritten.
fn replace(route: &Route, mtu: Option<u64>, family: Family) -> Result<()> {
    let (destination, metric) = (route.destination.to_string(), route.metric.to_string());
    let mtu = mtu.unwrap_or(1450).to_string();
    let mut argv = vec!["ip", family.option(), "route", "replace"];
    match &route.target {
        Target::Blackhole => argv.extend(["blackhole", &destination, "metric", &metric, "protocol", PROTOCOL]),
        Target::Pod(device) => {
            argv.extend([&destination, "dev", device, "scope", "link", "metric", &metric, "protocol", "boot"]);
        }
        Target::Tunnel(via) => {
            let device = device_name(family);
            argv.extend([&destination, "via", via, "dev", device, "onlink", "metric", &metric]);
            argv.extend(["protocol", "boot", "mtu", &mtu]);
        }
    }
    command::run(&argv).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calico::felix::datastore::{Config, Datastore, End, Host};
    use crate::calico::felix::options::Options;
    use crate::calico::ipam::block::BlockSpec;

    fn wanted() -> Desired {
        let config = Config {
            vxlan_enabled: None,
            vni: 1,
            port: 8472,
            mtu: Some(1450),
            mtu_v6: None,
            remove_external_routes: true,
            endpoint_to_host: "ACCEPT".to_owned(),
            external_nodes: Vec::new(),
        };
        let host = |name: &str, number: u8| Host {
            name: name.to_owned(),
            v4: End {
                address: Some(format!("192.168.77.{number}")),
                tunnel: Some(format!("10.244.{number}.0")),
                mac: None,
            },
            v6: End::default(),
        };
        let block = |cidr: &str, host: &str| BlockSpec::new(cidr.parse().unwrap(), host);
        let pod = serde_json::json!({"metadata": {"namespace": "default", "name": "nginx"}, "spec": {"nodeName": "n1"}, "status": {"podIP": "10.244.1.7"}});
        let read = Datastore {
            config,
            pools: vec![
                crate::calico::ipam::store::Pool::read(
                    &serde_json::json!({"spec": {"cidr": "10.244.0.0/16", "vxlanMode": "Always"}}),
                )
                .unwrap(),
            ],
            blocks: vec![block("10.244.1.0/26", "n1"), block("10.244.2.0/26", "n2")],
            hosts: vec![host("n1", 1), host("n2", 2)],
            endpoints: vec![crate::calico::endpoint::from_pod(&pod).unwrap()],
        };
        let links = [
            serde_json::json!({"ifname": "eth0", "mtu": 1500, "addr_info": [{"family": "inet", "local": "192.168.77.1", "prefixlen": 24}]}),
        ];
        Desired::compute(&read, "n1", &Options::from_env().unwrap(), &links, Family::V4)
    }

    fn found(line: Value) -> Found {
        Found::read(&line, Family::V4).unwrap()
    }

    /// What felix does about one route of the kernel's: (deleted, destinations that are written).
    fn about(line: Value, grace: bool) -> (bool, Vec<String>) {
        let work = work(&[found(line)], &wanted(), |_| grace, |_| true);
        (!work.delete.is_empty(), work.replace.iter().map(|route| route.destination.to_string()).collect())
    }

    #[test]
    fn what_is_missing_is_written_where_the_interface_is_up() {
        let all = work(&[], &wanted(), |_| false, |_| true).replace.len();
        assert_eq!(all, 3, "a blackhole, a block behind the tunnel, a pod");
        assert_eq!(work(&[], &wanted(), |_| false, |_| false).replace.len(), 1, "a blackhole needs no interface");
    }

    #[test]
    fn ownership_is_by_device_and_by_protocol_80() {
        let route = |dst: &str, dev: &str, protocol: &str| serde_json::json!({"dst": dst, "dev": dev, "protocol": protocol, "type": "unicast", "scope": "link"});
        assert!(about(route("10.9.0.0/24", "eth0", "80"), false).0, "protocol 80 anywhere");
        assert!(!about(route("10.9.0.0/24", "eth0", "boot"), false).0, "others are left alone");
        assert!(about(route("10.244.3.0/24", "vxlan.calico", "boot"), false).0, "everything on the tunnel");
        assert!(about(route("10.244.1.9", "cali0123456789a", "static"), false).0, "any protocol on a pod's interface");
        assert!(!about(route("10.244.1.9", "cali0123456789a", "static"), true).0, "but not within the grace");
        assert!(!about(route("10.244.1.9", "cni0", "boot"), false).0);
    }

    #[test]
    fn a_foreign_route_of_the_same_prefix_and_metric_is_overwritten() {
        let foreign = serde_json::json!({"dst": "10.244.1.0/26", "dev": "cni0", "protocol": "kernel", "type": "unicast", "scope": "link"});
        assert_eq!(about(foreign.clone(), false).1.first().map(String::as_str), Some("10.244.1.0/26"));
        let mut other_metric = foreign;
        other_metric["metric"] = serde_json::json!(100);
        assert!(!about(other_metric, false).0);
    }
}
