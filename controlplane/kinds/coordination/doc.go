// SPDX-License-Identifier: Apache-2.0

// Package coordination describes the kinds of coordination/v1.
package coordination
