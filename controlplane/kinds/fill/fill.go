// SPDX-License-Identifier: Apache-2.0

// Package fill sets fields that a client left out.
package fill

// Zero sets a field that has its type's zero value.
func Zero[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Nil sets an optional field that is absent.
func Nil[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}
