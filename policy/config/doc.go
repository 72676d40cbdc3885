// Package config answers: what does the configuration say, and may it take
// effect? It reads the YAML of its five owners (Platform, Policy, Limits,
// Finance, Keys), strictly and with positions, checks every reference across
// files, and compiles the whole into one immutable Snapshot, or into the list
// of everything that is wrong with it. There is nothing between: a bad
// configuration never replaces a good one.
//
// Files in reading order: snapshot.go (what comes out), schema.go (what may be
// written: the one description that decoding, "did you mean", the JSON Schema
// and the tests of the guide share), decode.go and scalar.go (YAML to schema),
// compile.go with provider.go, quota.go, price.go, policy.go and limit.go (schema to
// Snapshot), load.go (files to Snapshot), reload.go, keys.go.
package config
