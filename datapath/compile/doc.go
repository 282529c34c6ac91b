// SPDX-License-Identifier: Apache-2.0

// Package compile turns intent into what the maps must say, as plain Go values without numbers that depend on the kernel: which
// class an address has, which rows a policy set has, which backends a frontend has. It is pure.
package compile
