// SPDX-License-Identifier: Apache-2.0

// Package apiserver serves the Kubernetes API: a list of kinds, custom resources and aggregated APIs in one chain.
//
// A request passes authentication, authorization, fairness and admission, then the first of these that knows its
// path answers:
//
//	aggregator (APIServices) -> built-in kinds -> CustomResourceDefinitions -> 404
//
// Nothing here knows a single kind, except the files that serve what only one kind has (see special.go).
package apiserver
