//! Maps for this crate's tests.

use std::net::SocketAddr;

use kodiak_ring::RingBuilder;
use kodiak_storage_api::Protection;

use crate::change::apply;
use crate::{
    Change, ClusterId, ClusterMap, Digest, DiskId, Epoch, KeyDigest, Member, MemberDevice, MemberState, Mode,
    Policy, RingFile,
};

/// When the tests happen.
pub const NOW: u64 = 1_800_000_000;

/// Devices `d1`, `d2`… of a member.
pub fn devices(count: usize) -> Vec<MemberDevice> {
    let device = |number| MemberDevice {
        name: format!("d{number}"),
        disk: DiskId([number as u8; 16]),
        weight: 100_000,
    };
    (1..=count).map(device).collect()
}

/// Where a member is.
pub fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 8081))
}

/// Members `n1` to `n{up + joining}`, the last ones not up yet; three replicas wanted.
pub fn map(up: u8, joining: u8, devices_each: usize, part_power: u8) -> ClusterMap {
    let ring = RingBuilder::new(part_power, 1.0, 0, 1).unwrap();
    let member = |number: u8| Member {
        name: format!("n{number}"),
        clock: u32::from(number),
        address: address(number),
        region: 1,
        zone: u32::from(number),
        devices: Vec::new(),
        key: KeyDigest([number; 32]),
        state: if number == 1 { MemberState::Active } else { MemberState::Joining { replaces: None } },
    };
    let policy = Policy {
        name: "gold".into(),
        protection: Protection::Replicated,
        replicas: 3,
        mode: Mode::Strict,
        ring: RingFile::of(&ring),
        deprecated: false,
        unmoved: false,
    };
    let mut map = ClusterMap {
        cluster: ClusterId([7; 16]),
        epoch: Epoch(0),
        follows: Digest([0; 32]),
        next_clock: u32::from(up + joining) + 1,
        members: (1..=up + joining).map(member).collect(),
        removed: Vec::new(),
        accounts: RingFile::of(&ring),
        containers: RingFile::of(&ring),
        directory_replicas: 3,
        policies: vec![policy],
        default_policy: 0,
        tokens: Vec::new(),
    };
    for number in 1..=up {
        map = apply(&map, &present(number, devices_each), NOW).unwrap().unwrap();
    }
    map
}

/// A member is up.
pub fn present(number: u8, devices_each: usize) -> Change {
    Change::Present { name: format!("n{number}"), address: address(number), devices: devices(devices_each) }
}
