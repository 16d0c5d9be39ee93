//! Why a change is refused.

use serde::{Deserialize, Serialize};

use super::rings::MAX_PARTITIONS_EACH;
use crate::map::MapError;

/// Why a change is refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum ChangeError {
    /// Fragments have no stand-ins that readers would find.
    #[error("a policy with an erasure code cannot be available: leave --mode out, or give it --replicas")]
    AvailableErasure,
    /// Nobody has that name.
    #[error("{name:?} is no member; `kodiak cluster status` lists them")]
    NoMember {
        /// The name.
        name: String,
    },
    /// Somebody else has it.
    #[error(
        "a member is called {name} already: choose another name with --node, or `kodiak node remove {name}`"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// It cannot be one.
    #[error("{0}")]
    Name(String),
    /// The cluster never made it, or it expired long ago.
    #[error("the join token is not known here: make a new one with `kodiak cluster token`")]
    TokenUnknown,
    /// Too late.
    #[error("the join token has expired: make a new one with `kodiak cluster token`")]
    TokenExpired,
    /// Another machine has used it.
    #[error(
        "the join token was used already, and each admits one machine: make a new one with `kodiak cluster token`"
    )]
    TokenUsed,
    /// Too many of something.
    #[error("there are {max} {what} already, and no more are possible")]
    TooMany {
        /// What.
        what: String,
        /// How many.
        max: usize,
    },
    /// Not enough devices would be left.
    #[error("only {left} devices with weight would be left for {replicas} replicas: add devices first")]
    TooFewDevices {
        /// How many.
        left: usize,
        /// How many are needed.
        replicas: u16,
    },
    /// Its data would lack a replica.
    #[error(
        "{name} still holds {partitions} partitions: `kodiak node drain {name}` first, or --force if the machine is lost"
    )]
    StillHolds {
        /// The member.
        name: String,
        /// Replicas on its devices, of all rings.
        partitions: u64,
    },
    /// A cluster has one at least.
    #[error("{name} is the last member with a vote: a cluster needs one")]
    LastMember {
        /// The member.
        name: String,
    },
    /// There is no such device.
    #[error("{node} has no device {device}; `kodiak cluster status` lists them")]
    NoDevice {
        /// The member.
        node: String,
        /// The device.
        device: String,
    },
    /// There is no such policy.
    #[error("there is no policy {name:?}; `kodiak cluster policy list` lists them")]
    NoPolicy {
        /// The name.
        name: String,
    },
    /// Another policy has it.
    #[error("a policy is called {name} already: choose another name")]
    PolicyTaken {
        /// The name.
        name: String,
    },
    /// New containers need a policy.
    #[error("{name} cannot be both the default and deprecated: first make another one the default")]
    DeprecatedDefault {
        /// The policy.
        name: String,
    },
    /// Too few or too many copies.
    #[error("a policy keeps 1 to {max} copies")]
    Replicas {
        /// The most.
        max: u16,
    },
    /// The code's promise cannot be kept.
    #[error(
        "{code} keeps each fragment of a block on a machine of its own, so that blocks outlive any {parity} of the \
         {fragments}; {machines} machines have devices with weight: let more join (`kodiak cluster token`), in zones of about \
         equal size, or choose a code of fewer fragments"
    )]
    TooFewMachines {
        /// The code.
        code: String,
        /// Its fragments.
        fragments: usize,
        /// Those that may be lost.
        parity: usize,
        /// Machines that hold partitions.
        machines: usize,
    },
    /// A code would lack machines.
    #[error(
        "{machines} machines would be left, and the policy {policy} ({code}) keeps {fragments} fragments on as many: let \
         another one join first. A lost machine is replaced with `kodiak node replace`; until then its objects are read \
         from the fragments that are left"
    )]
    FragmentsStay {
        /// The policy.
        policy: String,
        /// Its code.
        code: String,
        /// Its fragments.
        fragments: usize,
        /// Machines that would be left.
        machines: usize,
    },
    /// It has not been up yet.
    #[error("{name} has not been up yet: start it with `kodiak up` there first")]
    NotUp {
        /// The member.
        name: String,
    },
    /// Both must be different.
    #[error("a member cannot take its own place: name two")]
    Itself,
    /// A ring does not let it.
    #[error("the {ring} ring refuses: {error}")]
    Ring {
        /// Which one.
        ring: String,
        /// What it says.
        error: String,
    },
    /// The map cannot be used.
    #[error("{0}")]
    Map(String),
    /// Devices would hold more partitions than helps anybody.
    #[error(
        "with 2^{power} partitions a device would hold {each} of the {ring} ring, at most {MAX_PARTITIONS_EACH} are \
         possible and about 100 are enough: choose a smaller number"
    )]
    TooManyPartitions {
        /// Of which ring.
        ring: String,
        /// The power that was asked for.
        power: u8,
        /// Partitions of a device in the mean.
        each: u64,
    },
}

impl From<MapError> for ChangeError {
    fn from(error: MapError) -> ChangeError {
        ChangeError::Map(error.to_string())
    }
}
