// SPDX-License-Identifier: Apache-2.0

// Package policy describes the kinds of policy/v1.
package policy
