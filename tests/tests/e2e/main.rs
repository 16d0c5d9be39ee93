//! End-to-end tests of the real program. One binary, so that it is linked once.

mod bad_input;
mod crash;
mod linearizable;
mod manifest;
mod versions;
