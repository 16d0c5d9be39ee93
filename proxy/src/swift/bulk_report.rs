//! What bulk requests answer: counts, a status of the whole, and what went wrong by name.

use http::Response;
use quick_xml::escape::escape;
use serde_json::{Map, Value, json};

use super::call::Call;
use super::error::Answer;
use super::listing::Format;
use crate::http::full;

/// The outcome of a bulk request. The status of the answer itself is 200.
pub(super) struct Report<'a> {
    /// The element that XML has at the top.
    pub(super) root: &'static str,
    /// What was counted.
    pub(super) counts: &'a [(&'static str, usize)],
    /// Status of the whole.
    pub(super) status: &'a str,
    /// More words about it.
    pub(super) body: &'a str,
    /// Names, percent-encoded, and their status.
    pub(super) errors: &'a [(String, String)],
}

impl Report<'_> {
    /// The report, in the form that the request accepts.
    pub(super) fn answer(&self, call: &Call) -> Answer {
        let (content_type, text) = match Format::of(call).unwrap_or(Format::Text) {
            Format::Json => ("application/json", self.json()),
            Format::Xml => ("application/xml", self.xml()),
            Format::Text => ("text/plain", self.text()),
        };
        let builder =
            Response::builder().header("content-type", content_type).header("content-length", text.len());
        Ok(builder.body(full(text))?)
    }

    fn json(&self) -> String {
        let mut object: Map<String, Value> =
            self.counts.iter().map(|(name, count)| ((*name).to_owned(), json!(count))).collect();
        object.insert("Response Status".into(), json!(self.status));
        object.insert("Response Body".into(), json!(self.body));
        object.insert("Errors".into(), json!(self.errors));
        Value::Object(object).to_string()
    }

    /// Names and values, as text and XML show them.
    fn fields(&self) -> Vec<(&'static str, String)> {
        let counts = self.counts.iter().map(|(name, count)| (*name, count.to_string()));
        let mut fields: Vec<_> = counts.collect();
        fields.push(("Response Body", self.body.to_owned()));
        fields.push(("Response Status", self.status.to_owned()));
        fields
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (name, value) in self.fields() {
            text.push_str(&format!("{name}: {value}\n"));
        }
        text.push_str("Errors:\n");
        for (name, status) in self.errors {
            text.push_str(&format!("{name}, {status}\n"));
        }
        text
    }

    fn xml(&self) -> String {
        let root = self.root;
        let mut text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root}>\n");
        for (name, value) in self.fields() {
            let name = name.replace(' ', "_").to_lowercase();
            text.push_str(&format!("<{name}>{}</{name}>\n", escape(&value)));
        }
        text.push_str("<errors>\n");
        for (name, status) in self.errors {
            let (name, status) = (escape(name), escape(status));
            text.push_str(&format!("<object><name>{name}</name><status>{status}</status></object>\n"));
        }
        text.push_str(&format!("</errors>\n</{root}>\n"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_three_forms() {
        let errors = [("/c/%3C".to_owned(), "409 Conflict".to_owned())];
        let counts = [("Number Deleted", 2)];
        let report =
            Report { root: "delete", counts: &counts, status: "400 Bad Request", body: "", errors: &errors };
        assert_eq!(
            report.text(),
            "Number Deleted: 2\nResponse Body: \nResponse Status: 400 Bad Request\nErrors:\n\
             /c/%3C, 409 Conflict\n"
        );
        assert!(report.xml().contains("<delete>\n<number_deleted>2</number_deleted>\n"));
        let json: Value = serde_json::from_str(&report.json()).expect("JSON");
        assert_eq!(json["Errors"][0][0], "/c/%3C");
    }
}
