// SPDX-License-Identifier: Apache-2.0

// Package rbac describes the kinds of rbac/v1.
package rbac
