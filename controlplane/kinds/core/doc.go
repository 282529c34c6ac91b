// SPDX-License-Identifier: Apache-2.0

// Package core describes the kinds of core/v1.
package core
