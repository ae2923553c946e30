//! Tests of the ruleset.
