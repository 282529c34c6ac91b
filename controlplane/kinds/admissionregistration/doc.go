// SPDX-License-Identifier: Apache-2.0

// Package admissionregistration describes the kinds of admissionregistration/v1.
package admissionregistration
