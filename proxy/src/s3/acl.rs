//! Access lists: what S3's canned ones mean here.
//!
//! A bucket's list is that of the Swift container it is: `private` is no list, `public-read` lets anybody
//! read and list at Swift's URL, which names the account as S3's paths do not. Objects have the list of
//! their bucket, so that only what this list says already may be asked for an object.

use http::{Method, Response};
use kodiak_storage_api::Directory;
use serde::Deserialize;

use super::S3Front;
use super::bucket::owner;
use super::call::Call;
use super::error::{Answer, S3Error};
use super::xml::{self, Xml};
use crate::http::{RequestBody, empty};

/// Who may read a container.
const READ: &str = "x-container-read";
/// Who may write to one.
const WRITE: &str = "x-container-write";
/// Anybody may read.
const ANYBODY: &str = ".r:*";
/// Anybody may read and list.
const PUBLIC_READ: &str = ".r:*,.rlistings";
/// What AWS answers where a bucket takes no access lists of its objects, as its own do by default.
const UNSUPPORTED: &str = "AccessControlListNotSupported";
/// S3's name of everybody.
const ALL_USERS: &str = "http://acs.amazonaws.com/groups/global/AllUsers";

/// The lists that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Canned {
    Private,
    PublicRead,
}

impl Canned {
    fn of(directory: &Directory) -> Canned {
        let public = directory.header(READ).is_some_and(|list| list.split(',').any(|who| who == ANYBODY));
        if public { Canned::PublicRead } else { Canned::Private }
    }

    fn named(name: &str) -> Result<Canned, S3Error> {
        match name {
            "private" | "bucket-owner-full-control" | "bucket-owner-read" => Ok(Canned::Private),
            "public-read" => Ok(Canned::PublicRead),
            "public-read-write" | "authenticated-read" | "aws-exec-read" | "log-delivery-write" => {
                Err(unsupported())
            }
            _ => Err(S3Error::invalid_argument("The canned ACL does not exist.")
                .with("ArgumentName", "x-amz-acl")
                .with("ArgumentValue", name)),
        }
    }

    /// The headers of a container with this list; empty ones are removed.
    pub(super) fn changes(self) -> Vec<(String, String)> {
        let read = if self == Canned::PublicRead { PUBLIC_READ } else { "" };
        vec![(READ.into(), read.into()), (WRITE.into(), String::new())]
    }
}

fn unsupported() -> S3Error {
    let message = "A bucket is private or public-read, and its objects have the same access list.";
    S3Error::new(http::StatusCode::BAD_REQUEST, UNSUPPORTED, message)
}

/// The list that a request's headers ask for, if they do.
pub(super) fn requested(call: &Call) -> Result<Option<Canned>, S3Error> {
    if let Some(name) = call.headers.keys().find(|name| name.as_str().starts_with("x-amz-grant-")) {
        return Err(unsupported().with("Header", name.as_str()));
    }
    call.header("x-amz-acl").map(Canned::named).transpose()
}

/// Refuses an object with another list than its bucket's.
pub(super) fn check_object(call: &Call, bucket: &Directory) -> Result<(), S3Error> {
    match requested(call)? {
        Some(wanted) if wanted != Canned::of(bucket) => Err(unsupported()),
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
struct AccessControlPolicy {
    #[serde(rename = "AccessControlList")]
    list: AccessControlList,
}

#[derive(Deserialize)]
struct AccessControlList {
    #[serde(rename = "Grant", default)]
    grants: Vec<Grant>,
}

#[derive(Deserialize)]
struct Grant {
    #[serde(rename = "Grantee")]
    grantee: Grantee,
    #[serde(rename = "Permission")]
    permission: String,
}

#[derive(Deserialize)]
struct Grantee {
    #[serde(rename = "ID")]
    id: Option<String>,
    #[serde(rename = "URI")]
    uri: Option<String>,
}

/// The canned list that says the same as a document.
fn parse(text: &[u8], owner: &str) -> Result<Canned, S3Error> {
    let policy: AccessControlPolicy = xml::parse(text).map_err(|_| S3Error::malformed_acl())?;
    let mut list = Canned::Private;
    for Grant { grantee, permission } in policy.list.grants {
        match (grantee.id.as_deref(), grantee.uri.as_deref(), permission.as_str()) {
            (Some(id), None, "FULL_CONTROL") if id == owner => {}
            (None, Some(ALL_USERS), "READ") => list = Canned::PublicRead,
            (_, _, "FULL_CONTROL" | "READ" | "WRITE" | "READ_ACP" | "WRITE_ACP") => {
                return Err(unsupported());
            }
            _ => return Err(S3Error::malformed_acl()),
        }
    }
    Ok(list)
}

impl S3Front {
    /// `?acl` of a bucket or an object.
    pub(super) async fn acl(&self, call: &Call, body: &mut RequestBody) -> Answer {
        let directory = self.bucket_record(call).await?;
        if call.key.is_some() {
            self.store.head(&call.path(), directory.policy).await?;
        }
        match call.method {
            Method::GET => document(call, Canned::of(&directory)),
            Method::PUT => self.put_acl(call, body, &directory).await,
            _ => Err(S3Error::method_not_allowed()),
        }
    }

    async fn put_acl(&self, call: &Call, body: &mut RequestBody, directory: &Directory) -> Answer {
        let text = self.receive_xml(call, body).await?;
        let list = match (requested(call)?, text.is_empty()) {
            (Some(list), true) => list,
            (None, false) => parse(&text, &call.principal.user)?,
            (Some(_), false) => {
                let message = "An ACL is given by a header or by a body, not by both.";
                return Err(S3Error::new(http::StatusCode::BAD_REQUEST, "UnexpectedContent", message));
            }
            (None, true) => {
                let message = "The x-amz-acl header is missing.";
                return Err(S3Error::new(http::StatusCode::BAD_REQUEST, "MissingSecurityHeader", message));
            }
        };
        if call.key.is_none() {
            self.store.update_container(call.account(), call.bucket(), list.changes()).await?;
        } else if list != Canned::of(directory) {
            return Err(unsupported());
        }
        Ok(Response::builder().header("content-length", 0).body(empty())?)
    }
}

fn document(call: &Call, list: Canned) -> Answer {
    let mut xml = Xml::root("AccessControlPolicy");
    owner(&mut xml, "Owner", call);
    xml.open("AccessControlList");
    let user = |xml: &mut Xml| {
        xml.element("ID", &call.principal.user);
        xml.element("DisplayName", &call.principal.user);
    };
    grant(&mut xml, "CanonicalUser", user, "FULL_CONTROL");
    if list == Canned::PublicRead {
        grant(&mut xml, "Group", |xml| xml.element("URI", ALL_USERS), "READ");
    }
    xml.close("AccessControlList");
    xml.answer("AccessControlPolicy")
}

fn grant(xml: &mut Xml, kind: &str, grantee: impl FnOnce(&mut Xml), permission: &str) {
    xml.open("Grant");
    let attributes = format!("xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"{kind}\"");
    xml.open_with("Grantee", &attributes);
    grantee(xml);
    xml.close("Grantee");
    xml.element("Permission", permission);
    xml.close("Grant");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(grants: &str) -> String {
        format!(
            "<AccessControlPolicy xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Owner><ID>me</ID></Owner>\
             <AccessControlList>{grants}</AccessControlList></AccessControlPolicy>"
        )
    }

    fn grant(grantee: &str, permission: &str) -> String {
        format!(
            "<Grant><Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"x\">{grantee}\
             </Grantee><Permission>{permission}</Permission></Grant>"
        )
    }

    #[test]
    fn a_document_is_taken_only_if_a_canned_list_says_the_same() {
        let mine = grant("<ID>me</ID><DisplayName>me</DisplayName>", "FULL_CONTROL");
        let anybody = grant(&format!("<URI>{ALL_USERS}</URI>"), "READ");
        assert_eq!(parse(policy(&mine).as_bytes(), "me"), Ok(Canned::Private));
        assert_eq!(parse(policy(&(mine.clone() + &anybody)).as_bytes(), "me"), Ok(Canned::PublicRead));
        assert_eq!(parse(policy(&mine).as_bytes(), "you").expect_err("a guest").code, UNSUPPORTED);
        assert_eq!(parse(b"<AccessControlPolicy/>", "me").expect_err("no list").code, "MalformedACLError");
        let odd = policy(&grant("<ID>me</ID>", "EVERYTHING"));
        assert_eq!(parse(odd.as_bytes(), "me").expect_err("a permission").code, "MalformedACLError");
    }
}
