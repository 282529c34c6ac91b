// SPDX-License-Identifier: Apache-2.0

// Package apps describes the kinds of apps/v1.
package apps
