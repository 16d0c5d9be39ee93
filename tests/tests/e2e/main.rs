//! End-to-end tests of the real program. One binary, so that it is linked once.

mod bad_input;
mod cluster;
mod commands;
mod crash;
mod damage;
mod full_disk;
mod growth;
mod index_power;
mod linearizable;
mod manifest;
mod orphans;
mod policies;
mod reaper;
mod slow_clients;
mod versions;
