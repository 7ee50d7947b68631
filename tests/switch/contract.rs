//! What scripts and people rely on: exit codes, consent, saved plans, preflight's named findings, JSON documents.

#[path = "contract/bundle.rs"]
mod bundle;
#[path = "contract/cluster_faults.rs"]
mod cluster_faults;
#[path = "contract/documents.rs"]
mod documents;
#[path = "contract/machine_faults.rs"]
mod machine_faults;
#[path = "contract/provoke.rs"]
mod provoke;
#[path = "contract/safety_faults.rs"]
mod safety_faults;
#[path = "contract/saved_plans.rs"]
mod saved_plans;
