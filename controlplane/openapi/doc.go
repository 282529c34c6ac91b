// SPDX-License-Identifier: Apache-2.0

// Package openapi holds the OpenAPI definitions of every built-in type, generated from the published API
// modules. Server-side apply, explain and /openapi are all driven by them.
package openapi
