// SPDX-License-Identifier: Apache-2.0

// Package bpfobj holds the compiled programs of bpf/ and the Go types generated from them.
//
// Everything but this file and gen.go is generated. Skep… are the types and maps of layout.c, Pod, Host, Sock and Expire the programs of
// the object of that name.
package bpfobj
