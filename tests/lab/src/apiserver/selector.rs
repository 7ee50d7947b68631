//! Label selectors (as text and as objects) and field selectors.

use serde_json::Value;

use super::error::{ApiError, ApiResult};

/// One term of a selector.
#[derive(Debug, Clone, PartialEq)]
enum Term {
    Equals(String, String),
    Differs(String, String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// A parsed `labelSelector`; all terms must hold. Empty: everything matches.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Labels(Vec<Term>);

/// A parsed `fieldSelector`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fields(Vec<(String, String, bool)>);

impl Labels {
    /// Parses the text of the query parameter: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    pub fn parse(text: &str) -> ApiResult<Self> {
        split_terms(text).into_iter().map(|term| parse_term(&term)).collect::<ApiResult<_>>().map(Self)
    }

    /// From a `LabelSelector` object; `None` for an absent one, which selects nothing.
    pub fn from_object(selector: &Value) -> Option<Self> {
        let selector = selector.as_object()?;
        let mut terms = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            terms.push(Term::Equals(key.clone(), value.as_str().unwrap_or_default().into()));
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            terms.push(expression_term(expression)?);
        }
        Some(Self(terms))
    }

    /// From a plain map, as in `spec.selector` of a Service or `spec.nodeSelector` of a Pod.
    pub fn from_map(map: &Value) -> Self {
        let pairs = map.as_object().into_iter().flatten();
        Self(pairs.map(|(key, value)| Term::Equals(key.clone(), value.as_str().unwrap_or_default().into())).collect())
    }

    /// A node selector term's `matchExpressions`.
    pub fn from_expressions(expressions: &Value) -> Option<Self> {
        let expressions = expressions.as_array().into_iter().flatten();
        expressions.map(expression_term).collect::<Option<_>>().map(Self)
    }

    /// Whether an object's labels match.
    pub fn matches(&self, object: &Value) -> bool {
        self.matches_map(&object["metadata"]["labels"])
    }

    /// Whether a map of labels matches.
    pub fn matches_map(&self, labels: &Value) -> bool {
        self.0.iter().all(|term| holds(term, labels))
    }

    /// Whether there is no term at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Fields {
    /// Parses the text of the query parameter: `spec.nodeName=a,status.phase!=Failed`.
    pub fn parse(text: &str) -> ApiResult<Self> {
        let mut terms = Vec::new();
        for term in text.split(',').filter(|term| !term.is_empty()) {
            let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
                (path, value, true)
            } else {
                return Err(ApiError::bad_request(format!("invalid selector: '{term}'; can't understand '{term}'")));
            };
            terms.push((path.into(), value.into(), equal));
        }
        Ok(Self(terms))
    }

    /// The value that a path must have, if the selector asks for one.
    pub fn required(&self, path: &str) -> Option<&str> {
        self.0.iter().find(|(name, _, equal)| *equal && name == path).map(|(_, value, _)| value.as_str())
    }

    /// Whether an object matches. An absent field counts as empty.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(path, wanted, equal)| (field(object, path) == *wanted) == *equal)
    }
}

fn field(object: &Value, path: &str) -> String {
    let found = path.split('.').fold(object, |value, part| &value[part]);
    match found {
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => found.to_string(),
        _ if path == "spec.unschedulable" => "false".into(),
        _ => String::new(),
    }
}

fn holds(term: &Term, labels: &Value) -> bool {
    let get = |key: &str| labels.get(key).and_then(Value::as_str);
    match term {
        Term::Equals(key, value) => get(key) == Some(value),
        Term::Differs(key, value) => get(key) != Some(value),
        Term::In(key, values) => get(key).is_some_and(|found| values.iter().any(|value| value == found)),
        Term::NotIn(key, values) => !get(key).is_some_and(|found| values.iter().any(|value| value == found)),
        Term::Exists(key) => get(key).is_some(),
        Term::Absent(key) => get(key).is_none(),
    }
}

/// Splits at commas outside parentheses.
fn split_terms(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut depth = 0;
    for character in text.chars() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if character == ',' && depth == 0 {
            terms.push(String::new());
        } else if let Some(last) = terms.last_mut() {
            last.push(character);
        }
    }
    terms.into_iter().map(|term| term.trim().to_string()).filter(|term| !term.is_empty()).collect()
}

fn parse_term(term: &str) -> ApiResult<Term> {
    let list = |text: &str| -> Vec<String> {
        let inner = text.trim().trim_start_matches('(').trim_end_matches(')');
        inner.split(',').map(|value| value.trim().to_string()).collect()
    };
    if let Some((key, values)) = term.split_once(" notin ") {
        return Ok(Term::NotIn(key.trim().into(), list(values)));
    }
    if let Some((key, values)) = term.split_once(" in ") {
        return Ok(Term::In(key.trim().into(), list(values)));
    }
    if let Some((key, value)) = term.split_once("!=") {
        return Ok(Term::Differs(key.trim().into(), value.trim().into()));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Ok(Term::Equals(key.trim().into(), value.trim().into()));
    }
    if term.contains(char::is_whitespace) {
        return Err(ApiError::bad_request(format!("unable to parse requirement: found '{term}'")));
    }
    Ok(match term.strip_prefix('!') {
        Some(key) => Term::Absent(key.trim().into()),
        None => Term::Exists(term.into()),
    })
}

fn expression_term(expression: &Value) -> Option<Term> {
    let key = expression["key"].as_str()?.to_string();
    let values = || -> Vec<String> {
        let values = expression["values"].as_array().into_iter().flatten();
        values.filter_map(|value| value.as_str().map(str::to_string)).collect()
    };
    Some(match expression["operator"].as_str()? {
        "In" => Term::In(key, values()),
        "NotIn" => Term::NotIn(key, values()),
        "Exists" => Term::Exists(key),
        "DoesNotExist" => Term::Absent(key),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn label_selectors_match_as_kubectl_writes_them() {
        let labels = json!({"app": "web", "tier": "front"});
        for (text, expected) in [
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app in (web, api),!gone", true),
            ("tier notin (front)", false),
            ("tier", true),
            ("missing", false),
            ("missing!=x", true),
            ("", true),
        ] {
            assert_eq!(Labels::parse(text).unwrap().matches_map(&labels), expected, "{text}");
        }
    }

    #[test]
    fn field_selectors_read_nested_fields() {
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}, "status": {}});
        for (text, expected) in [
            ("spec.nodeName=n1", true),
            ("spec.nodeName=n1,status.phase=Running", false),
            ("status.phase!=Running,metadata.name=a", true),
        ] {
            assert_eq!(Fields::parse(text).unwrap().matches(&pod), expected, "{text}");
        }
    }
}
