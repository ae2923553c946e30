//! Tests of nft.
