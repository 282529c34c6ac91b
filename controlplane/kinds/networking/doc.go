// SPDX-License-Identifier: Apache-2.0

// Package networking describes the kinds of networking/v1.
package networking
