// SPDX-License-Identifier: Apache-2.0

// Package loader loads the programs of bpf/, pins them and what they share, and attaches them.
package loader
