//! The definitions of Calico's own resources, group crd.projectcalico.org.

use serde_json::{Value, json};

use super::Manifest;

/// Plural and kind; all belong to the whole cluster.
const KINDS: &[(&str, &str)] = &[
    ("bgpconfigurations", "BGPConfiguration"),
    ("blockaffinities", "BlockAffinity"),
    ("clusterinformations", "ClusterInformation"),
    ("felixconfigurations", "FelixConfiguration"),
    ("ipamblocks", "IPAMBlock"),
    ("ipamconfigs", "IPAMConfig"),
    ("ipamhandles", "IPAMHandle"),
    ("ippools", "IPPool"),
    ("ipreservations", "IPReservation"),
];

/// All definitions.
pub fn manifests() -> Vec<Manifest> {
    KINDS.iter().map(|(plural, kind)| definition(plural, kind)).collect()
}

fn definition(plural: &str, kind: &str) -> Manifest {
    let schema: Value = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    Manifest::new(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.crd.projectcalico.org")},
            "spec": {"group": "crd.projectcalico.org", "scope": "Cluster", "preserveUnknownFields": false,
                "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}}),
    )
}
