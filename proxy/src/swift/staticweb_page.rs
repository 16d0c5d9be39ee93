//! The HTML of a static web site's listings.
//!
//! Ids and classes are those of Swift's staticweb, so that its users' style sheets fit.

use kodiak_storage_api::{Entry, Row};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use quick_xml::escape::escape;

use super::error::PATH;
use super::staticweb::Site;
use crate::http::iso_date;

pub(super) const CONTENT_TYPE: &str = "text/html; charset=UTF-8";

/// Links encode dots too: a browser would take `./..` for the folder above.
const LINK: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~').remove(b'/');
/// Style sheets elsewhere keep their scheme and host.
const URL: &AsciiSet = &PATH.remove(b':');

const STYLE: &str = "  <style type=\"text/css\">\n   \
    h1 {font-size: 1em; font-weight: bold;}\n   \
    th {text-align: left;}\n   \
    th, td {padding: 0 1em;}\n   \
    a {text-decoration: none;}\n  \
    </style>\n";

/// A listing of one folder.
pub(super) struct Listing<'a> {
    pub(super) site: &'a Site,
    /// What the folder is called.
    pub(super) label: String,
    /// The folder within the container, with its slash; empty for the container.
    pub(super) prefix: &'a str,
}

impl Listing<'_> {
    /// The page. `parameters`: what every link carries; `parent`: whether there is a link upwards.
    pub(super) fn html(&self, entries: &[Entry], parent: bool, parameters: &str) -> String {
        let label = escape(&self.label);
        let mut html = self.head();
        html.push_str(&format!(
            " <body>\n  <h1 id=\"title\">Listing of {label}</h1>\n  <table id=\"listing\">\n"
        ));
        html.push_str(
            "   <tr id=\"heading\">\n    <th class=\"colname\">Name</th>\n    \
             <th class=\"colsize\">Size</th>\n    <th class=\"coldate\">Date</th>\n   </tr>\n",
        );
        if parent {
            let link = format!("<a href=\"../{parameters}\">../</a>");
            row(&mut html, "id=\"parent\" class=\"item\"", &link, ["&nbsp;", "&nbsp;"]);
        }
        for entry in entries {
            if let Entry::Prefix(prefix) = entry {
                let link = self.link(prefix, parameters);
                row(&mut html, "class=\"item subdir\"", &link, ["&nbsp;", "&nbsp;"]);
            }
        }
        for entry in entries {
            if let Entry::Row(object) = entry {
                self.object(&mut html, object, parameters);
            }
        }
        html.push_str("  </table>\n </body>\n</html>\n");
        html
    }

    /// The page that says that there are no listings.
    pub(super) fn disabled(&self) -> String {
        let mut html = self.head();
        html.push_str(
            " <body>\n  <h1>Web Listing Disabled</h1>\n  <p>This site shows no listings. Its owner can turn \
             them on with <b>X-Container-Meta-Web-Listings: true</b>.</p>\n",
        );
        if let Some(index) = &self.site.index {
            html.push_str(&format!(
                "  <h1>Index File Not Found</h1>\n  <p>The owner has set <b>X-Container-Meta-Web-Index: \
                 {}</b>, but there is no such file here.</p>\n",
                escape(index)
            ));
        }
        html.push_str(" </body>\n</html>\n");
        html
    }

    fn head(&self) -> String {
        let style = match &self.site.css {
            Some(css) => {
                format!("  <link rel=\"stylesheet\" type=\"text/css\" href=\"{}\" />\n", self.css(css))
            }
            None => STYLE.to_owned(),
        };
        let title = escape(&self.label);
        format!("<!DOCTYPE html>\n<html>\n <head>\n  <title>Listing of {title}</title>\n{style} </head>\n")
    }

    /// The style sheet, which is named from the container's root or as a URL.
    fn css(&self, css: &str) -> String {
        if ["/", "http://", "https://"].iter().any(|start| css.starts_with(start)) {
            return utf8_percent_encode(css, URL).to_string();
        }
        let up = "../".repeat(self.prefix.matches('/').count());
        format!("{up}{}", utf8_percent_encode(css, PATH))
    }

    fn link(&self, name: &str, parameters: &str) -> String {
        let name = name.strip_prefix(self.prefix).unwrap_or(name);
        format!("<a href=\"./{}{parameters}\">{}</a>", utf8_percent_encode(name, LINK), escape(name))
    }

    fn object(&self, html: &mut String, object: &Row, parameters: &str) {
        let types: Vec<_> =
            object.content_type.split('/').map(|part| format!("type-{}", part.to_lowercase())).collect();
        let attributes = format!("class=\"item {}\"", escape(types.join(" ")));
        let bytes = object.extra("slo_bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(object.bytes);
        let date = iso_date(object.timestamp).replace('T', " ");
        let date = date.split('.').next().unwrap_or("");
        row(html, &attributes, &self.link(&object.name, parameters), [&size(bytes), date]);
    }
}

fn row(html: &mut String, attributes: &str, link: &str, [size, date]: [&str; 2]) {
    html.push_str(&format!(
        "   <tr {attributes}>\n    <td class=\"colname\">{link}</td>\n    \
         <td class=\"colsize\">{size}</td>\n    <td class=\"coldate\">{date}</td>\n   </tr>\n"
    ));
}

/// A size with a binary unit, rounded.
fn size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes, "");
    for larger in ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"] {
        if value < 1024 {
            break;
        }
        value = value / 1024 + u64::from(value % 1024 >= 512);
        unit = larger;
    }
    format!("{value}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!([size(0), size(1023), size(1024), size(1_048_576)], ["0", "1023", "1Ki", "1Mi"]);
        assert_eq!(size(u64::MAX), "16Ei");
    }

    #[test]
    fn names_are_escaped_and_links_stay_in_the_folder() {
        let site = Site::default();
        let listing = Listing { site: &site, label: "<l>".into(), prefix: "d/" };
        let link = listing.link("d/..<&", "?p");
        assert_eq!(link, "<a href=\"./%2E%2E%3C%26?p\">..&lt;&amp;</a>");
        assert!(listing.html(&[], false, "").contains("Listing of &lt;l&gt;"));
        assert_eq!(listing.css("a b.css"), "../a%20b.css");
        assert_eq!(listing.css("https://h/x.css"), "https://h/x.css");
    }
}
