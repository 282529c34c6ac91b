// SPDX-License-Identifier: Apache-2.0

// Package events describes the kinds of events.k8s.io/v1.
package events
