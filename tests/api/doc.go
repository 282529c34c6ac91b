// SPDX-License-Identifier: Apache-2.0

// Package api tests the API server as its clients see it: a server process of its own on 127.0.0.1, client-go and the
// kubectl library.
package api
