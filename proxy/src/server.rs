//! Accepting connections and bounding what they may cost.
