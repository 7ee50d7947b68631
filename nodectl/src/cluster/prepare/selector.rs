//! Calico's selectors (`projectcalico.org/v3`): `app == 'web' && !has(debug) || role in {'a', 'b'}`.

use std::collections::BTreeMap;

/// Whether a selector selects these labels; `None` where it cannot be read.
pub fn selects(selector: &str, labels: &BTreeMap<String, String>) -> Option<bool> {
    // Calico takes no selector for all().
    if selector.trim().is_empty() {
        return Some(true);
    }
    let mut reader = Reader { rest: selector, labels };
    let found = reader.either()?;
    reader.rest.trim().is_empty().then_some(found)
}

struct Reader<'a> {
    rest: &'a str,
    labels: &'a BTreeMap<String, String>,
}

impl<'a> Reader<'a> {
    fn either(&mut self) -> Option<bool> {
        let mut found = self.both()?;
        while self.takes("||") {
            found |= self.both()?;
        }
        Some(found)
    }

    fn both(&mut self) -> Option<bool> {
        let mut found = self.single()?;
        while self.takes("&&") {
            found &= self.single()?;
        }
        Some(found)
    }

    fn single(&mut self) -> Option<bool> {
        if self.takes("!") {
            return self.single().map(|found| !found);
        }
        if self.takes("(") {
            let found = self.either()?;
            return self.takes(")").then_some(found);
        }
        for word in ["all()", "global()"] {
            if self.takes(word) {
                return Some(word == "all()");
            }
        }
        if self.takes("has(") {
            let label = self.label()?;
            return self.takes(")").then(|| self.labels.contains_key(label));
        }
        let label = self.label()?;
        self.compared(label)
    }

    fn compared(&mut self, label: &str) -> Option<bool> {
        let value = self.labels.get(label).map(String::as_str);
        if self.takes("not in") {
            let list = self.list()?;
            return Some(!value.is_some_and(|v| list.contains(&v)));
        }
        if self.takes("in") {
            let list = self.list()?;
            return Some(value.is_some_and(|v| list.contains(&v)));
        }
        let operators = ["==", "!=", "contains", "starts with", "ends with"];
        let operator = operators.into_iter().find(|operator| self.takes(operator))?;
        let wanted = self.text()?;
        Some(match operator {
            "!=" => value != Some(wanted),
            "==" => value == Some(wanted),
            "contains" => value.is_some_and(|v| v.contains(wanted)),
            "starts with" => value.is_some_and(|v| v.starts_with(wanted)),
            _ => value.is_some_and(|v| v.ends_with(wanted)),
        })
    }

    fn list(&mut self) -> Option<Vec<&'a str>> {
        let mut found = Vec::new();
        if !self.takes("{") {
            return None;
        }
        while !self.takes("}") {
            found.push(self.text()?);
            self.takes(",");
        }
        Some(found)
    }

    fn text(&mut self) -> Option<&'a str> {
        let quote = ["'", "\""].into_iter().find(|quote| self.takes(quote))?;
        let (text, rest) = self.rest.split_once(quote)?;
        self.rest = rest;
        Some(text)
    }

    fn label(&mut self) -> Option<&'a str> {
        let text = self.rest.trim_start();
        let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "_./-".contains(c))).unwrap_or(text.len());
        let (label, rest) = text.split_at(end);
        self.rest = rest;
        (!label.is_empty()).then_some(label)
    }

    fn takes(&mut self, word: &str) -> bool {
        match self.rest.trim_start().strip_prefix(word) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_as_calico_writes_them() {
        let labels: BTreeMap<String, String> =
            [("app", "web"), ("role", "front-end"), ("projectcalico.org/namespace", "shop")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into();
        for (selector, wanted) in [
            ("", Some(true)),
            ("all()", Some(true)),
            ("global()", Some(false)),
            ("app == 'web'", Some(true)),
            ("app != \"web\"", Some(false)),
            ("missing != 'x'", Some(true)),
            ("has(app) && !has(debug)", Some(true)),
            ("!(app == 'web') || role starts with 'front'", Some(true)),
            ("app=='db'||app=='web'&&role=='x'", Some(false)),
            ("role in {'back', 'front-end'}", Some(true)),
            ("role not in { 'back','front-end' }", Some(false)),
            ("missing not in {'a'}", Some(true)),
            ("role contains 'nt-e' && role ends with 'end'", Some(true)),
            ("projectcalico.org/namespace == 'shop'", Some(true)),
            ("app = 'web'", None),
            ("app == 'web", None),
            ("app == 'web' garbage", None),
            ("(app == 'web'", None),
            ("in {'a'}", None),
        ] {
            assert_eq!(selects(selector, &labels), wanted, "{selector}");
        }
    }
}
