// SPDX-License-Identifier: Apache-2.0

// Package discovery describes the kinds of discovery/v1.
package discovery
