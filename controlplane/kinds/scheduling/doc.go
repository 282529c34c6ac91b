// SPDX-License-Identifier: Apache-2.0

// Package scheduling describes the kinds of scheduling/v1.
package scheduling
