// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/enforcement"
)

// checkEnforcement judges the annotation of a policy by those that the object has and had. A value that is there already passes: it
// was not put there by this request, which may be the one that repairs something else.
func checkEnforcement(annotations, old map[string]string) field.ErrorList {
	value, ok := annotations[enforcement.Annotation]
	if !ok || slices.Contains(enforcement.Modes(), enforcement.Mode(value)) {
		return nil
	}
	if before, had := old[enforcement.Annotation]; had && before == value {
		return nil
	}
	path := field.NewPath("metadata", "annotations").Key(enforcement.Annotation)
	return field.ErrorList{field.NotSupported(path, enforcement.Mode(value), enforcement.Modes())}
}
