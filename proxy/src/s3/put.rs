//! PutObject.

use http::{Response, StatusCode};
use kodiak_storage_api::ObjectPath;

use super::S3Front;
use super::acl;
use super::call::Call;
use super::error::{Answer, S3Error};
use super::metadata::{self, keep_checksum};
use super::versions;
use crate::http::{RequestBody, empty, etags};
use crate::store::{Precondition, StoreError};

impl S3Front {
    pub(super) async fn put_object(&self, call: &Call, body: &mut RequestBody) -> Answer {
        let bucket = self.bucket_record(call).await?;
        acl::check_object(call, &bucket)?;
        let (policy, mode) = (bucket.policy, versions::mode(&bucket));
        self.check_class(call, policy)?;
        let mut object = metadata::new_object(call, self.store.now())?;
        let condition = condition(call)?;
        let path = call.path();
        self.check_early(&path, policy, &condition).await?;
        let received = self.receive(call, body, (path, policy), (None, false)).await?;
        let checksum = received.checksum;
        if let Some((algorithm, value)) = &checksum {
            keep_checksum(&mut object, *algorithm, value.clone(), true);
        }
        self.store.archive(&bucket, &call.path()).await?;
        let written = self.store.commit_as(mode, received.staged, object, condition).await?;
        let (record, version) = (written.record, versions::written(mode, written.version));
        let mut builder = versions::with_version(Response::builder(), version.as_deref())
            .status(StatusCode::OK)
            .header("etag", format!("\"{}\"", record.etag))
            .header("content-length", 0);
        if let Some((algorithm, value)) = checksum {
            builder = builder.header(algorithm.header(), value).header("x-amz-checksum-type", "FULL_OBJECT");
        }
        Ok(builder.body(empty())?)
    }

    /// Looks at a condition before a body is read for nothing; it is looked at again when it counts.
    async fn check_early(
        &self,
        path: &ObjectPath,
        policy: kodiak_storage_api::PolicyIndex,
        condition: &Precondition,
    ) -> Result<(), S3Error> {
        if *condition == Precondition::None {
            return Ok(());
        }
        match (self.store.head(path, policy).await, condition) {
            (Ok(_), Precondition::Absent) => Err(S3Error::precondition_failed()),
            (Err(StoreError::NoObject), Precondition::Matches(_)) => Err(S3Error::no_such_key()),
            (Ok(_) | Err(StoreError::NoObject), _) => Ok(()),
            (Err(error), _) => Err(error.into()),
        }
    }
}

/// The condition of a write.
pub(super) fn condition(call: &Call) -> Result<Precondition, S3Error> {
    if let Some(name) =
        ["if-modified-since", "if-unmodified-since"].iter().find(|name| call.headers.contains_key(**name))
    {
        return Err(S3Error::not_implemented().with("Header", *name));
    }
    let (matches, none) = (call.header("if-match"), call.header("if-none-match"));
    match (matches, none) {
        (None, None) => Ok(Precondition::None),
        (Some(list), None) => Ok(Precondition::Matches(etags(list))),
        (None, Some("*")) => Ok(Precondition::Absent),
        _ => Err(S3Error::not_implemented().with("Header", "If-None-Match")),
    }
}
