// SPDX-License-Identifier: Apache-2.0

// Package rbac decides by Roles and their bindings who may do what, and creates the roles that every cluster has.
//
// RBAC only ever allows: what no rule covers gets no opinion, and the server refuses it.
package rbac
