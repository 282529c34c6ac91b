// SPDX-License-Identifier: Apache-2.0

// Package flowcontrol describes the kinds of flowcontrol/v1.
package flowcontrol
