//! The veth pair, the pod's side of it, the host's route and sysctls.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde_json::Value;

use crate::agent::family::Family;
use crate::agent::{links, set_sysctl};
use crate::command;

/// The MAC of every cali interface.
const HOST_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// What an attachment looks like.
#[derive(Debug, Clone)]
pub struct Wiring<'a> {
    /// Path of the pod's network namespace.
    pub netns: &'a str,
    /// The interface in the pod.
    pub ifname: &'a str,
    /// The interface on the host.
    pub host: &'a str,
    /// The pod's addresses, one of a family at most.
    pub addresses: &'a [IpAddr],
    /// The MTU, or the kernel's default.
    pub mtu: Option<u64>,
    /// container_settings.allow_ip_forwarding.
    pub forwarding: bool,
}

impl Wiring<'_> {
    /// Builds the attachment; answers the MAC of the pod's interface.
    pub fn connect(&self) -> Result<String> {
        self.delete_former()?;
        self.create()?;
        let mac = self.configure_pod().context("error configuring the container's side")?;
        configure_host(self.host, Family::V4)?;
        if self.of(Family::V6).is_some() {
            configure_host(self.host, Family::V6)?;
        }
        command::run(&["ip", "link", "set", "dev", self.host, "up"])?;
        if let Some(address) = self.of(Family::V6) {
            self.configure_pod_v6(address).context("error configuring the container's side")?;
        }
        self.addresses.iter().try_for_each(|address| self.route(*address))?;
        Ok(mac)
    }

    /// The pod's address of a family.
    fn of(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }

    /// A link that bears the target name is deleted, whatever it is and whoever made it.
    fn delete_former(&self) -> Result<()> {
        if links::by_name(&links::all()?, self.host).is_some() {
            command::run(&["ip", "link", "delete", "dev", self.host])
                .with_context(|| format!("failed to delete old hostVeth {}", self.host))?;
        }
        Ok(())
    }

    fn create(&self) -> Result<()> {
        let mtu = self.mtu.map(|mtu| mtu.to_string());
        let mut argv = vec!["ip", "link", "add", self.host, "address", HOST_MAC];
        argv.extend(mtu.iter().flat_map(|mtu| ["mtu", mtu.as_str()]));
        argv.extend(["type", "veth", "peer", "name", self.ifname]);
        argv.extend(mtu.iter().flat_map(|mtu| ["mtu", mtu.as_str()]));
        argv.extend(["netns", self.netns]);
        command::run(&argv).context("Error creating veth").map(|_| ())
    }

    /// Routes first, the address last; no neighbour entry: proxy ARP on the host answers for 169.254.1.1.
    fn configure_pod(&self) -> Result<String> {
        let mut batch = format!("link set dev {} up\n", self.ifname);
        if let Some(address) = self.of(Family::V4) {
            batch.push_str(&format!(
                "route add 169.254.1.1 dev {0} scope link\nroute add default via 169.254.1.1 dev {0}\naddress add {address}/32 dev {0}\n",
                self.ifname
            ));
        }
        let inside = format!("--net={}", self.netns);
        command::run_with_input(&["nsenter", &inside, "ip", "-batch", "-"], &batch)?;
        let forwarding = if self.forwarding { "1" } else { "0" };
        let script = format!("echo {forwarding} > /proc/sys/net/ipv4/ip_forward");
        command::run(&["nsenter", &inside, "sh", "-c", &script])?;
        let all = links::json(&["nsenter", &inside, "ip", "-json", "link", "show"])?;
        let link = links::by_name(&all, self.ifname).with_context(|| format!("{} has gone", self.ifname))?;
        Ok(link["address"].as_str().unwrap_or_default().to_owned())
    }

    /// The gateway is the link-local address that the host's end has by itself from its MAC, once both ends are up; duplicates are looked for
    /// on neither end.
    fn configure_pod_v6(&self, address: IpAddr) -> Result<()> {
        let inside = format!("--net={}", self.netns);
        let script = format!(
            "cd /proc/sys/net/ipv6/conf && for key in all default lo; do echo 0 > $key/disable_ipv6; done && echo 0 > {}/accept_dad",
            self.ifname
        );
        command::run(&["nsenter", &inside, "sh", "-c", &script])?;
        let gateway = self.link_local()?;
        let batch =
            format!("address add {address}/128 dev {0}\nroute add default via {gateway} dev {0}\n", self.ifname);
        command::run_with_input(&["nsenter", &inside, "ip", "-6", "-batch", "-"], &batch).map(|_| ())
    }

    /// The link-local address of the host's end; it may take a moment to come.
    fn link_local(&self) -> Result<String> {
        for _ in 0..10 {
            let all = links::all()?;
            let link = links::by_name(&all, self.host).with_context(|| format!("{} has gone", self.host))?;
            let mut own = link["addr_info"].as_array().into_iter().flatten();
            let found = own.find(|address| address["family"] == "inet6" && address["scope"] == "link");
            if let Some(address) = found.and_then(|address| address["local"].as_str()) {
                return Ok(address.to_owned());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("failed to find IPv6 address to use as default gateway for {}", self.ifname)
    }

    /// The host's route. One that is there already is fine only if it points at this interface.
    fn route(&self, address: IpAddr) -> Result<()> {
        let option = Family::of(address).option();
        let address = IpNet::from(address).to_string();
        let argv = ["ip", option, "route", "add", &address, "dev", self.host, "scope", "link", "proto", "boot"];
        let Err(error) = command::run(&argv) else { return Ok(()) };
        if !format!("{error:#}").contains("File exists") {
            return Err(error);
        }
        let routes = links::json(&["ip", "-json", option, "route", "show", "table", "main", &address])?;
        // An IPv6 route has no scope to speak of.
        let linked = |route: &Value| option == Family::V6.option() || route["scope"] == "link";
        let here = |route: &&Value| route["dev"] == self.host && linked(route);
        if routes.iter().any(|route| here(&route)) {
            return Ok(());
        }
        let other = routes.first().and_then(|route| route["dev"].as_str()).unwrap_or("unknown").to_owned();
        bail!(
            "route (Dst: {address}, Scope: link) already exists for an interface other than '{}': route (Dst: {address}, Iface: {other})",
            self.host
        )
    }
}

/// The sysctls of a cali interface that the plugin sets for a family.
fn configure_host(name: &str, family: Family) -> Result<()> {
    let wanted = match family {
        Family::V4 => vec![
            (format!("net/ipv4/conf/{name}/route_localnet"), "1"),
            (format!("net/ipv4/neigh/{name}/proxy_delay"), "0"),
            (format!("net/ipv4/conf/{name}/proxy_arp"), "1"),
            (format!("net/ipv4/conf/{name}/forwarding"), "1"),
        ],
        Family::V6 => vec![
            (format!("net/ipv6/conf/{name}/accept_dad"), "0"),
            (format!("net/ipv6/conf/{name}/disable_ipv6"), "0"),
            (format!("net/ipv6/conf/{name}/accept_ra"), "0"),
            (format!("net/ipv6/conf/{name}/proxy_ndp"), "1"),
            (format!("net/ipv6/conf/{name}/forwarding"), "1"),
        ],
    };
    for (path, value) in wanted {
        if !set_sysctl(&path, value) {
            bail!("error configuring sysctls for interface: {name}, error: failed to set {path}={value}");
        }
    }
    Ok(())
}

/// Deletes the interface in the namespace, whatever made it; a namespace or an interface that is gone is fine.
pub fn clean_up(netns: &str, ifname: &str) -> Result<()> {
    if netns.is_empty() || !Path::new(netns).exists() {
        return Ok(());
    }
    let inside = format!("--net={netns}");
    // Entering fails if the file is only what a deleted namespace left behind.
    let Ok(all) = links::json(&["nsenter", &inside, "ip", "-json", "link", "show"]) else { return Ok(()) };
    if links::by_name(&all, ifname).is_none() {
        return Ok(());
    }
    command::run(&["nsenter", &inside, "ip", "link", "delete", "dev", ifname])
        .with_context(|| format!("failed to delete {ifname} in {netns}"))
        .map(|_| ())
}
