//! OpenStack's Swift API v1.
