//! Calico -> flannel with the pods running. Not the other direction backwards: what Calico has in writing goes while its plugin's
//! credentials are fresh, and flannel's chains and routes stand before a pod needs them.

use std::net::IpAddr;

use super::{Adoption, BRIDGE, gateway, judge_outage, names, peer_routes, stop_others, sweep, watch};
use crate::adopt::pod::GATEWAY;
use crate::adopt::{CALICO_MAC, PodNetwork};
use crate::cni::Cni;
use crate::facts::Facts;
use crate::plan::parts;
use crate::prepared::Prepared;
use crate::request::Request;
use crate::step::{Agent, CleanScope, Step};

pub(super) fn steps(facts: &Facts, prepared: &Prepared, request: &Request, adoption: &Adoption) -> Vec<Step> {
    let flannel = parts::agent(facts, prepared, Cni::Flannel, request.agent_timeout_s);
    // Should its start be undone: a bridge that was kept on the way there stays kept.
    let flannel = Agent { scope: CleanScope { keep_bridge: true, ..flannel.scope }, ..flannel };
    let calico = parts::agent(facts, prepared, Cni::Calico, request.agent_timeout_s);
    let mut steps = parts::prologue(facts, prepared, Cni::Calico);
    // Measure, hold: pods that come from here on wait for flannel.
    steps.extend(parts::measure_and_hold(facts, prepared, request));
    steps.extend(watch(adoption));
    // Before calico-node leaves: its plugin's token is kept fresh only while it runs.
    steps.push(stop_others(Cni::Calico, adoption));
    steps.extend(sweep(adoption, Step::DisclaimPod));
    let (hold, release) = peer_routes(facts, &calico.overlay, &flannel.overlay).unzip();
    // For the way back from here: felix deletes the routes that it finds before it sets its own.
    steps.extend(hold);
    // Before a pod leaves its interface: felix would take the route to it away, and drop what comes from the bridge.
    steps.push(Step::StopAgent(calico.clone()));
    steps.push(Step::RenameOverlay { from: calico.overlay.clone(), to: flannel.overlay.clone() });
    steps.push(Step::StartAgent(flannel));
    // flannel's conflist and subnet.env came with it. From here on the pod's DEL is flannel's.
    steps.extend(sweep(adoption, Step::LeasePod));
    // After flannel's chains stand (a node with FORWARD DROP forwards by them), before the bridge serves: its route is wider
    // than felix's blackholes.
    steps.push(Step::Clean { cni: Cni::Calico, scope: calico.scope });
    if !adoption.pods.is_empty() {
        let cidr = prepared.pod_cidr;
        let address = ipnet::IpNet::new(gateway(cidr), cidr.prefix_len()).unwrap_or(cidr);
        steps.push(Step::MakeBridge { bridge: BRIDGE.into(), address, mtu: prepared.mtu });
        steps.extend(sweep(adoption, Step::AttachPod));
        steps.extend(sweep(adoption, Step::UnturnPod));
        steps.extend(sweep(adoption, Step::UnguidePod));
        steps.push(Step::SettleBridge { bridge: BRIDGE.into() });
    }
    // calico-node's preStop sets NetworkUnavailable; flannel clears it once, when it starts.
    steps.push(Step::MarkNetworkAvailable { by: Cni::Flannel });
    steps.extend(release);
    // A node that is not open yet can be taken back without anybody's sandbox being stopped.
    steps.extend(judge_outage(adoption, request));
    steps.extend(parts::prove_and_release(facts, prepared, request, names(adoption)));
    steps.extend(parts::epilogue(facts));
    steps
}

/// Why a pod on Calico's network cannot be re-plumbed.
pub(super) fn judge(prepared: &Prepared, network: &PodNetwork, interface: &str) -> Result<(), String> {
    if network.host != interface || network.host_mac != CALICO_MAC || network.bridge.is_some() {
        return Err(format!("its interface is not {interface} as Calico's plugin makes it"));
    }
    if network.has_ipv6() {
        return Err("it has an IPv6 address, and such a pod is not taken back to flannel yet".into());
    }
    let by_calico = |dst: &ipnet::IpNet, via: Option<IpAddr>| match via {
        Some(via) => dst.prefix_len() == 0 && via == IpAddr::from(GATEWAY),
        None => dst.addr() == IpAddr::from(GATEWAY),
    };
    if let Some(route) = network.routes.iter().find(|r| !by_calico(&r.dst, r.via)) {
        return Err(format!("it has a route of its own: {}", route.dst));
    }
    let single = network.addresses.iter().all(|a| a.prefix_len() == a.max_prefix_len());
    if !single {
        return Err(format!("its address is not as Calico's plugin gives it, in {}", prepared.pod_cidr));
    }
    Ok(())
}
