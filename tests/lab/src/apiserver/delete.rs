//! DELETE: at once, after a grace period, or when the last finalizer has gone.

use serde_json::{Value, json};

use super::api::{Api, ListQuery, Target, present};
use super::error::{ApiError, ApiResult};
use super::identity::User;
use super::modify::uid_mismatch;
use super::node_restriction::Attempt;
use super::pod_strategy;
use super::store::Inner;
use super::value::{items, remove, text, time_text, unix_now};

/// `DeleteOptions`, from the body or the query.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Overrides the Pod's own.
    pub grace: Option<i64>,
    /// Only this very object.
    pub uid: Option<String>,
    /// Only in this version.
    pub resource_version: Option<String>,
    /// Leave dependents alone.
    pub orphan: bool,
    /// Change nothing.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// From a `DeleteOptions` object; null is allowed.
    pub fn from_object(object: &Value) -> Self {
        let preconditions = &object["preconditions"];
        let string = |value: &Value| value.as_str().map(str::to_string);
        Self {
            grace: object["gracePeriodSeconds"].as_i64(),
            uid: string(&preconditions["uid"]),
            resource_version: string(&preconditions["resourceVersion"]),
            orphan: object["propagationPolicy"] == "Orphan" || object["orphanDependents"] == true,
            dry_run: items(&object["dryRun"]).any(|value| value == "All"),
        }
    }
}

impl Api {
    /// Deletes an object; answers what the client gets to see.
    pub fn delete(&self, user: &User, target: &Target, options: &DeleteOptions) -> ApiResult<Value> {
        self.store.transaction(|store| {
            let resource = target.kind.group_resource();
            let old = store.get(&target.key());
            self.admit(
                store,
                user,
                &Attempt {
                    resource: &resource,
                    subresource: "",
                    verb: "delete",
                    namespace: &target.namespace,
                    name: &target.name,
                    old: old.as_deref(),
                    new: None,
                },
            )?;
            let old = old.ok_or_else(|| target.not_found())?;
            check_preconditions(target, &old, options)?;
            self.delete_checked(store, target, &old, options)
        })
    }

    /// Deletes what a list would show.
    pub fn delete_collection(
        &self,
        user: &User,
        target: &Target,
        query: &ListQuery,
        options: &DeleteOptions,
    ) -> ApiResult<Value> {
        let list = self.list(target, query)?;
        for object in items(&list["items"]) {
            let mut one = target.clone();
            one.name = text(&object["metadata"]["name"]).into();
            one.namespace = text(&object["metadata"]["namespace"]).into();
            match self.delete(user, &one, options) {
                Err(error) if error.code != 404 => return Err(error),
                _ => {}
            }
        }
        Ok(list)
    }

    /// Deletes an object that was looked at within the same transaction.
    pub fn delete_checked(
        &self,
        store: &mut Inner,
        target: &Target,
        old: &Value,
        options: &DeleteOptions,
    ) -> ApiResult<Value> {
        let resource = target.kind.group_resource();
        let grace = grace_period(&resource, old, options);
        let held = items(&old["metadata"]["finalizers"]).next().is_some()
            || (resource == "namespaces" && items(&old["spec"]["finalizers"]).next().is_some());
        if options.orphan && !options.dry_run {
            orphan_dependents(store, old);
        }
        if grace == 0 && !held {
            if !options.dry_run {
                announce(store, target, old);
                store.remove(&target.key());
            }
            return Ok(if resource == "pods" { present(&target.kind, old) } else { gone(target, old) });
        }
        let mut new = old.clone();
        let earlier = old["metadata"]["deletionGracePeriodSeconds"].as_i64();
        if earlier.is_none_or(|earlier| grace < earlier) {
            new["metadata"]["deletionTimestamp"] = json!(time_text(unix_now() + grace));
            new["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        }
        if resource == "namespaces" {
            new["status"]["phase"] = json!("Terminating");
        }
        if !options.dry_run && new != *old {
            new = store.put(target.key(), new).as_ref().clone();
        }
        Ok(present(&target.kind, &new))
    }
}

/// Pods end gracefully even where no grace is left: watchers see them marked before they see them gone.
fn announce(store: &mut Inner, target: &Target, old: &Value) {
    if target.kind.group_resource() != "pods" || old["metadata"]["deletionGracePeriodSeconds"] == 0 {
        return;
    }
    let mut marked = old.clone();
    marked["metadata"]["deletionTimestamp"] = json!(time_text(unix_now()));
    marked["metadata"]["deletionGracePeriodSeconds"] = json!(0);
    store.put(target.key(), marked);
}

fn grace_period(resource: &str, old: &Value, options: &DeleteOptions) -> i64 {
    if resource != "pods" || pod_strategy::needs_no_grace(old) {
        return 0;
    }
    let own = old["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    options.grace.unwrap_or(own).max(0)
}

fn check_preconditions(target: &Target, old: &Value, options: &DeleteOptions) -> ApiResult<()> {
    let actual = text(&old["metadata"]["uid"]);
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != actual) {
        return Err(uid_mismatch(target, wanted, actual));
    }
    let actual = text(&old["metadata"]["resourceVersion"]);
    if let Some(wanted) = options.resource_version.as_deref().filter(|wanted| *wanted != actual) {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {actual}"
        );
        return Err(ApiError::conflict(&target.kind.group_resource(), &target.name, &why));
    }
    Ok(())
}

fn orphan_dependents(store: &mut Inner, owner: &Value) {
    let uid = &owner["metadata"]["uid"];
    let owned =
        |object: &Value| items(&object["metadata"]["ownerReferences"]).any(|reference| reference["uid"] == *uid);
    let dependents: Vec<_> = store
        .everything()
        .filter(|(_, object)| owned(object))
        .map(|(key, object)| (key.clone(), object.as_ref().clone()))
        .collect();
    for (key, mut object) in dependents {
        if let Some(references) = object["metadata"]["ownerReferences"].as_array_mut() {
            references.retain(|reference| reference["uid"] != *uid);
            if references.is_empty() {
                remove(&mut object["metadata"], "ownerReferences");
            }
        }
        store.put(key, object);
    }
}

fn gone(target: &Target, old: &Value) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": target.name, "group": target.kind.group, "kind": target.kind.resource,
            "uid": old["metadata"]["uid"]}})
}
