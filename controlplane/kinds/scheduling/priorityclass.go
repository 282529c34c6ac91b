// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	schedulingv1 "k8s.io/api/scheduling/v1"

	"skep.dev/skep/controlplane/kinds"
)

// PriorityClass is the kind PriorityClass.
func PriorityClass() kinds.Kind {
	return kinds.Define(&schedulingv1.PriorityClassList{}, kinds.Def[*schedulingv1.PriorityClass]{
		GroupVersion:  schedulingv1.SchemeGroupVersion,
		Kind:          "PriorityClass",
		Resource:      "priorityclasses",
		ShortNames:    []string{"pc"},
		ClusterScoped: true,
	})
}
