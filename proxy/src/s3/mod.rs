//! Amazon's S3 API.
